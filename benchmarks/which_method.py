"""Which method: a page that says what to take, made of the tables of docs/methods/compare.md.

    python benchmarks/which_method.py [--check]

Writes the tables of docs/which-method.md. With --check it writes nothing, and ends with 1 where they are others.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
TABLES, PAGE = DOCS / "methods" / "compare.md", DOCS / "which-method.md"
_BEST = 4  # rows of a table
_OTHER_PROTOCOLS = ("calibrated on one text", "trained alike")
_MODELS = {"real-smol": "SmolLM2-135M-Instruct", "babyllama-tok105-hf": "babyllama", "stories3M-hf": "stories3M"}
_MODELS |= {"stories260K-hf": "stories260K"}


@dataclass(frozen=True)
class Row:
    """What a method made of a model: bits a byte, their ratio to the source's, and seconds of the processor to cut."""

    method: str
    bits: float
    ratio: float
    seconds: str


Found = dict[tuple[str, str, str], dict[str, Row]]  # by model, size, and what came after the cut


def read_tables(text: str) -> Found:
    """The rows of every table of one size, the later of two for the same method."""
    found: Found = {}
    for section in re.split(r"^## Methods compared on ", text, flags=re.MULTILINE)[1:]:
        name = section.partition("\n")[0]
        if name.endswith(_OTHER_PROTOCOLS):
            continue
        model = _MODELS[name.partition(",")[0]]
        for part in re.split(r"^### At ", section, flags=re.MULTILINE)[1:]:
            title = part.partition("\n")[0]
            size, after = title.split(" of the parameters, ")
            found.setdefault((model, size, after), {}).update(
                {row.method: row for row in rows_of(part.partition("\n### ")[0])}
            )
    return found


def rows_of(part: str) -> Iterator[Row]:
    lines = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"]
    dense = next(float(line[2]) for line in lines if line[0] == "dense")
    for line in lines:
        bits = re.match(r"[\d.]+", line[2])
        if bits and len(line) > 5 and line[0] not in ("dense", "uniform guess"):
            processor = re.search(r"\(([\d.,]+)\)", line[4])
            yield Row(line[0], float(bits[0]), float(bits[0]) / dense, processor[1] if processor else line[4])


def best_table(found: Found, after: str) -> Iterator[str]:
    """For each model and size the best rows, as more bits a byte than the source has and seconds."""
    yield f"| model | size | {' | '.join(f'{place}.' for place in range(1, _BEST + 1))} |"
    yield "|---|---|" + "---|" * _BEST
    for (model, size, then), rows in found.items():
        if then == after:
            best = sorted(rows.values(), key=lambda row: row.bits)[:_BEST]
            cells = [f"{row.method} +{100 * (row.ratio - 1):.0f} %, {row.seconds} s" for row in best]
            yield f"| {model} | {size} | {' | '.join(cells)} |"


BEGIN, END = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"


def tables(text: str) -> str:
    """The part of the page that these tables make."""
    found = read_tables(text)
    parts = ["## Cut alone", "", *best_table(found, "without recovery"), ""]
    for after in sorted({after for _, _, after in found if after != "without recovery"}):
        parts += [f"## And trained on {after.removeprefix('after recovery on ')}", "", *best_table(found, after), ""]
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    (before, rest), made = page.split(BEGIN), tables(TABLES.read_text(encoding="utf-8"))
    made = f"{before}{BEGIN}{made}{END}{rest.partition(END)[2]}"
    if asked.check:
        return int(page != made)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
