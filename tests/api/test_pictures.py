"""Pictures over HTTP: attention, sweeps and comparisons."""

import asyncio
import gc
import struct
import time
import xml.etree.ElementTree as ET

import pytest
import torch
from starlette.requests import ClientDisconnect

from service import gallery
from service.api.receiving import unless_gone
from service.errors import DeadlineExceeded
from service.settings import Settings
from tests.builders import analyse, normal
from tests.files import EXAMPLE, file_of

pytestmark = pytest.mark.anyio
PNG, SVG, BINARY = "image/png", "image/svg+xml", "application/x-safetensors"
INPUTS = {"kind": "seeded", "batch": 2, "heads": 3, "query_length": 5, "key_length": 6, "d_k": 8}
REQUESTS = {
    "/v1/attention": {"inputs": INPUTS, "mask": {"causal": "lower_right"}},
    "/v1/sweeps": {"d_k": [2, 16], "repeats": 2, "query_length": 8},
    "/v1/comparisons": {"inputs": INPUTS},
}


async def picture(client, path, body=None, accept=SVG, **params):
    body = REQUESTS[path] if body is None else body
    answer = await client.post(path, json=body, headers={"accept": accept}, params=params)
    assert answer.status_code == 200, answer.text[:500]
    assert answer.headers["content-type"] == accept
    return answer


def texts(svg):
    """Every text of a picture."""
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter() if "text" in node.tag]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", REQUESTS)
async def test_both_forms_and_themes(client, path, theme):
    """A PNG of at most 2400 pixels, an SVG with units on its axes, the same every time."""
    png = (await picture(client, path, accept=PNG, theme=theme)).content
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert 200 < width <= 2400
    assert 200 < height <= 2400
    svg = (await picture(client, path, theme=theme)).text
    assert sum(text.rstrip(")").endswith(UNITS) for text in texts(svg)) >= 2
    assert (await picture(client, path, theme=theme)).text == svg


UNITS = ("(1", "(position", "(dimensions", "(index", "(nat²", "(nat", "(share of the row")


async def test_a_picture_cannot_run_anything(client):
    """A browser that opens it alone is told so, and the caller's text is text."""
    body = {**REQUESTS["/v1/comparisons"], "variants": [{"label": "<script>alert(1)</script>$x$"}]}
    answer = await picture(client, "/v1/comparisons", body)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert b"<script" not in answer.content
    assert any("<script>alert(1)</script>$x$" in text for text in texts(answer.text))


async def test_heads_and_batch_items_can_be_chosen(client):
    """All heads of batch item 0, or one of another, with its level from the verdict."""
    path = "/v1/attention"
    answer = (await client.post(path, json=REQUESTS[path])).json()["verdict"]["heads"]
    whole = texts((await picture(client, path)).text)
    for head in range(3):
        assert f"head {head}: {answer[0][head]}" in whole
    one = texts((await picture(client, path, batch=1, head=2)).text)
    assert f"head 2: {answer[1][2]}" in one
    assert not any(text.startswith("head 0") for text in one)
    assert any("batch item 1" in text for text in one)


async def test_what_a_picture_needs_is_computed_whatever_is_included(client):
    """`include` says what an answer holds; a picture has its own."""
    body = {**REQUESTS["/v1/attention"], "include": []}
    plain = await picture(client, "/v1/attention", body)
    assert plain.text == (await picture(client, "/v1/attention")).text


async def test_tokens_are_on_the_ticks(client):
    """Labels of queries and keys, hostile ones among them."""
    labels = {"query": ["the", "<b>", "$x^2$", "猫", ""], "key": list("abcdef")}
    body = {**REQUESTS["/v1/attention"], "labels": labels}
    found = texts((await picture(client, "/v1/attention", body, head=0)).text)
    assert {"the", "<b>", "$x^2$", "f", "query (token)", "key (token)"} <= set(found)


async def test_groups_are_rows_of_heads(client):
    """The six layers of the real model: 72 panels, each with its name."""
    answer = await client.post(
        "/v1/attention",
        content=EXAMPLE.read_bytes(),
        params={"request": '{"ignore_unknown":true}'},
        headers={"content-type": BINARY, "accept": SVG},
    )
    assert answer.status_code == 200, answer.text[:500]
    found = texts(answer.text)
    titles = [text for text in found if text.startswith("layer")]
    assert len(titles) == 72
    assert "layer0/2 saturated" in titles
    assert "layer5/11" in titles


@pytest.mark.parametrize("path", REQUESTS)
async def test_view_parameters_are_for_pictures(client, path):
    """Elsewhere they would silently do nothing."""
    answer = await client.post(path, json=REQUESTS[path], params={"theme": "dark"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/theme"
    assert "image/png" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/attention", "/v1/comparisons"])
@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"head": 3}, "head must be 0 … 2 here; found 3"),
        ({"batch": 2}, "batch must be 0 … 1 here; found 2"),
        ({"head": -1}, "greater than or equal to 0"),
        ({"theme": "pink"}, "'light' or 'dark'"),
        ({"heads": 1}, "unknown query parameter"),
    ],
)
async def test_what_is_not_there_is_refused_before_it_is_computed(client, path, params, said):
    """422 with what there is."""
    headers = {"accept": PNG}
    answer = await client.post(path, json=REQUESTS[path], params=params, headers=headers)
    assert answer.status_code == 422, answer.text[:300]
    assert said in answer.json()["detail"]


