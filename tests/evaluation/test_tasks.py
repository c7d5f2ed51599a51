"""Local tasks ask exactly what lm-eval's own tasks ask of the same questions; names and data are checked."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import torch
import yaml

from graphprune.errors import DataError, UsageError
from graphprune.evaluation.language_model import LanguageModel
from graphprune.evaluation.task_scores import check_local, explain_unknown, score_tasks
from graphprune.evaluation.tasks.local import GROUPS, local_names, write_tasks
from tests.support.tiny_language import tokenizer

QUESTION = "Which colour has the sky?"
CHOICES = ["red", 'it\'s "blue"', "green", "[none]"]
ARC = {
    "ours": {"id": "1", "query": f"Question: {QUESTION}\nAnswer:", "choices": CHOICES, "gold": 1},
    "theirs": {"question": QUESTION, "choices": {"text": CHOICES, "label": list("ABCD")}, "answerKey": "B"},
}
BOOLQ = {"question": "is the sky blue", "passage": "The sky.\nIt is."}
PIQA = {"goal": "dresser", "sol1": "replace drawer ", "sol2": "finish 'it'", "label": 1}
SIQA = {"context": "Tracy left.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c", "label": "3"}
WINO = [
    {"sentence": 'Ann told "Bea" that _ won the cup.', "option1": "Ann", "option2": "Bea", "answer": "2"},
    {"sentence": "It's _ who 'sang', not [us].", "option1": "she", "option2": "he", "answer": "1"},
]
SCIQ = {"question": "Who?", "distractor3": "c", "distractor1": "a", "distractor2": "b", "correct_answer": "d"}
SWAG = {"ctx_a": "A man sits.", "ctx_b": "he", "activity_label": "Tango", "endings": ["sings [x].", "eats", "c", "d"]}
SWAG_OURS = {"query": "Tango: A man sits. He", "choices": ["sings .", "eats", "c", "d"], "gold": 2}
STEM = {"question_stem": QUESTION, "choices": {"text": CHOICES, "label": list("ABCD")}, "answerKey": " B"}
MMLU = [
    {"question": f"{n} Find c. ", "subject": "abstract_algebra", "choices": list("0123"), "answer": n % 4}
    for n in range(6)
]
PAIRS = [{"sentence_good": "She runs.", "sentence_bad": "She run."}, {"sentence_good": "a", "sentence_bad": "'b'"}]
Rows = Sequence[Mapping[str, Any]]

# Local task: lm-eval's file, the local file, its rows, the split and rows of the hub's data set.
CASES: dict[str, tuple[str, str, Rows, str, Rows]] = {
    "arc_easy": ("arc/arc_easy", "arc_easy.test", [ARC["ours"]], "test", [ARC["theirs"]]),
    "arc_challenge": ("arc/arc_challenge", "arc_challenge.test", [ARC["ours"]], "test", [ARC["theirs"]]),
    "boolq": (
        "super_glue/boolq/default",
        "boolq.validation",
        [{**BOOLQ, "answer": True}, {**BOOLQ, "answer": False}],
        "validation",
        [{**BOOLQ, "label": 1}, {**BOOLQ, "label": 0}],
    ),
    "hellaswag": ("hellaswag/hellaswag", "hellaswag.val1000", [SWAG_OURS], "validation", [{**SWAG, "label": "2"}]),
    "openbookqa": ("openbookqa/openbookqa", "openbookqa.test", [ARC["ours"]], "test", [STEM]),
    "piqa": ("piqa/piqa", "piqa.validation", [PIQA], "validation", [PIQA]),
    "social_iqa": ("siqa/siqa", "social_i_qa.validation", [SIQA], "validation", [SIQA]),
    "winogrande": ("winogrande/default", "winogrande.winogrande_xl.validation", WINO, "validation", WINO),
    "sciq": ("sciq/sciq", "sciq.validation", [{**SCIQ, "support": " So."}], "test", [{**SCIQ, "support": " So."}]),
    "mmlu_abstract_algebra": ("mmlu/default/mmlu_abstract_algebra", "mmlu.validation", MMLU, "test", MMLU),
    "blimp_agreement": ("blimp/anaphor_gender_agreement", "agreement", PAIRS, "train", PAIRS),
}


def write_rows(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every set, in folders of any name."""
    folder = tmp_path_factory.mktemp("data")
    for _, file, rows, _, _ in CASES.values():
        write_rows(folder / "questions" / f"{file}.jsonl", rows)
    write_rows(folder / "other" / "mmlu.dev.jsonl", MMLU[:5])
    write_rows(folder / "other" / "notes.jsonl", [{"text": "no task"}])
    return folder


@pytest.fixture(scope="module")
def local(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(data, folder)
    return lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)


