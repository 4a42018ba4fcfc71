"""As many open files as the connections need."""

import resource

import pytest

from service.server.files import OWN, allow_files


@pytest.mark.parametrize(
    ("soft", "hard", "asked"),
    [
        (256, 4096, 1000 + OWN),
        (256, 512, 512),
        (256, resource.RLIM_INFINITY, 1000 + OWN),
        (4096, 4096, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_it_may(monkeypatch, caplog, soft, hard, asked):
    """It becomes what a thousand connections need, never more than the hard limit, never less."""
    given = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    allow_files(1000)
    assert given == ([] if asked is None else [(asked, hard)])
    assert ("512 open files are allowed" in caplog.text) == (asked == 512)
