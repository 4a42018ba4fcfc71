import pytest
import torch
from pydantic import ValidationError

from service.diagnostics.harms import AMPLIFICATION, SPARSE_SHARE, VANISHED_SHARE
from tests.builders import analyse, normal, qkv

HARMS = ["gradients", "sparsity", "perturbation"]
NAMES = {
    "gradient_vanished_rows": ("gradients", VANISHED_SHARE),
    "sparsity": ("sparsity", SPARSE_SHARE),
    "perturbation_amplification": ("perturbation", AMPLIFICATION),
}
LARGE = normal(2, 3, 9, 16, seed=1), normal(2, 3, 70, 16, seed=2), normal(2, 3, 70, 5, seed=3)


def evidence_of(include, scale=None, inputs=None, **request):
    mechanism = {"kind": "scaled_dot_product", "scale": scale, **request.pop("mechanism", {})}
    inputs = inputs or qkv(*LARGE)
    include = [*include, "diagnostics"]
    found = analyse(mechanism=mechanism, inputs=inputs, include=include, **request)
    return {item.name: item for item in found.verdict.evidence if item.name in NAMES}, found


@pytest.mark.parametrize(("scale", "holds"), [(None, False), (50.0, True)])
def test_each_harm_is_evidence_with_threshold_and_source(scale, holds):
    """All three hold for a saturated head and none for a healthy one, from the figures given."""
    found, analysis = evidence_of(HARMS, scale)
    assert analysis.verdict.level == ("saturated" if holds else "healthy")
    assert found.keys() == NAMES.keys()
    for name, (_, threshold) in NAMES.items():
        assert found[name].threshold == threshold
        assert found[name].source
        assert found[name].meaning
        assert found[name].holds is holds, found[name]
    assert "arXiv 2306.14048" in found["sparsity"].source


def test_evidence_is_of_the_worst_head():
    """Vanished rows and sparsity of the worst head, the move of the worst row over its noise."""
    include = ["gradients", "sparsity", {"name": "perturbation", "relative_noise": 0.05}]
    query = LARGE[0] * torch.tensor([1.0, 4.0, 20.0]).view(3, 1, 1)
    found, analysis = evidence_of(include, inputs=qkv(query, *LARGE[1:]))
    values = {name: item.value for name, item in found.items()}
    vanished, rows = analysis.gradients.vanished_rows, analysis.rows
    assert values["gradient_vanished_rows"] == float(vanished.max()) > float(vanished.min())
    keys = query.new_tensor(LARGE[1].shape[-2])
    others = rows["sparsity"].mean(-1) * keys / (keys - 1)
    assert values["sparsity"] == pytest.approx(float(others.max()))
    place = divmod(int(others.argmax()), 3)
    assert (found["sparsity"].batch, found["sparsity"].head) == place
    assert found["gradient_vanished_rows"].head == int(vanished.argmax()) % 3
    moved = float(rows["perturbation_l1"].max())
    assert values["perturbation_amplification"] == pytest.approx(moved / 0.05)


@pytest.mark.parametrize("include", [[], *([name] for name in HARMS)])
def test_evidence_is_of_what_is_included(include):
    """A harm that was not asked for is not in the verdict."""
    found, _ = evidence_of(include)
    assert found.keys() == {name for name, (item, _) in NAMES.items() if item in include}


def test_a_harm_that_is_undefined_everywhere_holds_nowhere():
    """Without a visible key there is no figure, so neither yes nor no."""
    allowed = torch.zeros(9, 70, dtype=torch.bool)
    found, _ = evidence_of(HARMS, mask={"allowed": allowed})
    assert [(item.value, item.holds) for item in found.values()] == [(None, None)] * 3


@pytest.mark.parametrize("normalizer", ["softmax_one", "sparsemax", "entmax15", "sigmoid"])
def test_off_softmax_the_ratio_of_gradients_is_no_evidence(normalizer):
    """Sparsity and amplification are of any weights, what equal weights pass not of sigmoid's."""
    found, analysis = evidence_of(HARMS, mechanism={"normalizer": normalizer})
    absent = {"gradient_vanished_rows", "perturbation_amplification"}
    absent = absent if normalizer == "sigmoid" else set()
    assert found.keys() == NAMES.keys() - absent
    assert all(item.value is not None for item in found.values())
    assert analysis.verdict.level is None


@pytest.mark.parametrize("relative_noise", [1e-3, 1e-5])
def test_rounding_is_no_amplification(relative_noise):
    """A noise near or below float32's own rounding does not make a healthy head sensitive."""
    include = [{"name": "perturbation", "relative_noise": relative_noise}]
    found, _ = evidence_of(include)
    assert found["perturbation_amplification"].holds is False


def test_a_noise_that_rounding_drowns_is_refused():
    """What float32 cannot resolve would be evidence of nothing."""
    with pytest.raises(ValidationError, match=r"greater than or equal to 0\.00001"):
        evidence_of([{"name": "perturbation", "relative_noise": 1e-9}])
