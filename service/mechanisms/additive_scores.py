"""vᵀ tanh(q' + k') for projected queries and keys, in tiles: never (query, key, hidden) whole."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from service.attention.aligned import aligned, on_boundary
from service.attention.blocks import Unit, extent, ranges
from service.attention.gradients import ScoreGradients
from service.attention.logits import ScoreKeys
from service.shape import Shape

# Measured at 2,048 keys and 64 hidden units: a quarter of it takes 1.4 times as long, in dispatch.
_TILE = 2**18
SATURATED_TANH = 0.99
MAJORITY_SATURATED = 0.5
FIGURES = ("tanh_saturated", "tanh_gradient")


@dataclass(frozen=True, slots=True)
class AdditiveScores:
    """`query` (batch, heads, N, A), `key` (batch, kv_heads, M, A), both projected; `vector` (A).

    With each score comes the share of its hidden units with |tanh| > 0.99, and the mean of
    tanh′ = 1 − tanh² over them, where a unit is asked for figures.
    """

    query: tuple[Tensor, ...]
    key: tuple[Tensor, ...]
    vector: Tensor
    group: int
    checkpoint: Callable[[], None]

    @classmethod
    def of(
        cls, query: Tensor, key: Tensor, vector: Tensor, checkpoint: Callable[[], None]
    ) -> "AdditiveScores":
        """Over all batch items; `checkpoint` is called between tiles, of which a unit has many."""
        group = query.shape[1] // key.shape[1]
        return cls(aligned(query), aligned(key), on_boundary(vector), group, checkpoint)

    @property
    def products(self) -> None:
        """None: these scores are none."""

    @property
    def figures(self) -> tuple[str, ...]:
        """What comes with each score."""
        return FIGURES

    def unit(self, unit: Unit, *, figures: bool = False) -> ScoreKeys:
        """Tile by tile: some queries of one head, some keys, all hidden units."""
        query = self.query[unit.batch][unit.heads, unit.queries]
        key = self.key[unit.batch][unit.kv_heads]
        hidden = self.vector.shape[0]
        mean = torch.full_like(self.vector, 1 / hidden)

        def score(keys: slice, out: Tensor) -> Tensor | None:
            found = out.new_empty(len(FIGURES), *out.shape) if figures else None
            for head, rows, columns in _tiles(unit, keys, hidden):
                self.checkpoint()
                place = (head, rows, slice(columns.start - keys.start, columns.stop - keys.start))
                tile = query[head, rows].unsqueeze(1) + key[head // self.group, columns]
                flat = tile.tanh_().view(-1, hidden)
                out[place] = (flat @ self.vector).view(tile.shape[:2])
                if found is not None:
                    squares = flat.square_()
                    found[1][place] = (1 - squares @ mean).view(tile.shape[:2])
                    torch.gt(squares, SATURATED_TANH**2, out=squares)
                    found[0][place] = (squares @ mean).view(tile.shape[:2])
            return found

        return score

    def backward(self, unit: Unit, upstream: Tensor) -> ScoreGradients:
        """Through v and tanh′ = 1 − tanh², tile by tile."""
        query = self.query[unit.batch][unit.heads, unit.queries]
        key = self.key[unit.batch][unit.kv_heads]
        on_query, on_key = torch.zeros_like(query), torch.zeros_like(key)
        on_vector = torch.zeros_like(self.vector)
        hidden = self.vector.shape[0]
        for head, rows, columns in _tiles(unit, slice(0, key.shape[1]), hidden):
            self.checkpoint()
            shared = head // self.group
            units = (query[head, rows].unsqueeze(1) + key[shared, columns]).tanh_()
            part = upstream[head, rows, columns]
            on_vector += part.reshape(-1) @ units.view(-1, hidden)
            inner = (1 - units.square_()).mul_(self.vector).mul_(part.unsqueeze(-1))
            on_query[head, rows] += inner.sum(1)
            on_key[shared, columns] += inner.sum(0)
        return ScoreGradients(on_query, on_key, on_vector)


def _tiles(unit: Unit, keys: slice, hidden: int) -> list[tuple[int, slice, slice]]:
    """Heads, queries and keys (as indices of the whole) of each tile."""
    key_step = max(1, min(extent(keys), _TILE // hidden))
    row_step = max(1, _TILE // (key_step * hidden))
    columns = [
        slice(c.start + keys.start, c.stop + keys.start) for c in ranges(extent(keys), key_step)
    ]
    return [
        (head, rows, part)
        for head in range(extent(unit.heads))
        for rows in ranges(extent(unit.queries), row_step)
        for part in columns
    ]


def hidden_dim(weight: Tensor | None, asked: int | None, shape: Shape) -> int:
    """The hidden dimension: of a given weight (hidden_dim, …), as asked for, or d_k."""
    if weight is not None:
        return max(1, int(weight.shape[0] if weight.dim() else 1))
    return asked or shape.d_k or 1


def score_bound(vector: Tensor) -> dict[str, float]:
    """Σ |v|, which no score passes."""
    return {"score_bound": float(vector.detach().double().abs().sum())}


def saturated_units(figures: Callable[[str], float | None]) -> str | None:
    """A sentence where most hidden units are saturated: the softmax is not the only place."""
    share, passing = figures("tanh_saturated"), figures("tanh_gradient")
    if share is None or passing is None or share <= MAJORITY_SATURATED:
        return None
    return (
        f"{share:.0%} of the hidden units are saturated (|tanh| > {SATURATED_TANH}), and "
        f"{passing:.2g} of the gradient passes them: smaller weights into them, or normalised "
        "inputs, would mend that before anything behind it."
    )


def tile_elements(hidden: int) -> int:
    """What a tile and its companions hold."""
    return 6 * max(_TILE, hidden)
