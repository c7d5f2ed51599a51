"""Merging: a LoRA adapter goes into the weights of its model, W + scale B A, worked out in float64 and rounded once."""

import atexit
import functools
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from graphprune.errors import SourceError, first_line, foreign
from graphprune.frontend.adapters import WEIGHTS, Adapter, cannot
from graphprune.frontend.checks import check_finite, check_weights
from graphprune.frontend.unpacking import copy_companions, load_as_named
from graphprune.paths import is_file

if TYPE_CHECKING:
    from torch import Tensor, nn

_PREFIX = "base_model.model."
_ENDS = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_embedding_A": "A",
    ".lora_embedding_B": "B",
}
_WORDS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template*")


class Product(NamedTuple):
    """What is added to the weight of a module: B (out, r) times A (r, in)."""

    module: str
    a: "Tensor"
    b: "Tensor"


@functools.cache
def merged(adapter: Adapter, base: Path) -> Path:
    """A folder with the model that the adapter makes of its base, which goes with this process. Raises SourceError."""
    folder = tempfile.TemporaryDirectory(prefix="graphprune-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    with foreign(lambda error: cannot(adapter.folder, first_line(error)[:200])):
        from graphprune.models.patches import quiet_transformers

        with quiet_transformers():
            write_merged(adapter, base, Path(folder.name))
    return Path(folder.name)


def write_merged(adapter: Adapter, base: Path, folder: Path) -> None:
    """Load the base in the type that it is stored in, add what the adapter holds, and save it with its companions."""
    import torch
    from safetensors.torch import load_file

    dtype = getattr(torch, check_weights(base).stored_type() or "float32")
    model = load_as_named(base, dtype=dtype)
    tensors = load_file(adapter.folder / WEIGHTS)
    check_finite(str(adapter.folder), tensors.items())
    products, whole = split_tensors(adapter, tensors)
    with torch.no_grad():
        replace_whole(adapter, model, whole)
        for product in products:
            add_product(adapter, model, product)
    check_finite(str(adapter.folder), model.named_parameters())
    model.save_pretrained(folder)
    own = {path.name for pattern in _WORDS for path in adapter.folder.glob(pattern) if is_file(path)}
    copy_companions(adapter.folder, folder, lambda name: name in own)
    copy_companions(base, folder)


def split_tensors(adapter: Adapter, tensors: Mapping[str, "Tensor"]) -> tuple[list[Product], dict[str, "Tensor"]]:
    """The products of an adapter, and the weights that it holds whole, by the names of its model's.

    Raises SourceError for a tensor that is neither, and for one half of a product.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith(_PREFIX):
            raise cannot(adapter.folder, f"its tensor {name[:100]} is not named as PEFT names it")
        own = name.removeprefix(_PREFIX)
        end = next((end for end in _ENDS if own.endswith(end)), None)
        if end is not None:
            halves.setdefault(own.removesuffix(end), {})[_ENDS[end]] = tensor
        elif ".lora_" in own or "trainable_tokens" in own:
            raise cannot(adapter.folder, f"it holds {name[:100]}, which is more than W + scale B A")
        else:
            whole[own.replace(".base_layer.", ".")] = tensor
    lacking = next((module for module, pair in halves.items() if len(pair) < 2), None)
    if lacking is not None:
        raise SourceError(f"the adapter {adapter.folder} has one half of the product of {lacking}; download it again")
    return [Product(module, pair["A"], pair["B"]) for module, pair in halves.items()], whole


def replace_whole(adapter: Adapter, model: "nn.Module", whole: Mapping[str, "Tensor"]) -> None:
    """Give modules that were trained whole (`modules_to_save`) and biases their weights. Raises SourceError."""
    import torch

    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in whole.items():
        found = parameters.get(name)
        if found is None:
            raise cannot(adapter.folder, f"its base has no weight {name[:100]}")
        if found.shape != tensor.shape:
            raise cannot(adapter.folder, f"{name} is {list(tensor.shape)} in it and {list(found.shape)} in its base")
        if not torch.equal(found, tensor.to(found.dtype)):
            require_untied(adapter, model, name)
            found.copy_(tensor)


def add_product(adapter: Adapter, model: "nn.Module", product: Product) -> None:
    """Add scale B A to the weight of a module, in the order of dimensions that its class has. Raises SourceError."""
    name = f"{product.module}.weight"
    weight, turned = weight_of(adapter, model, product.module)
    if product.a.ndim != 2 or product.b.ndim != 2 or product.b.shape[1] != product.a.shape[0]:
        raise cannot(adapter.folder, f"the product of {product.module} is not one of two matrices")
    shape = (product.b.shape[0], product.a.shape[1])
    if (shape[::-1] if turned else shape) != tuple(weight.shape):
        raise cannot(
            adapter.folder, f"the product of {product.module} is {list(shape)}, and {name} {list(weight.shape)}"
        )
    require_untied(adapter, model, name)
    change = product.b.double() @ product.a.double()
    scale = adapter.scale(product.module, product.a.shape[0])
    weight.copy_(weight.double() + scale * (change.T if turned else change))


def weight_of(adapter: Adapter, model: "nn.Module", name: str) -> tuple["Tensor", bool]:
    """The weight of a module, and whether inputs are its first dimension, as PEFT's fan_in_fan_out says it."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    module = dict(model.named_modules()).get(name)
    if module is None:
        raise cannot(adapter.folder, f"its base has no module {name[:100]}")
    if not isinstance(module, (nn.Linear, nn.Embedding, Conv1D)):
        raise cannot(adapter.folder, f"{name} is a {type(module).__name__}, and no product of matrices")
    return module.weight, not isinstance(module, nn.Linear)


def require_untied(adapter: Adapter, model: "nn.Module", name: str) -> None:
    """Raise SourceError where a weight is another module's too: the adapter changes it for one of them."""
    shared = tied_names(model)
    if name in shared:
        raise cannot(adapter.folder, f"it changes {name}, which its base shares among modules")


def tied_names(model: "nn.Module") -> set[str]:
    every = list(model.named_parameters(remove_duplicate=False))
    counts = Counter(id(parameter) for _, parameter in every)
    return {name for name, parameter in every if counts[id(parameter)] > 1}
