"""Figures beside thresholds from the literature, and what would mend a saturated head."""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from service.diagnostics.aggregate import Aggregates
from service.diagnostics.rows import Figures
from service.diagnostics.verdict import Level

QK_CLIP_THRESHOLD = 100.0
SOFTCAP_THRESHOLD = 50.0
CONDENSATION = 1.0
SINK_SHARE = 0.3
SINK_ROWS = 8
SATURATED_UNITS = 0.5


@dataclass(frozen=True, slots=True)
class Evidence:
    """A figure, its threshold and source, whether it is above it, and whose it is."""

    name: str
    value: float | None
    threshold: float
    source: str
    meaning: str
    batch: int | None = None
    head: int | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the figure is above the threshold; None where there is no figure."""
        return None if self.value is None else self.value > self.threshold


def worst(
    name: str, figures: Figures, threshold: float, source: str, meaning: str, *, over: float = 1.0
) -> Evidence:
    """The largest figure (batch, heads, …) over `over`, and the batch item and head it is of."""
    batch, heads = figures.shape[:2]
    flat = figures.ravel()
    # NaN and infinity are the largest, for argmax: a finite one has none of them beside it.
    if not math.isfinite(flat[place := int(flat.argmax())]):
        finite = np.where(np.isfinite(flat), flat, -np.inf)
        if not math.isfinite(flat[place := int(finite.argmax())]):
            return Evidence(name, None, threshold, source, meaning)
    value = float(flat[place])
    item, head = divmod(place // (flat.size // (batch * heads)), heads)
    return Evidence(name, value / over, threshold, source, meaning, item, head)


def evidence(
    figures: Aggregates, key_share: Tensor | None, seen_by: Tensor | None
) -> list[Evidence]:
    """What the literature would say, from diagnostics and, where included, key shares."""
    found = []
    if figures.defines("logit_max"):
        found += [
            worst(
                "logit_max",
                figures.maxima("logit_max"),
                QK_CLIP_THRESHOLD,
                "QK-Clip, Kimi K2, arXiv 2507.20534",
                "above it, training clips the query and key weights of the head",
            ),
            worst(
                "logit_max_abs",
                figures.maxima("logit_max_abs"),
                SOFTCAP_THRESHOLD,
                "Gemma 2, arXiv 2408.00118",
                "the attention softcap of Gemma 2 lets no logit pass it",
            ),
        ]
    if figures.defines("saturation_index"):
        found.append(
            worst(
                "saturation_index",
                figures.means("saturation_index"),
                CONDENSATION,
                "random energy model, arXiv 2505.24333",
                "the mean over a head's rows; above 1, independent normal logits condense on few "
                "keys",
            )
        )
    if figures.defines("tanh_saturated"):
        found.append(
            worst(
                "tanh_saturated",
                figures.means("tanh_saturated"),
                SATURATED_UNITS,
                "convention of this service",
                "the share of a head's hidden units with |tanh| > 0.99: additive scores saturate "
                "before the softmax does",
            )
        )
    if key_share is not None and seen_by is not None:
        counted = np.where((seen_by >= SINK_ROWS).numpy(), key_share.numpy(), np.nan)
        found.append(
            worst(
                "key_share",
                counted,
                SINK_SHARE,
                "attention sinks, Gu et al. 2024, arXiv 2410.10781",
                f"a key with more than this share of its rows' weight (at least {SINK_ROWS} rows) "
                "is a sink",
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Setting:
    """What the advice is computed from.

    `products` says whether scores are dot products, `explained` whether the mechanism itself told
    a cause before, `saturated_heads` those that are where the whole is not, `near_forbidden` how
    many bias entries were meant to hide a key and do not.
    """

    level: Level | None
    scale: float | None
    default_scale: float | None
    default_is_root: bool
    products: bool
    explained: bool
    saturated_heads: list[int]
    logit_variance: float | None
    largest_logit: float | None
    near_forbidden: int


def advice(setting: Setting) -> list[str]:
    """What would mend it, in sentences with the numbers of this request."""
    if setting.near_forbidden:
        meant = (
            f"{setting.near_forbidden:,} bias entries are finite but at or below -1e4: their keys "
            "count as visible, and the figures are those of the bias. Send minus infinity, or set "
            "mask.forbid_below, before anything else."
        )
        return [meant]
    said = []
    concentrated = setting.level in ("saturated", "sharp")
    scale, default = setting.scale, setting.default_scale
    if concentrated and scale is not None and default is not None and abs(scale) > 1.5 * default:
        named = " (1/sqrt(d_k))" if setting.default_is_root else ""
        said.append(
            f"The scale is {scale:.4g}, {abs(scale) / default:.3g} times the default "
            f"{default:.4g}{named}: return to it, or divide by a temperature."
        )
    if concentrated and setting.logit_variance is not None and setting.logit_variance > 4:
        spread = math.sqrt(setting.logit_variance)
        remedy = "normalising query and key (qk_norm)" if setting.products else "smaller weights"
        said.append(
            f"The logits of a row spread with a standard deviation of {spread:.3g}, where "
            f"independent unit-variance entries give 1: a temperature near {spread:.3g} or "
            f"{remedy} would bring it back."
        )
    if setting.largest_logit is not None and setting.largest_logit > QK_CLIP_THRESHOLD:
        factor = QK_CLIP_THRESHOLD / setting.largest_logit
        said.append(
            f"The largest logit is {setting.largest_logit:.4g}: QK-Clip at 100 would scale this "
            f"head's scores by {factor:.3g}; a softcap of 50 bounds it without "
            "touching the weights."
        )
    if setting.saturated_heads:
        named = ", ".join(map(str, setting.saturated_heads[:8]))
        more = " and others" if len(setting.saturated_heads) > 8 else ""
        said.append(
            f"Saturated heads, though the whole is not: {named}{more}. Their own figures stand "
            "under diagnostics, at that place of each list; a scale or norm per head mends them "
            "without touching the others."
        )
    if setting.level == "diffuse" and not setting.explained:
        said.append(
            "The rows are nearly uniform: the logits hardly differ. A larger scale (a temperature "
            "below 1) or longer training sharpens them; averaging heads are not faulty as such."
        )
    return said
