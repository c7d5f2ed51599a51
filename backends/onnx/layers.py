"""Models of nothing but MLPs, on which onnxruntime is timed."""

from pathlib import Path

import numpy


def write_layers(path: Path, narrow: int, wide: int, count: int) -> None:
    """MLPs one after the other, narrow to wide to narrow, in float32."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random, nodes, weights, last = numpy.random.default_rng(0), [], [], "x"
    for layer in range(count):
        for part, shape in (("up", (narrow, wide)), ("down", (wide, narrow))):
            name = f"{layer}.{part}"
            values = (random.standard_normal(shape) / shape[0] ** 0.5).astype(numpy.float32)
            weights.append(numpy_helper.from_array(values, f"{name}.weight"))
            nodes.append(helper.make_node("MatMul", [last, f"{name}.weight"], [name], name))
            last = name
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", narrow]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
