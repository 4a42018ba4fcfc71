"""What a test sees of a picture: its texts, its pixels; and pictures of every kind to look at."""

import struct
from io import BytesIO
from xml.etree import ElementTree as ET

import numpy as np
import torch
from PIL import Image

from service.pictures.comparison import VariantFigures, draw_comparison
from service.pictures.curves import draw_sweep
from service.pictures.heat_maps import Panel, draw_heat_maps
from tests.builders import normal

SVG = "{http://www.w3.org/2000/svg}"
THRESHOLDS = {"max_weight": 0.9, "normalized_entropy": 0.5}
LARGEST = 2400


def size(png):
    """Width and height as the file's header has them."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[12:16] == b"IHDR"
    return struct.unpack(">II", png[16:24])


def pixels(png):
    """Red, green and blue, (height, width, 3)."""
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))


def grey(colours):
    """What a black-and-white printer makes of colours (…, 3)."""
    return np.asarray(colours) @ np.array([0.299, 0.587, 0.114])


def texts(svg):
    """Every text, in order."""
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter(f"{SVG}text")]


def markers(svg):
    """How many marks are set: markers of series, and ticks; bands begin at the left edge."""
    return sum(1 for use in ET.fromstring(svg).iter(f"{SVG}use") if use.get("x") != "0")


def panel(extent=(5, 7), **changed):
    """A panel of softmax weights."""
    return Panel(**{"title": "head 0", "weights": normal(*extent).softmax(-1), **changed})


def row(d_k, scale="1", key_length=128, seeds=8, **measured):
    """A row of a sweep with one number each."""
    figures = {"logit_variance": 2.0, "entropy": 3.0, "max_weight": 0.25, **measured}
    return {
        "d_k": d_k,
        "scale": scale,
        "scale_value": 1.0,
        "key_length": key_length,
        "seeds": list(range(seeds)),
        "measured": {n: {"mean": v, "standard_error": 0.01} for n, v in figures.items()},
        "predicted": {"entropy": {"value": 2.9, "source": "a book", "valid": True}},
        "asymptote": {"entropy": {"value": 2.5, "source": "a paper"}},
    }


def sweep_rows():
    """Two scales over d_k."""
    return [row(2**i, s, entropy=4.0 - i / 4) for i in range(8) for s in ("1", "1/sqrt(d_k)")]


def variant(label="baseline", **changed):
    """Figures of three heads."""
    names = ("normalized_entropy", "max_weight", "jacobian_trace", "saturated_share")
    figures = dict.fromkeys((*names, "output_change"), (0.25, 0.5, 0.75))
    return VariantFigures(label, {**figures, **changed})


def heat_maps(panels=None, *, title="Weights", theme="light", form="svg", **options):
    """A picture of heat maps."""
    return draw_heat_maps(panels or [panel()], title=title, theme=theme, form=form, **options)


def curves(rows=None, *, theme="light", form="svg"):
    """A picture of a sweep."""
    return draw_sweep(rows or sweep_rows(), theme=theme, form=form)


def comparison(variants=None, *, heads=(0, 1, 2), theme="light", form="svg", **options):
    """A picture of a comparison."""
    given = {"title": "Variants", "thresholds": THRESHOLDS, **options}
    return draw_comparison(variants or [variant()], heads=heads, theme=theme, form=form, **given)


KINDS = {"heat_maps": heat_maps, "curves": curves, "comparison": comparison}


def causal(queries, keys):
    """True above the diagonal."""
    return torch.ones(queries, keys, dtype=torch.bool).triu(1)
