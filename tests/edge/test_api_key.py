import hmac
import json

import pytest
from pydantic import ValidationError

from service.api import api_key
from service.settings import Settings
from tests.serving import scope_of, send_to, serving

pytestmark = pytest.mark.anyio

KEY, NEXT = "key-of-the-house.0123", "bmV4dCBrZXkgb2YgdGhlIGhvdXNl=="
HEALTH = ["/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"]
DOCS = ["/docs", "/redoc", "/openapi.json", "/static-offline-docs/swagger-ui.css",
        "/problems/busy"]  # fmt: skip
BEHIND = ["/v1/catalogue", "/v1/limits", "/v1/devices", "/nothing", "/health", "/healthy",
          "/v1/attention", "/v2", "/v2/models/additive", "/v2/health", "/docs/x",
          "//health/live", "/HEALTH/live", "/x/health/live"]  # fmt: skip


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
async def client():
    async with serving(api_key=f"{KEY}, {NEXT}") as client:
        yield client


def assert_unauthorized(answer, challenge='Bearer realm="attention-analysis"'):
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == challenge
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["type"], body["status"]) == ("/problems/unauthorized", 401)
    assert body["request_id"] == answer.headers["x-request-id"]
    assert "Authorization: Bearer" in body["detail"] == body["error"]


async def test_without_a_key_set_none_is_asked_for():
    """By default everybody is let in."""
    async with serving() as client:
        assert (await client.get("/v1/limits")).status_code == 200
        document = (await client.get("/openapi.json")).json()
    assert "securitySchemes" not in document["components"]
    assert not [1 for item in document["paths"].values() for o in item.values() if "security" in o]


@pytest.mark.parametrize("key", [KEY, NEXT])
async def test_any_of_the_keys_opens_everything(client, key):
    """Both keys of a rotation are accepted, whatever the case of the scheme."""
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = {"Authorization": f"{scheme} {key}"}
        assert (await client.get("/v1/limits", headers=headers)).status_code == 200
        answer = await client.post("/v1/attention", json={"include": []}, headers=headers)
        assert answer.status_code == 200


@pytest.mark.parametrize("path", BEHIND)
async def test_everything_else_is_behind_the_key(client, path):
    """What is not open is refused without a key, unknown paths too; with one it is served or not
    found.
    """  # noqa: D205 - one sentence
    assert_unauthorized(await client.get(path))
    assert (await client.get(path, headers=bearer(KEY))).status_code in (200, 404, 405)


@pytest.mark.parametrize(
    "given",
    [
        "Bearer",
        "Bearer ",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}, {NEXT}",
        f"Bearer {KEY} {NEXT}",
        f"Bearer {KEY.upper()}",
        b"Bearer \xff\xfe\xe9" + KEY.encode(),
        f"Basic {KEY}",
        KEY,
        f"Bearer{KEY}",
        "Bearer " + "x" * 20_000,
    ],
)
async def test_a_wrong_key_is_refused(client, given):
    """Whatever is not exactly one of the keys is a 401, bytes beyond ASCII too."""
    answer = await client.get("/v1/limits", headers={"Authorization": given})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer realm=")
    assert KEY not in answer.text


async def test_the_challenge_tells_a_wrong_key_from_none(client):
    """As RFC 6750 wants it: an error only where a key was sent."""
    assert_unauthorized(await client.get("/v1/limits"))
    wrong = 'Bearer realm="attention-analysis", error="invalid_token"'
    assert_unauthorized(await client.get("/v1/limits", headers=bearer("x" * 20)), wrong)


async def test_two_headers_are_none(client):
    """Which of two headers counts is not guessed."""
    headers = [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer x")]
    assert_unauthorized(await client.get("/v1/limits", headers=headers))


@pytest.mark.parametrize("docs_open", [True, False])
@pytest.mark.parametrize("metrics_open", [True, False])
async def test_what_is_open_is_a_setting(docs_open, metrics_open):
    """Health never needs the key; metrics and the docs pages as they are set."""
    async with serving(api_key=KEY, docs_open=docs_open, metrics_open=metrics_open) as client:
        for path in HEALTH:
            assert (await client.get(path)).status_code == 200, path
        for path in DOCS:
            assert (await client.get(path)).status_code == (200 if docs_open else 401), path
            assert (await client.get(path, headers=bearer(KEY))).status_code == 200, path
        assert (await client.get("/")).status_code == (307 if docs_open else 401)
        assert (await client.get("/metrics")).status_code == (200 if metrics_open else 401)


async def test_the_body_is_not_read():
    """Without the key not a byte of the body is asked for."""
    async with serving(api_key=KEY) as client:

        async def receive():
            pytest.fail("the body was read")

        start, body = await send_to(client.app, scope_of(), receive)
    assert start["status"] == 401
    assert json.loads(body["body"])["status"] == 401


async def test_keys_are_compared_in_constant_time(client, monkeypatch):
    """Every comparison is of two digests of one length by compare_digest, with every key."""
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(api_key, "compare_digest", compare)
    for given in (KEY, NEXT, "x", "x" * 1000):
        compared.clear()
        await client.get("/v1/limits", headers=bearer(given))
        assert len(compared) == 2
        assert {len(digest) for pair in compared for digest in pair} == {32}
        assert all(isinstance(digest, bytes) for pair in compared for digest in pair)


SECRETS = ["short", "", "fifteen-letters", "has a space in its middle", "schlüssel-für-alle",
           f"{KEY},short", f"{KEY},", "=" * 20, "line\nbreak-line-break"]  # fmt: skip


@pytest.mark.parametrize("key", SECRETS)
def test_a_weak_key_is_refused_and_not_shown(monkeypatch, key):
    """A key that is too short or cannot be sent ends the start; no message has it."""
    monkeypatch.setenv("ATTENTION_API_KEY", key)
    with pytest.raises(ValidationError, match="api_key") as error:
        Settings()
    for piece in filter(None, key.split(",")):
        assert piece not in f"{error.value} {error.value!r}"
    assert "at least 16 characters" in str(error.value)


def test_the_key_is_not_shown_by_the_settings(monkeypatch):
    """Neither their text nor their JSON holds the key."""
    monkeypatch.setenv("ATTENTION_API_KEY", KEY)
    settings = Settings()
    assert settings.accepted_keys == (KEY.encode(),)
    assert KEY not in f"{settings} {settings!r} {settings.model_dump_json()}"


async def test_the_document_asks_for_the_key_where_one_is_set(client):
    """The docs page has its Authorize button, and every operation behind the key declares 401."""
    document = (await client.get("/openapi.json")).json()
    (name, scheme), = document["components"]["securitySchemes"].items()  # fmt: skip
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, item in document["paths"].items():
        open_ = path.startswith(("/health/", "/v2/health/", "/problems/")) or path == "/metrics"
        for operation in item.values():
            assert ("401" in operation["responses"]) is not open_, path
            assert operation.get("security", []) == ([] if open_ else [{name: []}]), path
