"""Tables of results: Markdown from the rows that parts wrote, alone or between the markers of a page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from parts import PARTS, Part

NOT_YET = "not yet run"
_ALWAYS = (("card", "card"), ("date", "date"), ("torch", "torch"), ("transformers", "transformers"))
_SHARES = ("share_of_peak",)

Row = dict[str, Any]


def read_results(folders: Iterable[Path], tiny: bool = False) -> dict[str, list[Row]]:
    """The rows of each part in these folders. Those of tiny runs are figures of nothing, and left out by default."""
    results: dict[str, list[Row]] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.jsonl"))):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # cut short where the part was killed
                continue
            if row.get("part") in PARTS and "state" not in row and (tiny or not row.get("tiny")):
                results.setdefault(row["part"], []).append(row)
    return results


def table(part: Part, rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with the columns of a part, then those of the machine; an error stands in its row."""
    columns = (*part.columns, *_ALWAYS)
    lines = [[heading for heading, _ in columns], ["---"] * len(columns)]
    lines += [[cell(row, key) for _, key in columns] for row in rows]
    for line, row in zip(lines[2:], rows, strict=True):
        if "error" in row:
            line[next((i for i, text in enumerate(line) if not text), len(part.columns) - 1)] = shown(row["error"])
    if not rows:
        lines.append([NOT_YET, *[""] * (len(columns) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, float):
        if key in _SHARES:
            return f"{value:.1%}"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else shown(value)


def shown(value: Any) -> str:
    return " ".join(str(value).replace("|", "/").split())


def write_page(page: Path, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Put every table between its markers, of which a page has some. Raises ValueError where it has none, or half."""
    text = page.read_text(encoding="utf-8")
    if not any(f"<!-- {part} -->\n" in text for part in PARTS):
        raise ValueError(f"{page} lacks the markers of any part: <!-- accel --> and <!-- end of accel -->, say")
    for part in PARTS.values():
        begin, end = f"<!-- {part.name} -->\n", f"<!-- end of {part.name} -->"
        before, found, rest = text.partition(begin)
        if not found:
            continue
        _, closed, after = rest.partition(end)
        if not closed:
            raise ValueError(f"{page} lacks {end}")
        text = f"{before}{begin}{table(part, results.get(part.name, []))}\n{end}{after}"
    page.write_text(text, encoding="utf-8")
