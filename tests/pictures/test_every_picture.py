import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from tests.pictures.looking import KINDS, LARGEST, SVG, grey, heat_maps, pixels, size, texts

ROOT = Path(__file__).parents[2]
EVERY_KIND = pytest.mark.parametrize("draw", KINDS.values(), ids=KINDS)
BOTH_FORMS = pytest.mark.parametrize("form", ["png", "svg"])
BOTH_THEMES = pytest.mark.parametrize("theme", ["light", "dark"])


def python(program, **environment):
    """What a program prints in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    ).stdout


@EVERY_KIND
@BOTH_THEMES
def test_a_png_has_the_size_that_it_says(draw, theme):
    """Signature, header and pixels agree; the picture is no blank page."""
    png = draw(form="png", theme=theme)
    width, height = size(png)
    shown = pixels(png)
    assert shown.shape == (height, width, 3)
    assert max(width, height) <= LARGEST
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 20


@EVERY_KIND
@BOTH_THEMES
def test_an_svg_is_well_formed_and_has_its_title(draw, theme):
    """The title is there for readers and for screen readers, and text is text."""
    svg = draw(form="svg", theme=theme)
    title = ET.fromstring(svg).find(f"{SVG}title").text
    assert title in texts(svg)
    assert title.startswith(("Weights", "Softmax saturation along d_k", "Variants"))


@EVERY_KIND
@BOTH_FORMS
def test_the_same_input_gives_the_same_bytes(draw, form):
    """No date, no random identifier."""
    assert draw(form=form) == draw(form=form)


@EVERY_KIND
def test_themes_have_dark_and_light_pages(draw):
    """The corner of the page is light or dark, and ink stands out from it."""
    for theme, light in (("light", True), ("dark", False)):
        shown = grey(pixels(draw(form="png", theme=theme)))
        assert (shown[0, 0] > 128) is np.bool_(light)
        assert shown.max() - shown.min() > 180


def test_threads_draw_what_one_thread_draws():
    """Eight threads at once, all kinds, forms and themes: the bytes of one after the other."""
    jobs = [
        (draw, {"form": form, "theme": theme})
        for draw in KINDS.values()
        for form in ("png", "svg")
        for theme in ("light", "dark")
    ]
    alone = [draw(**options) for draw, options in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: job[0](**job[1]), jobs))
    assert together == alone


@EVERY_KIND
def test_matplotlib_is_left_as_it_was(draw):
    """Nothing of its global state has changed afterwards, nor after an error."""
    before = state()
    draw(form="svg", theme="dark")
    assert state() == before
    with pytest.raises(KeyError):
        draw(form="svg", theme="pink")
    with pytest.raises(ValueError, match="bmp"):
        draw(form="bmp")
    assert state() == before


def state():
    """The global settings, less the one that loads pyplot when it is read."""
    import matplotlib

    return {n: matplotlib.rcParams[n] for n in matplotlib.rcParams if n != "backend"}


def test_importing_does_not_load_matplotlib():
    """Neither the room nor any of its modules does."""
    program = """
import importlib, pkgutil, sys
import service.pictures
names = [module.name for module in pkgutil.iter_modules(service.pictures.__path__)]
for name in names:
    importlib.import_module(f"service.pictures.{name}")
print(len(names), [name for name in sys.modules if name.startswith(("matplotlib", "PIL"))])
"""
    count, _, loaded = python(program).strip().partition(" ")
    assert int(count) > 10
    assert loaded == "[]"


DIGEST = """
import hashlib, sys
from tests.pictures.looking import KINDS
pictures = [draw(form=form) for draw in KINDS.values() for form in ("png", "svg")]
assert "matplotlib.pyplot" not in sys.modules
print(hashlib.sha256(b"".join(pictures)).hexdigest())
"""


def test_every_process_draws_the_same(tmp_path):
    """Whatever the hash seed and a matplotlibrc file say; and it never loads pyplot."""
    rc = tmp_path / "matplotlibrc"
    rc.write_text("axes.facecolor: red\nfont.size: 30\nlines.linewidth: 9\nsvg.fonttype: path\n")
    here = b"".join(draw(form=form) for draw in KINDS.values() for form in ("png", "svg"))
    there = python(DIGEST, PYTHONHASHSEED="7", MATPLOTLIBRC=str(rc))
    assert there.strip() == hashlib.sha256(here).hexdigest()


def test_a_long_title_is_cut_to_the_sheet():
    """It ends in an ellipsis before the edge, where nothing is written."""
    shown = pixels(heat_maps(title="attention " * 40, form="png"))
    assert (shown[:, -15:] == shown[0, 0]).all()
    assert any(text.endswith("…") for text in texts(heat_maps(title="attention " * 40)))
