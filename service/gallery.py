"""From results to pictures: what is drawn, under which title, with which labels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from schemas.inputs import LogitInputs
from service.attention.blocks import Unit
from service.diagnostics.aggregate import pooled
from service.diagnostics.verdict import MAJORITY
from service.encodings import PNG
from service.errors import Invalid
from service.extents import four
from service.masks import CombinedMask
from service.pictures.comparison import VariantFigures, draw_comparison
from service.pictures.curves import draw_sweep
from service.pictures.heat_maps import MOST_PANELS, Panel, draw_heat_maps
from service.pictures.palettes import MOST_SERIES, Theme
from service.pictures.sheet import Form
from service.pictures.sweep import sweep_of
from service.report import Analysis
from service.shape import Shape

INCLUDE = ["weights", "diagnostics"]
"""What a picture of attention needs of an analysis, whatever was asked for."""
_COMPARED = ("normalized_entropy", "max_weight", "jacobian_trace")
# Measured: a drawing of 2400 x 2400 pixels holds some 90 MiB.
DRAWING_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class View:
    """Which part is drawn, and how: one head or all of one batch item."""

    batch: int | None
    head: int | None
    asked_theme: Theme | None
    media_type: str

    @property
    def theme(self) -> Theme:
        """The one asked for, or light."""
        return self.asked_theme or "light"

    @property
    def form(self) -> Form:
        """How a picture of this media type is written."""
        return "png" if self.media_type == PNG else "svg"

    def heads(self, count: int) -> range:
        """The heads that are shown, of so many."""
        return range(count) if self.head is None else range(self.head, self.head + 1)

    def check(self, shapes: Iterable[Shape]) -> None:
        """Compare with what there is, before it is computed.

        Raises:
            Invalid: a batch item or head that one of them lacks, or more heads than a picture has.
        """
        panels = 0
        for shape in shapes:
            _refuse_beyond("batch", self.batch, shape.batch)
            _refuse_beyond("head", self.head, shape.heads)
            panels += len(self.heads(shape.heads))
        if panels > MOST_PANELS:
            raise Invalid(
                f"a picture shows at most {MOST_PANELS} heads; found {panels}. Choose one by the "
                "query parameter head, or send fewer groups",
                pointer="/head",
            )


def _refuse_beyond(name: str, asked: int | None, count: int) -> None:
    if asked is not None and asked >= count:
        raise Invalid(f"{name} must be 0 … {count - 1} here; found {asked}", pointer=f"/{name}")


def check_comparison(view: View, shapes: Sequence[Shape], *, grouped: bool) -> None:
    """Refuse what could not be drawn, before it is computed; `shapes` are those of the variants.

    Raises:
        Invalid: several groups, more variants than can be told apart, variants of different heads,
            or a head that none of them has.
    """
    if grouped:
        raise Invalid(
            "a comparison is drawn of one group: send its query, key and value without a prefix, "
            "or ask for JSON",
            pointer="/inputs",
        )
    if len(shapes) > MOST_SERIES:
        raise Invalid(
            f"a picture shows at most {MOST_SERIES} variants that can be told apart; found "
            f"{len(shapes)}",
            pointer="/variants",
        )
    heads = sorted({shape.heads for shape in shapes})
    if len(heads) > 1:
        raise Invalid(
            "a comparison is drawn head by head, so that its variants must have the same heads; "
            f"found {' and '.join(map(str, heads))}",
            pointer="/variants",
        )
    view.check(shapes[:1])


def check_sweep(points: Iterable[tuple[int, str | float, int]]) -> None:
    """The same for a sweep, from the (d_k, scale, key_length) of its points.

    Raises:
        Invalid: more curves than can be told apart.
    """
    named = ("d_k", "scale", "key_length")
    sweep_of([dict(zip(named, point, strict=True)) for point in points])


def attention(analyses: Sequence[tuple[str | None, Analysis]], view: View) -> bytes:
    """The weights of each head as a heat map; for groups, a row of heads for each."""
    panels = [panel for name, found in analyses for panel in _panels(name, found, view)]
    first = analyses[0][1].plan
    kinds = {found.plan.normalizer.description.name for _, found in analyses}
    share = kinds == {"softmax"}
    heads = len(view.heads(first.shape.heads))
    return draw_heat_maps(
        panels,
        title=_title(analyses, view),
        theme=view.theme,
        form=view.form,
        columns=heads if len(analyses) > 1 else None,
        quantity="weight (share of the row)" if share else "weight (1)",
    )


def _title(analyses: Sequence[tuple[str | None, Analysis]], view: View) -> str:
    plan = analyses[0][1].plan
    kind = plan.request.mechanism.kind.replace("_", " ") if plan.scored else "given"
    item = f", batch item {view.batch or 0}" if plan.shape.batch > 1 else ""
    return f"Attention weights, {kind}, {plan.normalizer.description.name}{item}"


def _panels(name: str | None, found: Analysis, view: View) -> list[Panel]:
    batch, labels = view.batch or 0, found.plan.request.labels
    weights = found.tensors["weights"][batch]
    return [
        Panel(
            title=_panel_title(name, found, batch, head),
            weights=weights[head].float(),
            hidden=hidden(found, batch, head),
            query_labels=None if labels is None else labels.query,
            key_labels=None if labels is None else labels.key,
        )
        for head in view.heads(found.plan.shape.heads)
    ]


def _panel_title(name: str | None, found: Analysis, batch: int, head: int) -> str:
    level = None if found.verdict is None else found.verdict.heads[batch][head]
    if name is None:
        return f"head {head}" if level is None else f"head {head}: {level}"
    # Many panels have little room each: what is in order needs no word.
    return f"{name}/{head}" + (f" {level}" if level not in (None, "healthy") else "")


def hidden(found: Analysis, batch: int, head: int) -> Tensor | None:
    """Where no key may be seen (query, key): by a mask, or a given logit of −∞; None = nowhere."""
    shape, inputs = found.plan.shape, found.plan.request.inputs
    full = (shape.query_length, shape.key_length)
    group = slice(head // shape.group, head // shape.group + 1)
    unit = Unit(batch, group, slice(head, head + 1), slice(0, shape.query_length))
    seen = CombinedMask(found.mask.members).visible(unit, slice(0, shape.key_length))
    unseen = torch.full(full, fill_value=seen is False)
    if isinstance(seen, Tensor):
        unseen = ~seen.expand(1, *full)[0].cpu()
    if isinstance(inputs, LogitInputs):
        unseen = unseen | (four(inputs.logits)[batch, head] == -math.inf)
    return unseen if bool(unseen.any()) else None


def sweep(rows: Sequence[Mapping[str, Any]], view: View) -> bytes:
    """The curves of a sweep, with theory and error bands."""
    return draw_sweep(rows, theme=view.theme, form=view.form)


def comparison(document: Mapping[str, Any], view: View) -> bytes:
    """The variants of a comparison, head by head."""
    shape = document["shape"]
    heads = view.heads(shape["heads"])
    pooled = "" if shape["batch"] == 1 else ", batch items pooled"
    item = pooled if view.batch is None else f", batch item {view.batch}"
    return draw_comparison(
        [_variant(variant, view, heads) for variant in document["variants"]],
        heads=heads,
        thresholds=_thresholds(document),
        threshold_name="target" if document.get("recommendation") else "half of the rows",
        title=f"The same inputs under {len(document['variants'])} variants{item}",
        theme=view.theme,
        form=view.form,
    )


def _thresholds(document: Mapping[str, Any]) -> dict[str, float]:
    """The target, where there is one; else the rule of the verdict for a head."""
    found = document.get("recommendation")
    return {found["figure"]: found["target"]} if found else {"saturated_share": MAJORITY}


def _variant(variant: Mapping[str, Any], view: View, heads: range) -> VariantFigures:
    """Figures of each head shown; what is known of the whole batch only is left out of an item."""
    figures: dict[str, Sequence[float | None]] = {
        name: by_head(variant["diagnostics"][name], view.batch, heads)
        for name in _COMPARED
        if name in variant["diagnostics"]
    }
    if view.batch is None:
        figures["saturated_share"] = [variant["saturated_share"][head] for head in heads]
        if variant["output_change_heads"] is not None:
            figures["output_change"] = [variant["output_change_heads"][head] for head in heads]
    return VariantFigures(variant["label"], figures)


def by_head(figure: Mapping[str, Any], batch: int | None, heads: range) -> list[float | None]:
    """The mean over rows of one batch item, or of all."""
    means, rows = torch.as_tensor(figure["mean"]), torch.as_tensor(figure["rows"])
    values = (pooled(means, rows, (0,)) if batch is None else means[batch]).tolist()
    return [values[head] if math.isfinite(values[head]) else None for head in heads]
