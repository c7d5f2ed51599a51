"""The input `num_logits_to_keep`: transformers.js asks for the logits of the last token alone while it generates.

0 keeps all (huggingface/transformers.js 4.3.2, `setNumLogitsToKeep` in src/models/modeling_utils.js).
"""

import numpy
import onnx_ir as ir

NAME = "num_logits_to_keep"
# What may stand between the head and the logits, one value at a time.
_ALONG = frozenset({"Cast", "Mul", "Div", "Add", "Tanh", "Identity"})
_END = numpy.iinfo(numpy.int64).max


def keep_last(model: ir.Model) -> ir.Model:
    """The model with that input, where its logits are those of one product with weights; else as it is."""
    logits = next((value for value in model.graph.outputs if value.name == "logits"), None)
    head = head_of(logits) if logits is not None else None
    if logits is None or head is None or logits.shape is None or len(logits.shape) != 3:
        return model
    hidden = head.inputs[0]
    count = ir.Value(name=NAME, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT64))
    model.graph.inputs.append(count)
    below = ir.node("Neg", [count])
    start = ir.node("Reshape", [below.outputs[0], stored(model, "one_place", [1])])
    where = [stored(model, "to_the_end", [_END]), stored(model, "along_tokens", [1])]
    last = ir.node("Slice", [hidden, start.outputs[0], *where])
    model.graph.insert_before(head, [below, start, last])
    head.replace_input_with(0, last.outputs[0])
    logits.shape = ir.Shape([logits.shape[0], "num_logits", logits.shape[2]])
    return model


def head_of(logits: ir.Value) -> ir.Node | None:
    """The product of the stream with weights that logits are made by, None where there is no such one."""
    node = logits.producer()
    while node is not None and node.op_type in _ALONG:
        made = [value for value in node.inputs if value is not None and value.producer() is not None]
        varying = [value for value in made if value.producer().op_type != "Constant"]  # type: ignore[union-attr]
        if len(varying) != 1:
            return None
        node = varying[0].producer()
    return node if node is not None and node.op_type == "MatMul" else None


def stored(model: ir.Model, name: str, value: list[int]) -> ir.Value:
    """A constant of the model: int64 [1]."""
    name = f"{NAME}.{name}"
    made = ir.Value(name=name, const_value=ir.tensor(numpy.array(value, numpy.int64), name=name))
    model.graph.register_initializer(made)
    return made
