"""Prompts that are learned against weights that are trained: what each makes of a text unlike the model's own.

    python benchmarks/prompt_tuning.py [--data-root ../shared/data] [--only stories3M] [--tokens 200000] [--seeds 3]
        [--rows 1 5 20 100 mean lora full] [--lr 3e-2]

Rows of numbers learn so many tokens, `mean` twenty that begin as the mean of all; `lora` trains adapters of rank 4 and
`full` every weight, with the rates of their own recipes. The text is Shakespeare's; prints bits per byte on its last
tenth, less what weights are chosen by, and on the validation text of TinyStories, which the model was made for, without
a prompt.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import graphprune
from graphprune.data.calibration import held_out_part, prepare_text, training_part
from graphprune.data.tokens import encode
from graphprune.ir.graph import Graph
from graphprune.pipeline.passes import Context, run_passes
from graphprune.running.perplexity import perplexity
from graphprune.spec import parse_spec
from graphprune.training.adapters import chosen_calls
from graphprune.vocabulary.prompts import lead_of

MODELS = {"stories260K": "stories260K-hf", "stories3M": "stories3M-hf"}
SAME = "length=128,rows=8,warmup=0.05,min_lr=0.1"
OTHERS: Mapping[str, str] = {
    "mean": "learner=prompt{tokens=20,start=mean},lr=%(lr)s,weight_decay=0.0",
    "lora": "lora=4,lr=1e-3,weight_decay=0.0",
    "full": "lr=3e-4",
}
WATCHED = 10_000  # tokens of the last tenth that weights are chosen by, and that are not reported on
USUAL = ("1", "5", "20", "100", "mean", "lora", "full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", choices=tuple(MODELS), default=("stories3M",))
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", default=USUAL)
    parser.add_argument("--lr", default="3e-2")
    given = parser.parse_args()
    print("| model | row | parameters trained | bits per byte | of the model's own text | seconds |")
    print("|---|---|---:|---:|---:|---:|")
    for model in given.only:
        source = graphprune.capture(str(given.data_root / "models" / MODELS[model]))
        print(line(model, "dense", 0, [measured(given.data_root, source, source)], [0.0]), flush=True)
        for row in given.rows:
            found, seconds, trained = [], [], 0
            for seed in range(given.seeds):
                began = time.monotonic()
                made = run_row(given, source, row, seed)
                seconds.append(time.monotonic() - began)
                found.append(measured(given.data_root, source, made))
                added = made.parameter_count() - source.parameter_count()
                trained = added or (adapters(source) if row == "lora" else source.parameter_count())
            print(line(model, row, trained, found, seconds), flush=True)


def run_row(given: argparse.Namespace, source: Graph, row: str, seed: int) -> Graph:
    own = OTHERS.get(row, f"learner=prompt{{tokens={row}}},lr=%(lr)s,weight_decay=0.0") % {"lr": given.lr}
    text = prepare_text(source, training_part(play(given.data_root), None), 8, 128, seed)
    spec = f"recover{{tokens={given.tokens},{SAME},{own}}}"
    context = Context(
        calibration=text.batches,
        seed=seed,
        source=source,
        tokenizer=text.tokenizer,
        data=training_part(play(given.data_root), None),
        held_out=text.held_out[:WATCHED],
    )
    return run_passes(source, [parse_spec("passes", spec)], context)


def adapters(source: Graph) -> int:
    """The numbers of adapters of rank 4 on every linear layer but the head."""
    tensors = source.tensors()
    return sum(4 * sum(tensors[f"{layer}.weight"].shape) for layer in chosen_calls(source, ()))


def play(root: Path) -> str:
    return str(root / "corpora" / "tinyshakespeare" / "input.txt")


def measured(root: Path, source: Graph, made: Graph) -> tuple[float, float]:
    """Bits per byte on the last tenth of the play, behind the prompt, and on stories, without it."""
    own: Any = prepare_text(
        source, training_part(play(root), None), 8, 128, 0, held_out=held_out_part(play(root), None)
    )
    part = own.held_out[WATCHED:]
    size = len(own.tokenizer.decode(part).encode())
    found = perplexity(made, part, bos=own.bos, text_bytes=size, lead=lead_of(made, own.tokenizer))
    stories = (root / "corpora" / "tinystories" / "tinystories_val_794K.txt").read_bytes()[:100_000]
    tokens = encode(own.tokenizer, [stories.decode(errors="ignore")])
    other = perplexity(made, tokens, bos=own.bos, text_bytes=len(stories))
    assert found.bits_per_byte is not None
    assert other.bits_per_byte is not None
    return found.bits_per_byte, other.bits_per_byte


def line(model: str, row: str, trained: int, found: list[tuple[float, float]], seconds: list[float]) -> str:
    one, other = (mean(values) for values in zip(*found, strict=True))
    return f"| {model} | {row} | {trained:,} | {one:.3f} | {other:.3f} | {mean(seconds):.0f} |"


if __name__ == "__main__":
    main()
