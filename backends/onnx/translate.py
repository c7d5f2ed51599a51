"""Translation: every ATen call of a graph becomes ai.onnx nodes, by our own lowering or by onnxscript's torchlib."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast, final

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from onnx_ir.tensor_adapters import from_torch_dtype as torch_dtype_to_onnx_dtype
from onnxscript.evaluator import default_as
from onnxscript.values import OnnxFunction, Opset
from torch import Tensor, fx
from torch.onnx._internal.exporter._building import OpRecorder
from torch.onnx._internal.exporter._tensors import SymbolicTensor

from graphprune.backends.onnx.lowerings import LOWERINGS, promoted_arguments
from graphprune.backends.onnx.torchlib import torchlib_functions
from graphprune.backends.onnx.types import DOMAIN, size_name
from graphprune.backends.onnx.values import Fusion, Operators, Recorder, Values, value_of
from graphprune.errors import ExportError, foreign
from graphprune.ir.graph import Graph, get_tensor
from graphprune.ir.operators import call_name
from graphprune.ir.types import TensorType
from graphprune.weights.stored import any_stored, real

LocalFunction = ir.Function | OnnxFunction[..., object]


def translate(graph: Graph, opset: int, fusions: Mapping[fx.Node, Fusion] | None = None) -> ir.Model:
    """Return the graph as an ONNX model under its contract names; initialisers refer to the graph's tensors.

    `fusions` holds, by the node that each stands for, operators of `DOMAIN` that compute several calls.
    Raises ExportError naming the operator and the node that has no translation.
    """
    return Translator(graph, opset, fusions or {}).run()


@final
class Translator:
    """Walks the graph once and records the ONNX nodes of each call."""

    def __init__(self, graph: Graph, opset: int, fusions: Mapping[fx.Node, Fusion]) -> None:
        self.graph = graph
        self.fusions = fusions
        self.opset = Opset("", opset)
        self.operators = cast(Operators, self.opset)
        self.functions = torchlib_functions(opset)
        self.values: Values = {}
        self.initializers: dict[int, ir.Value] = {}
        self.transposed = linear_weights(graph)
        self.constants: dict[object, ir.Value] = {}
        self.local_functions: dict[ir.OperatorIdentifier, ir.Function | OnnxFunction[..., object]] = {}
        self.result = ir.Graph([], [], nodes=[], opset_imports={"": opset}, name="graphprune")

    def run(self) -> ir.Model:
        for name, node in self.graph.placeholders.items():
            value = self.new_value(name, node.meta["value"])
            self.values[node] = value
            self.result.inputs.append(value)
        for node in self.graph.nodes:
            if node.op == "get_attr":
                self.values[node] = self.initializer(str(node.target), node.meta["value"])
            elif node.op == "call_function":
                self.values[node] = self.call(node)
        for name, node in self.graph.results.items():
            self.add_output(name, node)
        model = ir.Model(self.result, ir_version=10, producer_name="graphprune")
        return finish(model, self.local_functions, {DOMAIN} if self.fusions else set())

    def new_value(self, name: str, value: TensorType) -> SymbolicTensor:
        result = SymbolicTensor(self.opset, name=name)
        set_type(result, value)
        return result

    def initializer(self, name: str, value: TensorType) -> ir.Value:
        """The initialiser of a parameter or buffer; tied names share one."""
        tensor = get_tensor(self.graph.module, name)
        if id(tensor) not in self.initializers:
            if tensor.is_meta:
                raise ExportError(f"{name} has no weights: capture the model with weights=True before exporting")
            transposed = id(tensor) in self.transposed
            result = self.new_value(name, replace(value, shape=value.shape[::-1]) if transposed else value)
            result.const_value = lazy_tensor(name, tensor, value.dtype, transposed)
            result.meta["transposed"] = transposed
            self.result.initializers[name] = result
            self.initializers[id(tensor)] = result
        return self.initializers[id(tensor)]

    def call(self, node: fx.Node) -> ir.Value | Sequence[ir.Value]:
        """Record one call and return its value, or a sequence of values."""
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, fx.Node)
            parts = self.values[source]
            if isinstance(parts, Sequence):
                return parts[index]  # type: ignore[index]
        recorder = OpRecorder(self.opset, self.constants)  # type: ignore[abstract]
        with (
            default_as(recorder),
            foreign(lambda error: ExportError(f"cannot translate {describe(node)} to ONNX: {innermost(error)}")),
        ):
            result = self.record(node, recorder)
        self.local_functions.update(recorder.functions)
        self.adopt(node, recorder.nodes, result)
        return result

    def record(self, node: fx.Node, recorder: Recorder) -> ir.Value | Sequence[ir.Value]:
        """Record a call, fused with others where that is known; raises what any lowering raises."""
        fusion = self.fusions.get(node)
        fused = None if fusion is None else fusion(self.operators, recorder, self.values)
        return self.lower(node) if fused is None else fused

    def lower(self, node: fx.Node) -> ir.Value | Sequence[ir.Value]:
        given = [self.convert(argument) for argument in node.args]
        named = {name: self.convert(argument) for name, argument in node.kwargs.items()}
        args, kwargs = promoted_arguments(self.operators, node, given, named)
        lowering = LOWERINGS.get(call_name(node))
        result = None if lowering is None else lowering(self.operators, node, *args, **kwargs)
        if result is not None:
            return result
        function = self.functions(node.target)
        if function is None:
            raise ExportError(f"no ONNX translation for {describe(node)}; add a lowering to backends/onnx/lowerings.py")
        kwargs = {key: -1 if key == "dtype" and value is None else value for key, value in kwargs.items()}
        return function(*args, **kwargs)

    def convert(self, argument: object) -> object:
        """Replace nodes by their values and torch's constants by what torchlib takes."""
        if isinstance(argument, fx.Node):
            return self.values[argument]
        if isinstance(argument, (tuple, list)):
            return [self.convert(a) for a in argument]
        if isinstance(argument, dict):
            return {key: self.convert(a) for key, a in argument.items()}
        if isinstance(argument, torch.dtype):
            return torch_dtype_to_onnx_dtype(argument)
        return str(argument) if isinstance(argument, (torch.device, torch.memory_format, torch.layout)) else argument

    def adopt(self, node: fx.Node, nodes: Sequence[ir.Node], result: ir.Value | Sequence[ir.Value]) -> None:
        """Name the new nodes after the module and the call they come from, and add them to the model."""
        scope = node.meta.get("scope") or ""
        prefix = f"{scope}/{node.name}" if scope else node.name
        for index, new in enumerate(nodes):
            new.name = f"{prefix}/{new.op_type}_{index}"
            for position, output in enumerate(new.outputs):
                output.name = f"{new.name}:{position}" if len(new.outputs) > 1 else new.name
        if isinstance(result, ir.Value) and result.producer() in nodes:
            result.name = prefix
        values = (node.meta["value"],) if isinstance(result, ir.Value) else node.meta["value"]
        for output, value in zip([result] if isinstance(result, ir.Value) else result, values, strict=False):
            if output.producer() in nodes:
                set_type(output, value)
        self.result.extend(nodes)

    def add_output(self, name: str, node: fx.Node) -> None:
        """Return the node's value under its contract name; one that is returned or named already gets a copy."""
        value = value_of(self.values, node)
        if value.producer() is None or value in self.result.outputs:
            copy = ir.Node("", "Identity", [value], outputs=[self.new_value(name, node.meta["value"])])
            self.result.append(copy)
            value = copy.outputs[0]
        value.name = name
        set_type(value, node.meta["value"])
        self.result.outputs.append(value)


