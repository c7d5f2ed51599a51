"""The report: everything about a run as plain data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from graphprune.artefact_files import record_files
from graphprune.groups import Groups
from graphprune.ir import Graph
from graphprune.options import CompileOptions, Result, Width
from graphprune.plan import Plan
from graphprune.pruning import Pruned
from graphprune.text import Text, describe_text


@dataclass(frozen=True, eq=False)
class Work:
    """What the writing stages need: the request, both graphs, and the text they are measured on."""

    options: CompileOptions
    source: Graph
    groups: Groups
    pruned: Pruned
    text: Text | None


def make_report(work: Work, result: Result, folder: Path, seconds: float) -> dict[str, Any]:
    """Everything about the run as plain data."""
    import transformers

    source = work.source.source
    options = work.options
    return {
        "schema_version": 1,
        "source": {"id": source.name, "revision": source.revision, "files_sha256": dict(source.file_hashes)},
        "target": {"kind": "parameters", "value": options.target_params},
        "achieved": {"parameters": work.pruned.graph.parameter_count()},
        "method": {"importance": options.importance, "allocation": options.allocation, "steps": options.steps},
        "text": describe_text(options.data) if work.text else None,
        "statistics": options.statistics,
        "measures": [{"name": m.name, "before": m.before, "after": m.after, "unit": m.unit} for m in result.measures],
        "widths": [vars(w) for w in result.widths],
        "dropped": list(result.dropped),
        "parity": [vars(c) for c in result.checks],
        "notes": list(result.notes),
        "history": [vars(step) for step in work.pruned.graph.history],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "seconds": round(seconds, 1),
        "seed": options.seed,
        "files": record_files(folder),
    }


def resolved_recipe(options: CompileOptions) -> str:
    """Every option of the run as YAML, defaults included."""
    plain = {
        k: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v for k, v in vars(options).items()
    }
    return str(yaml.safe_dump(plain, sort_keys=False))


def list_widths(groups: Groups, plan: Plan) -> tuple[Width, ...]:
    """Every prunable group's width before and after."""
    return tuple(
        Width(g.id, g.kind, g.block, g.units, len(plan.keep.get(g.id, range(g.units)))) for g in groups.prunable()
    )
