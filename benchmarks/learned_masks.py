"""What training decides against cutting once, at equal tokens in all, those on which units are chosen included.

    python benchmarks/learned_masks.py --data-root ../shared/data [--only stories3M] [--targets 60% 40%]
        [--tokens 131072] [--seeds 3] [--rows taylor random sheared scratch] [--part 0.5] [--lr 3e-4]
        [--shrink memory=0.9,every=1] [--distill 0]

Rows: `taylor` and `random` are cut once and trained on all tokens; `sheared` trains masks on `--part` of them and what
is left on the rest; `scratch` trains the shape that the last learned row came to, from drawn weights, on all of them.
Those lose the same share of every width, as far as whole units allow. `efficientllm` lets units go on `--part` of all,
with the options of `--shrink`, `efficientllm-obs` with `compensate=obs`; `ls` is cut once as adapt-pruner-ls does.
Prints bits per byte on held-out text after the training, parameters and seconds.
"""

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import graphprune
from graphprune.data.calibration import prepare_text
from graphprune.data.tokens import encode, load_tokenizer
from graphprune.ir.graph import Graph
from graphprune.pipeline.passes import Context, Pass, run_passes
from graphprune.pipeline.recipes import read_recipe
from graphprune.running.perplexity import perplexity
from graphprune.spec import parse_spec

MODELS = {"stories260K": "stories260K-hf", "stories3M": "stories3M-hf", "babyllama": "babyllama-tok105-hf"}
ROWS = ("taylor", "random", "sheared", "efficientllm", "efficientllm-obs", "ls", "scratch")
LEARNED = ("sheared", "efficientllm", "efficientllm-obs")
LENGTH, BATCH, SPREAD = 64, 8, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", choices=tuple(MODELS), default=("stories3M",))
    parser.add_argument("--targets", nargs="*", default=("60%", "40%"))
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=("taylor", "random", "sheared", "scratch"))
    parser.add_argument("--part", type=float, default=0.5)
    parser.add_argument("--lr", default="3e-4")
    parser.add_argument("--shrink", default="")
    parser.add_argument("--distill", default="0.0")
    given = parser.parse_args()
    for model in given.only:
        source = graphprune.capture(str(given.data_root / "models" / MODELS[model]))
        for target in given.targets:
            for seed in range(given.seeds):
                run_rows(given, model, source, target, seed)


def run_rows(given: argparse.Namespace, model: str, source: Graph, target: str, seed: int) -> None:
    """All rows of a seed; that from scratch has the shape of the last that was learned."""
    made: Graph | None = None
    for row in given.rows:
        began = time.monotonic()
        context = surroundings(given.data_root, source, read_recipe("taylor").calibration.samples, LENGTH, seed)
        if row == "scratch" and made is None:
            continue
        start = source if row != "scratch" else drawn(made or source, seed)
        graph = run_passes(start, passes_of(given, row, target), context)
        made = graph if row in LEARNED else made
        bits = measure(given.data_root, graph)
        seconds = time.monotonic() - began
        print(
            f"{model} {target} seed {seed} {row}: {bits:.3f} bits per byte, {graph.parameter_count():,} parameters, "
            f"{seconds:.0f} s",
            *(note for note in graph.notes if note.startswith("shear")),
            flush=True,
        )


def passes_of(given: argparse.Namespace, row: str, target: str) -> list[Pass]:
    """The passes of a row."""
    learned = round(given.part * given.tokens)
    after = given.tokens - learned if row in LEARNED else given.tokens
    same = f"rows={BATCH},length={LENGTH},lr={given.lr}"
    every = "kinds=[mlp,attention,residual]"
    own = f",{given.shrink}" if given.shrink else ""
    shrink = f"shrink{{target={target},tokens={learned},distill={given.distill}{own},{same}"
    solved = "importance=obs,allocation=adaptive{amplitude=0.6},compensation=least-squares{consumers=all}"
    cut = {
        "taylor": f"prune{{target={target},importance=taylor,allocation=uniform,{every}}}",
        "random": f"prune{{target={target},importance=random,allocation=uniform,{every}}}",
        "sheared": f"shear{{target={target},tokens={learned},{same}}}",
        "efficientllm": f"{shrink}}}",
        "efficientllm-obs": f"{shrink},compensate=obs}}",
        "ls": f"prune{{target={target},{solved}}}",
    }
    goes_on = "warmup=0.0,moments=carry" if row.startswith("efficientllm") else "warmup=0.03,moments=reset"
    train = f"recover{{tokens={after},schedule=cosine,{goes_on},distill={given.distill},{same}}}"
    specs = ([cut[row]] if row in cut else []) + [train]
    return [parse_spec("passes", spec) for spec in specs]


def surroundings(root: Path, source: Graph, samples: int, length: int, seed: int) -> Context:
    """The text to calibrate and to train on; the best weights are chosen by text that is not reported on."""
    train = str(root / "corpora" / "tinystories" / "tinystories_train_head_2MiB.txt")
    text: Any = prepare_text(source, train, samples, length, seed)
    return Context(
        calibration=text.batches,
        draw=text.draw,
        seed=seed,
        source=source,
        tokenizer=text.tokenizer,
        data=f"{train}#train",
        held_out=text.held_out[:20_000],
    )


def drawn(graph: Graph, seed: int) -> Graph:
    """The graph with weights drawn as a new model's are: norms at 1, matrices small."""
    draw = torch.Generator().manual_seed(seed)
    new = {
        name: torch.nn.Parameter(
            torch.ones_like(p) if p.dim() < 2 else torch.normal(0.0, SPREAD, p.shape, generator=draw)
        )
        for name, p in graph.parameters().items()
    }
    return replace(graph.with_tensors(new), companions={}, memo={})


def measure(root: Path, graph: Graph) -> float:
    """Bits per byte on 100 kB that nothing was trained on or chosen by."""
    assert graph.source.files is not None
    held = root / "corpora" / "tinystories" / "tinystories_val_794K.txt"
    data = held.read_bytes()[:100_000].decode("utf-8", "ignore")
    tokens = encode(load_tokenizer(graph.source.files), data.split("<|endoftext|>"))
    found = perplexity(graph, tokens, 256, 8)
    return found.nats_per_token * found.tokens / math.log(2) / len(data.encode())


if __name__ == "__main__":
    main()
