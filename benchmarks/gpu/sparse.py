"""Part `sparse`: weights of two in four packed by torch, beside the dense ones: products alone, and a whole model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

import torch
from part import GIB, Part, now, release, run_part
from shapes import LARGE, TINY, Shape, make_model
from torch import Tensor, nn

from graphprune.running.semi_structured import TWO_OF_FOUR, linears, pack, pack_semi_structured


@dataclass(frozen=True)
class Sizes:
    """Products of [outputs, inputs] with so many rows of tokens, and a model with prompts of `rows` x `length`."""

    products: tuple[tuple[int, int], ...]
    tokens: tuple[int, ...]
    shape: Shape
    rows: int
    length: int
    repeats: int


FULL = Sizes(
    ((2048, 2048), (8192, 2048), (2048, 8192), (4096, 4096), (14336, 4096), (4096, 14336)),
    (1, 64, 512, 4096, 32768),
    LARGE,
    8,
    1024,
    20,
)
SMALL = Sizes(((64, 128),), (1, 8), replace(TINY, hidden=64, mlp=128, kv=4), 2, 16, 2)


def make_sparse(weight: Tensor) -> None:
    """Zero, in place, the two smallest of each four inputs, a part of the rows at a time."""
    for rows in torch.split(weight, 4096):
        rows.mul_(TWO_OF_FOUR.keep(rows.abs()))


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """The mean of so many runs, once three were not counted."""
    for _ in range(3):
        work()
    began = now()
    for _ in range(repeats):
        work()
    return round(1000 * (now() - began) / repeats, 4)


def measure_product(device: torch.device, shape: tuple[int, int], tokens: int, repeats: int) -> Mapping[str, Any]:
    """One linear layer in bf16, dense and packed."""
    layer = nn.Linear(shape[1], shape[0], bias=False, device=device, dtype=torch.bfloat16).requires_grad_(False)
    make_sparse(layer.weight)
    read = torch.randn(tokens, shape[1], device=device, dtype=torch.bfloat16)
    expected = layer(read)
    dense = milliseconds(lambda: layer(read), repeats)
    put_packed(layer)
    packed = milliseconds(lambda: layer(read), repeats)
    return {"dense": dense, "packed": packed, "gain": dense / packed, "difference": apart(layer(read), expected)}


def put_packed(layer: nn.Linear) -> None:
    """The packed weight on a GPU; elsewhere torch has no product of it, and what it packs is unpacked again."""
    if layer.weight.is_cuda:
        layer.weight = nn.Parameter(pack(layer.weight.detach()), requires_grad=False)
        return
    cutlass: Any = import_module("torch.sparse._semi_structured_conversions")
    parts = cutlass.sparse_semi_structured_from_dense_cutlass(layer.weight)
    layer.weight.copy_(cutlass.sparse_semi_structured_to_dense_cutlass(*parts))


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, of the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())


def measure_model(part: Part, sizes: Sizes) -> Mapping[str, Any]:
    """Logits of prompts, by a model whose linear layers but the head are of two in four."""
    model = make_model(sizes.shape, part.device, torch.bfloat16).requires_grad_(False)
    for name, layer, _ in linears(model):
        if not name.startswith("lm_head"):
            make_sparse(layer.weight)
    ids = torch.randint(sizes.shape.vocabulary, (sizes.rows, sizes.length), device=part.device)
    with torch.inference_mode():
        run = partial(model, ids, use_cache=False, logits_to_keep=1)
        expected, held = run().logits, bytes_held(part.device)
        dense = milliseconds(run, sizes.repeats)
        if part.tiny:
            for name, layer, shared in linears(model):
                if not shared and not name.startswith("lm_head"):
                    put_packed(layer)
        else:
            packed = pack_semi_structured(model)
            print(f"{len(packed.packed)} weights packed, dense: {dict(packed.dense)}", flush=True)
            release()
        fast = milliseconds(run, sizes.repeats)
        return {
            "dense": dense,
            "packed": fast,
            "gain": dense / fast,
            "difference": apart(run().logits, expected),
            "dense_gib": held and round(held / GIB, 3),
            "packed_gib": held and round(bytes_held(part.device) / GIB, 3),
        }


def bytes_held(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def measure(part: Part) -> None:
    sizes = SMALL if part.tiny else FULL
    with torch.no_grad():
        for shape in sizes.products:
            for tokens in sizes.tokens:
                work = partial(measure_product, part.device, shape, tokens, sizes.repeats)
                part.attempt(work, what=f"{shape[0]} x {shape[1]}", tokens=tokens)
    work = partial(measure_model, part, sizes)
    part.attempt(work, what=f"{sizes.shape.name}, prefill", tokens=sizes.rows * sizes.length)


if __name__ == "__main__":
    run_part("sparse", measure)
