"""Fewer tokens from end to end: the checkpoint, its tokenizer, every id that is named, both faces, the report."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from graphprune.analysis.analyse import analyze
from graphprune.backends.runtime.runner import load
from graphprune.compiler.compile import apply_plan, compile_model
from graphprune.errors import BudgetError, InvariantError, PlanError, UsageError
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.pipeline.options import ApplyOptions, CompileOptions
from graphprune.pipeline.stages import run_recipe
from graphprune.reporting.results import Result
from graphprune.reporting.schema import Report
from graphprune.rewriting.apply import apply
from graphprune.rewriting.oracle import check_against_masked
from graphprune.vocabulary.cutting import cut_vocabulary
from graphprune.vocabulary.ranking import rank_tokens, vocabulary_group
from graphprune.vocabulary.token_ids import Renumbering, renumber_data, renumber_object
from tests.support.tiny_source import write_source

pytestmark = pytest.mark.xdist_group("vocabulary")
END, PAD = 299, 150


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of their own, a padding token amid the others, the end behind all of them, ids in every file."""
    folder = write_source(tmp_path_factory.mktemp("vocabulary"))
    torch.manual_seed(1)
    config = transformers.LlamaConfig.from_pretrained(
        folder, tie_word_embeddings=False, pad_token_id=PAD, eos_token_id=END
    )
    model: Any = transformers.LlamaForCausalLM(config)
    model.generation_config.suppress_tokens = [0, 5, 290, 291]
    model.save_pretrained(folder)
    data = json.loads((folder / "tokenizer.json").read_text())
    last = next(text for text, id in data["model"]["vocab"].items() if id == END)
    data["added_tokens"].append({**data["added_tokens"][0], "id": END, "content": last})
    (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / "vocab.json").write_text(json.dumps(data["model"]["vocab"]))
    return folder


@pytest.fixture(scope="module")
def graph(source: Path) -> Graph:
    return capture(str(source), dtype=torch.float32)


