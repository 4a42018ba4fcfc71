"""The names that torch.nn.MultiheadAttention's state dict gives to the weights of multi_head."""

from collections.abc import Collection

from torch import Tensor

from schemas.mechanisms import weight_names
from service.errors import Invalid

OWN_NAMES = weight_names()
_RENAMED = {
    "q_proj_weight": "query_weight",
    "k_proj_weight": "key_weight",
    "v_proj_weight": "value_weight",
    "out_proj.weight": "output_weight",
    "out_proj.bias": "output_bias",
}
_STACKED = {
    "in_proj_weight": ("query_weight", "key_weight", "value_weight"),
    "in_proj_bias": ("query_bias", "key_bias", "value_bias"),
}
TORCH_NAMES = (*_STACKED, *_RENAMED)


def targets(name: str) -> tuple[str, ...]:
    """This service's names of what stands under `name`: itself, where torch has no other."""
    return _STACKED.get(name) or (_RENAMED.get(name, name),)


def torch_names(own: Collection[str]) -> tuple[str, ...]:
    """All of torch's names, for a mechanism that has all the weights that they stand for."""
    known = all(target in own for name in TORCH_NAMES for target in targets(name))
    return TORCH_NAMES if known else ()


def translated(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights by this service's names; what torch stacks is taken apart.

    Raises:
        Invalid: a weight under both names, or a stack that three do not divide.
    """
    own: dict[str, Tensor] = {}
    given_as: dict[str, str] = {}
    for name, tensor in weights.items():
        for target, part in _parts(name, tensor):
            if target in own:
                raise Invalid(
                    f"{target} is given twice: as {given_as[target]} and as {name}",
                    pointer=f"/mechanism/parameters/{target}",
                )
            own[target], given_as[target] = part, name
    return own


def _parts(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    parts = targets(name)
    if name not in _STACKED:
        return [(parts[0], tensor)]
    if tensor.dim() == 0 or tensor.shape[0] % 3:
        raise Invalid(
            f"{name} stacks query, key and value along its first axis; found shape "
            f"{list(tensor.shape)}",
            pointer=f"/mechanism/parameters/{parts[0]}",
        )
    return list(zip(parts, tensor.chunk(3), strict=True))
