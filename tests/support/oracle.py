"""The oracle: a cut model equals the masked one; units of averaged axes can be permuted."""

import random
from dataclasses import replace
from typing import Any

import numpy
import sympy
import torch
from torch import Tensor

from graphprune.analysis.analyse import Analysis, analyze_axes
from graphprune.analysis.groups import Group
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.ir.sizes import concrete
from graphprune.ir.types import tensor_type
from graphprune.rewriting.apply import apply
from graphprune.rewriting.masked import Masked


def double(graph: Graph) -> Graph:
    """The same graph in fp64: tensors, and the types that nodes convert to."""
    tensors = {n: t.detach().double() for n, t in graph.tensors().items() if t.is_floating_point()}
    parameters = graph.parameters()
    result = graph.with_tensors({n: torch.nn.Parameter(t) if n in parameters else t for n, t in tensors.items()})
    for node in result.nodes:
        if node.kwargs.get("dtype") == torch.float32:
            node.kwargs = {**node.kwargs, "dtype": torch.float64}
        node.args = tuple(torch.float64 if a == torch.float32 and isinstance(a, torch.dtype) else a for a in node.args)
        node.meta["value"] = widened(node.meta.get("value"))
    result.module.recompile()
    return result


def widened(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(widened, value))
    wide = {torch.float32: torch.float64, torch.complex64: torch.complex128}.get(getattr(value, "dtype", None))
    return value if wide is None else replace(value, dtype=wide)


def example(graph: Graph, setting: dict[str, int], seed: int = 0) -> list[Tensor]:
    """Random inputs of these sizes; decoders get a running past and a left-padded row."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for name, node in graph.placeholders.items():
        kind = tensor_type(node)
        shape = concrete(kind.shape, setting)
        if name.endswith("input_ids"):
            result.append(torch.randint(3, 60, shape, generator=generator))
        elif name == "attention_mask":
            mask = torch.ones(shape, dtype=torch.long)
            mask[0, 0] = 0
            result.append(mask)
        elif name == "position_ids":
            result.append(torch.arange(setting["past"], setting["past"] + shape[1]).repeat(shape[0], 1))
        elif kind.dtype.is_floating_point:
            result.append(torch.randn(shape, dtype=kind.dtype, generator=generator))
        else:
            result.append(torch.zeros(shape, dtype=kind.dtype))
    return result


SETTINGS = (
    {"batch": 2, "sequence": 4, "past": 0, "images": 2, "target": 3},
    {"batch": 3, "sequence": 2, "past": 3, "images": 2, "target": 5},
)


def random_keep(group: Group, rng: random.Random) -> tuple[int, ...]:
    return tuple(sorted(rng.sample(range(group.units), rng.randint(group.least, group.units - 1))))


def check_cut(graph: Graph, analysis: Analysis, masked: Masked, plan: Plan, tolerance: float) -> float:
    """Compare the rewritten graph (exact statistics) with the masked one on every output; returns the difference."""
    cut = apply(graph, plan, analysis)
    worst = 0.0
    for setting in SETTINGS:
        full_inputs = dict(
            zip(graph.inputs, masked_inputs(graph, plan, analysis, example(graph, setting)), strict=True)
        )
        inputs = dict(zip(cut.inputs, example(cut, setting), strict=True))
        for name in cut.inputs:
            inputs[name] = narrow(analysis, graph, plan, name, full_inputs[name])
        with torch.no_grad():
            full = dict(zip(graph.outputs, masked(plan, *full_inputs.values()), strict=True))
            small = dict(zip(cut.outputs, cut(*inputs.values()), strict=True))
        for name, value in small.items():
            reference = narrow(analysis, graph, plan, name, full[name])
            scale = max(1.0, float(reference.abs().max()))
            worst = max(worst, float((value - reference).abs().max()) / scale)
    assert worst <= tolerance, f"cut differs from masked by {worst:.2e} under {plan.widths()}"
    return worst


def masked_inputs(graph: Graph, plan: Plan, analysis: Analysis, inputs: list[Tensor]) -> list[Tensor]:
    """A masked model never writes removed units to its cache, so they are zero there; kept ids only are looked up."""
    result = []
    for name, tensor in zip(graph.inputs, inputs, strict=True):
        if name.startswith("past_key_values."):
            for dim, mask in enumerate(masks_of(analysis, plan, graph.placeholders[name])):
                if mask is not None:
                    tensor = tensor * torch.from_numpy(mask).to(tensor.dtype).view(
                        [-1 if d == dim else 1 for d in range(tensor.ndim)]
                    )
        result.append(remap(analysis, plan, name, tensor))
    return result


def remap(analysis: Analysis, plan: Plan, name: str, ids: Tensor) -> Tensor:
    """Replace ids that a vocabulary plan removes by one it keeps."""
    for group in analysis.groups.groups:
        if name == "input_ids" and group.kind == "vocabulary" and group.id in plan.keep:
            kept = torch.tensor(plan.keep[group.id])
            return kept[ids % len(kept)]
    return ids


def masks_of(analysis: Analysis, plan: Plan, node: Any) -> list[Any]:
    from graphprune.rewriting.apply import kept_masks
    from graphprune.rewriting.widths import Widths

    widths = Widths(analysis.inference, kept_masks(analysis, plan))
    axes = analysis.inference.axes[node]
    return [
        widths.mask(axis)
        if all(isinstance(analysis.inference.algebra.size(a), int) for a in analysis.inference.algebra.atoms(axis))
        else None
        for axis in axes
    ]


def narrow(analysis: Analysis, graph: Graph, plan: Plan, name: str, value: Tensor) -> Tensor:
    """The kept part of a full-width value of the contract, in the cut model's numbering."""
    node = graph.placeholders[name] if name in graph.placeholders else graph.results[name]
    for dim, mask in enumerate(masks_of(analysis, plan, node)):
        if mask is not None and len(mask) == value.shape[dim] and not mask.all():
            value = value.index_select(dim, torch.from_numpy(numpy.flatnonzero(mask)))
    for group in analysis.groups.groups:
        if name == "input_ids" and group.kind == "vocabulary" and group.id in plan.keep:
            value = torch.searchsorted(torch.tensor(plan.keep[group.id]), value)
    return value


def permuted(graph: Graph, group: Group, rng: random.Random) -> Graph:
    """The graph with the group's units in another order in every slot."""
    order = list(range(group.units))
    rng.shuffle(order)
    tensors = {}
    for slot in group.slots:
        tensor = tensors.get(slot.name, graph.tensors()[slot.name].detach())
        index = numpy.arange(len(slot.owner))
        for unit, source in enumerate(order):
            index[slot.indices(unit)] = slot.indices(source)
        tensors[slot.name] = tensor.index_select(slot.dim, torch.from_numpy(index))
    wrapped = {n: torch.nn.Parameter(t) if n in graph.parameters() else t for n, t in tensors.items()}
    return graph.with_tensors(wrapped)


def analyses(graph: Graph) -> tuple[Graph, Analysis, Masked]:
    wide = double(graph)
    analysis = analyze_axes(wide)
    return wide, analysis, Masked(wide, analysis)


def is_symbolic(size: Any) -> bool:
    return isinstance(size, sympy.Expr)
