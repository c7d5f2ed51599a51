"""Least-squares compensation: consumers of what was cut are solved anew, so that the stream is what it was."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from graphprune.analysis.linear_calls import LinearCall, find_linear_calls
from graphprune.bounds import NotNegative
from graphprune.edits.biases import can_take_bias
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit
from graphprune.pruning.interfaces import Compensation, Scene
from graphprune.pruning.reconstruct import reconstruct
from graphprune.pruning.ridge import Ridge
from graphprune.pruning.sparsity.solutions import solutions_of
from graphprune.spec import print_spec

_ROUGH = 1e-3  # damping, from which sums of one batch need no float64


@final
@dataclass(frozen=True)
class LeastSquares(Compensation):
    """Solve the weights W of linear calls for min |X W - T|² + damping |W - W_cut|² on the calibration data.

    Biases are solved with them; `intercept` gives calls without a bias one, which makes most checkpoints generic.

    X is what the call reads in the cut model, with all earlier calls already solved, so that errors do not add up; T is
    what the unpruned model has there. Gram matrices are summed in float64, within a batch in float32 where damping is
    0.001 or more, in one joint run of both models: memory is that of the activations at one place; outputs are never
    made. A token of huge activations, or of a huge error, counts as one of 8 times the usual energy. `target=stream`
    makes the sum that a residual branch adds to right, errors of earlier blocks included; `output` the call's own
    output. `consumers=cut` solves the calls that read a cut axis, `all` every linear call. `damping` is relative to
    each input's own energy, so that rescalings that leave the model as it is leave the solution as it is; without a
    number it is 8 times the inputs over the tokens, 0.01 at least.
    """

    name: ClassVar[str] = "least-squares"
    target: Literal["stream", "output"] = "stream"
    consumers: Literal["cut", "all"] = "cut"
    damping: NotNegative | None = None
    intercept: bool = False

    def compensate(self, dense: Graph, cut: Graph, scene: Scene) -> Graph:
        batches = scene.batches
        if not batches:
            raise UsageError("least-squares needs calibration text; give --data")
        calls = self.choose(dense, cut)
        # Damping hides what float32 rounds; means are taken away from biased calls, which leaves less.
        rough = (self.damping is None or self.damping >= _ROUGH) and not any(call.bias for call in calls)
        ridge = Ridge(self.damping, torch.float32 if rough else torch.float64)
        return reconstruct(
            dense,
            cut,
            calls,
            ridge,
            batches,
            target=self.target,
            progress=scene.progress,
            solutions=solutions_of(scene, cut, print_spec(self)),
        )

    def edits(self, scene: Scene) -> tuple[Edit, ...]:
        if not self.intercept:
            return ()
        cut = {(slot.name, slot.dim) for group in scene.candidates if group.kind != "residual" for slot in group.slots}
        calls = [c for c in find_linear_calls(scene.graph) if can_take_bias(c)]
        calls = [c for c in calls if self.consumers == "all" or (c.weight, 0 if c.transposed else 1) in cut]
        return tuple(Edit("bias", call.weight) for call in calls)

    def choose(self, dense: Graph, cut: Graph) -> list[LinearCall]:
        """The calls to solve, in graph order."""
        before, after, known = dense.tensors(), cut.tensors(), {node.name for node in dense.nodes}
        return [
            call
            for call in find_linear_calls(cut)
            if call.node.name in known and (self.consumers == "all" or columns(call, before) != columns(call, after))
        ]


def columns(call: LinearCall, tensors: Mapping[str, Tensor]) -> int:
    return call.matrix(tensors[call.weight]).shape[1]
