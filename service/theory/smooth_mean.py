"""The mean of a costly smooth function of two variables over very many points.

The function is interpolated by a polynomial on Chebyshev points, and of the points only the means
of the products of Chebyshev polynomials are needed. Very many points are first replaced by a few a
cell, of the same mean and covariance.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# (x of shape (J,), y of shape (K,)) → the values at all pairs, shape (functions, J, K).
GridFunction = Callable[[Tensor, Tensor], Tensor]

_TOLERANCE = 1e-6
_FIRST_DEGREE, _LAST_DEGREE = 8, 128
# Error of the cells alone, for softmax statistics with σ to 60 and n to 1e6: ≤ 1e-7 for smooth
# spreads of a million rows, 2e-6 for the worst two values of σ in one cell.
_CELLS_X, _CELLS_Y = 512, 64
_CHUNK = 1 << 15
# Below it, the cells cost more than they spare.
_FEW_POINTS = 1 << 17


class _Axis(NamedTuple):
    low: float
    high: float

    def unit(self, values: Tensor) -> Tensor:
        """The values mapped from [low, high] to [−1, 1]; all to 0 if low = high."""
        if self.low == self.high:
            return torch.zeros_like(values)
        return (values - self.low).mul_(2 / (self.high - self.low)).sub_(1).clamp_(-1, 1)

    def nodes(self, degree: int) -> Tensor:
        """The degree + 1 extrema of the Chebyshev polynomial; of twice the degree, a superset."""
        angles = math.pi * torch.arange(degree + 1, dtype=torch.float64) / max(degree, 1)
        spread = (self.high - self.low) * (1 + angles.cos()) / 2
        return (self.low + spread).clamp(self.low, self.high)

    def next_degree(self, degree: int) -> int:
        return min(max(2 * degree, _FIRST_DEGREE), 0 if self.low == self.high else _LAST_DEGREE)


class _Points(NamedTuple):
    """Weighted points in [−1, 1]² (those of a cell may lie 0.37 of its width beyond)."""

    x: Tensor
    y: Tensor
    weight: Tensor


def mean_of_smooth(
    function: GridFunction, x: Tensor, y: Tensor, weight: Tensor | None = None
) -> Tensor:
    """mean_i f(x_i, y_i), for each function; shape (functions,), float64.

    x, y: finite, one-dimensional, of equal length ≥ 1, float64, on the CPU, and so the weights of a
    weighted mean, for which there are at most 131,072 points. An axis of one value is
    treated exactly. Otherwise the error is about 1e-6 of the mean, if a polynomial of degree 128
    can follow the function so closely, and if its third derivatives are mild over 1/512 of the
    range of x and 1/64 of that of y.
    """
    axes = tuple(_Axis(*(bound.item() for bound in values.aminmax())) for values in (x, y))
    x, y = axes[0].unit(x), axes[1].unit(y)
    if weight is None and len(x) > _FEW_POINTS:
        points = _condensed(x, y)
    else:
        points = _Points(x, y, torch.ones_like(x) if weight is None else weight)
    coefficients = _interpolant(function, (axes[0], axes[1]), points)
    return _mean(coefficients, points)


def _interpolant(function: GridFunction, axes: tuple[_Axis, _Axis], points: _Points) -> Tensor:
    """Chebyshev coefficients, shape (functions, J, K), of just sufficient degrees."""
    stride = max(1, len(points.x) // 256)
    sample = _Points(*(column[::stride] for column in points))
    degrees = [axis.next_degree(0) for axis in axes]
    while True:
        values = function(*(axis.nodes(d) for axis, d in zip(axes, degrees, strict=True)))
        coefficients = _transform(degrees[0]) @ values @ _transform(degrees[1]).T
        # What counts is the error against the mean, not against the largest value: few points may
        # lie where the function is large.
        typical = torch.maximum(_mean(coefficients, sample).abs(), values.abs().amin((1, 2)))
        relative = (coefficients / typical.clamp(min=1e-300)[:, None, None]).abs().amax(0)
        by_order = (relative.amax(1), relative.amax(0))
        wanted = [
            axis.next_degree(d) if d and orders[-3:].max() > _TOLERANCE else d
            for axis, d, orders in zip(axes, degrees, by_order, strict=True)
        ]
        if wanted == degrees:
            kept = [_last(orders > _TOLERANCE / 10) + 1 for orders in by_order]
            return coefficients[:, : kept[0], : kept[1]]
        degrees = wanted


def _last(counts: Tensor) -> int:
    """The last order that counts; the constant one where none does, so that the mean is 0."""
    found = counts.nonzero()
    return int(found.amax()) if found.numel() else 0


def _transform(degree: int) -> Tensor:
    """The matrix from the values at the nodes to Chebyshev coefficients."""
    if degree == 0:
        return torch.ones(1, 1, dtype=torch.float64)
    order = torch.arange(degree + 1, dtype=torch.float64)
    matrix = torch.cos(torch.outer(order, order) * (math.pi / degree)) * (2 / degree)
    matrix[:, [0, -1]] /= 2
    matrix[[0, -1]] /= 2
    return matrix


def _mean(coefficients: Tensor, points: _Points) -> Tensor:
    """The interpolant's mean over the points, shape (functions,)."""
    _, orders_x, orders_y = coefficients.shape
    moments = torch.zeros(orders_x, orders_y, dtype=torch.float64)
    for x, y, weight in zip(*(torch.split(column, _CHUNK) for column in points), strict=True):
        moments += _polynomials(x, orders_x) @ (_polynomials(y, orders_y) * weight).T
    return (coefficients * moments).sum((1, 2)) / points.weight.sum()


