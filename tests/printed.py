"""What a command prints, compared with what a page shows."""

import re

import pytest

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def tokens(text: str) -> list[str]:
    return re.findall(r"±|[^\s\[\],()]+", text)


def assert_same(found: str, shown: str) -> None:
    """Words are equal, numbers to the digits shown, standard errors to their first."""
    ours, theirs = tokens(found), tokens(shown)
    assert len(ours) == len(theirs), found
    for place, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        if not NUMBER.fullmatch(other):
            assert own == other
        else:
            rough = place > 0 and theirs[place - 1] == "±"
            assert float(own) == pytest.approx(float(other), rel=1.1 if rough else 0.02), other