def options(source: Path, out: Path, **changes: Any) -> CompileOptions:
    """A request for 270 tokens of 300."""
    data = str(source / "text.txt")
    plain = CompileOptions(
        str(source), out=out, vocabulary="270", data=data, samples=8, length=24, importance="magnitude"
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def compiled(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("fewer") / "out"
    return out, compile_model(options(source, out))


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def kept_ids(out: Path) -> list[int]:
    plan = read(out / "graphprune" / "plan.json")
    return list(plan["keep"]["model.embed_tokens.weight:0"])


def test_the_checkpoint_is_the_rows_and_columns_that_are_kept(source: Path, compiled: tuple[Path, Result]) -> None:
    out, result = compiled
    old: Any = transformers.AutoModelForCausalLM.from_pretrained(source)
    new: Any = transformers.AutoModelForCausalLM.from_pretrained(out)
    kept = kept_ids(out)
    assert new.config.vocab_size == len(kept) == 270
    assert new.config.model_type == "llama", "a stock checkpoint"
    assert {check.name for check in result.checks} >= {"equals the masked source", "greedy tokens"}
    ids = torch.randint(270, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = old(torch.tensor(kept)[ids]).logits[..., kept]
        assert torch.allclose(new(ids).logits, wanted, atol=1e-5)


@pytest.mark.parametrize("place", [".", "onnx"])
def test_every_face_has_the_new_ids(place: str, source: Path, compiled: tuple[Path, Result]) -> None:
    folder, numbers = compiled[0] / place, {old: new for new, old in enumerate(kept_ids(compiled[0]))}
    config, generation = read(folder / "config.json"), read(folder / "generation_config.json")
    assert config["vocab_size"] == 270
    for found in (config, generation):
        assert (found["eos_token_id"], found["pad_token_id"], found["bos_token_id"]) == (269, numbers[PAD], 0)
    assert generation["suppress_tokens"] == [numbers[id] for id in (0, 5, 290, 291) if id in numbers]
    words = read(folder / "tokenizer.json")
    old = read(source / "tokenizer.json")["model"]["vocab"]
    assert words["model"]["vocab"] == {text: numbers[id] for text, id in old.items() if id in numbers}
    assert [entry["id"] for entry in words["added_tokens"]] == [0, 269]
    assert not (folder / "vocab.json").exists(), "the old numbers"
    if place == "onnx":
        genai = read(folder / "genai_config.json")["model"]
        assert (genai["vocab_size"], genai["eos_token_id"], genai["pad_token_id"]) == (270, 269, numbers[PAD])


def test_text_goes_in_and_comes_out(source: Path, compiled: tuple[Path, Result]) -> None:
    old: Any = transformers.AutoTokenizer.from_pretrained(source)
    new: Any = transformers.AutoTokenizer.from_pretrained(compiled[0])
    for text in ("the cat sat on a mat", "Zoë 🙂\n\tand the dog", ""):
        assert new.decode(new(text)["input_ids"]) == old.decode(old(text)["input_ids"]) == text
    ids = new("the cat")["input_ids"]
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(compiled[0])
    plain = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": None, "suppress_tokens": None}
    wanted = model.generate(torch.tensor([ids]), **plain)[0, len(ids) :].tolist()
    assert load(compiled[0], "cpu").generate([ids], max_new_tokens=8)[0] == wanted


def test_the_report_says_what_was_cut(compiled: tuple[Path, Result]) -> None:
    out, result = compiled
    report = Report.model_validate_json((out / "graphprune" / "report.json").read_text())
    assert (report.target.kind, report.target.value) == ("vocabulary", "270")
    cut = report.vocabulary
    assert cut is not None
    assert (cut.before, cut.after, cut.left_out) == (300, 270, ["vocab.json"])
    assert cut.covered is not None
    assert 0.2 < cut.covered < 1
    measures = {measure.name: measure for measure in result.measures}
    assert (measures["vocabulary"].before, measures["vocabulary"].after) == (300, 270)
    rate = measures["held-out tokens per byte"]
    assert rate.before is not None
    assert rate.after is not None
    assert rate.before < rate.after < 1.01
    assert measures["held-out bits per byte"].before is not None
    assert "held-out perplexity" not in measures, "tokens differ, so these do not compare"
    assert any("vocab.json" in note for note in result.notes)
    assert "held-out tokens per byte" in (out / "graphprune" / "report.html").read_text()
    assert "--vocabulary 270" in (out / "graphprune" / "recipe.yaml").read_text().splitlines()[0]


def test_a_saved_plan_makes_the_same_model_and_tokenizer(
    source: Path, compiled: tuple[Path, Result], tmp_path: Path
) -> None:
    out = compiled[0]
    apply_plan(ApplyOptions(str(source), out / "graphprune" / "plan.json", tmp_path / "out", ("huggingface",)))
    for name in ("model.safetensors", "tokenizer.json", "config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes(), name


def test_beside_others_the_unused_tokens_go_and_the_target_is_met(source: Path, graph: Graph, tmp_path: Path) -> None:
    kinds, data = ("vocabulary", "mlp"), tmp_path / "text.txt"
    data.write_text("the cat sat on a mat and the cat ran " * 60)
    changes = {"target_params": "80%", "prune": kinds, "statistics": "exact", "backends": ("huggingface",)}
    result = compile_model(options(source, tmp_path / "out", vocabulary=None, data=str(data), **changes))
    sizes = {measure.name: measure for measure in result.measures}
    used = rank_tokens(graph, f"{data}#train").used
    assert 258 < used < 290
    assert sizes["vocabulary"].after == used
    assert {width.kind for width in result.widths if width.after < width.before} == set(kinds)
    total = sizes["parameters"]
    assert total.before is not None
    assert total.after is not None
    assert 0.8 * total.before - 32 * 3 <= total.after <= 0.8 * total.before
    assert all(check.passed for check in result.checks)


def test_training_goes_on_with_the_tokens_that_are_left(source: Path, tmp_path: Path) -> None:
    asked = options(source, tmp_path / "out", method="adapt-accel", train_tokens="2k", backends=("huggingface",))
    result = compile_model(replace(asked, importance=None, length=16))
    assert result.report["training"]
    assert {m.name: m.after for m in result.measures}["vocabulary"] == 270


def test_alone_it_meets_a_target_by_the_number_of_tokens(source: Path, tmp_path: Path) -> None:
    asked = options(source, tmp_path / "out", vocabulary=None, prune=("vocabulary",), target_params="95%", round_to=8)
    shown = compile_model(replace(asked, dry_run=True))
    result = compile_model(replace(asked, backends=("huggingface",)))
    for found in (shown, result):
        sizes = next(m for m in found.measures if m.name == "parameters")
        width = next(w for w in found.widths if w.kind == "vocabulary")
        assert sizes.before is not None
        assert sizes.after is not None
        assert width.after % 8 == 0
        assert 0.95 * sizes.before - 9 * 64 < sizes.after <= 0.95 * sizes.before
        assert [w.kind for w in found.widths if w.after < w.before] == ["vocabulary"]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"vocabulary": "20"}, BudgetError, "20 tokens are asked for, and 2.. of 300 is the least"),
        ({"vocabulary": "many"}, UsageError, "--vocabulary many: write the number of tokens as 16000, 16k or 50%"),
        ({"vocabulary": "400"}, BudgetError, "--vocabulary 400 is more than the 300 tokens"),
        ({"vocabulary": None, "prune": ("vocabulary",), "target_params": "20%"}, BudgetError, "is the least"),
        (
            {"target_params": "60%", "prune": ("vocabulary", "mlp"), "dry_run": True, "vocabulary": None},
            UsageError,
            "-N",
        ),
    ],
)
def test_bad_sizes_leave_nothing(
    changes: dict[str, Any], error: type[Exception], said: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said.replace("-N", "give --vocabulary N")):
        compile_model(options(source, tmp_path / "out", **changes))
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_tokens_is_no_size_for_anything_else(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"how small.*--vocabulary alone cuts nothing but tokens"):
        options(source, tmp_path / "out", prune=("mlp",))
    settings = ('before=["prune{kinds=[vocabulary]}"]',)
    with pytest.raises(UsageError, match=r"name vocabulary in prune\.kinds"):
        compile_model(options(source, tmp_path / "out", settings=settings))


