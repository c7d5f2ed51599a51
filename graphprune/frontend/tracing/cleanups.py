"""The clean-ups of capture as data: what is done to an exported program, in this order, until it is a graph.

Each is a function that changes a draft in place and says how much it changed, in a module of its own concept.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import fx

from graphprune.frontend.tracing.assertions import drop_assertions
from graphprune.frontend.tracing.complex_pairs import complex_to_pairs
from graphprune.frontend.tracing.constant_picks import picks_to_slices
from graphprune.frontend.tracing.draft import Draft
from graphprune.frontend.tracing.folding import fold_constants
from graphprune.frontend.tracing.functional import functional_form
from graphprune.frontend.tracing.idle_clamps import drop_idle_clamps
from graphprune.frontend.tracing.layer_norms import fuse_layer_norms
from graphprune.ir.canonical import CONSTANTS, canonical
from graphprune.ir.cleanups import Cleanup
from graphprune.ir.operators import remove_dead


@dataclass(frozen=True)
class Step:
    """A clean-up with the words for what it did, which follow the number that it gives."""

    run: Callable[[Draft], int]
    words: str

    @property
    def name(self) -> str:
        return self.run.__name__


def remove_unread(draft: Draft) -> int:
    """Erase every call and attribute whose value nothing reads; how many there were."""
    return remove_dead(draft.graph)


REMOVE_UNREAD = Step(remove_unread, "nodes that nothing reads left out")
STEPS: tuple[Step, ...] = (
    Step(drop_assertions, "assertions left out, which say what the types say"),
    Step(functional_form, "calls written in functional form, or left out where they give their operand"),
    Step(complex_to_pairs, "complex calls written in real ones"),
    Step(fold_constants, "constants computed once"),
    Step(picks_to_slices, "picks of places one after the other written as slices"),
    Step(drop_idle_clamps, "bounds left out that picked places keep anyway"),
    Step(fuse_layer_norms, "layer norms put together from their parts"),
    REMOVE_UNREAD,
)


def clean(
    draft: Draft, order: Iterable[str], steps: Iterable[Step] = STEPS
) -> tuple[fx.GraphModule, tuple[Cleanup, ...]]:
    """Run the steps, then write the draft as a module, its tensors in this order. The record says what was done."""
    done = []
    for step in steps:
        count = step.run(draft)
        done.append(Cleanup(step.name, f"{count:,} {step.words}" if count else ""))
    module = canonical(draft.graph, draft.tensors, order)
    return module, (*done, Cleanup("canonical", describe_order(module)))


def describe_order(module: fx.GraphModule) -> str:
    """What the canonical form of a module holds."""
    names = [str(node.target) for node in module.graph.find_nodes(op="get_attr")]
    constants = sum(name.startswith(CONSTANTS) for name in names)
    calls = len(module.graph.nodes) - len(names)
    return f"{len(names) - constants:,} tensors in the model's order, {constants:,} constants, {calls:,} calls"
