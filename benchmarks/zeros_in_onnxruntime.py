"""What onnxruntime gains from zeros, and a file from packing them: one product of matrices, with and without.

    python benchmarks/zeros_in_onnxruntime.py [--width 1024] [--rows 1,64] [--runs 60]

Times are medians of runs in turns, of one thread. Bytes are those of the weight as it is, of it in gzip, and of it
packed by its pattern (values that are kept, and where they are), in float32 and bfloat16.
"""

import argparse
import gzip
import statistics
import time

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from graphprune.weights.patterns import Grouped, Share

PATTERNS = {"dense": None, "50%": Share(0.5), "90%": Share(0.9), "2:4": Grouped(2, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rows", default="1,64")
    parser.add_argument("--runs", type=int, default=60)
    given = parser.parse_args()
    weight = torch.randn(given.width, given.width, generator=torch.Generator().manual_seed(0))
    made = {
        name: weight if pattern is None else weight * pattern.keep(weight.abs()) for name, pattern in PATTERNS.items()
    }
    sessions = {name: session(each.T.contiguous().numpy()) for name, each in made.items()}
    print("| weight | " + " | ".join(f"{rows} rows, ms" for rows in given.rows.split(",")) + " | MB, gzip, packed |")
    print("|---|" + "---:|" * (1 + len(given.rows.split(","))))
    times = [time_all(sessions, int(rows), given.width, given.runs) for rows in given.rows.split(",")]
    for name, each in made.items():
        shown = " | ".join(f"{found[name]:.3f}" for found in times)
        print(f"| {name} | {shown} | {sizes(each, PATTERNS[name])} |")


def session(weight: np.ndarray) -> onnxruntime.InferenceSession:
    """A model of one product, run by one thread."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", len(weight)]) for name in ("x", "y")]
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def time_all(sessions: dict[str, onnxruntime.InferenceSession], rows: int, width: int, runs: int) -> dict[str, float]:
    """The median milliseconds of processor of each, in turns, so that what else the machine does is shared."""
    x = np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32)
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(runs):
        for name, each in sessions.items():
            began = time.process_time()
            for _ in range(4):
                each.run(None, {"x": x})
            found[name].append((time.process_time() - began) * 250)
    return {name: statistics.median(own) for name, own in found.items()}


def sizes(weight: torch.Tensor, pattern: Share | Grouped | None) -> str:
    shown = []
    for dtype in (torch.float32, torch.bfloat16):
        raw = weight.to(dtype).view(torch.uint8).numpy().tobytes()
        kept, bits = int((weight != 0).sum()), 8 * dtype.itemsize
        if isinstance(pattern, Grouped):
            packed = kept * (bits + (pattern.size - 1).bit_length())
        else:
            packed = kept * bits + (weight.numel() if pattern else 0)
        parts = (len(raw), len(gzip.compress(raw, 6)), packed // 8)
        shown.append(f"{str(dtype).removeprefix('torch.')} " + " / ".join(f"{part / 1e6:.2f}" for part in parts))
    return ", ".join(shown)


if __name__ == "__main__":
    main()
