"""SliceGPT: the residual stream in its principal axes, of which the first stay (arXiv 2401.15024)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, final

from graphprune.analysis.branches import find_branches, is_stream_map
from graphprune.edits.editing import edited
from graphprune.edits.segments import segment_edits, segments
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit
from graphprune.pruning.interfaces import Compensation, Scene
from graphprune.pruning.principal_axes import turn
from graphprune.rewriting.apply import apply
from graphprune.weights.stored import any_stored


@final
@dataclass(frozen=True)
class PrincipalAxes(Compensation):
    """Rotate each segment of the residual stream into its principal axes before what comes last in it is cut.

    It goes with `--prune residual` and `--statistics exact`; the largest axes become the units that stay. Edits part
    the stream first: tied tensors get copies, norms are folded into what reads them, layer norms are centred, and every
    residual sum gets a matrix that takes the stream from one segment's axes to the next one's. All of that counts.
    With `sequential` the axes of a segment are those of the model that is cut so far, else of the unpruned one. The
    last segment, which the head reads, stays whole but with `head`.
    """

    name: ClassVar[str] = "principal-axes"
    reshapes: ClassVar[bool] = True
    sequential: bool = True
    head: bool = False

    def edits(self, scene: Scene) -> tuple[Edit, ...]:
        if any_stored(scene.graph.tensors().values()):
            raise UsageError(
                "principal-axes changes every matrix, and these weights stay in their file; raise --memory"
            )
        return segment_edits(scene.graph)

    def spared(self, graph: Graph) -> Mapping[str, str]:
        if self.head:
            return {}
        nodes = {node.name: node for node in graph.nodes}
        mapped = {str(n.args[1].target) for b in find_branches(graph) if is_stream_map(n := nodes[b.skip])}  # type: ignore[union-attr]
        if not mapped:
            return {}
        last = [g for g in segments(graph) if not any(slot.name in mapped and slot.dim == 1 for slot in g.slots)]
        return {group.id: "is the last segment, which the head reads" for group in last}

    def compensate(self, dense: Graph, cut: Graph, scene: Scene) -> Graph:
        if not scene.batches:
            raise UsageError("principal-axes needs calibration text; give --data")
        plan = cut.lineage.plan
        whole = edited(dense, plan.edits)
        kept = {segment.id: plan.keep[segment.id] for segment in segments(whole) if segment.id in plan.keep}
        turned = turn(whole, kept, scene.batches, self.sequential, scene.progress)
        # In one go, whatever rounds came before: the shape is then the very one that the saved plan makes.
        return replace(cut, module=apply(turned, replace(plan, edits=())).module)
