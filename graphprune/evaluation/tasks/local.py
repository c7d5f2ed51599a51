"""Local tasks: the task files of this folder, filled in with the data that a folder of the user holds."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import NotRequired, TypedDict, final

import yaml

from graphprune.errors import DataError

BLIMP, COMMONSENSE, MMLU = "blimp_local", "commonsense_local", "mmlu_local"
GROUPS = (BLIMP, COMMONSENSE, MMLU)
_BLIMP_FILE, _MMLU_FILE = "blimp_set", "mmlu_subject"


class DatasetKwargs(TypedDict):
    """Where the rows of a task are."""

    data_files: dict[str, str]
    cache_dir: NotRequired[str]


@final
class TaskConfig(TypedDict):
    """A task file, as far as it is filled in here; a template for many tasks has no name yet."""

    task: NotRequired[str]
    dataset_kwargs: DatasetKwargs
    description: NotRequired[str]


@final
class GroupConfig(TypedDict):
    """The file of a group of tasks."""

    group: str
    task: list[str]
    aggregate_metric_list: list[dict[str, str | bool]]
    metadata: dict[str, float]


Config = TaskConfig | GroupConfig


def local_names() -> tuple[str, ...]:
    """Every local task and group that has a name of its own; sets of `blimp_local` and subjects are in the data."""
    return (*GROUPS, *(config["task"] for config in templates().values() if "task" in config))


def templates() -> dict[str, TaskConfig]:
    """The task files by their names."""
    found = [path for path in files("graphprune.evaluation.tasks").iterdir() if path.name.endswith(".yaml")]
    found.sort(key=lambda path: path.name)
    return {path.name.removesuffix(".yaml"): yaml.safe_load(path.read_text(encoding="utf-8")) for path in found}


def write_tasks(data: Path, folder: Path) -> tuple[str, ...]:
    """Write into `folder` a task file for everything that `data` holds; returns the names of tasks and groups.

    What they point to is in `data`, or in `folder` for what is cut from a larger file. Raises DataError where `data` is
    no folder or nothing in it is known.
    """
    if not data.is_dir():
        raise DataError(f"no folder of evaluation data at {data}; see docs/evaluation.md for the files it may hold")
    configs = [*commonsense(data), *blimp(data), *mmlu(data, folder)]
    if not configs:
        raise DataError(f"{data} holds no evaluation data that is known; see docs/evaluation.md for the names of files")
    for config in configs:
        if "group" not in config:
            config["dataset_kwargs"]["cache_dir"] = str(folder / "cache")
        (folder / f"{name_of(config)}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return tuple(name_of(config) for config in configs)


def name_of(config: Config) -> str:
    return config["group"] if "group" in config else config["task"]


def commonsense(data: Path) -> list[Config]:
    """The question sets whose files are there, and their group."""
    found: list[TaskConfig] = []
    for config in templates().values():
        if "task" in config and (paths := locate(data, config["dataset_kwargs"]["data_files"])):
            found.append(with_files(config, paths))
    return [*found, group(COMMONSENSE, [config["task"] for config in found])] if found else []


def blimp(data: Path) -> list[Config]:
    """A task for each file of minimal pairs, and their group, in which each set weighs the same."""
    template = templates()[_BLIMP_FILE]
    found: list[TaskConfig] = [
        {"task": f"blimp_{path.stem}_local", **with_files(template, {"train": path})}
        for path in sorted(data.rglob("*.jsonl"))
        if {"sentence_good", "sentence_bad"} <= first_row(path).keys()
    ]
    return [*found, group(BLIMP, [config["task"] for config in found])] if found else []


def mmlu(data: Path, folder: Path) -> list[Config]:
    """A task for each subject, over its part of the files, and their group, in which each question weighs the same."""
    template = templates()[_MMLU_FILE]
    paths = locate(data, template["dataset_kwargs"]["data_files"])
    if not paths:
        return []
    parts = {split: by_subject(path) for split, path in paths.items()}
    found: list[TaskConfig] = []
    for subject in sorted(parts["test"].keys() & parts["dev"].keys()):
        own = {split: folder / f"mmlu_{subject}.{split}.jsonl" for split in parts}
        for split, path in own.items():
            path.write_text("".join(parts[split][subject]), encoding="utf-8")
        description = template["description"].replace("SUBJECT", subject.replace("_", " "))
        task: TaskConfig = {"task": f"mmlu_{subject}_local", **with_files(template, own), "description": description}
        found.append(task)
    return [*found, group(MMLU, [config["task"] for config in found], by_size=True)] if found else []


def locate(data: Path, names: Mapping[str, str]) -> dict[str, Path]:
    """The files of a task anywhere below the folder; nothing where one of them is missing."""
    found = {split: next(iter(sorted(data.rglob(name))), None) for split, name in names.items()}
    return {split: path for split, path in found.items() if path is not None} if all(found.values()) else {}


def with_files(config: TaskConfig, paths: Mapping[str, Path]) -> TaskConfig:
    named = {split: str(path.resolve()) for split, path in paths.items()}
    return {**config, "dataset_kwargs": {"data_files": named}}


def group(name: str, tasks: list[str], by_size: bool = False) -> GroupConfig:
    metric: dict[str, str | bool] = {"metric": "acc", "aggregation": "mean", "weight_by_size": by_size}
    return {"group": name, "task": tasks, "aggregate_metric_list": [metric], "metadata": {"version": 1.0}}


def by_subject(path: Path) -> dict[str, list[str]]:
    """The lines of a file by the `subject` of their rows."""
    found: dict[str, list[str]] = {}
    with path.open(encoding="utf-8") as file:
        for line in filter(str.strip, file):
            found.setdefault(str(json.loads(line)["subject"]), []).append(line if line.endswith("\n") else f"{line}\n")
    return found


def first_row(path: Path) -> dict[str, object]:
    """The first object of a .jsonl file; empty where it holds none."""
    try:
        with path.open(encoding="utf-8") as file:
            row = json.loads(file.readline())
    except (OSError, ValueError):
        return {}
    return row if isinstance(row, dict) else {}


def missing_files(name: str) -> tuple[str, ...]:
    """The files that a local task is made from, for the message where they are not there."""
    if name == BLIMP:
        return (".jsonl files with sentence_good and sentence_bad",)
    known = {config.get("task", MMLU if stem == _MMLU_FILE else ""): config for stem, config in templates().items()}
    config = known.get(name)
    return tuple(config["dataset_kwargs"]["data_files"].values()) if config and "dataset_kwargs" in config else ()
