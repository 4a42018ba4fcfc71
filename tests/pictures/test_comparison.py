import pytest

from service.errors import Invalid
from service.pictures.comparison import VariantFigures, draw_comparison
from service.pictures.quantities import OF_COMPARISONS
from tests.pictures.looking import LARGEST, comparison, markers, pixels, size, texts, variant


def test_every_figure_has_a_plot_with_units():
    """One plot for each figure that a variant has, over the heads."""
    found = texts(comparison([variant("baseline"), variant("softcap 20")], heads=(3, 5, 8)))
    assert {"Variants", "baseline", "softcap 20", "3", "5", "8"} <= set(found)
    assert found.count("head (index)") == len(OF_COMPARISONS) == 5
    for quantity in OF_COMPARISONS:
        assert {quantity.title, quantity.axis} <= set(found)
        assert "(1)" in quantity.axis
    few = texts(comparison([VariantFigures("a", {"max_weight": (0.1, 0.2, 0.3)})]))
    assert few.count("head (index)") == 1


def test_thresholds_are_lines_with_their_value():
    """Only in the plot of their figure, and in the legend only where there are any."""
    found = texts(comparison())
    assert (found.count("0.9"), found.count("0.5"), found.count("threshold")) == (1, 1, 1)
    without = texts(comparison(thresholds={}))
    assert (without.count("0.9"), without.count("threshold")) == (0, 0)
    other = texts(comparison(thresholds={"entropy": 0.9}))
    assert "threshold" not in other


def test_each_variant_has_a_marker_for_each_head():
    """A gap has none, and is explained; a figure that a variant lacks has none either."""
    full = markers(comparison())
    assert markers(comparison([variant(), variant("b")])) == full + 5 * 3 + 1
    for missing in (None, float("nan"), float("inf")):
        picture = comparison([variant(max_weight=(0.5, missing, 0.5))])
        assert markers(picture) == full - 1
        assert "undefined for that head" in " ".join(texts(picture))
    assert "undefined" not in " ".join(texts(comparison()))
    lacking = VariantFigures("b", {"max_weight": (0.5, 0.5, 0.5)})
    assert markers(comparison([variant(), lacking])) == full + 3 + 1


def test_variants_are_beside_one_another():
    """Equal figures do not cover one another: markers of two variants differ in place."""
    one = pixels(comparison([variant()], form="png"))
    two = pixels(comparison([variant(), variant("b")], form="png"))
    assert one.shape == two.shape
    blue = [(picture == (0, 114, 178)).all(-1).sum() for picture in (one, two)]
    assert 0.98 < blue[1] / blue[0] < 1.02


@pytest.mark.parametrize("heads", [1, 2, 64, 144, 1000])
def test_any_number_of_heads_is_drawn(heads):
    """Within the size of a sheet; heads are labelled where there is room."""
    values = tuple(i / heads for i in range(heads))
    variants = [VariantFigures(str(i), {"max_weight": values}) for i in range(8)]
    picture = {"heads": range(heads)}
    assert max(size(comparison(variants, form="png", **picture))) <= LARGEST
    found = texts(comparison(variants, **picture))
    assert "0" in found
    assert sum(text.isdigit() for text in found) < 8 + 48 + 10


def test_figures_beyond_their_range_are_seen():
    """An axis grows with what is on it: sigmoid weights may make any sum."""
    found = texts(comparison([variant(output_change=(0.0, 5.0, 1e-9), jacobian_trace=(3.0, 1, 0))]))
    assert {"5", "3"} <= set(found)
    tiny = texts(comparison([variant(output_change=(1e-9, 2e-9, 5e-9))]))
    assert "5e−09" in tiny


@pytest.mark.parametrize("count", [0, 9])
def test_more_variants_than_can_be_told_apart_are_refused(count):
    """The message says how many there are and how many are allowed."""
    with pytest.raises(Invalid, match=rf"1 to 8 variants .* have {count};") as caught:
        draw([variant(str(i)) for i in range(count)])
    assert caught.value.pointer == ""


def test_nothing_to_draw_is_refused():
    """None of the variants has a figure that is drawn here."""
    with pytest.raises(Invalid, match="nothing to draw"):
        draw([VariantFigures("a", {"lse": (1.0,)})])


def draw(variants):
    return draw_comparison(variants, heads=(0,), thresholds={}, title="", theme="light", form="svg")
