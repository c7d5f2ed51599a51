"""Program reader: an exported program as a draft, call for call, under names and sizes of its contract."""

import operator
import re
from collections.abc import Callable, Sequence

import sympy
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind

from graphprune.errors import CaptureError
from graphprune.frontend.tracing.draft import Draft
from graphprune.frontend.tracing.functional import is_mutable
from graphprune.frontend.tracing.programs import size_names
from graphprune.ir.canonical import CONSTANTS
from graphprune.ir.graph import get_tensor
from graphprune.ir.operators import opname
from graphprune.ir.sizes import symbol
from graphprune.ir.types import Size, TensorType
from graphprune.models.contract import Contract


class ProgramReader:
    """Reads one program: lifted tensors become attributes, sizes become canonical."""

    def __init__(self, module: nn.Module, program: ExportedProgram, contract: Contract, prefix: str) -> None:
        self.module, self.program, self.contract, self.prefix = module, program, contract, prefix
        self.graph = fx.Graph()
        self.tensors: dict[str, Tensor] = {}
        self.mapping: dict[fx.Node, fx.node.Argument] = {}
        self.sizes: dict[sympy.Expr, fx.Node] = {}
        self.symbols = size_names(program, contract)
        self.origins: dict[str, tuple[fx.Node, int]] = {}
        self.attributes: dict[str, fx.Node] = {}
        self.sizes_read = 0
        # Export may name a tied parameter by any of its names; the model's first one is the stable handle.
        self.names = {id(tensor): name for name, tensor in reversed(named_tensors(module).items())}

    def read(self) -> Draft:
        """The draft; its graph returns what the model does."""
        self.add_inputs()
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self.mapping[node] = self.convert(node)
        self.graph.output(tuple(self.mapping[node] for node in self.returned()))
        own = frozenset(name for name, _ in self.module.named_parameters(remove_duplicate=False))
        changed = {name: node for name, n in self.changed().items() if isinstance(node := self.mapping[n], fx.Node)}
        return Draft(self.graph, self.tensors, changed, own)

    def add_inputs(self) -> None:
        """User inputs first, then one attribute node for each lifted parameter, buffer and constant."""
        lifted = self.program.graph.find_nodes(op="placeholder")
        specs = list(zip(lifted, self.program.graph_signature.input_specs, strict=True))
        users = [node for node, spec in specs if spec.kind == InputKind.USER_INPUT]
        for node, name in zip(users, self.contract.inputs, strict=True):
            self.add_placeholder(node, name)
        for node, spec in specs:
            if spec.kind != InputKind.USER_INPUT:
                self.add_attribute(node, spec)

    def add_placeholder(self, node: fx.Node, name: str) -> None:
        identifier = re.sub(r"\W", "_", name)
        new = self.graph.placeholder(identifier)
        new.meta["value"] = self.describe(node.meta["val"])
        self.mapping[node] = new
        for dim, text in self.contract.dynamic.get(name, {}).items():
            self.origins.setdefault(text, (new, dim))

    def add_attribute(self, node: fx.Node, spec: InputSpec) -> None:
        target = str(spec.target)
        constant = spec.kind == InputKind.CONSTANT_TENSOR
        tensor = self.program.constants[target] if constant else get_tensor(self.module, target)
        name = f"{CONSTANTS}{target}" if constant else self.names.get(id(tensor), target).removeprefix(self.prefix)
        if name not in self.attributes:
            self.tensors[name] = tensor
            self.attributes[name] = self.graph.get_attr(name)
            self.attributes[name].meta["value"] = self.describe(node.meta["val"])
        self.mapping[node] = self.attributes[name]

    def convert(self, node: fx.Node) -> fx.Node | int:
        """Copy one call; a size becomes its canonical node or a plain integer, a `flatten` the reshape to its sizes."""
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            emitted = self.emit_size(self.canonical(value.node.expr))
            self.sizes_read += 1
            if emitted is not None:
                return emitted
        if isinstance(node.target, str):
            raise CaptureError(f"{node.format_node()} is not an ATen call")
        target: Callable[..., object] = node.target
        args = fx.node.map_arg(node.args, self.mapping.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, self.mapping.__getitem__)
        described = self.describe(value)
        if opname(node) == "flatten" and isinstance(described, TensorType):
            sizes = [s if isinstance(s, int) else self.emit_size(s) for s in described.shape]
            target, args, kwargs = torch.ops.aten.reshape.default, (args[0], sizes), {}
        new = self.graph.call_function(target, args, dict(kwargs))
        new.meta["value"] = described
        new.meta["scope"] = self.scope_of(node)
        return new

    def scope_of(self, node: fx.Node) -> str:
        """The dotted name of the innermost module that the node was traced in."""
        stack = node.meta.get("nn_module_stack") or {}
        names = [entry[0] for entry in stack.values()]
        return names[-1].removeprefix(self.prefix) if names else ""

    def describe(self, value: object) -> object:
        """The type of a traced value: of a tensor its `TensorType`, of a number its expression."""
        if isinstance(value, Tensor):
            return TensorType(value.dtype, tuple(self.size(s) for s in value.shape))
        if isinstance(value, (list, tuple)):
            return tuple(self.describe(v) for v in value)
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self.canonical(value.node.expr)
        return value

    def size(self, size: int | torch.SymInt) -> Size:
        if not isinstance(size, torch.SymInt):
            return int(size)
        result = self.canonical(size.node.expr)
        return int(result) if result.is_Integer else result

    def canonical(self, expression: sympy.Expr) -> sympy.Expr:
        return sympy.sympify(expression).xreplace(self.symbols)

    def emit_size(self, size: sympy.Expr) -> fx.Node | int | None:
        """The node that computes this size, made at its first use; None where it is not plain arithmetic."""
        if size.is_Integer:
            return int(size)
        if size not in self.sizes:
            node = self.size_node(size)
            if node is None:
                return None
            node.meta["value"] = size
            self.sizes[size] = node
        return self.sizes[size]

    def size_node(self, size: sympy.Expr) -> fx.Node | None:
        text = str(size)
        if text == "past" and "past + sequence" in self.origins:  # survives the removal of any cache entry
            total = self.emit_size(symbol("past") + symbol("sequence"))
            return self.graph.call_function(operator.sub, (total, self.emit_size(symbol("sequence"))))
        if text in self.origins:
            return self.graph.call_function(torch.ops.aten.sym_size.int, self.origins[text])
        if not (size.is_Add or size.is_Mul):
            return None
        function = operator.add if size.is_Add else operator.mul
        parts = [part for part in map(self.emit_size, size.args) if part is not None]
        return fold_left(self.graph, function, parts, size.func) if len(parts) == len(size.args) else None

    def returned(self) -> Sequence[fx.Node]:
        """What the model returns; what it changed stands before."""
        outputs = outputs_of(self.program)
        count = sum(spec.kind == OutputKind.USER_OUTPUT for spec in self.program.graph_signature.output_specs)
        return outputs[len(outputs) - count :]

    def changed(self) -> dict[str, fx.Node]:
        """The model's own tensors that a run leaves changed, and what they become."""
        signature = self.program.graph_signature
        found = {
            str(spec.target): node
            for spec, node in zip(signature.output_specs, outputs_of(self.program), strict=True)
            if spec.kind != OutputKind.USER_OUTPUT
        }
        targets = {spec.arg.name: str(spec.target) for spec in signature.input_specs}
        for node in self.program.graph.nodes:
            source = node.args[0] if is_mutable(node) else None
            if isinstance(source, fx.Node) and source.op == "placeholder":
                found[targets[source.name]] = node
        return found


def outputs_of(program: ExportedProgram) -> tuple[fx.Node, ...]:
    """All that an exported program returns."""
    return tuple(program.graph.output_node().args[0])


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and then buffers, a tied one under each of its names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def tensor_names(module: nn.Module, prefix: str) -> list[str]:
    """The names that a graph gives to a module's tensors, in order."""
    return [name.removeprefix(prefix) for name in named_tensors(module)]


def fold_left(
    graph: fx.Graph,
    function: Callable[[object, object], object],
    parts: Sequence[fx.Node | int],
    combine: Callable[[sympy.Expr, sympy.Expr], sympy.Expr],
) -> fx.Node:
    """Emit `function` over the parts from left to right; every intermediate node knows its size."""
    result, size = parts[0], size_value(parts[0])
    for part in parts[1:]:
        size = combine(size, size_value(part))
        result = graph.call_function(function, (result, part))
        result.meta["value"] = size
    assert isinstance(result, fx.Node)
    return result


def size_value(part: fx.Node | int) -> sympy.Expr:
    return part.meta["value"] if isinstance(part, fx.Node) else sympy.Integer(part)
