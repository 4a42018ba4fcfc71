"""Σ w·v over the ranges of keys so far: the online softmax's rescaling, or a plain sum."""

from torch import Tensor


class RunningOutput:
    """Shares of the output (heads, queries, d_v) of one range of keys after another."""

    def __init__(self) -> None:
        self.output: Tensor | None = None
        self._maximum: Tensor | None = None

    def add(self, product: Tensor | None, maximum: Tensor | None) -> None:
        """Add the next range's share; its exponentials are referred to `maximum`, if they are."""
        if product is None or self.output is None:
            self.output, self._maximum = product, maximum
        elif maximum is None or self._maximum is None:
            self.output.add_(product)
        else:
            # −∞ against −∞, two ranges without a key, must give a factor of 0 and not NaN.
            highest = maximum.maximum(self._maximum).clamp(min=-1e300)
            self.output.mul_(_factor(self._maximum - highest, product))
            self.output.add_(product.mul_(_factor(maximum - highest, product)))
            self._maximum = highest


def _factor(shift: Tensor, like: Tensor) -> Tensor:
    return shift.exp().to(like.dtype).unsqueeze(-1)
