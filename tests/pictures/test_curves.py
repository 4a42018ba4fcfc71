import re

import numpy as np
import pytest

from service.errors import Invalid
from service.pictures.curves import draw_sweep
from service.pictures.legend import LINE, Entry, Legend
from service.pictures.lines import measured
from service.pictures.palettes import PALETTES, marks
from service.pictures.quantities import OF_SWEEPS
from service.pictures.sheet import drawing, encoded, sheet, whole
from service.pictures.sweep import sweep_of
from tests.pictures.looking import curves, grey, markers, pixels, row, texts

EVERYTHING = {quantity.name: 0.25 for quantity in OF_SWEEPS}


def test_every_quantity_has_a_plot_with_units():
    """One plot for each quantity that the rows have, both axes labelled with their units."""
    found = texts(curves([row(d_k, **EVERYTHING) for d_k in (1, 64)]))
    for quantity in OF_SWEEPS:
        assert set(quantity.title.split("\n")) <= set(found)
        assert quantity.axis in found
        assert re.search(r"\((nat²?|1|share of the row)\)$", quantity.axis)
    assert found.count("d_k (dimensions)") == len(OF_SWEEPS)
    assert "(small for uniform rows too: not saturation)" in found
    few = texts(curves([row(1)]))
    assert few.count("d_k (dimensions)") == 3
    assert "Saturated rows" not in few


def test_doublings_and_decades_are_written_plainly():
    """Powers of two along d_k, powers of ten on logarithmic axes; no mathtext."""
    rows = [row(2**i, logit_variance=10.0**-i) for i in range(13)]
    found = texts(curves(rows))
    assert [text for text in found if text in ("1", "4", "16", "64", "256", "1024", "4096")]
    assert {"4", "16", "64", "256", "1024", "4096"} <= set(found)
    assert {"0.01", "10⁻⁴", "10⁻¹²"} <= set(found)
    assert not [text for text in found if "$" in text or "\\" in text]


def test_the_axis_is_the_extent_that_varies():
    """Along key_length where there is one d_k; else a curve for each key length."""
    along_keys = texts(curves([row(64, "1", n) for n in (16, 32, 64)]))
    assert "key_length (keys)" in along_keys
    assert "Softmax saturation along key_length, d_k 64" in along_keys
    assert along_keys.count("scale 1") == 1
    both = texts(curves([row(d, "1", n) for d in (1, 2) for n in (16, 32)]))
    assert "d_k (dimensions)" in both
    assert {"scale 1, key_length 16", "scale 1, key_length 32"} <= set(both)
    one = texts(curves([row(64, 0.125), row(64, "1/d_k")]))
    assert {"scale 0.125", "scale 1/d_k", "64"} <= set(one)


def test_rows_may_come_in_any_order():
    """A curve runs along its axis."""
    rows = [row(2**i, entropy=i / 4) for i in range(8)]
    assert curves(rows[::-1]) == curves(rows)
    labels = [curve.label for curve in sweep_of([row(2, "b"), row(1, "a"), row(1, "b")]).curves]
    assert labels == ["scale b", "scale a"]


def test_the_legend_says_what_theory_is():
    """Theory and asymptote are there where the rows have them, and only there."""
    found = texts(curves())
    assert {"theory", "n → ∞", "scale 1/sqrt(d_k)"} <= set(found)
    assert "Bands and bars: mean ± 2 standard errors." in " ".join(found)
    bare = {**row(1), "predicted": {"entropy": {"value": 1.0, "source": "", "valid": False}}}
    bare = {**bare, "asymptote": {"entropy": {"value": None, "source": ""}}}
    assert not {"theory", "n → ∞"} & set(texts(curves([bare])))


def test_seeds_and_errors_are_told():
    """How many seeds, and a band only where there are standard errors."""
    single = row(1, seeds=1)
    for figure in single["measured"].values():
        figure["standard_error"] = None
    said = " ".join(texts(curves([single])))
    assert "Each point is the mean over 1 seed." in said
    assert "standard errors" not in said
    assert "over 1 to 8 seeds." in " ".join(texts(curves([row(1, seeds=1), row(2)])))