def set_type(value: ir.Value, described: object) -> None:
    """Give an ONNX value the type of a graph value; a size is an integer scalar."""
    if isinstance(described, TensorType):
        value.dtype = torch_dtype_to_onnx_dtype(described.dtype)
        value.shape = ir.Shape([size_name(size) for size in described.shape])
    else:
        value.dtype, value.shape = ir.DataType.INT64, ir.Shape([])


def linear_weights(graph: Graph) -> set[int]:
    """The identities of the tensors that only linear layers read, as their weight: MatMul takes these transposed.

    Written the way MatMul reads them, they are used as they lie in the file; a Transpose would copy each at load.
    """
    readers: dict[int, list[bool]] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            uses = [u.target is torch.ops.aten.linear.default and is_weight_only(u, node) for u in node.users]
            readers.setdefault(id(get_tensor(graph.module, str(node.target))), []).extend(uses)
    return {tensor for tensor, uses in readers.items() if uses and all(uses)}


def is_weight_only(linear: fx.Node, node: fx.Node) -> bool:
    others = [*linear.args[:1], *linear.args[2:], *linear.kwargs.values()]
    return linear.args[1] is node and not any(other is node for other in others)


def lazy_tensor(name: str, tensor: Tensor, dtype: torch.dtype, transposed: bool) -> ir.TensorProtocol:
    """The tensor as ONNX sees it; what it takes to make it happens only while it is written."""
    if tensor.dtype == dtype and not transposed and not any_stored([tensor]):
        return TorchTensor(tensor.detach(), name=name)

    def convert() -> ir.TensorProtocol:
        cast = real(tensor).detach().to(dtype)
        return TorchTensor(cast.t().contiguous() if transposed else cast, name=name)

    shape = tensor.shape[::-1] if transposed else tensor.shape
    return ir.LazyTensor(convert, dtype=torch_dtype_to_onnx_dtype(dtype), shape=ir.Shape(shape), name=name)


def finish(
    model: ir.Model,
    functions: Mapping[ir.OperatorIdentifier, LocalFunction],
    domains: set[str],
) -> ir.Model:
    """Inline torchlib's functions, share equal subexpressions, and drop what nothing reads."""
    from onnx_ir.passes import common

    for identifier, function in functions.items():
        if isinstance(function, ir.Function):
            made = function
        else:
            made = ir.serde.deserialize_function(function.to_function_proto())
        made.opset_imports[""] = model.opset_imports[""]  # torchlib's are of opset 18, which later ones contain
        model.functions[identifier] = made
    if functions:
        common.InlinePass()(model)
    common.NameFixPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    foreign = next((node for node in model.graph.all_nodes() if node.domain not in {"", "ai.onnx", *domains}), None)
    if foreign is not None:
        raise ExportError(f"{foreign.name} is a {foreign.domain}::{foreign.op_type}, which is not portable ONNX")
    for domain in set(model.opset_imports) - {""}:
        del model.opset_imports[domain]
    model.opset_imports.update(dict.fromkeys(domains, 1))
    return model


def describe(node: fx.Node) -> str:
    scope = node.meta.get("scope")
    return f"{node.target} (node {node.name}{f' in {scope}' if scope else ''})"


def innermost(error: BaseException) -> str:
    """The first cause of a chain of exceptions, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
