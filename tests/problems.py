"""The one shape of every error."""

from service.api.problems import known_problems

MOST_BYTES = 16 * 1024


def problem_of(answer, status):
    """The one shape of every error, checked against the answer."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    assert "content-encoding" not in answer.headers
    assert len(answer.content) <= MOST_BYTES
    body = answer.json()
    required = {"type", "title", "status", "detail", "instance", "request_id", "errors", "error"}
    optional = {"limit", "allowed", "needed"}
    assert required <= body.keys() <= required | optional
    slug = body["type"].removeprefix("/problems/")
    assert known_problems()[slug][:2] == (status, body["title"])
    assert body["status"] == status
    assert body["error"] == body["detail"] != ""
    assert body["request_id"] == answer.headers["x-request-id"]
    assert len(body["errors"]) <= 20
    for fault in body["errors"]:
        assert fault.keys() == {"pointer", "detail"}
        assert fault["pointer"] == "" or fault["pointer"].startswith("/")
        assert fault["detail"]
    return body
