"""The model card: what the small model is, where it came from, what was measured, how to load it."""

from collections.abc import Sequence
from pathlib import Path

from graphprune.ir import Graph
from graphprune.options import CompileOptions, Measure


def model_card(graph: Graph, options: CompileOptions, measures: Sequence[Measure], generic: bool, onnx: bool) -> str:
    """The README.md of OUT, as markdown with the hub's front matter."""
    name = graph.source.name or graph.source.architecture
    lines = [
        "---",
        "library_name: transformers",
        f"base_model: {name}",
        "tags: [graphprune, pruned]",
        "---",
        "",
        f"# {Path(name).name}, pruned to {graph.parameter_count():,} parameters",
        "",
        f"Made by graphprune from `{name}`: importance `{options.importance}`, allocation `{options.allocation}`, "
        f"target `{options.target_params}`, seed {options.seed}. No recovery training.",
        "",
        "| | before | after |",
        "|---|---|---|",
        *(f"| {m.name} | {number(m.before)} | {number(m.after)} |" for m in measures),
        "",
        "## Load it",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM",
        f'model = AutoModelForCausalLM.from_pretrained("."{", trust_remote_code=True" if generic else ""})',
        "```",
        "",
    ]
    if generic:
        lines += [
            "Layers differ in shape, so `modeling_graphprune.py` comes with the weights; it interprets the graph",
            "",
        ]
        lines[-2] += " in config.json. After `import graphprune` it needs no `trust_remote_code`."
    if onnx:
        lines += ['`onnx/` is self-contained: `graphprune generate . "prompt"` runs it in onnxruntime.', ""]
    return "\n".join(lines)


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"