def test_what_is_missing_is_a_gap():
    """None, NaN, infinity and absent names draw no marker; the others stay."""
    rows = [row(2**i, entropy=1.0) for i in range(5)]
    full = markers(curves(rows))
    for missing in (None, float("nan"), float("inf")):
        gaps = [row(2**i, entropy=missing if i in (1, 2) else 1.0) for i in range(5)]
        assert markers(curves(gaps)) == full - 2
    del rows[3]["measured"]["entropy"]
    assert markers(curves(rows)) == full - 1


def test_nothing_but_gaps_is_drawn_empty():
    """A sweep without a single finite figure has plots without curves."""
    nothing = row(1, **dict.fromkeys(EVERYTHING))
    nothing = {**nothing, "predicted": {}, "asymptote": {}}
    found = texts(curves([nothing]))
    assert "Entropy of the weights" in found
    assert pixels(curves([nothing], form="png")).size


def test_zero_is_left_out_of_logarithmic_axes():
    """And the caption says so; on other axes 0 is a value."""
    rows = [row(2**i) for i in range(5)]
    rows[2] = row(4, logit_variance=0.0)
    assert markers(curves(rows)) == markers(curves([row(2**i) for i in range(5)])) - 1
    assert "logarithmic axis" in " ".join(texts(curves(rows)))
    assert "logarithmic axis" not in " ".join(texts(curves([row(1, entropy=0.0)])))


def test_a_single_point_is_seen():
    """One row: a marker in each plot, a dash for theory and a cross for its limit."""
    only = row(64)
    without = {**only, "predicted": {}, "asymptote": {}}
    absent = {**without, "measured": {n: {"mean": None} for n in only["measured"]}}
    entry = 1
    assert markers(curves([without])) - _ticks([without]) == 3 + entry
    assert markers(curves([only])) - _ticks([only]) == 3 + entry + 2 * 2
    assert curves([absent], form="png") != curves([without], form="png")


def _ticks(rows):
    """Marks of the axes: as many as there are numbers at them."""
    return sum(1 for text in texts(curves(rows)) if re.fullmatch(r"[\d.⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", text))


@pytest.mark.parametrize("value", [5e-324, 1e-300, 1e-30, 1e30, 1.7e308])
def test_extreme_values_are_drawn(value):
    """No overflow on the way to an axis."""
    rows = [row(1, logit_variance=value), row(2**40, logit_variance=1.0, entropy=abs(value))]
    assert pixels(curves(rows, form="png")).size


def test_every_line_has_a_stroke():
    """An empty list of dashes is one that some viewers of SVG take for no line at all."""
    dashes = re.findall(rb"stroke-dasharray: *([^;\"]*)", curves())
    assert dashes
    assert all(re.fullmatch(rb"[\d., ]+", found) for found in dashes)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_curves_are_told_apart_in_grey(theme):
    """Marker and dashes alone tell any two series apart: colours are taken away first."""
    palette = PALETTES[theme]
    with drawing(palette):
        figure = sheet(400, 8 * LINE)
        Legend([Entry("", measured(mark)) for mark in marks(palette)], 1).draw(whole(figure), 0, 0)
        png = encoded(figure, "png", "")
    shown = grey(pixels(png))
    drawn = np.abs(shown - shown[0, -1]) > 40
    samples = [drawn[i * LINE : (i + 1) * LINE, :60] for i in range(8)]
    assert all(sample.sum() > 60 for sample in samples)
    for i, one in enumerate(samples):
        for other in samples[:i]:
            assert (one != other).sum() > 20


def test_more_curves_than_can_be_told_apart_are_refused():
    """Eight are drawn; nine are refused with the number, the limit and the advice."""
    nine = [row(d, scale / 8, 128) for scale in range(1, 10) for d in (1, 2)]
    assert curves([r for r in nine if r["scale"] < 9 / 8])
    with pytest.raises(
        Invalid, match=r"has 9 curves, of which 8 .* fewer scales or key lengths"
    ) as e:
        curves(nine)
    assert e.value.pointer == ""


@pytest.mark.parametrize(
    "rows", [[], [{**row(1), "measured": {}, "predicted": {}, "asymptote": {}}]]
)
def test_nothing_to_draw_is_refused(rows):
    """No row, or none of the quantities that are drawn."""
    with pytest.raises(Invalid, match=r"nothing to draw|no row to draw"):
        draw_sweep(rows, theme="light", form="svg")
