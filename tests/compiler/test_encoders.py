"""Encoders of texts through `compile`: text is looked at, the loss is of embeddings, and the files stay."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from graphprune.compiler.compile import compile_model
from graphprune.compiler.request import TEXTLESS, without_text
from graphprune.errors import DataError, UsageError
from graphprune.frontend.source import capture
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.resolution import resolve_recipe
from graphprune.reporting.schema import Report
from tests.support.tiny_encoder import write_encoder

CHECKPOINT = ("huggingface",)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


def options(encoder: Path, out: Path, **changes: object) -> CompileOptions:
    asked = {"target_params": "75%", "data": str(encoder / "text.txt"), "backends": CHECKPOINT, **changes}
    return CompileOptions(str(encoder), out=out, **asked)  # type: ignore[arg-type]


def test_text_is_looked_at_by_default_and_embeddings_are_measured(encoder: Path, tmp_path: Path) -> None:
    result = compile_model(options(encoder, tmp_path / "out"))
    assert all(check.passed for check in result.checks)
    assert not any(note.startswith(f"units were ranked by {TEXTLESS}") for note in result.notes)
    report = Report.model_validate_json((tmp_path / "out" / "graphprune" / "report.json").read_text())
    measured = {measure.name: measure.after for measure in report.measures}
    assert 0 < (measured["held-out cosine"] or 0) < 1
    assert 0 < (measured["held-out rank correlation"] or 0) < 1
    assert report.text is not None
    assert report.text.source == "text.txt"
    assert report.verdict is not None
    assert "held-out examples rank as the source's" in report.verdict.reason


def test_sentence_files_stay_as_they_are(encoder: Path, tmp_path: Path) -> None:
    compile_model(options(encoder, tmp_path / "out", method="adapt-pruner-ls", prune=("mlp", "attention")))
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((encoder / name).read_text())


def test_least_squares_and_second_order_scores_are_nearer_than_magnitude(encoder: Path, tmp_path: Path) -> None:
    found = {}
    for method in ("adapt-pruner-ls", "magnitude-sp"):
        result = compile_model(options(encoder, tmp_path / method, method=method, prune=("mlp", "attention")))
        found[method] = next(each.after for each in result.measures if each.name == "held-out cosine")
    assert (found["adapt-pruner-ls"] or 0) > (found["magnitude-sp"] or 1)


def test_tokens_go_too_and_the_result_is_compared_with_the_source_on_its_own_tokens(
    encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = compile_model(options(encoder, out, vocabulary="70", target_params=None))
    assert all(check.passed for check in result.checks)
    config = transformers.AutoConfig.from_pretrained(out)
    assert config.vocab_size == 70
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(tokenizer("the red cat sat.")["input_ids"]).replace(" .", ".") == (
        "[CLS] the red cat sat. [SEP]"
    )
    kept = next(each.after for each in result.measures if each.name == "held-out cosine")
    assert kept is not None
    assert kept > 0.7


def test_the_same_seed_gives_the_same_plan(encoder: Path, tmp_path: Path) -> None:
    plans = []
    for name, seed in (("a", 1), ("b", 1)):
        compile_model(options(encoder, tmp_path / name, seed=seed, length=8, samples=16))
        plans.append((tmp_path / name / "graphprune" / "plan.json").read_text())
    assert plans[0] == plans[1]


def test_too_little_text_is_told_and_an_encoder_without_tokenizer_is_ranked_by_magnitude(
    encoder: Path, tmp_path: Path
) -> None:
    (tmp_path / "one.txt").write_text("cat")
    with pytest.raises(DataError, match="give 2 or more"):
        compile_model(options(encoder, tmp_path / "out", data=str(tmp_path / "one.txt")))
    assert not (tmp_path / "out").exists()
    bare = tmp_path / "bare"
    torch.manual_seed(0)
    transformers.BertModel(transformers.AutoConfig.from_pretrained(encoder)).save_pretrained(bare)
    plain = CompileOptions(str(bare), "75%", tmp_path / "out")
    recipe = without_text(resolve_recipe(plain), plain, capture(bare))
    assert recipe.prune.importance == TEXTLESS
    with pytest.raises(UsageError, match="use --importance magnitude"):
        compile_model(CompileOptions(str(bare), "75%", tmp_path / "out", importance="taylor", backends=CHECKPOINT))


def test_what_is_left_is_trained_on_the_source_s_embeddings(encoder: Path, tmp_path: Path) -> None:
    found = {}
    for name, trained in (("cut", None), ("trained", "4000")):
        asked = {"train_tokens": trained, "lr": 3e-3} if trained else {}
        result = compile_model(options(encoder, tmp_path / name, prune=("mlp",), target_params="85%", **asked))
        found[name] = next(each.after for each in result.measures if each.name == "held-out cosine")
    assert (found["trained"] or 0) > (found["cut"] or 1)
    assert not (tmp_path / ".trained.graphprune-run").exists()
    with pytest.raises(UsageError, match="lora of recover is of language models"):
        compile_model(options(encoder, tmp_path / "x", train_tokens="100", settings=("recover.lora=2",)))
