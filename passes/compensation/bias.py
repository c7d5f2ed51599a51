"""Bias compensation: what removed units contributed on average goes on as a constant (FLAP, arXiv 2312.11983)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze_axes
from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.edits.biases import can_take_bias
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit
from graphprune.pruning.activations.observe import Reading, observe
from graphprune.pruning.activations.reductions import tokens, total
from graphprune.pruning.interfaces import Compensation, Scene
from graphprune.rewriting.apply import kept_masks
from graphprune.rewriting.widths import Widths


@final
@dataclass(frozen=True)
class Bias(Compensation):
    """Add W_removed mean(x_removed), the mean contribution of what was cut, to the bias of every call that read it.

    Means are over all tokens of the unpruned model. `missing=add` gives calls without a bias one, which counts as
    parameters of the result and makes most checkpoints generic ones; `skip` leaves such calls as they are.
    """

    name: ClassVar[str] = "bias"
    missing: Literal["add", "skip"] = "add"

    def edits(self, scene: Scene) -> tuple[Edit, ...]:
        if self.missing == "skip":
            return ()
        cut = {(slot.name, slot.dim) for group in scene.candidates if group.kind != "residual" for slot in group.slots}
        calls = [c for c in find_linear_calls(scene.graph) if (c.weight, 0 if c.transposed else 1) in cut]
        return tuple(Edit("bias", call.weight) for call in calls if can_take_bias(call))

    def compensate(self, dense: Graph, cut: Graph, scene: Scene) -> Graph:
        if not scene.batches:
            raise UsageError("the bias compensation needs calibration text; give --data")
        analysis = analyze_axes(dense)
        widths = Widths(analysis.inference, kept_masks(analysis, cut.lineage.plan))
        there = {call.node.name: call for call in find_linear_calls(dense)}
        calls = [(there[call.node.name], call) for call in find_linear_calls(cut) if call.node.name in there]
        pairs = [(old, new) for old, new in calls if new.bias is not None and not mask_of(widths, old.x).all()]
        before, after = dense.tensors(), cut.tensors()
        seen = input_means(dense, [old.x.name for old, _ in pairs], scene)
        filled = {}
        for old, new in pairs:
            weight, bias = old.matrix(before[old.weight].detach()).double(), after[str(new.bias)]
            constant = weight @ (seen[old.x.name].cpu() * ~mask_of(widths, old.x)).to(weight.device)
            # From the dense bias: the present one holds what earlier rounds added for the same units.
            own = before[old.bias].detach().double() if old.bias is not None else torch.zeros_like(constant)
            kept = mask_of(widths, old.node).to(constant.device)
            filled[str(new.bias)] = torch.nn.Parameter((own + constant)[kept].to(bias.dtype))
        return cut.with_tensors(filled)


def mask_of(widths: Widths, node: torch.fx.Node) -> Tensor:
    """Which entries of a value's last dimension are kept."""
    return torch.from_numpy(widths.mask(widths.inference.axes[node][-1]))


def input_means(graph: Graph, nodes: Sequence[str], scene: Scene) -> dict[str, Tensor]:
    """The mean over all tokens of each of these nodes: float64 [n]."""
    sums = {(node, reduce): Reading((node,), reduce) for node in nodes for reduce in (total, tokens)}
    found = observe(graph, sums, scene.batches, scene.progress)
    return {node: found[node, total] / float(found[node, tokens]) for node in nodes}
