"""Fewer tokens: parameters, bits per byte and tokens per byte of one model at several vocabularies.

    python benchmarks/vocabulary.py --data-root ../shared/data

Prints the table of docs/methods/vocabulary.md. Tokens are counted on the training text; quality and rate are measured
on 200 kB of the validation text, without training. Beside each size stands the same model cut to as many parameters in
its MLP channels and attention groups, by Taylor scores, with all of its tokens.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

SHARES = (0.875, 0.75, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("GRAPHPRUNE_DATA", "../shared/data")
    parser.add_argument("--data-root", type=Path, default=Path(root))
    parser.add_argument("--model", default="stories3M-hf")
    arguments = parser.parse_args()
    texts = arguments.data_root / "corpora" / "tinystories"
    train, held_out = (str(texts / f"tinystories_{name}.txt") for name in ("train_head_2MiB", "val_794K"))
    print("| tokens | of the text | parameters | tokens per byte | bits per byte | same parameters, by channels |")
    print("|---|---|---|---|---|---|")
    for row in measure(arguments.data_root / "models" / arguments.model, train, held_out):
        print(f"| {' | '.join(row)} |", flush=True)


def measure(model: Path, train: str, held_out: str) -> Any:
    """The rows of the table, the whole model first."""
    import graphprune
    from graphprune.analysis.analyse import analyze
    from graphprune.vocabulary.cutting import cut_vocabulary
    from graphprune.vocabulary.ranking import rank_tokens, vocabulary_group

    source = graphprune.capture(str(model))
    group, ranking = vocabulary_group(analyze(source)), rank_tokens(source, train)
    yield row(source, group.units, 1.0, train, held_out, None)
    for count in [round(share * group.units) for share in SHARES]:
        kept = ranking.keep(count)
        covered = sum(ranking.counts[id] for id in kept) / sum(ranking.counts)
        with tempfile.TemporaryDirectory() as folder:
            cut, _ = cut_vocabulary(source, kept, Path(folder))
            yield row(cut, count, covered, train, held_out, source)


def row(graph: Any, count: int, covered: float, train: str, held_out: str, source: Any) -> list[str]:
    from graphprune.data.calibration import prepare_text
    from graphprune.running.perplexity import perplexity

    text = prepare_text(graph, train, 128, 128, 0, held_out)

    def bits(model: Any, seen: Any) -> str:
        return (
            f"{perplexity(model, seen.held_out, 256, bos=seen.bos, text_bytes=seen.held_out_bytes).bits_per_byte:.3f}"
        )

    rate, other = len(text.held_out) / text.held_out_bytes, ""
    if source is not None:
        other = bits(*narrowed(source, graph.parameter_count(), prepare_text(source, train, 128, 128, 0, held_out)))
    return [f"{count:,}", f"{covered:.2%}", f"{graph.parameter_count():,}", f"{rate:.4f}", bits(graph, text), other]


def narrowed(source: Any, parameters: int, text: Any) -> tuple[Any, Any]:
    """The source with as many parameters, cut in channels and heads, and its text."""
    import graphprune

    context = graphprune.Context(calibration=text.batches)
    return graphprune.run_recipe(source, "taylor", str(parameters), context), text


if __name__ == "__main__":
    main()
