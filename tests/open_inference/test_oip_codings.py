"""gzip and deflate in both directions."""

import gzip
import time
import zlib

import pytest
import torch
from starlette.datastructures import Headers

from service.api.codings import answer_coding
from service.settings import Settings
from tests.builders import normal, same_bytes
from tests.inference import INFER, LENGTH, MODEL, asked, inference, outputs_of
from tests.problems import problem_of

pytestmark = pytest.mark.anyio
QUERY = normal(2, 3, 5, 8)
COMPRESS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}
DECOMPRESS = {"gzip": gzip.decompress, "deflate": zlib.decompress}


@pytest.mark.parametrize("coding", [*COMPRESS, "GZIP", " deflate "])
@pytest.mark.parametrize("as_text", [(), ("query",)])
async def test_a_compressed_request_is_read(client, coding, as_text):
    """Lengths count the body before compression."""
    body, headers = inference({"query": QUERY}, as_text=as_text)
    packed = COMPRESS[coding.strip().lower()](body)
    found = await asked(client, MODEL, packed, {**headers, "content-encoding": coding})
    expected = await asked(client, MODEL, body, headers)
    assert same_bytes(found["output"], expected["output"])


async def raw_answer(client, accept, **asking):
    """An answer as it came, undecoded."""
    body, headers = inference({"query": QUERY}, **asking)
    request = client.build_request("POST", INFER, content=body, headers=headers)
    del request.headers["accept-encoding"]
    if accept is not None:
        request.headers["accept-encoding"] = accept
    answer = await client.send(request, stream=True)
    content = b"".join([chunk async for chunk in answer.aiter_raw()])
    await answer.aclose()
    assert answer.status_code == 200, content
    assert answer.headers["content-length"] == str(len(content))
    assert "accept-encoding" in answer.headers["vary"].lower()
    return answer, content


@pytest.mark.parametrize("coding", DECOMPRESS)
@pytest.mark.parametrize("binary", [True, False])
async def test_a_compressed_answer_is_the_same(client, coding, binary):
    """The length of its document counts the body before compression, too."""
    asking = {"outputs": ["output", "lse"], "binary": binary}
    plain, expected = await raw_answer(client, None, **asking)
    answer, content = await raw_answer(client, coding, **asking)
    assert "content-encoding" not in plain.headers
    assert answer.headers["content-encoding"] == coding
    assert DECOMPRESS[coding](content) == expected
    assert answer.headers.get(LENGTH) == plain.headers.get(LENGTH)
    assert list(outputs_of(expected, answer.headers)) == ["output", "lse"]


PREFERENCES = [
    (None, None),
    ("", None),
    ("gzip", "gzip"),
    ("x-gzip", "gzip"),
    ("GZip", "gzip"),
    ("deflate", "deflate"),
    ("gzip, deflate, br", "gzip"),
    ("deflate, gzip", "gzip"),
    ("deflate;q=0.9, gzip;q=0.5", "deflate"),
    ("gzip;q=0.001", "gzip"),
    ("gzip;q=0", None),
    ("gzip;q=0, deflate", "deflate"),
    ("br, zstd", None),
    ("identity", None),
    ("identity;q=0.5, gzip;q=0.4", None),
    ("identity;q=0.4, gzip;q=0.5", "gzip"),
    ("identity, gzip", None),
    ("*", None),
    ("*;q=0.5, gzip;q=0.6", "gzip"),
    ("identity;q=0, *", "gzip"),
    ("gzip;q=0, *;q=0.5, identity;q=0.1", "deflate"),
    ("*;q=0", None),
    ("gzip;q=nan", None),
    ("gzip;q=many", None),
    (";;,,;q=1", None),
    ("x," * 100_000 + "gzip", None),
]


@pytest.mark.parametrize(("accept", "expected"), PREFERENCES)
def test_the_coding_is_the_one_liked_best(accept, expected):
    """By quality, gzip of equals, none where nothing is liked better than none."""
    headers = Headers({} if accept is None else {"accept-encoding": accept})
    began = time.monotonic()
    assert answer_coding(headers) == expected
    assert time.monotonic() - began < 0.5


