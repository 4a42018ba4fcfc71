"""The operands of a unit, and what they let expect of its logits."""

import math
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from service.attention.blocks import Unit, extent, ranges
from service.attention.logits import Products
from service.shape import Shape

# Rows of a larger variance than the second have second keys far below the largest, or flush; of a
# larger one than the first, later ranges of keys have maxima too far above the reference.
_SHARP = 9.0
_SHARPEST = 64.0

# How many keys of a head its moments are estimated from, about: of 128, that took a tenth of the
# pass where these are all.
_SAMPLE = 32


class Operands:
    """Query, key and value as a unit's products take them, keys by ranges of `key_block`."""

    def __init__(
        self,
        products: Products,
        scale: float,
        value: tuple[Tensor, ...] | None,
        shape: Shape,
        dtype: torch.dtype,
        *,
        key_block: int,
    ) -> None:
        self._products, self._value, self.shape, self.dtype = products, value, shape, dtype
        self.key_block, self.d_k = key_block, products.key[0].shape[-1]
        # A power of two goes into the queries, without rounding.
        folds = math.frexp(scale)[0] in (0.5, -0.5)
        self._before = scale / 2 if folds else None
        self.after = None if folds else scale / 2
        self.places = torch.arange(key_block, dtype=dtype)
        self._moments: dict[int, tuple[Tensor, Tensor]] = {}
        self._about_zero: dict[int, bool] = {}

    @cached_property
    def ranges(self) -> list[slice]:
        """The ranges of keys, one after the other, none of a single key: that would be left out."""
        found = list(ranges(self.shape.key_length, self.key_block))
        if len(found) > 1 and extent(found[-1]) == 1:
            start, stop = found[-2].start, found[-1].stop
            found[-2:] = [slice(start, stop - 2), slice(stop - 2, stop)]
        return found

    def keys(self, unit: Unit) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Keys (kv_heads, d_k, keys) and values (kv_heads, keys, d_v) of each range."""
        key = self._products.key[unit.batch][unit.kv_heads].transpose(1, 2)
        value = None if self._value is None else self._value[unit.batch][unit.kv_heads]
        for each in self.ranges:
            yield key[..., each], None if value is None else value[:, each]

    def queries(self, unit: Unit, into: Tensor) -> Tensor:
        """Those that share a key head stacked, (kv_heads, rows, d_k); `into` may take them."""
        query = self._products.query[unit.batch][unit.heads, unit.queries]
        stacked = query.reshape(into.shape)
        return stacked if self._before is None else torch.mul(stacked, self._before, out=into)

    def expected(self, unit: Unit, queries: Tensor, spare: Tensor) -> Tensor | None:
        """Half of μ + σ²/2 of each row; None where some are too sharp."""
        mean, variance = (m[unit.kv_heads] for m in self._key_moments(unit.batch))
        halved = queries if self.after is None else queries * self.after
        # Diagonal: as if the entries of a key did not depend on one another.
        quarter = torch.bmm(torch.mul(halved, halved, out=spare), variance)
        if 4 * float(quarter.amax()) > (_SHARP if len(self.ranges) > 1 else _SHARPEST):
            return None
        return quarter.baddbmm_(halved, mean).flatten()

    def about_zero(self, batch: int) -> bool:
        """Whether the keys of an item have a mean that is small beside their spread."""
        if batch not in self._about_zero:
            mean, variance = self._key_moments(batch)
            self._about_zero[batch] = bool((mean.square().sum(1) <= variance.sum(1)).all())
        return self._about_zero[batch]

    def _key_moments(self, batch: int) -> tuple[Tensor, Tensor]:
        """Estimated mean and variance of each entry of an item's keys, (kv_heads, d_k, 1)."""
        if batch not in self._moments:
            # As products with ones, and of some of the keys: a mean over an axis that is not the
            # last took longer than the logits of 128 keys.
            key = self._products.key[batch]
            key = key[:, :: max(1, key.shape[1] // _SAMPLE)].contiguous()
            share = key.new_full((len(key), 1, key.shape[1]), 1 / key.shape[1])
            mean, square = torch.bmm(share, key), torch.bmm(share, key.square())
            self._moments[batch] = mean.mT, (square - mean.square()).mT
        return self._moments[batch]
