"""Whether a rescaling that leaves a model as it is leaves a method's result as it is.

    python benchmarks/rescaling.py --data-root ../shared/data [--method adapt-pruner-ls] [--target 80%] [--factor 300]

Three channels of every MLP are written `factor` times as large and read as much smaller. Prints bits per byte of
stories3M cut by the method, as it is and rescaled, on a part of the validation text that no page reports.
"""

import argparse
from pathlib import Path

import torch

import graphprune
from graphprune.data.calibration import prepare_text
from graphprune.data.tokens import encode
from graphprune.ir.graph import Graph
from graphprune.pipeline.recipes import read_recipe
from graphprune.running.perplexity import perplexity

MODEL = "models/stories3M-hf"
CALIBRATION = "corpora/tinystories/tinystories_train_head_2MiB.txt"
VALIDATION, START, END = "corpora/tinystories/tinystories_val_794K.txt", 200_000, 260_000
CHANNELS = [3, 50, 101]


def rescaled(graph: Graph, factor: float) -> Graph:
    """The same function with other weights."""
    changed = {}
    for name, parameter in graph.parameters().items():
        if name.endswith("up_proj.weight"):
            weight = parameter.detach().clone()
            weight[CHANNELS] *= factor
        elif name.endswith("down_proj.weight"):
            weight = parameter.detach().clone()
            weight[:, CHANNELS] /= factor
        else:
            continue
        changed[name] = torch.nn.Parameter(weight)
    return graph.with_tensors(changed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--method", default="adapt-pruner-ls")
    parser.add_argument("--target", default="80%")
    parser.add_argument("--factor", type=float, default=300.0)
    given = parser.parse_args()
    source = graphprune.capture(str(given.data_root / MODEL), dtype=torch.float32)
    recipe = read_recipe(given.method)
    text = prepare_text(
        source, str(given.data_root / CALIBRATION), recipe.calibration.samples, recipe.calibration.length, 0
    )
    held = (given.data_root / VALIDATION).read_bytes()[START:END].decode("utf-8", "ignore")
    assert text.tokenizer is not None
    tokens = encode(text.tokenizer, [held])
    for name, graph in (("as it is", source), (f"rescaled by {given.factor:g}", rescaled(source, given.factor))):
        small = graphprune.run_recipe(graph, recipe, given.target, graphprune.Context(calibration=text.batches))
        found = perplexity(small, tokens, 256, 16, bos=text.bos, text_bytes=len(held.encode()))
        print(f"{name}: {found.bits_per_byte:.4f} bits per byte at {small.parameter_count():,} parameters")


if __name__ == "__main__":
    main()
