"""Recovery throughput: tokens a second and model FLOPs utilisation of training a captured Llama shape on one device.

    python benchmarks/recovery_throughput.py --shape 350M --precision bf16 --peak-tflops 989 --page docs/throughput.md

Random weights and random tokens, through `graphprune.training.train` as `recover` calls it: forward, backward,
clipping, AdamW. Eager and torch.compile in one run. Utilisation is 6 x parameters that multiply + 12 x layers x width
x length FLOPs a token (Chowdhery et al., arXiv 2204.02311, appendix B) over the peak that is given for the device and
type.
"""

import argparse
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
import transformers
from torch import Tensor

from graphprune.ir import Graph
from graphprune.source import capture
from graphprune.train_options import TrainOptions
from graphprune.training import train

# hidden, MLP, layers, heads, key-value heads, vocabulary
SHAPES = {
    "1M": (128, 344, 4, 4, 2, 1024),
    "100M": (768, 2048, 12, 12, 4, 32000),
    "350M": (1024, 2816, 24, 16, 8, 32000),
    "1B": (2048, 8192, 16, 32, 8, 32000),
}


@dataclass(frozen=True)
class RandomRows:
    """Rows of random tokens, the same for the same place."""

    length: int
    vocabulary: int
    tokens_per_epoch: int = 1 << 40
    rows_per_epoch: int = 1 << 30
    fingerprint: str = "random"

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(start)
        ids = torch.randint(self.vocabulary, (count, self.length), generator=generator)
        return ids, ids


def make(shape: str) -> Graph:
    hidden, mlp, layers, heads, kv, vocabulary = SHAPES[shape]
    config = transformers.LlamaConfig(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
        max_position_embeddings=8192,
    )
    torch.manual_seed(0)
    return capture(transformers.LlamaForCausalLM(config).eval())


def flops_per_token(graph: Graph, shape: str, length: int) -> float:
    hidden, _, layers, _, _, vocabulary = SHAPES[shape]
    multiplying = graph.parameter_count() - hidden * vocabulary  # the embedding only looks up
    return 6.0 * multiplying + 12.0 * layers * hidden * length


def measure(graph: Graph, options: argparse.Namespace, compiled: bool) -> float:
    """Tokens a second over the second half of the steps; what is compiled is compiled in the first."""
    seen: list[tuple[int, float]] = []
    choice = TrainOptions(
        steps=options.steps,
        rows=options.rows,
        lr=1e-4,
        precision=options.precision,
        compile=compiled,
        keep="last",
        device=options.device,
    )
    stream = RandomRows(options.length, SHAPES[options.shape][5])
    train(graph, choice, stream, report=lambda moment: seen.append((moment.step, time.monotonic())))
    later = [(step, at) for step, at in seen if step >= options.steps // 2]
    if len(later) < 2:
        raise SystemExit("too few steps for a measurement: give more --steps, or a larger --shape")
    steps, seconds = later[-1][0] - later[0][0], later[-1][1] - later[0][1]
    return float(options.rows * options.length * steps / seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="350M")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--precision", choices=("none", "bf16", "fp16"), default="bf16")
    parser.add_argument("--device", default=None)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense peak of the device: H100 and H200 989")
    parser.add_argument("--page", type=Path, help="append the rows to this page")
    options = parser.parse_args()
    graph = make(options.shape)
    work = flops_per_token(graph, options.shape, options.length)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    lines = []
    for compiled in (False, True):
        speed = measure(graph, options, compiled)
        share = speed * work / (options.peak_tflops * 1e12)
        how = "torch.compile" if compiled else "eager"
        batch = f"{options.rows} x {options.length}"
        cells = (f"{date.today()}", name, options.shape, options.precision, batch, how, f"{speed:,.0f}", f"{share:.1%}")
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if options.page:
        with options.page.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
