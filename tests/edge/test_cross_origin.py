import pytest
from pydantic import ValidationError

from service.settings import Settings
from tests.serving import serving

pytestmark = pytest.mark.anyio

PAGE, OTHER = "https://page.example", "https://other.example"
KEY = "0123456789abcdef"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-request-id",
}


async def preflight(client, origin, **changed):
    headers = {"Origin": origin, **PREFLIGHT, **changed}
    return await client.options("/v1/attention", headers=headers)


def allowed(answer):
    return {n: v for n, v in answer.headers.items() if n.startswith("access-control-")}


async def test_by_default_no_page_of_another_origin_may_read():
    """Without origins no answer has a CORS header, and a preflight is refused as any OPTIONS."""
    async with serving() as client:
        answer = await client.get("/v1/limits", headers={"Origin": PAGE})
        assert answer.status_code == 200
        assert allowed(answer) == {}
        asked = await preflight(client, PAGE)
    assert asked.status_code == 405
    assert allowed(asked) == {}


async def test_a_named_origin_may_ask_and_read():
    """Its preflight passes without the key, and every answer can be read, errors too."""
    async with serving(cors_origins=f"{PAGE}, http://localhost:3000", api_key=KEY) as client:
        asked = await preflight(client, PAGE)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert "Origin" in asked.headers["vary"]
        methods = asked.headers["access-control-allow-methods"].split(", ")
        assert {"GET", "POST"} <= set(methods)
        for path, status in (("/v1/limits", 401), ("/health/live", 200), ("/nothing", 401)):
            answer = await client.get(path, headers={"Origin": PAGE})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "access-control-allow-credentials" not in answer.headers
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            assert {"X-Request-ID", "Retry-After", "Server-Timing"} <= set(exposed)
        answer = await client.post(
            "/v1/attention",
            json={"include": []},
            headers={"Origin": "http://localhost:3000", "Authorization": f"Bearer {KEY}"},
        )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


async def test_an_unexpected_error_can_be_read_too(monkeypatch):
    """A page sees the problem of a 500, not a mysterious network error."""
    async with serving(cors_origins=PAGE) as client:
        monkeypatch.setattr("service.api.attention.prepare", lambda *_, **__: 1 / 0)
        answer = await client.post("/v1/attention", json={}, headers={"Origin": PAGE})
    assert answer.status_code == 500
    assert answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    ("origin", "changed", "said"),
    [
        (OTHER, {}, "origin"),
        ("null", {}, "origin"),
        (f"{PAGE}.evil.example", {}, "origin"),
        (PAGE, {"Access-Control-Request-Method": "DELETE"}, "method"),
        (PAGE, {"Access-Control-Request-Headers": "x-secret"}, "headers"),
    ],
)
async def test_a_refused_preflight_is_a_problem(origin, changed, said):
    """What may not be asked is told in the form of every error, without leave to read."""
    async with serving(cors_origins=PAGE) as client:
        answer = await preflight(client, origin, **changed)
        page = (await client.get("/problems/cross-origin-refused")).json()
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["type"], body["status"]) == (page["type"], page["status"])
    assert said in body["detail"]
    assert "x-secret" not in answer.text
    assert "access-control-allow-origin" not in answer.headers


async def test_another_origin_reads_nothing():
    """Its request is served, but its browser is not told to show the answer."""
    async with serving(cors_origins=PAGE) as client:
        answer = await client.get("/v1/limits", headers={"Origin": OTHER})
    assert "access-control-allow-origin" not in answer.headers


async def test_any_origin_is_allowed_without_credentials():
    """`*` opens the service to every page, never together with cookies."""
    async with serving(cors_origins="*") as client:
        for answer in (
            await preflight(client, OTHER),
            await client.get("/v1/limits", headers={"Origin": OTHER, "Cookie": "a=b"}),
        ):
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "given",
    ["example.org", "https://example.org/", "https://example.org/path", "ftp://example.org",
     "https://*.example.org", "null", f"{PAGE},*", f"{PAGE} {OTHER}", "HTTPS://EXAMPLE.ORG"],
)  # fmt: skip
def test_what_is_no_origin_is_refused_at_the_start(monkeypatch, given):
    """An origin that no browser sends is told before anybody waits for it."""
    monkeypatch.setenv("ATTENTION_CORS_ORIGINS", given)
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings()


def test_origins_come_from_the_environment(monkeypatch):
    """A list is written with commas."""
    monkeypatch.setenv("ATTENTION_CORS_ORIGINS", "https://a.example:8443, http://[::1]:3000")
    assert Settings().cors_origins == ("https://a.example:8443", "http://[::1]:3000")
    monkeypatch.setenv("ATTENTION_CORS_ORIGINS", " ")
    assert Settings().cors_origins == ()
