import base64
import hashlib
import re

import pytest

from tests.serving import serving

pytestmark = pytest.mark.anyio

ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
LOCKED = "default-src 'none'; frame-ancestors 'none'"
POST = "/v1/attention"
ANSWERS = {
    "health": ("GET", "/health/live", {}, 200),
    "metrics": ("GET", "/metrics", {}, 200),
    "catalogue": ("GET", "/v1/catalogue", {}, 200),
    "document": ("GET", "/openapi.json", {}, 200),
    "to the docs": ("GET", "/", {}, 307),
    "json": ("POST", POST, {"accept": "application/json"}, 200),
    "safetensors": ("POST", POST, {"accept": "application/x-safetensors"}, 200),
    "not found": ("GET", "/nothing", {}, 404),
    "method": ("DELETE", POST, {}, 405),
    "not acceptable": ("POST", POST, {"accept": "text/plain"}, 406),
    "invalid": ("POST", f"{POST}?nope=1", {}, 422),
}


def check(answer):
    for name, value in ALWAYS.items():
        assert answer.headers.get_list(name) == [value], name
    assert len(answer.headers.get_list("content-security-policy")) == 1
    assert "server" not in answer.headers


@pytest.mark.parametrize(("method", "path", "headers", "status"), ANSWERS.values(), ids=ANSWERS)
async def test_every_answer_is_locked_down(client, method, path, headers, status):
    """Nothing is sniffed, framed, cached or allowed to run, whether it went well or not."""
    body = {"json": {"include": []}} if method == "POST" else {}
    answer = await client.request(method, path, headers=headers, **body)
    assert answer.status_code == status
    check(answer)
    assert answer.headers["content-security-policy"] == LOCKED
    assert answer.headers["cache-control"] == "no-store"


async def test_refusals_of_the_edge_are_locked_down_too():
    """A missing key and a refused preflight have the same headers."""
    async with serving(api_key="0123456789abcdef", cors_origins="https://a.example") as client:
        preflight = {"Origin": "https://b.example", "Access-Control-Request-Method": "POST"}
        for answer in (
            await client.get("/v1/limits"),
            await client.options(POST, headers=preflight),
        ):
            assert answer.status_code in (401, 403)
            check(answer)
            assert answer.headers["cache-control"] == "no-store"


async def test_an_unexpected_error_is_locked_down_too(client, monkeypatch):
    """A 500 passes through everything that other answers do."""
    monkeypatch.setattr("service.api.attention.prepare", lambda *_, **__: 1 / 0)
    answer = await client.post(POST, json={})
    assert answer.status_code == 500
    check(answer)
    assert answer.headers["content-security-policy"] == LOCKED


@pytest.mark.parametrize("kind", ["image/svg+xml", "image/png"])
async def test_a_picture_keeps_its_own_policy(client, kind):
    """What is set by a route is not overwritten: an SVG needs its styles."""
    answer = await client.post(POST, json={}, headers={"accept": kind})
    assert answer.status_code == 200
    check(answer)
    assert "style-src 'unsafe-inline'" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_a_docs_page_may_run_its_own_scripts_only(client, page):
    """The policy names this origin's files and the hash of each script in the page, no other."""
    answer = await client.get(page)
    check(answer)
    policy = dict(
        rule.strip().partition(" ")[::2]
        for rule in answer.headers["content-security-policy"].split(";")
    )
    inline = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in inline]
    assert policy["script-src"].split() == ["'self'", *(f"'sha256-{h}'" for h in hashes)]
    assert len(inline) == (1 if page == "/docs" else 0)
    assert answer.text.count("<script") == len(inline) + 1
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"


async def test_files_of_the_docs_pages_are_kept_but_asked_for(client):
    """A browser keeps the large scripts, and asks whether they have changed."""
    path = "/static-offline-docs/swagger-ui-bundle.js"
    answer = await client.get(path)
    check(answer)
    assert answer.headers["cache-control"] == "no-cache"
    again = await client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("value", ["bytes=abc", "bytes=99999999-", "foo=1-2", "bytes=0-1"])
async def test_files_of_the_docs_are_sent_whole(client, value):
    """A range of a file, sensible or not, is answered with all of it."""
    path = "/static-offline-docs/swagger-ui.css"
    whole = await client.get(path)
    assert whole.status_code == 200
    answer = await client.get(path, headers={"range": value})
    assert (answer.status_code, answer.content) == (200, whole.content)


async def test_a_slash_too_much_is_no_redirect(client):
    """No answer names a host that the request named."""
    for path in ("/v1/attention/", "/docs/", "/static-offline-docs"):
        answer = await client.post(path, headers={"host": "evil.example"})
        assert answer.status_code in (404, 405)
        assert "location" not in answer.headers
        assert answer.headers["content-type"] == "application/problem+json"
