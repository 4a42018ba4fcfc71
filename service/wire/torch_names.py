"""The names that torch.nn.MultiheadAttention's state dict gives to the weights of multi_head."""

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
    targets = _STACKED.get(name)
    if targets is None:
        return [(_RENAMED.get(name, name), tensor)]
    if tensor.dim() == 0 or tensor.shape[0] % 3:
        raise Invalid(
            f"{name} stacks query, key and value along its first axis; found shape "
            f"{list(tensor.shape)}",
            pointer=f"/mechanism/parameters/{targets[0]}",
        )
    return list(zip(targets, tensor.chunk(3), strict=True))
