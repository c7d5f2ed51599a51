"""Replication: a graph of a model's first blocks is continued to all of its blocks, node by node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, fx

from graphprune.frontend.blocks.relation import NotRepeatedError, layer_of, rename_state
from graphprune.frontend.blocks.repetition import Repetition
from graphprune.frontend.blocks.segments import Block, Segments, find_segments, rename, require_alike
from graphprune.ir.canonical import CONSTANTS, canonical
from graphprune.ir.graph import Graph
from graphprune.ir.types import TensorType
from graphprune.models.contract import Contract


@dataclass(eq=False)
class Replica:
    """The graph that grows: nodes of the small graph map to their copies, those of blocks under each block they become.

    `whole` are the tensors of the whole model by name.
    """

    small: Graph
    segments: Segments
    repetitions: Mapping[str, Repetition]
    whole: Mapping[str, Tensor]
    graph: fx.Graph = field(default_factory=fx.Graph)
    shared: dict[fx.Node, fx.Node] = field(default_factory=dict)
    copies: dict[Block, dict[fx.Node, fx.Node]] = field(default_factory=dict)
    inputs: dict[str, fx.Node] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    attributes: dict[str, fx.Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = self.small.tensors()
        self.placeholders = self.small.placeholders
        self.results = self.small.results
        self.names = {node: name for name, node in self.placeholders.items()}

    def add_inputs(self, contract: Contract) -> None:
        """The placeholders of the whole contract; the state of a block left out has the type of its source's."""
        for name, example in contract.inputs.items():
            source = self.placeholders[self.source_name(name)]
            kind: TensorType = source.meta["value"]
            sizes = tuple(a if isinstance(b, int) else b for a, b in zip(example.shape, kind.shape, strict=True))
            if kind != TensorType(example.dtype, sizes):
                raise NotRepeatedError(f"{name} has another type than {self.source_name(name)}")
            self.inputs[name] = self.graph.placeholder(name.replace(".", "_"))
            self.inputs[name].meta["value"] = kind

    def source_name(self, name: str) -> str:
        """The state of the small graph that stands for this one."""
        layer = layer_of(name)
        if layer is None or name in self.placeholders or name in self.results:
            return name
        found = [rename_state(name, r.sources[layer]) for r in self.repetitions.values() if layer < len(r.sources)]
        return next(source for source in found if source in self.placeholders or source in self.results)

    def add_calls(self) -> None:
        last = {nodes[-1]: block for block, nodes in self.segments.nodes.items()}
        for node in self.small.nodes:
            if node.op == "call_function":
                block = self.segments.owners.get(node)
                self.copy(node, block, block)
            path, index = last.get(node, ("", -1))
            if path and index + 1 == self.repetitions[path].kept:
                self.add_blocks(self.repetitions[path])

    def add_blocks(self, repetition: Repetition) -> None:
        """Repeat the source of each block that was left out."""
        for index in range(repetition.kept, len(repetition.sources)):
            source = (repetition.path, repetition.sources[index])
            for node in self.segments.nodes[source]:
                self.copy(node, source, (repetition.path, index))

    def copy(self, node: fx.Node, source: Block | None, block: Block | None) -> None:
        """Write one call of the small graph as the call that it is in `block`."""
        args, kwargs = (fx.node.map_arg(a, lambda n: self.operand(n, source, block)) for a in (node.args, node.kwargs))
        new = self.graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]
        new.meta = dict(node.meta)
        if block is None or source is None:
            self.shared[node] = new
            return
        new.meta["scope"] = rename(node.meta["scope"], source, block)
        self.copies.setdefault(block, {})[node] = new

    def operand(self, node: fx.Node, source: Block | None, block: Block | None) -> fx.Node:
        if node.op == "get_attr":
            return self.attribute(node, source, block)
        if node.op == "placeholder":
            return self.placeholder(node, source, block)
        made = self.segments.owners.get(node)
        if made is None:
            return self.shared[node]
        if made == source and block is not None:
            return self.copies[block][node]
        near = block is not None and source is not None and made[0] == block[0]
        if made[1] == 0 and not (near and source is not None and source[1] == 1):
            return self.copies[made][node]
        if not near or block is None or source is None:
            return self.from_end(node, made)
        return self.carried(node, made, (block[0], block[1] - source[1] + made[1]))

    def from_end(self, node: fx.Node, made: Block) -> fx.Node:
        """What is read after a list of blocks, counted from its last block."""
        r = self.repetitions[made[0]]
        return self.carried(node, made, (made[0], len(r.sources) - r.kept + made[1]))

    def carried(self, node: fx.Node, made: Block, there: Block) -> fx.Node:
        """What one block hands on where another hands on this node."""
        r = self.repetitions[there[0]]
        source = there if there[1] < r.kept else (there[0], r.sources[there[1]])
        here, wanted = self.segments.carried[made], self.segments.carried[source]
        if len(here) != len(wanted):
            raise NotRepeatedError(f"block {made[1]} of {made[0]} hands on more or less than block {source[1]}")
        return self.copies[there][wanted[list(here).index(node)]]

    def placeholder(self, node: fx.Node, source: Block | None, block: Block | None) -> fx.Node:
        name = self.names[node]
        layer = layer_of(name)
        if layer is not None and source is not None and block is not None:
            name = rename_state(name, layer + block[1] - source[1])
        return self.inputs[name]

    def attribute(self, node: fx.Node, source: Block | None, block: Block | None) -> fx.Node:
        """The parameter of the same name inside the block; a constant that only its source reads is made anew."""
        name = str(node.target)
        tensor = self.known[name]
        if source is not None and block is not None and source != block:
            if name.startswith(CONSTANTS) and all(self.segments.owners.get(user) == source for user in node.users):
                name, tensor = f"{name}.{block[1]}", tensor.clone()
            elif rename(name, source) != name:
                name = rename(name, source, block)
                tensor = self.whole[name]
        if name not in self.attributes:
            self.tensors[name] = tensor
            self.attributes[name] = self.graph.get_attr(name)
            self.attributes[name].meta["value"] = node.meta["value"]
        return self.attributes[name]

    def add_output(self, names: Sequence[str]) -> None:
        self.graph.output(tuple(map(self.result, names)))

    def result(self, name: str) -> fx.Node:
        """What is returned under a name: a state by the block of its layer, everything else from the end."""
        node, layer = self.results[self.source_name(name)], layer_of(name)
        made = self.segments.owners.get(node)
        if layer is None or made is None or made[1] != layer_of(self.source_name(name)):
            if name not in self.results:
                raise NotRepeatedError(f"{name} is not computed by block {layer}")
            return self.operand(node, None, None)
        return self.copies[made[0], layer][node]


def replicate(
    small: Graph,
    repetitions: Sequence[Repetition],
    contract: Contract,
    whole: Mapping[str, Tensor],
    order: Sequence[str],
) -> Graph:
    """The graph of the whole model from that of its first blocks. Raises NotRepeatedError where it cannot be had."""
    segments = find_segments(small, repetitions)
    require_alike(small, segments, repetitions)
    replica = Replica(small, segments, {r.path: r for r in repetitions}, whole)
    replica.add_inputs(contract)
    replica.add_calls()
    outputs = contract.outputs or small.outputs
    replica.add_output(outputs)
    module = canonical(replica.graph, replica.tensors, order)
    return replace(small, module=module, inputs=tuple(contract.inputs), outputs=outputs)
