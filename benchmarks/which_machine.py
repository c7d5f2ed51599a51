"""Which machine for which model: memory, disk and hours of a compilation, computed from the laws of docs/memory.md.

    python benchmarks/which_machine.py [--tokens 16384] [--target 50%] [--gflops 100 1000]

Prints the table of docs/machines.md. Everything in it is computed; benchmarks/large_models.py measures.
"""

import argparse
from dataclasses import dataclass

GB, GIB = 1e9, 2**30
LIBRARIES = 0.6 * GIB
HALF, FULL, WIDE = 2, 4, 8  # bytes of a number in a file, in a product and in a sum
TOGETHER = 512  # tokens that are in a layer at a time
OPERATIONS = 6 + 4  # for a parameter and token: forward, forward again, backward; least squares runs both models


@dataclass(frozen=True)
class Model:
    """A published shape: parameters, and what memory grows with."""

    name: str
    parameters: float
    width: int
    inner: int
    layers: int
    words: int

    def in_memory(self) -> float:
        """Three float32 copies, and libraries: from here on weights stay in their file."""
        return 3 * FULL * self.parameters + (1 << 29)

    def in_file(self, tokens: int, share: float) -> float:
        """The most of what any stage holds while the weights stay in their file.

        What layers hand over waits on the disk.
        """
        layer = FULL * TOGETHER * (20 * self.width + 8 * self.inner)
        loss = 12 * TOGETHER * self.words
        matrix = HALF * self.words * self.width  # of the head, as far as it is looked at
        values = FULL * tokens * (4 * self.width + (1 + share) * self.inner)
        grams = WIDE * (2 * share**2 + share) * self.inner**2  # of what is kept, its factor, and with what was
        solving = HALF * share * self.parameters + matrix + values + grams
        return LIBRARIES + max(layer, loss + matrix, solving)

    def disk(self, tokens: int, result: float) -> float:
        """The result in both forms, what goes from pass to pass, and what layers hand over."""
        return (HALF + FULL + HALF) * result + FULL * tokens * self.width * self.layers

    def training(self, result: float) -> float:
        """Parameters, gradients and moments in float32, and a step of 2,048 tokens whose values are kept."""
        values = FULL * 2048 * self.layers * (20 * self.width + 8 * self.inner)
        return LIBRARIES + 16 * result + values

    def hours(self, tokens: int, gflops: float) -> float:
        return OPERATIONS * self.parameters * tokens / (gflops * 1e9) / 3600


MODELS = (
    Model("SmolLM2-135M", 0.135e9, 576, 1536, 30, 49_152),
    Model("Qwen2.5-0.5B", 0.494e9, 896, 4864, 24, 151_936),
    Model("Llama-3.2-1B", 1.236e9, 2048, 8192, 16, 128_256),
    Model("SmolLM2-1.7B", 1.711e9, 2048, 8192, 24, 49_152),
    Model("Llama-3.2-3B", 3.213e9, 3072, 8192, 28, 128_256),
    Model("Llama-3.1-8B", 8.030e9, 4096, 14336, 32, 128_256),
    Model("Qwen2.5-14B", 14.77e9, 5120, 13824, 48, 152_064),
    Model("Qwen2.5-32B", 32.76e9, 5120, 27648, 64, 152_064),
    Model("Llama-3.1-70B", 70.55e9, 8192, 28672, 80, 128_256),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--target", default="50%")
    parser.add_argument("--gflops", type=float, nargs="+", default=[100, 1000])
    arguments = parser.parse_args()
    share = float(arguments.target.rstrip("%")) / 100
    speeds = [f"hours at {speed:,.0f} GFLOP/s" for speed in arguments.gflops]
    head = ["model", "file, GB", "in memory, GiB", "from its file, GiB", "free disk, GB", *speeds, "training, GiB"]
    print(f"| {' | '.join(head)} |\n|---|{'---:|' * (len(head) - 1)}")
    for model in MODELS:
        print(line(model, arguments.tokens, share, arguments.gflops))


def line(model: Model, tokens: int, share: float, speeds: list[float]) -> str:
    result = share * model.parameters
    sizes = [model.in_memory() / GIB, model.in_file(tokens, share) / GIB]
    cells = [f"{HALF * model.parameters / GB:.1f}", *(f"{size:.1f}" for size in sizes)]
    cells.append(f"{model.disk(tokens, result) / GB:.0f}")
    cells += [f"{model.hours(tokens, speed):.2g}" for speed in speeds]
    return f"| {model.name} | {' | '.join(cells)} | {model.training(result) / GIB:.0f} |"


if __name__ == "__main__":
    main()
