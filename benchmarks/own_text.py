"""What text that a model writes itself is worth beside real text and beside Python's library.

    python benchmarks/own_text.py ../shared/data/models/stories3M-hf --real TRAIN.txt --held-out TEST.txt
        [--tokens 256k] [--targets 60%,40%] [--train-tokens 0,131072] [--seeds 1] [--work FOLDER]

The same method calibrates, and then trains, on each of three texts: the real one, what the model writes, and stdlib.
All are measured on the held-out text, which is of the real one's kind, by `graphprune compare`. Prints a table of bits
per byte, and what it cost to write the text.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from graphprune.cli.main import run
from graphprune.compiler.compile import capture_for_work
from graphprune.compiler.own_text import own_text_file
from graphprune.pipeline.own_text import OwnText


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--real", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--tokens", default="256k")
    parser.add_argument("--method", default="adapt-pruner-ls")
    parser.add_argument("--targets", default="60%,40%")
    parser.add_argument("--train-tokens", default="0,131072")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--bytes", default="100000")
    parser.add_argument("--work", type=Path, default=Path("/tmp/own-text"))
    asked = parser.parse_args()
    began = time.process_time()
    written = own_text_file(capture_for_work(asked.model, False), OwnText(asked.tokens))
    print(f"{asked.tokens} tokens were written, or found, in {time.process_time() - began:.0f} s of the processor")
    texts = {"real": asked.real, "its own": str(written), "stdlib": "stdlib"}
    cells = {name: compared(name, text, asked) for name, text in texts.items()}
    print(table(cells))


def compared(name: str, text: str, asked: argparse.Namespace) -> dict[tuple[str, int, int], float]:
    """Bits per byte by size, tokens of training and seed."""
    out = asked.work / name.replace(" ", "-")
    words = ["compare", asked.model, "-o", str(out), "--methods", asked.method, "--targets", asked.targets]
    words += ["--train-tokens", asked.train_tokens, "--seeds", asked.seeds, "--data", text]
    words += ["--held-out", asked.held_out, "--bytes", asked.bytes]
    if run(words) != 0:
        sys.exit(f"the comparison on {text} failed")
    files = [json.loads(path.read_text()) for path in sorted((out / "cells").glob("*.json"))]
    return {
        (each["target"], each["tokens"], each["seed"]): each["measured"]["bits_per_byte"]
        for each in files
        if each["measured"]
    }


def table(cells: dict[str, dict[tuple[str, int, int], float]]) -> str:
    """A row for each text, a column for each size and number of tokens: means over seeds."""
    columns = sorted({key[:2] for found in cells.values() for key in found}, key=lambda key: (key[1], key[0]))
    head = "| text | " + " | ".join(f"{size}, {tokens:,} tokens" for size, tokens in columns) + " |"
    lines = [head, "|---|" + "---:|" * len(columns)]
    for name, found in cells.items():
        values = [[bits for key, bits in found.items() if key[:2] == column] for column in columns]
        lines.append(f"| {name} | " + " | ".join(f"{sum(each) / len(each):.3f}" for each in values) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