async def test_the_choice_reaches_the_answer(client):
    """As the header says, and not the first that is named."""
    answer, _ = await raw_answer(client, "deflate;q=0.9, gzip;q=0.5")
    assert answer.headers["content-encoding"] == "deflate"


async def test_metadata_and_errors_are_never_compressed(client):
    """Clients read these as they are, whatever they accept."""
    headers = {"accept-encoding": "gzip, deflate, br"}
    paths = ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats"]
    paths += [f"/v2/models/{MODEL}{end}" for end in ("", "/ready", "/config", "/stats")]
    for path in paths:
        answer = await client.get(path, headers=headers)
        assert answer.status_code == 200
        assert "content-encoding" not in answer.headers
        assert answer.json()
    answer = await client.post("/v2/repository/index", headers=headers)
    assert "content-encoding" not in answer.headers
    problem_of(await client.post(INFER, content=b"{", headers=headers), 400)
    problem_of(await client.get("/v2/models/nothing", headers=headers), 404)


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "identity, gzip", "x"])
async def test_other_codings_are_415(client, coding):
    """With those that are read."""
    body, headers = inference({"query": QUERY})
    headers = {**headers, "content-encoding": coding}
    detail = problem_of(await client.post(INFER, content=body, headers=headers), 415)["detail"]
    assert "gzip, deflate" in detail


@pytest.mark.parametrize("coding", DECOMPRESS)
async def test_a_broken_stream_is_400(client, coding):
    """Cut, changed, of another coding, or with something behind it."""
    body, headers = inference({"query": QUERY})
    good = COMPRESS[coding](body)
    for bad in (body, good[:-1], good + b"x", b"", good[1:]):
        answer = await client.post(
            INFER, content=bad, headers={**headers, "content-encoding": coding}
        )
        assert coding in problem_of(answer, 400)["detail"]


@pytest.mark.parametrize("settings", [Settings(max_decoded_bytes=2**20)], ids=["1 MiB"])
async def test_a_bomb_is_413(client):
    """48 kB of gzip that are 50 MB are refused after 1 MiB, naming the setting."""
    bomb = gzip.compress(bytes(50_000_000), 9)
    headers = {"content-encoding": "gzip", LENGTH: "2"}
    problem = problem_of(await client.post(INFER, content=bomb, headers=headers), 413)
    assert problem["limit"] == "ATTENTION_MAX_DECODED_BYTES"
    assert problem["allowed"] == 2**20 < problem["needed"]


async def test_json_alone_is_bounded_as_json(client, settings):
    """Compressed or not: all of it would go to the parser."""
    bomb = gzip.compress(b" " * (settings.max_json_bytes + 1))
    answer = await client.post(INFER, content=bomb, headers={"content-encoding": "gzip"})
    assert problem_of(answer, 413)["limit"] == "ATTENTION_MAX_JSON_BYTES"


@pytest.mark.parametrize("settings", [Settings(max_in_flight_bytes=2**22)], ids=["4 MiB"])
async def test_memory_is_held_before_it_is_filled(client):
    """What a compressed body can become is held before it is decompressed."""
    admission = client._transport.app.state.shared.engine.admission
    bomb = gzip.compress(bytes(3 * 2**20))
    headers = {"content-encoding": "gzip", LENGTH: "2"}
    other = admission.stay()
    other.hold(2**20)
    answer = await client.post(INFER, content=bomb, headers=headers)
    assert "ATTENTION_MAX_IN_FLIGHT_BYTES" in problem_of(answer, 429)["detail"]
    other.close()
    problem_of(await client.post(INFER, content=bomb, headers=headers), 400)
    assert admission.bytes_in_flight == 0


async def test_a_large_tensor_travels_compressed(client):
    """Some MiB in and out: many pieces, one stream."""
    query = torch.zeros(1, 4, 4096, 64)
    query[0, :, ::7] = normal(4, 586, 64)
    body, headers = inference({"query": query[:, :, :512]}, outputs=["output", "weights"])
    packed = {**headers, "content-encoding": "deflate", "accept-encoding": "gzip"}
    found = await asked(client, MODEL, zlib.compress(body, 1), packed)
    expected = await asked(client, MODEL, body, headers)
    assert found["weights"].nbytes == 4 * 2**20
    for name, tensor in found.items():
        assert same_bytes(tensor, expected[name])
