"""How much of a sentence encoder's embeddings is left at a size, by method: cosines, and ranks of all similarities.

    python benchmarks/sentence_encoder.py /tmp/real-minilm --data-root ../shared/data --target 70%

MODEL is a folder of sentence-transformers. Calibrated and trained on WikiText-2 train and TinyStories train, measured
on 1,000 sentences of WikiText-2 test and TinyStories validation that no method sees. Each row goes the way of
`graphprune compile`, without writing artefacts. Prints a table.
"""

import argparse
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from graphprune.compiler.compile import as_made, capture_for_work, prepare_method
from graphprune.compiler.goal import find_aim
from graphprune.compiler.vocabulary_start import begin
from graphprune.encoders.embeddings import require_embeddings
from graphprune.encoders.examples import measure_texts
from graphprune.ir.graph import Graph
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.passes import run_passes
from graphprune.pipeline.resolution import resolve_recipe
from graphprune.processes import process_began
from graphprune.progress import no_progress
from graphprune.running.devices import choose_device

SENTENCE, SHORTEST, LONGEST = re.compile(r"(?<=[.!?])\s+"), 20, 400
LEARNED = {"lr": 3e-4, "settings": ("recover.schedule=cosine",)}
ROWS = {
    "magnitude": {"method": "magnitude-sp"},
    "taylor": {"method": "taylor", "prune": ("mlp", "attention")},
    "adapt-pruner-ls": {"method": "adapt-pruner-ls", "prune": ("mlp", "attention")},
    "tokens-magnitude": {"method": "magnitude-sp", "vocabulary": "20000"},
    "tokens-ls": {"method": "adapt-pruner-ls", "vocabulary": "20000", "prune": ("mlp", "attention")},
    "tokens-ls-18000": {"method": "adapt-pruner-ls", "vocabulary": "18000", "prune": ("mlp", "attention")},
    "magnitude-trained": {"method": "magnitude-sp", "train_tokens": "500k", **LEARNED},
    "ls-trained": {"method": "adapt-pruner-ls", "prune": ("mlp", "attention"), "train_tokens": "500k", **LEARNED},
    "tokens-ls-trained": {
        "method": "adapt-pruner-ls",
        "vocabulary": "20000",
        "prune": ("mlp", "attention"),
        "train_tokens": "500k",
        **LEARNED,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--target", default="70%")
    parser.add_argument("--rows", default=",".join(ROWS), help="some of the rows, by their names")
    parser.add_argument("--train-tokens", help="in place of the 500k of rows that train")
    parser.add_argument("--lr", type=float, help="in place of the 3e-4 of rows that train")
    parser.add_argument("--importance", help="in place of the recipe's, of rows that look at text")
    given = parser.parse_args()
    source = capture_for_work(given.model, False)
    print(f"{source.parameter_count():,} parameters; {' '.join(sys.argv[1:])}")
    print("| row | parameters | of the source | cosine | ranks | processor seconds |\n|---|---|---|---|---|---|")
    texts = list(sentences(given.data_root))
    with tempfile.TemporaryDirectory() as scratch:
        data = write_calibration(given.data_root, Path(scratch))
        for name in given.rows.split(","):
            began = time.process_time()
            graph = make(source, options(given, name, data))
            (_, left), *_ = measure_texts(texts, 256, require_embeddings(source), source, graph).embeddings
            count = graph.parameter_count()
            share = count / source.parameter_count()
            cells = (name, f"{count:,}", f"{share:.1%}", f"{left.cosine:.4f}", f"{left.ranks:.4f}")
            print(f"| {' | '.join(cells)} | {time.process_time() - began:.0f} |", flush=True)
    print(f"in all {time.time() - process_began():.0f} s")


def options(given: argparse.Namespace, name: str, data: Path) -> CompileOptions:
    """A row as a compilation."""
    chosen = dict(ROWS[name])
    if given.train_tokens and "train_tokens" in chosen:
        chosen["train_tokens"] = given.train_tokens
    if given.lr and "lr" in chosen:
        chosen["lr"] = given.lr
    if given.importance and chosen["method"] != "magnitude-sp":
        chosen["importance"] = given.importance
    return CompileOptions(given.model, given.target, dry_run=True, data=str(data), **chosen)


def make(source: Graph, asked: CompileOptions) -> Graph:
    """The model of a row, as `compile` makes it; what measures the result of a run was read from other files."""
    recipe, device = resolve_recipe(asked), choose_device("cpu")
    with begin(asked, find_aim(asked, recipe, source, ()), source, no_progress) as start:
        method = prepare_method(asked, start, None, device, no_progress)
        made = as_made(start, run_passes(start.graph, method.passes, method.context))
        kept = made.source.companions
        if kept is None:
            return made
        # The tokenizer for the tokens that are left goes with the context: measuring needs it for longer.
        return keep_files(made, kept)


def keep_files(graph: Graph, folder: Path) -> Graph:
    import dataclasses
    import shutil

    place = Path(tempfile.mkdtemp(prefix="graphprune-tokens-"))
    shutil.copytree(folder, place, dirs_exist_ok=True)
    return dataclasses.replace(graph, source=dataclasses.replace(graph.source, companions=place))


def write_calibration(root: Path, folder: Path) -> Path:
    """One text of encyclopaedia and of stories, their lines mixed."""
    parts = (
        root / "corpora/wikitext-2/raw_train_first_1MB.txt",
        root / "corpora/tinystories/tinystories_train_head_2MiB.txt",
    )
    lines = [
        line for part in parts for line in part.read_text(encoding="utf-8", errors="ignore")[:1_000_000].splitlines()
    ]
    random.Random(0).shuffle(lines)
    path = folder / "calibration.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def sentences(root: Path) -> Iterator[str]:
    """A thousand sentences, half of each."""
    for name in ("wikitext-2/test.txt", "tinystories/tinystories_val_794K.txt"):
        text = (root / "corpora" / name).read_text(encoding="utf-8", errors="ignore")
        found = [s.strip() for line in text.splitlines() for s in SENTENCE.split(line)]
        found = [s for s in found if SHORTEST < len(s) < LONGEST]
        random.Random(1).shuffle(found)
        yield from found[:500]


if __name__ == "__main__":
    main()