def own_task(name: str, tmp_path: Path) -> Any:
    """lm-eval's task over the rows as the hub has them, by its own file."""
    file, _, _, split, rows = CASES[name]
    paths = {split: str(write_rows(tmp_path / "hub" / f"{split}.jsonl", rows))}
    if name.startswith("mmlu"):
        paths["dev"] = str(write_rows(tmp_path / "hub" / "dev.jsonl", MMLU[:5]))
    config = {
        "include": str(files("lm_eval").joinpath("tasks", f"{file}.yaml")),
        "task": f"own_{name}",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": paths, "cache_dir": str(tmp_path / "cache")},
        "training_split": None,
        "validation_split": split if split != "test" else None,
        "test_split": split if split == "test" else None,
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    manager = lm_eval.tasks.TaskManager(include_path=str(tmp_path), include_defaults=False)
    return manager.load([f"own_{name}"])["tasks"][f"own_{name}"]


def asked(task: Any, shots: int) -> tuple[list[Any], list[Any], set[str]]:
    """Every request of a task, what its answers score when the second choice is likeliest, and its metrics."""
    if task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=1)
    task.build_all_requests(rank=0, world_size=1)
    documents = dict.fromkeys(each.doc_id for each in task.instances)
    scores = []
    for document in documents:
        group = [each for each in task.instances if each.doc_id == document]
        scores.append(task.process_results(group[0].doc, [(-1.0 + (i == 1), False) for i in range(len(group))]))
    return [each.args for each in task.instances], scores, set(task.aggregation())


@pytest.mark.parametrize("name", CASES)
def test_prompts_and_answers_are_lm_evals(name: str, local: Any, tmp_path: Path) -> None:
    shots = 3 if name.startswith("mmlu") else 0
    found = asked(local.load([f"{name}_local"])["tasks"][f"{name}_local"], shots)
    expected = asked(own_task(name, tmp_path), shots)
    assert found == expected
    assert len(found[0]) >= 2


def test_groups_hold_what_the_folder_has(local: Any) -> None:
    groups = local.load(list(GROUPS))["group_map"]
    others = ("mmlu_abstract_algebra", "blimp_agreement")
    assert set(groups["commonsense_local"]) == {f"{name}_local" for name in CASES if name not in others}
    assert groups["blimp_local"] == ["blimp_agreement_local"]
    assert groups["mmlu_local"] == ["mmlu_abstract_algebra_local"]
    assert {"blimp_local", "arc_easy_local", "winogrande_local"} <= set(local_names())


def model() -> LanguageModel:
    """A model that finds every token as likely as every other: its scores are known."""

    def run(ids: torch.Tensor, *_: Any) -> tuple[torch.Tensor, Any]:
        return torch.zeros(*ids.shape, 60), None

    return LanguageModel("graph", run, tokenizer(), 40, 60, "float32")


def test_scores_have_groups_errors_and_counts(data: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = score_tasks(model(), ["mmlu_local", "blimp_local"], data, 4, 2, progress=lambda *n: seen.append(n))
    found += score_tasks(model(), ["winogrande_local"], data)
    scores = {score.task: score for score in found}
    mmlu = scores["mmlu_local"]
    assert (mmlu.metric, mmlu.value, mmlu.examples, mmlu.shots) == ("acc", 0.25, 4, 2), "the first of equals is taken"
    assert mmlu.members == ("mmlu_abstract_algebra_local",)
    assert [score.group for score in found[:3]] == [True, True, False]
    assert scores["blimp_agreement_local"].shots == 0, "minimal pairs take no worked examples"
    wino = scores["winogrande_local"]
    assert (wino.value, wino.standard_error, wino.examples, wino.members) == (0.5, pytest.approx(0.5), 2, ())
    assert seen[-1][0] == seen[-1][1]


def test_unknown_names_get_near_ones(data: Path) -> None:
    for name, near in (("arc_easy_loca", "arc_easy_local"), ("blimp_agrement_local", "blimp_agreement_local")):
        with pytest.raises(UsageError, match=f"lm-eval knows no task '{name}'; did you mean {near}"):
            score_tasks(model(), [name], data)
    assert explain_unknown("helaswag", ["piqa", "hellaswag"]).endswith("did you mean hellaswag?")
    assert explain_unknown("qqqqq", ["piqa"]).endswith("lm-eval's documentation lists them all")
    check_local("arc_easy", ["arc_easy_local"])  # lm-eval's own, which is no mistake


def test_missing_data_is_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(
        UsageError, match=r"boolq_local reads local files: pass --eval-data .* boolq\.validation\.jsonl"
    ):
        score_tasks(model(), ["boolq_local"])
    with pytest.raises(DataError, match="no folder of evaluation data at"):
        score_tasks(model(), [], tmp_path / "none")
    with pytest.raises(DataError, match="holds no evaluation data that is known"):
        score_tasks(model(), [], tmp_path)
    write_rows(tmp_path / "some" / "pairs.jsonl", PAIRS)
    with pytest.raises(DataError, match=r"mmlu_local needs mmlu\.dev\.jsonl, mmlu\.validation\.jsonl below"):
        score_tasks(model(), ["mmlu_local"], tmp_path)
    write_rows(tmp_path / "some" / "piqa.validation.jsonl", [{"goal": "x"}])
    with pytest.raises(DataError, match="lm-eval cannot run piqa_local: "):
        score_tasks(model(), ["piqa_local"], tmp_path)


def test_all_groups_are_run_where_no_task_is_named(data: Path) -> None:
    found = score_tasks(model(), [], data, 1)
    assert [score.task for score in found if score.group] == list(GROUPS)
    assert {score.metric for score in found if score.task == "piqa_local"} == {"acc", "acc_norm"}
