"""The model card: what the small model is, where it came from, what was measured, how to load it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from graphprune.amounts import show_amount
from graphprune.data.calibration import describe_text
from graphprune.evaluation.measure import Measure
from graphprune.ir.graph import Source
from graphprune.pipeline.made_passes import make_pass
from graphprune.pipeline.recipes import Recipe
from graphprune.reporting.report import summarise_training
from graphprune.reporting.results import Result
from graphprune.reporting.schema import Stage
from graphprune.reporting.work import Work
from graphprune.spec import print_spec

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

_LICENCES = {"Apache License": "apache-2.0", "MIT License": "mit"}
_WORD = re.compile(r"[\w.+ -]{1,80}")


def model_card(work: Work, result: Result, generic: bool, onnx: bool, calls: Sequence[str] = ()) -> str:
    """The README.md of OUT, as markdown with the hub's front matter; `calls` are Python that runs the model."""
    from huggingface_hub import ModelCard, ModelCardData

    source, known = work.source.source, read_card(work.source.source.folder)
    tags = ["graphprune", "pruned", *(["custom_code"] if generic else []), *(["onnx"] if onnx else [])]
    base = source.name.partition("@")[0] if source.revision is not None else None
    said: dict[str, Any] = {**known, **licence_of(source.folder, known), "pipeline_tag": pipeline_of(source, known)}
    if base is not None:
        said |= {"base_model": base, "base_model_relation": "finetune"}  # the nearest of those that the hub knows
    data = ModelCardData(library_name="transformers", tags=tags, **said)
    body = "\n".join([*what_it_is(work, result), *usage(generic, onnx, calls), *elsewhere(work.recipe)])
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def what_it_is(work: Work, result: Result) -> list[str]:
    """What it is made from and how, how good it is, and what was measured."""
    asked, title = work.asked, work.source.source.title
    lines = [
        f"# {title.split('/')[-1]}, pruned to {work.graph.parameter_count():,} parameters",
        "",
        f"Made by graphprune from `{title}`: {describe_method(work.recipe)}, target `{' '.join(asked.target)}`, "
        f"seed {asked.seed}. {describe_training(summarise_training(work.metrics))}",
        "",
    ]
    if result.verdict is not None:
        lines += [f"**{str(result.verdict).partition(':')[0]}**: {result.verdict.reason}.", ""]
    lines += ["| | before | after | |", "|---|---:|---:|---|", *map(row, result.measures), ""]
    if work.text is not None:
        text = describe_text(asked.data, work.source.parameter_count(), asked.held_out)
        lines += [f"Text: {text['source']}; held out: {text['held_out']}.", ""]
    return lines


def elsewhere(recipe: Recipe | None) -> list[str]:
    """How the runtime that it was made for opens it, and how that is known."""
    runtime = recipe.prune.wanted if recipe is not None else None
    if runtime is None:
        return []
    return ["", f"For {runtime.name} (`{runtime.files}`): `{runtime.opened}`. Known {runtime.checked}."]


def row(measure: Measure) -> str:
    """A row of the table; sizes have their unit, all else says it in its name."""
    before, after = show_amount(measure.before, measure.unit), show_amount(measure.after, measure.unit)
    return f"| {measure.name} | {before} | {after} | {measure.note} |"


def usage(generic: bool, onnx: bool, calls: Sequence[str]) -> list[str]:
    """How to use it: calls that were run as they stand there."""
    lines = [
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
    return lines


def read_card(folder: Path | None) -> dict[str, str | list[str]]:
    """What the source's own card says of itself, of that what are plain words; nothing where it cannot be read."""
    path = None if folder is None else folder / "README.md"
    if path is None or not path.is_file():
        return {}
    try:
        said: dict[str, Any] = vars(load_card(path).data)
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return {}
    names = ("language", "license", "license_name", "license_link", "pipeline_tag")
    return {name: said[name] for name in names if is_plain(said.get(name))}


def load_card(path: Path) -> "ModelCard":
    """The card in a file. Raises ValueError where it says nothing of itself, of which ModelCard would warn."""
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    text = path.read_text(encoding="utf-8")
    if REGEX_YAML_BLOCK.search(text) is None:
        raise ValueError(f"{path} has no front matter")
    return ModelCard(text, ignore_metadata_errors=True)


def is_plain(value: object) -> bool:
    """Whether a value of a card is a word, some words, or the address of a page."""
    values = value if isinstance(value, list) and value else [value]
    return all(isinstance(v, str) and (_WORD.fullmatch(v) or v.startswith("https://")) for v in values)


def licence_of(folder: Path | None, known: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
    """The licence as the source's card has it, or as its file of that name shows; nothing where neither is there."""
    said: dict[str, str | list[str]] = {
        name: known[name] for name in ("license", "license_name", "license_link") if name in known
    }
    if "license" in said or folder is None:
        return said
    found = sorted(path for path in folder.glob("LICEN[SC]E*") if path.is_file())
    if not found:
        return {}
    head = found[0].read_bytes()[:2000].decode("utf-8", "ignore")
    named = next((id for title, id in _LICENCES.items() if title in head), None)
    if named is not None:
        return {"license": named}
    return {"license": "other", "license_name": "that-of-the-source", "license_link": found[0].name}


def pipeline_of(source: Source, known: dict[str, str | list[str]]) -> str | None:
    """The task that the hub lists it under: as the source's card says, or what transformers has its class for."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as WRITING

    said = known.get("pipeline_tag")
    if isinstance(said, str):
        return said
    if source.architecture in WRITING.values():
        return "text-generation"  # the first of the tasks that follow, whose module takes half a second to import
    from transformers.modelcard import TASK_MAPPING

    classes: dict[str, Any] = TASK_MAPPING
    tasks = (task for task, mapping in classes.items() if source.architecture in mapping.values())
    return next(tasks, None if source.kind == "module" else "feature-extraction")


def describe_method(recipe: Recipe | None) -> str:
    """The method in half a sentence."""
    if recipe is None:
        return "cut by a saved plan"
    prune = recipe.prune
    parts = {"importance": prune.importance, "allocation": prune.allocation, "compensation": prune.compensation or ""}
    parts = {"cut by": recipe.cut} if recipe.learns else parts
    parts = parts if recipe.cuts_units else {}
    if recipe.sparsify is not None:
        parts |= {"zeros": print_spec(make_pass("sparsify", recipe.sparsify))}
    if recipe.learner is not None:
        parts |= {"trained by": recipe.learner}
    shown = ", ".join(f"{name} `{spec}`" for name, spec in parts.items() if spec)
    stages = f" in {recipe.stages} stages" if recipe.stages > 1 else ""
    return f"method `{recipe.name}`{stages}, {shown}"


def describe_training(training: Sequence[Stage]) -> str:
    """What the weights were trained on, in a sentence."""
    tokens = sum(row.tokens for row in training)
    return f"Trained on {tokens:,} tokens." if tokens else "No recovery training."
