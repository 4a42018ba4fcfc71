import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Invalid
from service.pictures.arrangement import arranged
from service.pictures.grid import Borders, lay_out
from service.pictures.palettes import PALETTES
from service.pictures.pixels import Raster, coloured, scale_colours
from service.pictures.ticks import position_ticks
from tests.builders import normal
from tests.pictures.looking import LARGEST, causal, grey, heat_maps, panel, pixels, size, texts

BOTH_THEMES = pytest.mark.parametrize("theme", ["light", "dark"])
BRIGHTEST = [253, 231, 55]
TOKENS = ["[CLS]", "the", "cat", "sat", "[SEP]"]


def brightest(png):
    """How many pixels left of the scale bar have the colour of the largest weight."""
    return int((pixels(png)[:, :-150] == BRIGHTEST).all(-1).sum())


# --- texts ---------------------------------------------------------------------------------------


def test_axes_scale_and_panels_are_labelled():
    """Title, headings, both axes with their unit, the scale with its quantity."""
    panels = [panel((7, 7), title=f"head {i}") for i in range(12)]
    found = texts(heat_maps(panels, title="Weights of layer 3"))
    assert "Weights of layer 3" in found
    assert [text for text in found if text.startswith("head")] == [f"head {i}" for i in range(12)]
    assert "weight (share of the row)" in found
    assert found.count("query (position)") == 3
    assert found.count("key (position)") == 4
    assert {"0", "6"} < set(found)
    assert "gain (1)" in texts(heat_maps(quantity="gain (1)"))


def test_tokens_stand_at_the_ticks():
    """Labels of queries and of keys are shown, each where there are labels of its own."""
    found = texts(heat_maps([panel((5, 5), query_labels=TOKENS, key_labels=TOKENS)]))
    assert [found.count(token) for token in TOKENS] == [2] * 5
    assert {"query (token)", "key (token)"} <= set(found)
    found = texts(heat_maps([panel((5, 5), key_labels=TOKENS)]))
    assert [found.count(token) for token in TOKENS] == [1] * 5
    assert {"query (position)", "key (token)"} <= set(found)


@pytest.mark.parametrize(
    ("positions", "labels", "panels", "shown"),
    [
        (48, 48, 1, True),
        (49, 49, 1, False),
        (19, 19, 12, True),
        (19, 19, 72, False),
        (5, 4, 1, False),
    ],
)
def test_tokens_are_shown_where_there_is_room(positions, labels, panels, shown):
    """Up to 48 and few panels; a list that does not match the positions is not shown."""
    tokens = [f"t{i}" for i in range(labels)]
    one = panel((positions, positions), query_labels=tokens, key_labels=tokens)
    found = texts(heat_maps([one] * panels))
    assert ("t1" in found, "key (token)" in found) == (shown, shown)
    assert ("key (position)" in found) is not shown


def test_panels_that_differ_have_ticks_of_their_own():
    """Other shapes or other tokens: every panel is labelled."""
    alike = [panel((7, 7)), panel((7, 7))]
    assert texts(heat_maps(alike)).count("query (position)") == 1
    assert texts(heat_maps([*alike, panel((6, 7))])).count("query (position)") == 3
    other = [panel((1, 2), key_labels=labels) for labels in (["a", "b"], ["c", "d"])]
    assert {"a", "b", "c", "d"} <= set(texts(heat_maps(other)))


@given(st.integers(1, 10**6), st.floats(0.001, 0.5))
def test_positions_are_round_and_apart(positions, share):
    """Ticks begin at 0, keep their distance, and stand in the middle of their position."""
    ticks = position_ticks(positions, share)
    shown = [int(text) for text in ticks.texts]
    assert shown[0] == 0
    assert shown[-1] < positions
    assert list(ticks.places) == [(i + 0.5) / positions for i in shown]
    steps = {right - left for left, right in pairwise(shown)}
    assert all(str(step).rstrip("0") in ("1", "2", "5") for step in steps)
    assert len(steps) <= 1
    assert all(step / positions > share for step in steps if step > 1)


# --- colours -------------------------------------------------------------------------------------


def test_grey_rises_with_the_weight():
    """The scale is one of luminance: printed in grey, more weight is always brighter."""
    shades = grey(scale_colours(np.linspace(0, 1, 256)))
    assert (np.diff(shades) >= 0).all()
    assert (np.diff(shades[::3]) > 0.5).all()
    assert shades[-1] - shades[0] > 180


@BOTH_THEMES
def test_hidden_is_not_weight_0_in_grey_either(theme):
    """Hidden cells are brighter than weight 0 everywhere, and hatched."""
    hidden = causal(40, 40)
    weights = np.zeros((40, 40), dtype=np.float32)
    raster = Raster.of(weights, hidden.numpy(), 400, 400)
    shown = grey(coloured(raster, 1.0, PALETTES[theme]))
    nothing, covered = shown[~raster.hidden], shown[raster.hidden]
    assert nothing.max() - nothing.min() == 0
    assert covered.min() > nothing.max() + 25
    assert len(np.unique(covered)) == 2
    assert covered.std() > 20


@BOTH_THEMES
def test_what_a_mask_hides_is_explained(theme):
    """There is a legend where something is hidden or undefined, and only there."""
    weights = normal(5, 7).softmax(-1)
    assert "hidden by a mask" not in texts(heat_maps([panel()], theme=theme))
    masked = panel(hidden=causal(5, 7))
    assert "hidden by a mask" in texts(heat_maps([panel(), masked], theme=theme))
    assert heat_maps([masked], theme=theme) != heat_maps([panel()], theme=theme)
    weights[2] = math.nan
    found = texts(heat_maps([panel(weights=weights)], theme=theme))
    assert "undefined (not a number)" in found
    assert "hidden by a mask" not in found


