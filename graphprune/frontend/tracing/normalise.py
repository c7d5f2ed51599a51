"""Capture: any `nn.Module` with example inputs becomes one functional, flat `Graph` with named symbolic sizes."""

import contextlib
import gc
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sympy
import torch
import torch._dynamo.config
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind

from graphprune.errors import CaptureError
from graphprune.frontend.tracing.complex_pairs import complex_to_pairs
from graphprune.frontend.tracing.failures import explain_failure, quiet_torch
from graphprune.frontend.tracing.folding import drop_idle_clamps, fold_constants, picks_to_slices
from graphprune.frontend.tracing.functional import functional, is_mutable, is_simple
from graphprune.frontend.tracing.layer_norms import fuse_layer_norms
from graphprune.frontend.tracing.programs import export_within_bounds, note_bounds, size_names
from graphprune.ir.canonical import CONSTANTS, canonical
from graphprune.ir.graph import Graph, Source, get_tensor
from graphprune.ir.operators import opname, remove_dead
from graphprune.ir.sizes import symbol
from graphprune.ir.types import Size, TensorType
from graphprune.models.contract import Contract

# Nodes that only assert what the captured types already say.
_ASSERTIONS = {"_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size"}
_FULL = 2**63 - 1


def capture_module(
    module: nn.Module,
    contract: Contract,
    prefix: str = "",
    patches: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Graph:
    """Export `module` once and return its graph; `prefix` is cut from the front of every parameter's name.

    Raises CaptureError naming the operator or the line of the model at which torch.export stopped.
    """
    try:
        with evaluating(module), torch.no_grad(), patches(), quiet_torch(), uncollected(), uncached():
            program, bounds = export_within_bounds(module, contract)
            if not is_simple(program):
                program = program.run_decompositions({})
    except Exception as error:
        raise CaptureError(explain_failure(module, error)) from error
    graph = Normalizer(module, program, contract, prefix).run()
    return graph.note(note_bounds(bounds)) if bounds else graph


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and its parts back into the mode that each had."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Trace without garbage collection, which would walk all that was traced so far again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def uncached() -> contextlib.AbstractContextManager[Any]:
    """Export without torch's cache of fake results: with symbolic sizes nearly all are new, and are computed twice."""
    return torch._dynamo.config.patch(fake_tensor_cache_enabled=False)  # type: ignore[no-any-return]


class Normalizer:
    """Rebuilds an exported program as a `Graph`: lifted tensors become attributes, sizes become canonical."""

    def __init__(self, module: nn.Module, program: torch.export.ExportedProgram, contract: Contract, prefix: str):
        self.module, self.program, self.contract, self.prefix = module, program, contract, prefix
        self.graph = fx.Graph()
        self.tensors: dict[str, Tensor] = {}
        self.mapping: dict[fx.Node, Any] = {}
        self.sizes: dict[sympy.Expr, fx.Node] = {}
        self.symbols = size_names(program, contract)
        self.origins: dict[str, tuple[fx.Node, int]] = {}
        self.attributes: dict[str, fx.Node] = {}
        # Export may name a tied parameter by any of its names; the model's first one is the stable handle.
        self.names = {id(tensor): name for name, tensor in reversed(named_tensors(module).items())}

    def run(self) -> Graph:
        self.add_inputs()
        for node in self.program.graph.nodes:
            if node.op == "call_function" and not is_assertion(node):
                self.mapping[node] = self.convert(node)
        returned = tuple(self.mapping[node] for node in self.returned())
        self.graph.output(returned)
        names = self.contract.outputs or tuple(f"output.{i}" for i in range(len(returned)))
        if len(names) != len(returned):
            raise CaptureError(f"the model returned {len(returned)} tensors where the contract names {len(names)}")
        complex_to_pairs(self.graph)
        fold_constants(self.graph, self.tensors)
        picks_to_slices(self.graph, self.tensors)
        drop_idle_clamps(self.graph)
        fuse_layer_norms(self.graph)
        remove_dead(self.graph)
        module = canonical(self.graph, self.tensors, tensor_names(self.module, self.prefix))
        return Graph(module, tuple(self.contract.inputs), names, Source(changes=tuple(self.changed())))

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

    def add_attribute(self, node: fx.Node, spec: Any) -> None:
        target = str(spec.target)
        constant = spec.kind == InputKind.CONSTANT_TENSOR
        tensor = self.program.constants[target] if constant else get_tensor(self.module, target)
        name = f"{CONSTANTS}{target}" if constant else self.names.get(id(tensor), target).removeprefix(self.prefix)
        if name not in self.attributes:
            self.tensors[name] = tensor
            self.attributes[name] = self.graph.get_attr(name)
            self.attributes[name].meta["value"] = self.describe(node.meta["val"])
        self.mapping[node] = self.attributes[name]

    def convert(self, node: fx.Node) -> Any:
        """Copy one call; a size becomes its canonical node or a plain integer."""
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            emitted = self.emit_size(self.canonical(value.node.expr))
            if emitted is not None:
                return emitted
        if not isinstance(node.target, torch._ops.OpOverload) and not callable(node.target):
            raise CaptureError(f"{node.format_node()} is not an ATen call")
        if node.target is torch.ops.aten.slice.Tensor and is_full_slice(node):
            return self.mapping[source_of(node)]
        args = torch.fx.node.map_arg(node.args, lambda n: self.mapping[n])
        kwargs = torch.fx.node.map_arg(node.kwargs, lambda n: self.mapping[n])
        described = self.describe(value)
        if opname(node) == "flatten" and isinstance(described, TensorType):
            args = (args[0], [s if isinstance(s, int) else self.emit_size(s) for s in described.shape])
            call: Any = (torch.ops.aten.reshape.default, args, {})
        else:
            call = functional(node, args, dict(kwargs), described)
        new = self.graph.call_function(*call) if isinstance(call, tuple) else call
        if is_mutable(node):
            self.mapping[source_of(node)] = new  # later readers see the changed tensor
        if not isinstance(call, tuple):
            return new
        new.meta["value"] = described
        new.meta["scope"] = self.scope_of(node)
        return new

    def scope_of(self, node: fx.Node) -> str:
        """The dotted name of the innermost module that the node was traced in."""
        stack = node.meta.get("nn_module_stack") or {}
        names = [entry[0] for entry in stack.values()]
        return names[-1].removeprefix(self.prefix) if names else ""

    def describe(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return TensorType(value.dtype, tuple(self.size(s) for s in value.shape))
        if isinstance(value, (list, tuple)):
            return tuple(self.describe(v) for v in value)
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self.canonical(value.node.expr)
        return value

    def size(self, size: Any) -> Size:
        if not isinstance(size, torch.SymInt):
            return int(size)
        result = self.canonical(size.node.expr)
        return int(result) if result.is_Integer else result

    def canonical(self, expression: sympy.Expr) -> sympy.Expr:
        return sympy.sympify(expression).xreplace(self.symbols)

    def emit_size(self, size: sympy.Expr) -> Any:
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
        parts = [self.emit_size(part) for part in size.args]
        if any(part is None for part in parts):
            return None
        return fold_left(self.graph, function, parts, size.func)

    def returned(self) -> Sequence[fx.Node]:
        """What the model returns. It may only change parameters, and whatever its inputs are: not count its runs."""
        changed = self.changed()
        own = {name for name, _ in self.module.named_parameters(remove_duplicate=False)}
        wrong = [n for n, node in changed.items() if n not in own or depends_on_inputs(self.mapping[node])]
        if wrong:
            raise CaptureError(f"the model changes its own buffers when it runs: {', '.join(wrong[:3])}")
        returned: Any = self.program.graph.output_node().args[0]
        return tuple(returned)[len(returned) - self.user_outputs() :]

    def user_outputs(self) -> int:
        return sum(spec.kind == OutputKind.USER_OUTPUT for spec in self.program.graph_signature.output_specs)

    def changed(self) -> dict[str, fx.Node]:
        """The model's own tensors that a run leaves changed, and what they become."""
        outputs: Any = self.program.graph.output_node().args[0]
        signature = self.program.graph_signature
        found = {
            str(spec.target): node
            for spec, node in zip(signature.output_specs, outputs, strict=True)
            if spec.kind != OutputKind.USER_OUTPUT
        }
        targets = {spec.arg.name: str(spec.target) for spec in signature.input_specs}
        for node in self.program.graph.nodes:
            if is_mutable(node) and source_of(node).op == "placeholder":
                found[targets[source_of(node).name]] = node
        return found


def depends_on_inputs(node: fx.Node) -> bool:
    """Say whether the value of a node is computed from what the graph takes."""
    seen, left = {node}, [node]
    while left:
        new = [source for source in left.pop().all_input_nodes if source not in seen]
        seen.update(new)
        left += new
    return any(found.op == "placeholder" for found in seen)


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and then buffers, a tied one under each of its names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def tensor_names(module: nn.Module, prefix: str) -> list[str]:
    """The names that a graph gives to a module's tensors, in order."""
    return [name.removeprefix(prefix) for name in named_tensors(module)]


def fold_left(graph: fx.Graph, function: Callable[..., Any], parts: list[Any], combine: Any) -> fx.Node:
    """Emit `function` over the parts from left to right; every intermediate node knows its size."""
    result, size = parts[0], size_value(parts[0])
    for part in parts[1:]:
        size = combine(size, size_value(part))
        result = graph.call_function(function, (result, part))
        result.meta["value"] = size
    return result  # type: ignore[no-any-return]


def size_value(part: Any) -> Any:
    return part.meta["value"] if isinstance(part, fx.Node) else sympy.Integer(part)


def source_of(node: fx.Node) -> fx.Node:
    """The first operand of a call."""
    assert isinstance(node.args[0], fx.Node)
    return node.args[0]


def is_assertion(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._opname in _ASSERTIONS


def is_full_slice(node: fx.Node) -> bool:
    """Say whether a slice keeps everything: `x[:]`."""
    start, end, step = (*node.args[2:], None, None, None)[:3]
    return not start and end in (None, _FULL) and step in (None, 1)