async def test_more_heads_than_a_picture_has_are_refused_and_one_is_drawn(client):
    """145 heads: told how to choose."""
    inputs = {"kind": "seeded", "heads": 145, "query_length": 2, "d_k": 2}
    headers = {"accept": PNG}
    answer = await client.post("/v1/attention", json={"inputs": inputs}, headers=headers)
    assert answer.status_code == 422
    assert "at most 144 heads; found 145" in answer.json()["detail"]
    await picture(client, "/v1/attention", {"inputs": inputs}, head=144)


async def test_more_curves_or_variants_than_can_be_told_apart_are_refused(client):
    """Nine of either, before anything is computed."""
    headers = {"accept": PNG}
    variants = [{"label": str(n)} for n in range(9)]
    answer = await client.post("/v1/comparisons", json={"variants": variants}, headers=headers)
    assert answer.status_code == 422
    assert "8 variants" in answer.json()["detail"]
    sweep = {"d_k": [2, 4], "scale": [float(n) for n in range(9)]}
    answer = await client.post("/v1/sweeps", json=sweep, headers=headers)
    assert answer.status_code == 422
    assert "9 curves" in answer.json()["detail"]


async def test_a_comparison_of_groups_is_not_drawn(client):
    """Told what to send instead."""
    content = file_of({"a.query": normal(2, 3), "b.query": normal(2, 3)})
    headers = {"content-type": BINARY, "accept": SVG}
    answer = await client.post("/v1/comparisons", content=content, headers=headers)
    assert answer.status_code == 422
    assert "one group" in answer.json()["detail"]


@pytest.mark.parametrize("settings", [Settings(max_elements=1000)])
async def test_the_weights_of_a_picture_are_within_the_limits(client, settings):
    """A picture holds the weights, so that it may be refused where the analysis is not."""
    body = {"inputs": {"kind": "seeded", "query_length": 40, "d_k": 2}, "include": ["diagnostics"]}
    assert (await client.post("/v1/attention", json=body)).status_code == 200
    answer = await client.post("/v1/attention", json=body, headers={"accept": PNG})
    assert answer.status_code == 413
    assert answer.json()["limit"] == "ATTENTION_MAX_ELEMENTS"


async def test_a_key_that_is_hidden_is_known_to_the_picture():
    """By masks, lengths, a bias of −∞, or a given logit of −∞; per batch item and head."""
    mask = {"key_lengths": torch.tensor([6, 2]), "causal": "upper_left"}
    found = analyse(inputs=INPUTS, mask=mask, include=gallery.INCLUDE)
    hidden = gallery.hidden(found, 1, 2)
    rows, keys = torch.arange(5).unsqueeze(1), torch.arange(6)
    assert torch.equal(hidden, (keys > rows) | (keys >= 2))
    assert gallery.hidden(analyse(inputs=INPUTS, include=gallery.INCLUDE), 0, 0) is None
    logits = torch.tensor([[1.0, -torch.inf], [0.0, 2.0]])
    given = analyse(inputs={"kind": "logits", "logits": logits}, include=gallery.INCLUDE)
    assert gallery.hidden(given, 0, 0).tolist() == [[False, True], [False, False]]


async def test_figures_of_a_comparison_are_pooled_over_the_batch_or_of_one_item():
    """Weighted by the rows where they are defined."""
    figure = {"mean": [[0.0, 1.0], [3.0, None]], "rows": [[1, 2], [2, 0]]}
    figure["mean"][1][1] = float("nan")
    assert gallery.by_head(figure, None, range(2)) == [2.0, 1.0]
    assert gallery.by_head(figure, 1, range(2)) == [3.0, None]
    assert gallery.by_head(figure, None, range(1, 2)) == [1.0]


@pytest.mark.parametrize("settings", [Settings(max_in_flight_bytes=2**27)])
async def test_a_picture_reserves_its_memory_before_it_computes(client, settings):
    """Beside another picture it is refused at once; alone it is always let in."""
    long = {"d_k": [64] * 40, "repeats": 4}
    headers = {"accept": PNG}
    running = asyncio.create_task(client.post("/v1/sweeps", json=long, headers=headers))
    await asyncio.sleep(0.3)
    began = time.monotonic()
    refused = await client.post("/v1/attention", json={}, headers=headers)
    assert refused.status_code == 429
    assert time.monotonic() - began < 1
    assert (await running).status_code == 200


async def test_a_caller_that_goes_away_hears_no_error(caplog):
    """What fails after that is nobody's, and no task is left with it."""

    class Leaving:
        async def receive(self):
            return {"type": "http.disconnect"}

    async def failing():
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            raise DeadlineExceeded("too late") from None

    with pytest.raises(ClientDisconnect):
        await unless_gone(Leaving(), failing())
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    assert "never retrieved" not in caplog.text
