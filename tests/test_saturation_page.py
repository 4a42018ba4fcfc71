"""docs/saturation.md: every command runs, and every number on the page is what it prints."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from docs import run as page
from examples import demo
from tests.printed import NUMBER, assert_same

TEXT = page.FILE.read_text(encoding="utf-8")
STEPS = page.steps(TEXT)
PRINTING = [(command, printed) for command, printed in STEPS if printed is not None]
DRAWING = re.compile(r"> /tmp/(\w+\.svg)")

pytestmark = pytest.mark.sockets


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with demo.service() as address:
        yield address


def test_the_page_has_commands_and_pictures() -> None:
    """The tests below have something to look at."""
    assert len(PRINTING) >= 8
    assert len(DRAWING.findall(TEXT)) == 2
    assert len(re.findall(r"!\[.+?\]\(pictures/\w+\.svg\)", TEXT)) == 2


def test_every_command_prints_what_stands_below_it(address: str) -> None:
    """In order, as a reader would run them."""
    for command, printed in PRINTING:
        assert_same(page.run(command, address), printed)


def test_the_pictures_are_those_of_their_commands(address: str, tmp_path: object) -> None:
    """The same words at the same places; curves to what a machine may round."""
    for command, _ in STEPS:
        for name in DRAWING.findall(command):
            drawn = page.run(command.replace(f"> /tmp/{name}", ""), address)
            stored = (page.PICTURES / name).read_text(encoding="utf-8")
            assert words(drawn) == words(stored)


def words(svg: str) -> list[str]:
    found = ["".join(node.itertext()) for node in ET.fromstring(svg).iter() if "text" in node.tag]
    assert len(found) > 20
    return found


def test_every_number_in_the_words_is_printed_by_a_command() -> None:
    """Outside the commands no decimal number stands that none of them prints or takes."""
    prose = re.sub(r"```.*?```|\]\(.*?\)|sqrt\(\S*\)", "", TEXT, flags=re.DOTALL)
    printed = " ".join(f"{command} {shown}" for command, shown in STEPS)
    known = set(NUMBER.findall(printed))
    told = {n for n in NUMBER.findall(prose) if "." in n}
    # The bound of a saturated row is a rule of the verdict, not a measurement.
    assert told - known <= {"0.9"}
    assert {"39.1"} <= told
    wanted = {"at d_k 16 and 64 the *unscaled* norm is the larger one", "τ = 100 would do nothing"}
    assert all(sentence in TEXT for sentence in wanted)