def _polynomials(x: Tensor, orders: int) -> Tensor:
    """T_0(x) … T_{orders−1}(x), shape (orders, len(x))."""
    basis = torch.empty(orders, len(x), dtype=torch.float64)
    basis[0] = 1
    if orders > 1:
        basis[1] = x
    for k in range(2, orders):
        # −T_k where k mod 4 is 2 or 3, for one pass over memory instead of two.
        sign = -1 if k % 2 == 0 else 1
        torch.addcmul(basis[k - 2], x, basis[k - 1], value=2 * sign, out=basis[k])
    basis[2::4].neg_()
    basis[3::4].neg_()
    return basis


def _condensed(x: Tensor, y: Tensor) -> _Points:
    """Four points a cell, of the mean and covariance of the points in it.

    They stand at mean ± sqrt(2)·l, l the columns of the covariance's Cholesky factor.
    """
    count, x, y, xx, xy, yy = _cell_sums(x, y)
    x, y = x / count, y / count
    variance_x, variance_y = (xx / count - x * x).clamp(min=0), (yy / count - y * y).clamp(min=0)
    along_x, limit = variance_x.sqrt(), variance_y.sqrt()
    shear = ((xy / count - x * y) / along_x).nan_to_num(0, 0, 0)
    shear = torch.minimum(torch.maximum(shear, -limit), limit)
    along_y = (variance_y - shear * shear).clamp(min=0).sqrt()
    a, b, c = (math.sqrt(2) * length for length in (along_x, shear, along_y))
    return _Points(
        torch.cat((x + a, x - a, x, x)),
        torch.cat((y + b, y - b, y + c, y - c)),
        (count / 4).repeat(4),
    )


def _cell_sums(x: Tensor, y: Tensor) -> Tensor:
    """Σ of 1, x, y, x², xy, y² over each occupied cell, shape (6, cells)."""
    sums = torch.zeros(6, _CELLS_X * _CELLS_Y, dtype=torch.float64)
    for u, v in zip(torch.split(x, _CHUNK), torch.split(y, _CHUNK), strict=True):
        column = ((u + 1) * (_CELLS_X / 2)).long().clamp(max=_CELLS_X - 1)
        row = ((v + 1) * (_CELLS_Y / 2)).long().clamp(max=_CELLS_Y - 1)
        cell = column * _CELLS_Y + row
        for total, summand in zip(sums, (None, u, v, u * u, u * v, v * v), strict=True):
            total += torch.bincount(cell, summand, minlength=len(total))
    return sums[:, sums[0] > 0]
