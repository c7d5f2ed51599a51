"""Text that a model writes itself: what is in it, that a stop loses nothing, that it is kept, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from graphprune.cli.main import run
from graphprune.compiler import own_text as written
from graphprune.compiler.own_text import allow, own_text_file, place_of
from graphprune.data.tokens import load_tokenizer
from graphprune.errors import DataError
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.pipeline.own_text import OwnText
from tests.support.families import families, graph
from tests.support.tiny_source import write_source


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("writes"))


@pytest.fixture(scope="module")
def source(model: Path) -> Graph:
    return capture(str(model), dtype=torch.float32)


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphprune" / "text"


def lines(path: Path) -> list[dict[str, str | int]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_has_as_many_tokens_as_were_asked_for(source: Graph) -> None:
    path = own_text_file(source, OwnText("5000", 40))
    sizes = [int(line["tokens"]) for line in lines(path)]
    assert 5000 <= sum(sizes) < 5000 + 32 * 40
    assert max(sizes) <= 40
    assert len(set(sizes)) > 1 or max(sizes) == 39, "documents end where the model ends them"
    assert not list(path.parent.glob("*.parts"))


def test_it_is_what_the_model_predicts(source: Graph) -> None:
    """Drawn with almost no temperature, a document is the greedy one behind the first token."""
    document = next(line for line in lines(own_text_file(source, OwnText("40", 12, temperature=1e-6))))
    tokenizer = load_tokenizer(source.source.files) if source.source.files else None
    assert tokenizer is not None
    ids = [0]
    plain = [i for i in range(300) if i not in tokenizer.all_special_ids]
    runner = written.graph_runner(source)
    for _ in range(11):
        every = torch.tensor([ids])
        with torch.no_grad():
            logits, _ = runner(every, torch.ones_like(every), torch.arange(len(ids))[None], None)
        ids.append(max(plain, key=lambda token: float(logits[0, -1, token])))
    assert document["text"] == tokenizer.decode(ids[1:])


def test_a_stop_loses_nothing(source: Graph, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = OwnText("4000", 40)
    whole = own_text_file(source, own).read_bytes()
    (kept / place_of(source, own).name).unlink()
    draw, made, limit = written.Writer.documents, list[int](), [2]

    def stopped(writer: written.Writer, number: int) -> Iterator[tuple[str, int]]:
        if number >= limit[0]:
            raise KeyboardInterrupt
        made.append(number)
        return draw(writer, number)

    monkeypatch.setattr(written.Writer, "documents", stopped)
    with pytest.raises(KeyboardInterrupt):
        own_text_file(source, own)
    limit[0] = 100
    assert own_text_file(source, own).read_bytes() == whole
    assert made == list(range(len(made))), "what was kept is not written again"


def test_what_is_kept_serves_the_next_run(source: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    own = OwnText("500", 20)
    path = own_text_file(source, own)
    monkeypatch.setattr(written.Writer, "documents", None)
    assert own_text_file(source, own) == path


def test_other_options_and_seeds_are_other_texts(source: Graph) -> None:
    texts = {own_text_file(source, own).read_text() for own in (OwnText("500", 20), OwnText("500", 20, seed=1))}
    assert len(texts) == 2


def test_a_document_may_not_end_at_once_and_writes_no_special_token() -> None:
    import numpy as np

    allowed = allow(6, np.array([2, 3, 5]), 1)
    assert np.flatnonzero(allowed(0) == 0).tolist() == [2, 3, 5]
    assert np.flatnonzero(allowed(16) == 0).tolist() == [1, 2, 3, 5]


class Letters:
    """A tokenizer of single ids without a first token."""

    bos_token_id, eos_token_id, all_special_ids = None, 1, (0, 1)

    def __len__(self) -> int:
        return 50

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [5]}

    def decode(self, ids: list[int], **_: object) -> str:
        return " ".join(map(str, ids))


@pytest.mark.parametrize("name", families(("gpt2", "mamba", "falcon_h1", "gemma3")))
def test_models_with_other_caches_and_without_a_first_token_write_too(name: str) -> None:
    writer = written.Writer(written.graph_runner(graph(name)), Letters(), OwnText(length=20))  # type: ignore[arg-type]
    documents = list(writer.fitted(20, 61).documents(0))
    assert len({text.split()[0] for text, _ in documents}) > 8, "any token may be the first"
    assert all(len(text.split()) == size <= 20 for text, size in documents)
    assert {int(token) for text, _ in documents for token in text.split()} <= set(range(2, 50))


def test_a_compilation_without_a_corpus(model: Path, tmp_path: Path, kept: Path) -> None:
    words = ["compile", str(model), "-o", str(tmp_path / "out"), "--target-params", "90%", "--backends", "huggingface"]
    words += ["--data", "self{tokens=6000,length=40}", "--samples", "8", "--length", "16"]
    assert run(words) == 0
    (file,) = kept.glob("self-6000-*.jsonl")
    report = json.loads((tmp_path / "out" / "graphprune" / "report.json").read_text())
    assert any("what the model wrote itself (self{tokens=6000,length=40})" in note for note in report["notes"])
    assert str(file.name) in json.dumps(report)
    again = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert again["data"] == "self{tokens=6000,length=40}"


def test_a_model_without_a_tokenizer_writes_nothing() -> None:
    linear = capture(torch.nn.Linear(3, 3), inputs={"input": torch.zeros(1, 3)})
    with pytest.raises(DataError, match="language models with a tokenizer"):
        own_text_file(linear, OwnText())
