"""Bias compensation: what removed units contributed on average goes on as a constant (FLAP, arXiv 2312.11983)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze_axes
from graphprune.analysis.linear_calls import find_linear_calls
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.pruning.interfaces import Compensation, Scene
from graphprune.rewriting.apply import kept_masks
from graphprune.rewriting.biases import can_take_bias
from graphprune.rewriting.widths import Widths
from graphprune.running.inputs import graph_inputs
from graphprune.running.stepper import Stepper


@final
@dataclass(frozen=True)
class Bias(Compensation):
    """Add W_removed mean(x_removed), the mean contribution of what was cut, to the bias of every call that read it.

    Means are over all tokens of the unpruned model. `missing=add` gives calls without a bias one, which counts as
    parameters of the result and makes most checkpoints generic ones; `skip` leaves such calls as they are.
    """

    name: ClassVar[str] = "bias"
    missing: Literal["add", "skip"] = "add"

    def biases(self, scene: Scene) -> tuple[str, ...]:
        if self.missing == "skip":
            return ()
        cut = {(slot.name, slot.dim) for group in scene.candidates if group.kind != "residual" for slot in group.slots}
        calls = [c for c in find_linear_calls(scene.graph) if (c.weight, 0 if c.transposed else 1) in cut]
        return tuple(call.weight for call in calls if can_take_bias(call))

    def compensate(self, dense: Graph, cut: Graph, scene: Scene) -> Graph:
        batches = scene.batches
        if not batches:
            raise UsageError("the bias compensation needs calibration text; give --data")
        analysis = analyze_axes(dense)
        widths = Widths(analysis.inference, kept_masks(analysis, cut.lineage.plan))
        there = {call.node.name: call for call in find_linear_calls(dense)}
        calls = [(there[call.node.name], call) for call in find_linear_calls(cut) if call.node.name in there]
        pairs = [(old, new) for old, new in calls if new.bias is not None and not mask_of(widths, old.x).all()]
        before, after = dense.tensors(), cut.tensors()
        run = Stepper(dense, [graph_inputs(dense, batch) for batch in batches])
        filled = {}
        with torch.no_grad():
            for done, (old, new) in enumerate(pairs):
                scene.progress(done, len(pairs))
                run.advance(old.node, through=False)
                lost = mean_of(run.value(old.x)) * ~mask_of(widths, old.x)
                constant = old.matrix(before[old.weight]).double() @ lost.to(before[old.weight].device)
                assert new.bias is not None
                bias, kept = after[new.bias], mask_of(widths, old.node)
                # From the dense bias: the present one holds what earlier rounds added for the same units.
                own = before[old.bias].double() if old.bias is not None else torch.zeros_like(constant)
                filled[new.bias] = torch.nn.Parameter((own + constant)[kept.to(constant.device)].to(bias.dtype))
        scene.progress(len(pairs), len(pairs))
        return cut.with_tensors(filled)


def mask_of(widths: Widths, node: torch.fx.Node) -> Tensor:
    """Which entries of a value's last dimension are kept."""
    return torch.from_numpy(widths.mask(widths.inference.axes[node][-1]))


def mean_of(values: Sequence[Tensor]) -> Tensor:
    """The mean over all tokens of all batches: float64 on the CPU."""
    total = sum((value.flatten(0, -2).double().sum(0) for value in values), start=torch.tensor(0.0))
    return (total / sum(value[..., 0].numel() for value in values)).cpu()
