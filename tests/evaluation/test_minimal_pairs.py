"""Minimal pairs against one sentence at a time and against lm-eval; perplexity with overlapping windows."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from graphprune.errors import DataError, UsageError
from graphprune.evaluation.language_model import of_graph
from graphprune.evaluation.minimal_pairs import first_token, mean_accuracy, minimal_pairs, read_pairs, summarize
from graphprune.evaluation.scorecard import Questions, fill_in, score_text
from graphprune.evaluation.task_scores import score_tasks
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.running.loss import next_token_loss
from graphprune.running.perplexity import cut_windows, perplexity
from tests.support.tiny_language import WORDS, save_model, tokenizer
from tests.support.tiny_llama import ids, tiny_graph


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("pairs") / "model")


@pytest.fixture(scope="module")
def graph(folder: Path) -> Graph:
    return capture(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of 30 random pairs; the first pair of each has the same tokens twice."""
    path = tmp_path_factory.mktemp("blimp")
    draw = random.Random(0)
    for name in ("agreement", "islands"):
        rows = [{"sentence_good": "the zebra", "sentence_bad": "the gnu"}]
        for _ in range(29):
            good, bad = (" ".join(draw.choices(WORDS, k=draw.randint(3, 8))) for _ in range(2))
            rows.append({"sentence_good": good, "sentence_bad": bad})
        (path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def sentence_score(model: Any, text: str) -> float:
    row = torch.tensor([[1, *tokenizer().encode(text, add_special_tokens=False)]])
    with torch.no_grad():
        logits = model(row).logits[:, :-1].log_softmax(-1)
    return float(logits.gather(-1, row[:, 1:, None]).sum())


def test_accuracy_equals_one_sentence_at_a_time(graph: Graph, folder: Path, data: Path) -> None:
    eager = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    found = minimal_pairs(graph, sorted(data.glob("*.jsonl")), batch=7)
    for score, path in zip(found, sorted(data.glob("*.jsonl")), strict=True):
        pairs = read_pairs(path)
        right = [sentence_score(eager, pair.good) >= sentence_score(eager, pair.bad) for pair in pairs]
        assert score.name == path.stem
        assert score.pairs == 30
        assert score.accuracy == pytest.approx(sum(right) / 30)
        assert 0 < score.accuracy < 1, "a set that a random model gets all right or all wrong tests nothing"
    assert mean_accuracy(found) == pytest.approx((found[0].accuracy + found[1].accuracy) / 2)


@pytest.mark.parametrize("limit", [None, 7])
def test_accuracy_equals_lm_evals(graph: Graph, data: Path, limit: int | None) -> None:
    found = minimal_pairs(graph, sorted(data.glob("*.jsonl")), limit=limit)
    scores = {score.task: score for score in score_tasks(of_graph(graph), ["blimp_local"], data, limit)}
    for score in found:
        other = scores[f"blimp_{score.name}_local"]
        assert other.value == pytest.approx(score.accuracy, abs=1e-12)
        assert other.standard_error == pytest.approx(score.standard_error, abs=1e-9)
        assert other.examples == score.pairs
    assert scores["blimp_local"].value == pytest.approx(mean_accuracy(found))
    assert scores["blimp_local"].members == ("blimp_agreement_local", "blimp_islands_local")


def test_bad_pairs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file of minimal pairs"):
        read_pairs(tmp_path / "none.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"sentence_good": "a", "sentence_bad": "b"}\n{"text": "a"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2: expected sentence_good"):
        read_pairs(bad)
    assert len(read_pairs(bad, 1)) == 1
    bad.write_text("\n")
    with pytest.raises(DataError, match="holds no pairs"):
        read_pairs(bad)
    assert summarize("one", [True]).standard_error == 0.0


def test_a_text_starts_with_the_first_token_or_the_end_token() -> None:
    words = tokenizer()
    assert first_token(words) == 1
    words.bos_token = None
    assert first_token(words) == 2
    words.eos_token = None
    with pytest.raises(UsageError, match="neither a first nor an end token"):
        first_token(words)


def brute_force(stream: Tensor, window: int, stride: int, bos: int | None) -> tuple[float, int]:
    """Every token alone, given what its window holds before it: nats in total, and how many tokens."""
    total = 0.0
    for place in range(len(stream)) if bos is not None else range(1, len(stream)):
        size = window - 1 if bos is not None else window  # tokens of the stream in a window
        index = 0 if place < size else math.ceil((place - size + 1) / stride)
        before = stream[index * stride : place]
        row = before if bos is None else torch.cat([torch.tensor([bos]), before])
        with torch.no_grad():
            caches = [torch.zeros(1, 4, 0, 4)] * 4
            logits = tiny_graph()(row[None], torch.ones_like(row[None]), torch.arange(len(row))[None], *caches)[0]
        total -= float(logits[0, -1].double().log_softmax(-1)[stream[place]])
    return total, len(stream) - (bos is None)


@pytest.mark.parametrize("bos", [None, 0])
@pytest.mark.parametrize(("count", "window", "stride"), [(30, 10, 4), (31, 10, 9), (9, 10, 3), (23, 6, 1), (10, 10, 5)])
def test_overlapping_windows_equal_one_token_at_a_time(count: int, window: int, stride: int, bos: int | None) -> None:
    stream = ids(1, count, seed=3)[0]
    total, tokens = brute_force(stream, window, stride, bos)
    found = perplexity(tiny_graph(), stream, window, 3, stride=stride, bos=bos, text_bytes=50)
    assert found.tokens == tokens
    assert found.nats_per_token == pytest.approx(total / tokens, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(total / math.log(2) / 50, rel=1e-5)


def test_a_stride_of_the_whole_window_is_the_default() -> None:
    stream = ids(1, 40)[0]
    assert perplexity(tiny_graph(), stream, 10, stride=9) == perplexity(tiny_graph(), stream, 10)
    assert [tuple(block.shape) for block in cut_windows(stream, 10, None, 5)] == [(7, 10)]
    with pytest.raises(UsageError, match="between 1 and 10"):
        perplexity(tiny_graph(), stream, 10, stride=11)
    for stride in (0, 10):
        with pytest.raises(UsageError, match="between 1 and 9"):
            perplexity(tiny_graph(), stream, 10, stride=stride, bos=1)


@pytest.mark.parametrize("count", [5, 30, 31, 37])
def test_windows_that_share_nothing_leave_the_first_token_of_each_out(count: int) -> None:
    """The protocol of many papers: a text in pieces of one length, each by itself."""
    stream = ids(1, count)[0]
    pieces = [piece for piece in stream.split(10) if len(piece) > 1]
    total = sum(next_token_loss(tiny_graph(), piece[None], "sum").item() for piece in pieces)
    predicted = sum(len(piece) - 1 for piece in pieces)
    found = perplexity(tiny_graph(), stream, 10, 2, stride=10, text_bytes=100)
    assert found.tokens == predicted
    assert found.nats_per_token == pytest.approx(total / predicted, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(total / predicted * count / math.log(2) / 100, rel=1e-5)


def test_a_scorecard_says_how_the_text_was_read(graph: Graph, tmp_path: Path) -> None:
    text = "the cat sees the dog . a zebra runs .\n" * 20
    path = tmp_path / "text.txt"
    path.write_text(text)
    model = of_graph(graph)
    score = score_text(model, Questions(text=str(path), stride=10, bos=False))
    assert (score.window, score.stride, score.bos) == (40, 10, None)
    assert score.bytes == len(text)
    assert score.unknown == 20, "zebra is in no vocabulary"
    assert score.tokens == 20 * 10 - 1
    assert score.perplexity == pytest.approx(math.exp(score.nats_per_token))
    assert score.bits_per_byte == pytest.approx(score.nats_per_token * score.tokens / math.log(2) / len(text))
    card = fill_in("tiny", model, Questions(text=str(path)))
    assert card.text is not None
    assert (card.face, card.dtype, card.text.bos, card.text.stride, card.tasks) == ("graph", "float32", "<s>", 39, ())
    with pytest.raises(UsageError, match="windows of 41 tokens are longer than the model's context of 40"):
        score_text(model, Questions(text=str(path), window=41))
    path.write_text("the")
    with pytest.raises(DataError, match="holds 1 tokens, fewer than one window of 2"):
        score_text(model, Questions(text=str(path)))
    with pytest.raises(UsageError, match="nothing to score"):
        Questions(text=None)
