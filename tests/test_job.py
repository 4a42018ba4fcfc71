import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from schemas.attention import AttentionAnswer
from service.attention.workers import Workers
from service.encodings import JSON, SAFETENSORS
from service.errors import ServiceError
from service.includes import INCLUDES
from service.job import prepare, run, write
from service.limits import check
from service.runtime import Runtime
from service.settings import Settings
from tests.files import header_of
from tests.mutations import places, replaced

SETTINGS = Settings(max_elements=2_000, max_flops=10**8, max_peak_bytes=2**26)
COMMON = {"device": "cpu", "torch": "2.13.0", "batch_size": 1, "request_id": "x",
          "timing_ms": {"queue": 0, "compute": 0}}  # fmt: skip
NUMBERS = st.sampled_from([0, 1, -1, 2.5, 1e-40, -1e-300, 3e38, -3e38, 1e4, -1e5, 88.8])
EXTENTS = st.integers(1, 4)
MAY_BE_INFINITE = {"output", "logits", "scores", "weights", "diagnostics.lse"}


def nested(elements, shape):
    """Nested lists of a shape."""
    if not shape:
        return elements
    return st.lists(nested(elements, shape[1:]), min_size=shape[0], max_size=shape[0])


@st.composite
def requests(draw):
    """Valid requests, mostly: small, with extreme numbers and whatever may be combined."""
    lead = draw(st.sampled_from([[], [2], [2, 2], [1, 3]]))
    queries, keys, d_k, d_v = (draw(EXTENTS) for _ in range(4))
    batch = lead[0] if lead else 1
    kind = draw(st.sampled_from(["seeded", "tensors", "logits", "weights"]))
    inputs = {"kind": kind}
    if kind == "seeded":
        inputs |= {"query_length": queries, "key_length": keys, "d_k": d_k, "batch": batch}
        inputs |= {"heads": lead[1] if len(lead) > 1 else 1}
        inputs |= {"std": draw(st.sampled_from([0, 1, 1e6])), "mean": draw(NUMBERS)}
    elif kind == "tensors":
        inputs["query"] = draw(nested(NUMBERS, [*lead, queries, d_k]))
        inputs["key"] = draw(nested(NUMBERS, [*lead, keys, d_k]))
        inputs["value"] = draw(nested(NUMBERS, [*lead, keys, d_v]))
    else:
        elements = NUMBERS | st.none() if kind == "logits" else st.sampled_from([0, 1e-45, 0.5, 2])
        inputs[kind] = draw(nested(elements, [*lead, queries, keys]))
        if draw(st.booleans()):
            inputs["value"] = draw(nested(NUMBERS, [*lead, keys, d_v]))
    mask = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "causal": st.sampled_from(["none", "upper_left", "lower_right"]),
                "offset": st.sampled_from([0, -3, 5, 2**40, [1] * batch]),
                "window": st.fixed_dictionaries({}, optional={"left": EXTENTS, "right": EXTENTS}),
                "key_lengths": st.lists(st.integers(0, keys), min_size=batch, max_size=batch),
                "allowed": nested(st.booleans(), [queries, keys]),
                "bias": nested(NUMBERS | st.none(), [queries, keys]),
                "forbid_below": st.just(-100),
            },
        )
    )
    return {
        "mechanism": draw(
            st.fixed_dictionaries(
                {}, optional={"scale": NUMBERS, "softcap": st.sampled_from([1e-30, 1, 1e300])}
            )
        ),
        "inputs": inputs,
        "mask": mask,
        "include": draw(st.lists(st.sampled_from(sorted(INCLUDES)), unique=True)),
        "compute": draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "dtype": st.sampled_from(["float16", "bfloat16", "float64", None]),
                    "nonfinite": st.sampled_from(["refuse", "propagate"]),
                },
            )
        ),
        "tensor_format": draw(st.sampled_from(["nested", "flat", "base64"])),
    }


JUNK = [
    *(None, True, 0, -1, 1.5, 2**63, 10**30, "", "x", "\x00", [], [[]], [None], {}, {"a": 1}, [{}]),
    {"shape": [0, 0], "data": []},
    {"shape": [2**62] * 4, "data": ""},
    {"shape": [], "data": [1]},
    {"shape": [1, 1], "dtype": "float64", "data": [1e300]},
]


def served(document, accept):
    """The answer, or None where the caller is told what is wrong."""
    try:
        job = prepare(
            bytearray(json.dumps(document).encode()),
            encoding=JSON,
            accept=accept,
            request=None,
            settings=SETTINGS,
            threads=1,
        )
        check(job.needs, SETTINGS)
        analyses = run(job, Runtime(torch.device("cpu"), Workers(1)))
    except ServiceError:
        return None
    return bytes(write(job, analyses, COMMON))


def checked(answer, accept):
    """Fits the documented model, and holds no number that JSON lacks."""
    text = answer if accept == JSON else header_of(answer)["__metadata__"]["response"]
    document = json.loads(text, parse_constant=pytest.fail)
    for name, figures in load(answer).items() if accept == SAFETENSORS else ():
        infinite = torch.isinf(figures.double()).any()
        assert not infinite or name in MAY_BE_INFINITE, name
    AttentionAnswer.model_validate(document)
    return document


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(requests(), st.sampled_from([JSON, SAFETENSORS]))
def test_no_valid_request_is_a_fault_of_the_service(document, accept):
    """Extreme numbers, empty rows and every combination are answered or refused with a reason."""
    answer = served(document, accept)
    if answer is not None:
        found = checked(answer, accept)
        for figures in (found.get("diagnostics") or {}).values():
            for low, high in zip(figures["min"], figures["max"], strict=True):
                pairs = zip(low, high, strict=True)
                assert all(x <= y for x, y in pairs if None not in (x, y))


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(requests(), st.data(), st.integers(1, 3))
def test_no_broken_request_is_a_fault_of_the_service(document, data, times):
    """A request with junk anywhere in it is answered or refused with a reason."""
    for _ in range(times):
        path = data.draw(st.sampled_from(list(places(document))))
        document = replaced(document, path, data.draw(st.sampled_from(JUNK)))
    answer = served(document, JSON)
    if answer is not None:
        checked(answer, JSON)


@pytest.mark.parametrize("accept", [JSON, SAFETENSORS])
def test_most_of_these_requests_are_answered(accept):
    """The requests above are not all refused, so that they prove something."""
    plain = {"inputs": {"kind": "tensors", "query": [[1e-40, 3e38], [math.pi, 0]]},
             "mask": {"bias": [[None, None], [0, -1e5]]}, "include": sorted(INCLUDES)}  # fmt: skip
    assert served(plain, accept) is not None
