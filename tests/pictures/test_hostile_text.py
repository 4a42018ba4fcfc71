import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.pictures.lettering import fitted, printable, wide, wrapped
from tests.pictures.looking import comparison, heat_maps, panel, pixels, texts, variant

HOSTILE = {
    "mathtext": ("$x$", "$x$"),
    "broken mathtext": (r"$\frac{$", r"$\frac{$"),
    "markup": ("</text><b>&\"'", "</text><b>&\"'"),
    "line ends": ("a\nb\r\tc", "a□b□□c"),
    "controls": ("a\x00\x1b[31m\x7f", "a□□[31m□"),
    "lone surrogates": ("\ud800a\udfff", "□a□"),
    "directions": ("\u202eabc\u2066", "□abc□"),
    "not a character": ("\ufffe\uffff", "□□"),
    "no font has it": ("\U000e0100\U0010ffff\ue000", "□□□"),
    "blank": ("\u00a0\u3000\u200b", "□□□"),
    "fine": ("Ġder▁Straße→ℝ", "Ġder▁Straße→ℝ"),
    "empty": ("", ""),
}
EVERY_TEXT = pytest.mark.parametrize(("given", "written"), HOSTILE.values(), ids=HOSTILE)


@EVERY_TEXT
def test_titles_and_labels_are_written_literally_or_not_at_all(given, written):
    """A caller's text is text wherever it stands: title, heading, tokens, legend."""
    one = panel((2, 1), title=given, query_labels=[given, "b"], key_labels=[given])
    found = texts(heat_maps([one], title=given))
    # matplotlib leaves out texts that are empty.
    assert found.count(written) == (4 if written else 0)
    found = texts(comparison([variant(given)], title=given))
    assert found.count(written) == (2 if written else 0)


@EVERY_TEXT
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pixels_are_drawn_of_any_text(given, written, theme):
    """No warning and no error in a PNG either."""
    one = panel((2, 1), title=given, query_labels=[given, "b"], key_labels=[given])
    assert pixels(heat_maps([one], title=given, theme=theme, form="png")).size
    assert pixels(comparison([variant(given)], title=given, theme=theme, form="png")).size


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=20), min_size=1, max_size=9))
def test_any_characters_are_drawn(tokens):
    """Whatever the characters: well-formed SVG, no warning, one line a text."""
    one = panel((len(tokens), len(tokens)), query_labels=tokens, key_labels=tokens)
    for text in texts(heat_maps([one], title="".join(tokens))):
        assert not {unicodedata.category(character) for character in text} & {
            "Cc",
            "Cs",
            "Zl",
            "Zp",
        }


def test_long_texts_are_cut():
    """Tokens, labels and headings end in an ellipsis; a huge one costs no time."""
    huge = "W" * 10**6
    one = panel((1, 1), title=huge, query_labels=[huge], key_labels=[huge])
    heat = [text for text in texts(heat_maps([one], title=huge)) if text.startswith("W")]
    assert len(heat) == 4
    assert all(text.endswith("…") and len(text) <= 160 for text in heat)
    legend = [text for text in texts(comparison([variant(huge)])) if text.startswith("W")]
    assert legend == ["W" * 39 + "…"]


def test_a_text_that_fits_is_not_cut():
    """The cut comes after `most` characters, and after `width` pixels."""
    assert printable("abc", 3) == "abc"
    assert printable("abcd", 3) == "ab…"
    width = wide("attention", 8)
    assert fitted("attention", 8, width) == "attention"
    shorter = fitted("attention", 8, width - 1)
    assert shorter.endswith("…")
    assert wide(shorter, 8) <= width - 1
    assert fitted("attention", 8, 0) == "…"


def test_lines_are_as_wide_as_they_may_be():
    """Words go onto the next line only where they would not fit; none is lost."""
    text = "one two three four five six seven"
    lines = wrapped(text, 7, wide("one two three", 7))
    assert lines == ["one two three", "four five six", "seven"]
    assert wrapped("", 7, 100) == []
    assert wrapped("unbreakable", 7, 1) == ["unbreakable"]
