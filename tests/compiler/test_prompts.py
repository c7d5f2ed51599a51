"""Prompt tuning as a recipe: a folder whose tokenizer puts the prompt before texts, in both faces, and replayed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from graphprune.comparison.cells import Protocol
from graphprune.comparison.measuring import measure_text
from graphprune.compiler.compile import apply_plan, compile_model
from graphprune.data.stream.lead import find_lead
from graphprune.data.tokens import read_tokens
from graphprune.errors import UsageError
from graphprune.evaluation.language_model import Interface, load_face
from graphprune.evaluation.minimal_pairs import sentence
from graphprune.evaluation.scorecard import Questions, fill_in
from graphprune.frontend.source import capture
from graphprune.pipeline.options import ApplyOptions, CompileOptions
from graphprune.progress import no_progress
from graphprune.reporting.results import Result
from graphprune.running.perplexity import stream_perplexity
from tests.support.tiny_source import write_source

pytestmark = [pytest.mark.xdist_group("prompts"), pytest.mark.slow]
SETTINGS = ("recover.rows=4", "recover.length=24", "recover.learner=prompt{tokens=3}")


def options(source: Path, out: Path, **changes: Any) -> CompileOptions:
    text = str(source / "text.txt")
    given = CompileOptions(str(source), None, out, "prompt", data=text, train_tokens="4k", settings=SETTINGS)
    return replace(given, **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Result]:
    source = write_source(tmp_path_factory.mktemp("model"))
    (source / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    out = source.parent / "out"
    return source, out, compile_model(options(source, out))


def test_weights_are_the_source_s_but_for_the_prompt(made: tuple[Path, Path, Result]) -> None:
    source, out, result = made
    assert all(check.passed for check in result.checks if "genai" not in check.name)
    assert {check.artefact for check in result.checks} >= {"graph", "huggingface", "onnx"}
    before, after = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    table = "model.embed_tokens.weight"
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items() if name != table)
    assert torch.equal(before[table], after[table][:300])
    assert after[table].shape[0] == 303
    assert any("puts a prompt of 3 learned tokens before every text" in note for note in result.notes)
    rows = {measure.name: measure for measure in result.measures}
    assert rows["parameters"].after == rows["parameters"].before + 3 * 32  # type: ignore[operator]
    assert rows["held-out perplexity"].after < rows["held-out perplexity"].before  # type: ignore[operator]


def test_the_folder_is_a_stock_model_that_reads_texts_behind_it(made: tuple[Path, Path, Result]) -> None:
    _, out, _ = made
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert type(model).__name__ == "LlamaForCausalLM"
    ids = tokenizer("the cat", return_tensors="pt")
    assert ids["input_ids"][0, :3].tolist() == [300, 301, 302]
    said = tokenizer.apply_chat_template([{"role": "user", "content": "the cat"}], return_dict=False)
    assert said == ids["input_ids"][0].tolist()
    count, rows = ids["input_ids"].shape[1], model.lm_head.weight
    with torch.no_grad():
        rows[300:] = 9 * rows[model(**ids).logits[0, -1].argmax()]  # what would be chosen, were it not forbidden
    asked: tuple[dict[str, Any], ...] = {"suppress_tokens": []}, {}
    made = [model.generate(**ids, max_new_tokens=1, do_sample=False, **more)[0, count] for more in asked]
    assert int(made[0]) >= 300 > int(made[1])


def test_scores_are_of_texts_behind_it(made: tuple[Path, Path, Result]) -> None:
    source, out, _ = made
    asked = Questions(text=str(source / "text.txt"), text_bytes=2000)
    faces: tuple[Interface, ...] = ("checkpoint", "onnx")
    scores = dict[str, float]()
    for face in faces:
        model = load_face(str(out), face)
        found = [fill_in("out", model, replace(asked, bos=bos)).text for bos in (True, False)]
        scores[face], bare = (score.nats_per_token for score in found if score is not None)
        assert bare != pytest.approx(scores[face], rel=1e-4)
    assert scores["checkpoint"] == pytest.approx(scores["onnx"], rel=1e-4)
    model = load_face(str(out), "checkpoint")
    tokens, _ = read_tokens(model.tokenizer, str(source / "text.txt"), limit=2000)
    behind = torch.cat([torch.tensor([300, 301, 302]), tokens[:40]])
    whole = stream_perplexity(model.logits, behind, 43, 1)
    first = stream_perplexity(model.logits, behind[:4], 4, 1)
    wanted = (whole.nats_per_token * whole.tokens - first.nats_per_token * first.tokens) / 39
    found = stream_perplexity(find_lead(model.tokenizer).around(model.logits), tokens[:40], 40, 1)
    assert found.nats_per_token == pytest.approx(wanted, rel=1e-5)


def test_tasks_are_asked_behind_it(made: tuple[Path, Path, Result]) -> None:
    pytest.importorskip("lm_eval")
    from graphprune.evaluation.lm_eval_adapter import Harness

    harness = Harness(load_face(str(made[1]), "checkpoint"))
    assert sentence(harness.tokenizer, "the cat").context == (300, 301, 302)
    assert harness.begun(("", " the cat"), [0]) == (300, 301, 302)
    assert harness.begun(("a", "b"), [5]) == (5,)
    pairs = harness.windows("the cat sat on a mat and the dog ran to the red barn " * 6)
    assert len(pairs) > 1
    assert all(context[:3] == [300, 301, 302] and max(wanted) < 300 for context, wanted in pairs)
    text = harness.tokenizer("the cat sat on a mat and the dog ran to the red barn " * 6, add_special_tokens=False)
    assert [id for _, wanted in pairs for id in wanted] == text["input_ids"]


def test_a_comparison_measures_it_behind_its_prompt(made: tuple[Path, Path, Result]) -> None:
    """By the tokenizer that the row's folder has, which puts the prompt there itself."""
    graph = capture(str(made[1]))
    text = made[0] / "text.txt"
    protocol = Protocol(str(text), "text", 24, None, True, 1500, None, (), None, None)
    found = measure_text(graph, protocol, torch.device("cpu"), no_progress).found.nats_per_token
    model = load_face(str(made[1]), "checkpoint")
    scored = fill_in("out", model, Questions(text=str(text), text_bytes=1500, window=24)).text
    assert scored is not None
    assert found == pytest.approx(scored.nats_per_token, rel=1e-5)


def test_its_plan_gives_the_shape_and_the_tokenizer_again(made: tuple[Path, Path, Result], tmp_path: Path) -> None:
    source, out, _ = made
    apply_plan(
        ApplyOptions(str(source), out / "graphprune" / "plan.json", tmp_path / "again", backends=("huggingface",))
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert tokenizer("the")["input_ids"][:3] == [300, 301, 302]
    assert load_file(tmp_path / "again" / "model.safetensors")["model.embed_tokens.weight"].shape[0] == 303


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target_params": "80%", "prune": ("auto",)}, "adds parameters behind the cut"),
        ({"settings": (*SETTINGS, "recover.distill=0.5")}, "leave distill out"),
        ({"vocabulary": "280"}, "cut tokens in one compilation"),
        ({"stages": 2}, "prompt appends tokens in one training"),
    ],
)
def test_what_does_not_go_together_is_said(
    made: tuple[Path, Path, Result], changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        compile_model(options(made[0], tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_second_prompt_is_refused_before_the_training(made: tuple[Path, Path, Result], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has a prompt already"):
        compile_model(options(made[1], tmp_path / "twice", data=str(made[0] / "text.txt")))
