from service.api.examples import BY_PATH
from service.encodings import JSON, OCTETS, SAFETENSORS
from service.wire.open_inference_models import MODELS
from tests.inference import infer_path
from tests.proof.decoding import decoded, prepared
from tests.proof.mutants import mutants
from tests.proof.originals import ORIGINALS

BODIES = 2_000


def test_every_original_is_valid():
    """What mutations start from is read without an error, so that they reach every floor."""
    for original in ORIGINALS:
        prepared(original)
    assert {original.encoding for original in ORIGINALS} == {JSON, SAFETENSORS, OCTETS}
    paths = {original.path for original in ORIGINALS}
    assert paths >= {path for path in BY_PATH if path.startswith("/v1/")}
    assert paths >= {infer_path(model) for model in MODELS}


def test_nothing_but_the_services_own_errors_escapes_a_decoder():
    """2,000 bodies with flipped bits, cuts, splices, other numbers and structure are told apart.

    Each is read or refused within moments, in little memory.
    """
    found = decoded(mutants(1, BODIES))
    assert found.escaped == []
    assert found.bodies == BODIES
    assert found.outcomes["read"] >= 200
    assert {"malformed-body", "invalid-request", "limit-exceeded"} <= found.outcomes.keys()
    assert found.slowest_s < 1, found.slowest
    assert found.most_bytes < 64 * 2**20, found.most


def test_mutations_are_the_same_for_a_seed():
    """A failure can be repeated."""
    assert list(mutants(5, 50)) == list(mutants(5, 50)) != list(mutants(6, 50))
