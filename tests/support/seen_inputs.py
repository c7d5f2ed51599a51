"""What the layers of a transformers model read, by hooks: the independent side of tests of importances."""

from typing import Any

import torch
from torch import Tensor

from tests.support.families import model

IDS = torch.randint(3, 60, (6, 12), generator=torch.Generator().manual_seed(1))


def layer_inputs(family: str, suffixes: tuple[str, ...], ids: Tensor = IDS, changed: Any = None) -> dict[str, Tensor]:
    """The input [rows, tokens, n], in float64, of each module whose name ends so, in the family's model or another."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: object, args: tuple[Tensor, ...]) -> None:
            seen[name] = args[0].detach().double().reshape(len(ids), -1, args[0].shape[-1])

        return hook

    source = changed or model(family)
    hooks = [m.register_forward_pre_hook(keep(n)) for n, m in source.named_modules() if n.endswith(suffixes)]
    with torch.no_grad():
        source(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


def weight_of(family: str, name: str) -> Tensor:
    """The weight of a linear layer of the model, [outputs, inputs], in float64."""
    found: Tensor = model(family).get_submodule(name).weight.detach().double()
    return found
