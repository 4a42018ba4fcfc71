"""Text in pictures: callers' strings made harmless, and how wide a string will be."""

from functools import cache

# A power of two: pixels over DPI and back are exact, so no sheet loses a pixel to rounding.
DPI = 128

_FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
)
_STAND_IN = "□"
_CUT = "…"


@cache
def families() -> tuple[str, ...]:
    """The font of matplotlib, then those on this machine that know Chinese and Japanese."""
    from matplotlib import font_manager

    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in _FALLBACKS if name in installed))


def printable(text: str, most: int) -> str:
    """The text in one line of at most `most` characters, each of which some font here can draw.

    Others (line ends, controls, lone surrogates, signs that no font has) become □.
    """
    known = _characters()
    text = text if len(text) <= most else text[: most - 1] + _CUT
    return "".join(c if c.isprintable() and ord(c) in known else _STAND_IN for c in text)


def fitted(text: str, size: float, width: float) -> str:
    """The text, cut where it would be wider than `width` pixels at `size` points."""
    if wide(text, size) <= width:
        return text
    while text and wide(text + _CUT, size) > width:
        text = text[:-1]
    return text + _CUT


def wrapped(text: str, size: float, width: float) -> list[str]:
    """The text in lines no wider than `width` pixels, unless a single word is."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and wide(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def wide(text: str, size: float) -> float:
    """Pixels that the text takes at `size` points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=list(families()), size=pixels(size))
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]


def pixels(points: float) -> float:
    """Pixels of so many points."""
    return points / 72 * DPI


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    paths = (findfont(FontProperties(family=[name])) for name in families())
    return frozenset().union(*(get_font(path).get_charmap() for path in paths))
