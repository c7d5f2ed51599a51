"""Lowerings of what runs along the tokens in order: one Scan each."""

from typing import Any

import onnx_ir as ir
from onnxscript import evaluator
from torch import fx

from graphprune.backends.onnx.values import Lowered, Operators
from graphprune.ir.types import TensorType


def scan_recurrence(
    op: Operators,
    node: fx.Node,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    decay: ir.Value,
    state: ir.Value,
    beta: ir.Value | None = None,
) -> Lowered:
    """Run the recurrence with the state as the loop's; every operand is scanned along its tokens, dimension 2."""
    scanned = [query, key, value, decay] + ([] if beta is None else [beta])
    types = [source.meta["value"] for source in (*node.args[:4], *node.args[5:6]) if isinstance(source, fx.Node)]
    body = step_graph(node.args[4].meta["value"], types, op.version)  # type: ignore[union-attr]
    attributes: dict[str, Any] = {"body": body, "num_scan_inputs": len(scanned)}
    attributes |= {"scan_input_axes": [2] * len(scanned), "scan_output_axes": [2]}
    scan = ir.node("Scan", [state, *scanned], attributes, num_outputs=2)
    evaluator.default().nodes.append(scan)  # type: ignore[attr-defined]
    last, outputs = scan.outputs
    return outputs, last


def scan_maximum(op: Operators, node: fx.Node, value: ir.Value, dim: int) -> Lowered:
    """The largest value so far along a dimension, without where it stood; it starts from the least of all."""
    if any(user.args[1] == 1 and user.users for user in node.users):
        return None
    kind = node.args[0].meta["value"]  # type: ignore[union-attr]
    element, dim = ir.tensor_adapters.from_torch_dtype(kind.dtype), dim % len(kind.shape)
    sizes = [size if isinstance(size, int) else None for d, size in enumerate(kind.shape) if d != dim]
    past, entry = (
        ir.Value(name=name, type=ir.TensorType(element), shape=ir.Shape(sizes)) for name in ("step_past", "step_entry")
    )
    largest = ir.node("Max", [past, entry])
    output = ir.node("Identity", [largest.outputs[0]])
    for number, step in enumerate((largest, output)):
        step.outputs[0].name, step.outputs[0].type = f"step_{number}", ir.TensorType(element)
    results = [largest.outputs[0], output.outputs[0]]
    body = ir.Graph([past, entry], results, nodes=[largest, output], opset_imports={"": op.version}, name="step")
    attributes: dict[str, Any] = {
        "body": body,
        "num_scan_inputs": 1,
        "scan_input_axes": [dim],
        "scan_output_axes": [dim],
    }
    start = op.ReduceMin(value, op.Constant(value_ints=[dim]), keepdims=0)
    scan = ir.node("Scan", [start, value], attributes, num_outputs=2)
    evaluator.default().nodes.append(scan)  # type: ignore[attr-defined]
    return (scan.outputs[1],)


def step_graph(state: TensorType, operands: list[TensorType], opset: int) -> ir.Graph:
    """One token: from the state and a slice of each operand to the next state and the output."""
    element = ir.tensor_adapters.from_torch_dtype(state.dtype)
    names = ["query", "key", "value", "decay", "beta"][: len(operands)]
    shapes = [[size if isinstance(size, int) else None for size in t.shape] for t in operands]
    inputs = [
        ir.Value(name=f"step_{name}", type=ir.TensorType(element), shape=ir.Shape(shape))
        for name, shape in zip(names, (shape[:2] + shape[3:] for shape in shapes), strict=True)
    ]
    past = ir.Value(name="step_state", type=ir.TensorType(element), shape=ir.Shape(list_of(state)))
    nodes: list[ir.Node] = []

    def call(kind: str, *operands: ir.Value) -> ir.Value:
        nodes.append(ir.node(kind, operands))
        result = nodes[-1].outputs[0]
        result.name, result.type = f"step_{len(nodes)}", ir.TensorType(element)
        return result

    def places(*dims: int) -> ir.Value:
        nodes.append(ir.node("Constant", [], {"value_ints": list(dims)}))
        nodes[-1].outputs[0].name = f"step_{len(nodes)}"
        return nodes[-1].outputs[0]

    query, key, value, decay, *beta = inputs
    row, column = places(-2), places(-1)
    decayed = call("Mul", past, call("Exp", decay))
    update = call("Unsqueeze", value, row)
    if beta:
        error = call("Sub", update, call("MatMul", call("Unsqueeze", key, row), decayed))
        update = call("Mul", error, call("Unsqueeze", beta[0], places(-2, -1)))
    state_next = call("Add", decayed, call("Mul", call("Unsqueeze", key, column), update))
    output = call("Squeeze", call("MatMul", call("Unsqueeze", query, row), state_next), row)
    return ir.Graph([past, *inputs], [state_next, output], nodes=nodes, opset_imports={"": opset}, name="step")


def list_of(kind: TensorType) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in kind.shape]
