"""Heat maps of attention weights: a panel for each head, one scale of colours for all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.errors import Invalid
from service.pictures.arrangement import Arrangement, arranged
from service.pictures.footnotes import LINE, caption_lines, draw_caption, draw_swatches
from service.pictures.headline import HEADLINE, draw_headline
from service.pictures.palettes import PALETTES, Palette, Theme
from service.pictures.panel import Panel
from service.pictures.panel_marks import PanelMarks
from service.pictures.pixels import Colours, Pattern, Raster, coloured, dotted, hatched
from service.pictures.scale_bar import ROOM, draw_scale_bar
from service.pictures.sheet import EDGE, Form, drawing, encoded, sheet, show, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MOST_PANELS", "Panel", "draw_heat_maps"]

MOST_PANELS = 144
_NOTES = 3
"""Lines below the panels, for which the sheet has room."""


def draw_heat_maps(
    panels: Sequence[Panel],
    *,
    title: str,
    theme: Theme,
    form: Form,
    columns: int | None = None,
    quantity: str = "weight (share of the row)",
) -> bytes:
    """A grid of attention weights; colours from 0 to the largest weight shown.

    Args:
        panels: one for each head, row by row.
        title: of the picture.
        theme: light or dark.
        form: png or svg.
        columns: panels in a row, such as the heads of a layer; else as the sheet has room.
        quantity: what the weights are, with their unit.

    Raises:
        Invalid: no panel, too many, or one without a position.
    """
    _refuse(panels)
    palette = PALETTES[theme]
    with drawing(palette):
        plan = arranged(panels, columns, around=(HEADLINE, ROOM, _NOTES * LINE + EDGE))
        rasters = [panel.raster(plan.grid.panel) for panel in panels]
        largest = max(raster.largest for raster in rasters) or 1.0
        height, width = plan.grid.sheet
        figure = sheet(width, height)
        axes = whole(figure)
        _draw_panels(axes, panels, [coloured(r, largest, palette) for r in rasters], plan, palette)
        _draw_notes(axes, panels, rasters, plan, palette)
        draw_scale_bar(figure, plan.grid, largest, quantity)
        return encoded(figure, form, draw_headline(axes, title))


def _refuse(panels: Sequence[Panel]) -> None:
    if not 1 <= len(panels) <= MOST_PANELS:
        raise Invalid(
            f"a picture shows 1 to {MOST_PANELS} heads, this one would have {len(panels)}; "
            "ask for one batch item, or for one head",
            pointer="",
        )
    if any(panel.weights.numel() == 0 for panel in panels):
        raise Invalid("there are no weights to draw: an axis has no positions", pointer="")


def _draw_panels(
    axes: "Axes",
    panels: Sequence[Panel],
    images: Sequence[Colours],
    plan: Arrangement,
    palette: Palette,
) -> None:
    marks = PanelMarks(axes, plan)
    for index, (panel, image) in enumerate(zip(panels, images, strict=True)):
        top, left = plan.grid.corner(index)
        show(axes, image, left, top)
        marks.add(index, panel)
    marks.finish(palette.ink)


def _draw_notes(
    axes: "Axes",
    panels: Sequence[Panel],
    rasters: Sequence[Raster],
    plan: Arrangement,
    palette: Palette,
) -> None:
    """Below the panels: the patterns that occur, and what a reader must know of the pixels."""
    height, width = plan.grid.sheet
    top = height - EDGE - _NOTES * LINE + LINE // 2
    meanings: list[tuple[str, Pattern]] = []
    if any(raster.hidden.any() for raster in rasters):
        meanings.append(("hidden by a mask", hatched))
    if any(raster.undefined.any() for raster in rasters):
        meanings.append(("undefined (not a number)", dotted))
    draw_swatches(axes, meanings, EDGE, top, palette)
    lines = caption_lines(_caption(panels, plan.grid.panel), width - 2 * EDGE)
    draw_caption(axes, lines, EDGE, top + (LINE if meanings else 0))


def _caption(panels: Sequence[Panel], size: tuple[int, int]) -> list[str]:
    alike = ", in all panels alike" if len(panels) > 1 else ""
    said = [f"Colours go from 0 to the largest weight shown{alike}."]
    blocks = [max(-(-panel.positions[axis] // size[axis]) for panel in panels) for axis in (0, 1)]
    if max(blocks) > 1:
        said.append(
            f"There are more positions than pixels: each pixel shows the largest weight of a block "
            f"of up to {blocks[0]} queries × {blocks[1]} keys."
        )
    return said
