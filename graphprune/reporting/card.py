"""The model card: what the small model is, where it came from, what was measured, how to load it."""

from collections.abc import Sequence
from pathlib import Path

from graphprune.amounts import show_amount
from graphprune.evaluation.measure import Measure
from graphprune.ir.graph import Graph
from graphprune.pipeline.recipes import Recipe
from graphprune.reporting.schema import Stage
from graphprune.reporting.work import Asked


def model_card(
    graph: Graph,
    asked: Asked,
    recipe: Recipe | None,
    measures: Sequence[Measure],
    generic: bool,
    onnx: bool,
    training: Sequence[Stage] = (),
    calls: Sequence[str] = (),
) -> str:
    """The README.md of OUT, as markdown with the hub's front matter; `calls` are Python that runs the model."""
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
        f"Made by graphprune from `{name}`: {describe_method(recipe)}, target `{' '.join(asked.target)}`, "
        f"seed {asked.seed}. {describe_training(training)}",
        "",
        "| | before | after |",
        "|---|---|---|",
        *(f"| {m.name} | {show_amount(m.before, m.unit)} | {show_amount(m.after, m.unit)} |" for m in measures),
        "",
        "## Use it",
        "",
        *(line for call in calls for line in ("```python", call.rstrip(), "```", "")),
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


def describe_method(recipe: Recipe | None) -> str:
    """The method in half a sentence."""
    if recipe is None:
        return "cut by a saved plan"
    prune = recipe.prune
    parts = {"importance": prune.importance, "allocation": prune.allocation, "compensation": prune.compensation}
    shown = ", ".join(f"{name} `{spec}`" for name, spec in parts.items() if spec)
    stages = f" in {recipe.stages} stages" if recipe.stages > 1 else ""
    return f"method `{recipe.name}`{stages}, {shown}"


def describe_training(training: Sequence[Stage]) -> str:
    """What the weights were trained on, in a sentence."""
    tokens = sum(row.tokens for row in training)
    return f"Trained on {tokens:,} tokens." if tokens else "No recovery training."
