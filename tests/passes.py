"""Both passes under the same tests, and both in blocks of another size."""

from collections.abc import Iterator

import pytest

from service.attention import blocks, streaming
from service.attention.native import description, dividing, library


@pytest.fixture(params=["eager", "native"], autouse=True)
def each_pass(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the test over the eager pass and over the compiled one."""
    if request.param == "eager":
        monkeypatch.setattr(library, "available", lambda: None)
    elif library.available() is None:
        pytest.skip("the native pass is not built here")
    return request.param


def set_blocks(
    monkeypatch: pytest.MonkeyPatch, *, keys: int | None = None, logits: int | None = None
) -> None:
    """Cut the work into blocks of so many keys, and units of about so many logits."""
    if keys is not None:
        monkeypatch.setattr(streaming, "KEY_BLOCK", keys)
        monkeypatch.setattr(description, "KEY_BLOCK", keys)
    if logits is not None:
        monkeypatch.setattr(blocks, "BLOCK_LOGITS", logits)
        monkeypatch.setattr(description, "QUERY_BLOCK", max(1, min(256, logits // 64)))
        monkeypatch.setattr(dividing, "LOGITS_A_CALL", logits)
