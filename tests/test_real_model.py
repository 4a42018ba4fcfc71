"""Attention of a trained model (MiniLM, 6 layers of 12 heads), as its framework computed it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.builders import analyse, given_weights, qkv
from tests.passes import each_pass  # noqa: F401 - a fixture of every test here

LAYERS = range(6)


@pytest.fixture(scope="module")
def model():
    """Query, key, value, output and weights of every layer, and the lengths of two sentences."""
    path = Path(__file__).parent.parent / "examples" / "minilm.safetensors"
    return load_file(path)


def layer(model, number):
    """The analysis of one layer, and the output and weights that the model itself gave."""
    query, key, value, output, weights = (
        model[f"layer{number}.{name}"] for name in ("query", "key", "value", "output", "weights")
    )
    found = analyse(inputs=qkv(query, key, value), mask={"key_lengths": model["key_lengths"]})
    return found, output, weights


@pytest.mark.parametrize("number", LAYERS)
def test_every_layer_gives_what_the_model_gave(number, model):
    """Output and weights agree with the model's own to 1e-5, padding included."""
    found, output, weights = layer(model, number)
    assert found.tensors["output"].shape == (2, 12, 19, 32)
    torch.testing.assert_close(found.tensors["output"], output, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.tensors["weights"], weights, rtol=0, atol=1e-5)
    assert not found.tensors["weights"][0, :, :, 16:].any()
    assert found.rows["visible_keys"].unique(dim=-1).flatten(1).tolist() == [[16] * 12, [19] * 12]


def test_the_head_that_attends_to_one_token_is_found(model):
    """Head 2 of layer 0 is saturated: a weight of about 1, hardly an entropy, no trace left."""
    found, *_ = layer(model, 0)
    assert [levels[2] for levels in found.verdict.heads] == ["saturated", "saturated"]
    assert found.verdict.heads[0].count("saturated") < 6
    rest = [head for head in range(12) if head != 2]
    for item in range(2):
        means = {name: d.mean[item] for name, d in found.diagnostics.items()}
        assert means["max_weight"][2] > 0.99
        assert means["entropy"][2] < 0.05
        assert means["jacobian_trace"][2] < 0.02
        assert means["max_weight"][2] > means["max_weight"][rest].max()
        assert means["entropy"][2] < means["entropy"][rest].min()


@pytest.mark.parametrize("number", LAYERS)
def test_the_models_own_weights_get_the_same_figures(number, model):
    """Analysed from its weights alone, a layer has the same entropy, trace and levels."""
    found, _, weights = layer(model, number)
    own = analyse(
        inputs=given_weights(weights),
        mask={"key_lengths": model["key_lengths"]},
        include=["diagnostics"],
    )
    for name in ("entropy", "normalized_entropy", "max_weight", "jacobian_trace"):
        torch.testing.assert_close(
            own.diagnostics[name].mean, found.diagnostics[name].mean, rtol=1e-3, atol=2e-6
        )
    assert own.verdict.heads == found.verdict.heads
    assert own.numerics.row_sums[2] == 0