def test_hidden_weights_do_not_set_the_scale():
    """The scale ends at the largest weight shown, over all panels."""
    small = torch.full((5, 7), 0.125)
    raster = Raster.of(torch.ones(5, 7).numpy(), causal(5, 7).numpy(), 5, 7)
    assert raster.largest == 1
    assert Raster.of(torch.ones(5, 7).numpy(), np.ones((5, 7), dtype=bool), 5, 7).largest == 0
    found = texts(heat_maps([panel(weights=small)]))
    assert "0.12" in found
    assert "1.0" not in found
    assert "1.0" in texts(heat_maps([panel(weights=small), panel(weights=small * 8)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_is_drawn(dtype):
    """Also weights that need gradients, views, and all zeros."""
    exact = torch.eye(5).repeat(2, 2)
    picture = heat_maps([panel(weights=exact)])
    assert heat_maps([panel(weights=exact.to(dtype).T.requires_grad_())]) == picture
    assert texts(heat_maps([panel(weights=torch.zeros(3, 3, dtype=dtype))])).count("1.0") == 1


# --- reduction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [(0, 0), (4095, 4095), (1234, 17), (0, 4095), (4094, 2049)])
def test_one_weight_in_a_large_matrix_is_seen(place):
    """A single 1 in 4096 × 4096 zeros has its pixel; the caption says what a pixel is."""
    weights = torch.zeros(4096, 4096)
    picture = [panel(weights=weights)]
    assert brightest(heat_maps(picture, form="png")) == 0
    weights[place] = 1
    assert brightest(heat_maps(picture, form="png")) >= 1


def test_a_reduced_matrix_says_so():
    """The caption names the block; nothing is said where every position has its pixel."""
    large = " ".join(texts(heat_maps([panel((3000, 4096))])))
    assert "largest weight of a block of up to 6 queries × 6 keys" in large
    assert "block" not in " ".join(texts(heat_maps([panel((300, 300))])))


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 9),
)
def test_each_pixel_is_the_largest_of_its_block(queries, keys, height, width, seed):
    """Blocks tile the matrix in order: the same as a loop over pixels, masks and NaN included."""
    weights = normal(queries, keys, seed=seed).abs()
    weights[normal(queries, keys, seed=seed + 1) > 1.5] = math.nan
    hidden = normal(queries, keys, seed=seed + 2) > 0.5
    raster = Raster.of(weights.numpy(), hidden.numpy(), height, width)
    for y in range(height):
        for x in range(width):
            block = (_part(y, height, queries), _part(x, width, keys))
            covered = hidden[block]
            shown = weights[block][~covered]
            shown = shown[torch.isfinite(shown)]
            assert raster.hidden[y, x] == bool(covered.all())
            assert raster.undefined[y, x] == (not covered.all() and not shown.numel())
            assert raster.weights[y, x] == (shown.max() if shown.numel() else 0)


def _part(pixel, pixels, positions):
    first, end = pixel * positions // pixels, (pixel + 1) * positions // pixels
    return slice(first, max(end, first + 1))


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "extent"), [(1, (1, 1)), (1, (1, 3000)), (13, (50, 2)), (72, (9, 9)), (144, (8, 64))]
)
def test_no_picture_is_too_large(count, extent):
    """Whatever the number of panels and their shape."""
    png = heat_maps([panel(extent, title=f"layer {i}") for i in range(count)], form="png")
    assert max(size(png)) <= LARGEST


@given(
    st.integers(1, 144), st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([14, 90, 250])
)
def test_grids_have_room_for_every_panel(count, queries, keys, between):
    """Panels do not overlap, are not lost in their borders, and the sheet is not too large."""
    borders = Borders(100, 90, 150, 120, min(between, 90), min(between, 90))
    grid = lay_out(count, (queries, keys), borders)
    height, width = grid.panel
    assert min(height, width) >= 20
    assert max(grid.sheet) <= LARGEST
    assert grid.rows * grid.columns >= count > (grid.rows - 1) * grid.columns
    corners = {grid.corner(index) for index in range(count)}
    assert len(corners) == count
    assert max(top for top, _ in corners) + height + borders.bottom == grid.sheet[0]


def test_columns_are_taken_where_they_are_of_use():
    """Twelve heads of six layers, a layer a row; not where panels would become lines."""
    around = (60, 150, 80)
    layers = [panel((19, 19), title=f"layer{i // 12} head {i % 12}") for i in range(72)]
    assert arranged(layers, 12, around).grid.columns == 12
    assert arranged(layers, None, around).grid.columns in (8, 9)
    assert arranged(layers, 72, around).grid.columns in (8, 9)
    assert arranged(layers, 5000, around).grid.columns in (8, 9)


@pytest.mark.parametrize("count", [0, 145])
def test_too_many_panels_are_refused(count):
    """The message says how many there are and how many are allowed."""
    with pytest.raises(Invalid, match=rf"1 to 144 heads.* have {count};") as caught:
        heat_maps_of(count)
    assert caught.value.pointer == ""


def heat_maps_of(count):
    from service.pictures.heat_maps import draw_heat_maps

    return draw_heat_maps([panel()] * count, title="", theme="light", form="svg")


@pytest.mark.parametrize("extent", [(0, 5), (5, 0)])
def test_an_axis_without_positions_is_refused(extent):
    """There is nothing to draw of it."""
    with pytest.raises(Invalid, match="no positions"):
        heat_maps([panel(weights=torch.zeros(extent))])