def write_copy(source: Path, folder: Path, changed: Mapping[str, Any]) -> Path:
    """The source with another tokenizer.json."""
    for path in source.iterdir():
        if path.name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json"):
            (folder / path.name).symlink_to(path)
    (folder / "tokenizer.json").write_text(json.dumps(changed))
    return folder


def test_a_token_without_a_row_is_refused(source: Path, graph: Graph, tmp_path: Path) -> None:
    data = read(source / "tokenizer.json")
    data["added_tokens"].append({**data["added_tokens"][0], "id": 300, "content": "<far>"})
    other = replace(graph, source=replace(graph.source, folder=write_copy(source, tmp_path, data)))
    with pytest.raises(UsageError, match="has '<far>' with the id 300, and the model has 300 rows"):
        rank_tokens(other, str(source / "text.txt"))


def test_a_tokenizer_without_a_fast_form_is_refused(
    source: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        is_fast = False

    monkeypatch.setattr("graphprune.vocabulary.tokenizer_folder.load_tokenizer", lambda folder: Slow())
    with pytest.raises(
        UsageError, match=r"\(Slow\) has no tokenizer.json, so its ids cannot change; save it with a fast"
    ):
        rank_tokens(graph, str(source / "text.txt"))


def test_a_plan_that_leaves_texts_unreadable_is_refused(source: Path, graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="without which some text cannot be read"):
        cut_vocabulary(graph, range(100, 300), tmp_path)
    merged = next(id for text, id in read(source / "tokenizer.json")["model"]["vocab"].items() if text == "Ġthe")
    part = next(id for text, id in read(source / "tokenizer.json")["model"]["vocab"].items() if text == "he")
    assert part != merged
    with pytest.raises(PlanError, match=r"keeps the token .* and drops 'he', which it is merged from"):
        cut_vocabulary(graph, [id for id in range(300) if id != part], tmp_path)


def test_a_graph_alone_has_no_tokenizer_to_change(source: Path, graph: Graph) -> None:
    with pytest.raises(UsageError, match="use compile"):
        run_recipe(graph, wanted(), "90%")
    bare = replace(graph, source=replace(graph.source, folder=None))
    with pytest.raises(UsageError, match="in a folder with its tokenizer"):
        rank_tokens(bare, str(source / "text.txt"))


def wanted() -> Any:
    from graphprune.pipeline.recipes import Change, read_recipe

    return read_recipe("taylor", [Change("prune.kinds", ["vocabulary"], "here")])


def half(graph: Graph) -> Plan:
    return Plan({vocabulary_group(analyze(graph)).id: tuple(range(0, 300, 2))})


def test_rows_and_columns_of_untied_heads_are_one_group_and_padding_moves(graph: Graph) -> None:
    group = vocabulary_group(analyze(graph))
    assert {slot.name for slot in group.slots} == {"model.embed_tokens.weight", "lm_head.weight"}
    paddings = [
        [node.args[2] for node in g.nodes if "embedding" in str(node.target)]
        for g in (graph, apply(graph, half(graph)))
    ]
    assert paddings == [[PAD], [PAD // 2]]
    gone = apply(graph, Plan({group.id: tuple(id for id in range(300) if id != PAD)}))
    assert [node.args[2] for node in gone.nodes if "embedding" in str(node.target)] == [-1]


def test_the_comparison_with_the_masked_source_sees_tokens_that_are_mixed_up(graph: Graph) -> None:
    plan = half(graph)
    made = apply(graph, replace(plan, statistics="exact"))
    exact = replace(plan, statistics="exact")
    assert check_against_masked(graph, made, exact, 0)[0].passed
    rows = made.parameters()["model.embed_tokens.weight"]
    mixed = made.with_tensors({"model.embed_tokens.weight": torch.nn.Parameter(rows.detach().flip(0))})
    with pytest.raises(InvariantError, match="differs from the masked one"):
        check_against_masked(graph, mixed, exact, 0)


def test_ids_in_configurations() -> None:
    numbers = Renumbering((0, 2, 4, 6), 8)
    data = {
        "vocab_size": 8,
        "eos_token_id": [2, 4],
        "pad_token_id": -1,
        "bos_token_id": 50256,
        "hidden_size": 4,
        "suppress_tokens": [1, 2, 3, 4],
        "bad_words_ids": [[2, 4], [2, 3]],
        "forced_decoder_ids": [[1, 4]],
        "sequence_bias": [[[4, 6], -1.0], [[5], 2.0]],
        "text_config": {"vocab_size": 8, "image_token_index": 6},
    }
    assert renumber_data(data, numbers) == {
        "vocab_size": 4,
        "eos_token_id": [1, 2],
        "pad_token_id": -1,
        "bos_token_id": 50256,
        "hidden_size": 4,
        "suppress_tokens": [1, 2],
        "bad_words_ids": [[1, 2]],
        "forced_decoder_ids": [[1, 2]],
        "sequence_bias": [[[2, 3], -1.0]],
        "text_config": {"vocab_size": 4, "image_token_index": 3},
    }
    made = transformers.GenerationConfig(bos_token_id=2, eos_token_id=[4], sequence_bias={(4, 6): -1.0, (5,): 2.0})
    found = renumber_object(made, numbers)
    assert (found.bos_token_id, found.eos_token_id, found.sequence_bias) == (1, [2], {(2, 3): -1.0})
    assert made.bos_token_id == 2, "a copy"
