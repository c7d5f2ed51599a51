"""The recover pass: budgets become steps, passes share one schedule, and a killed recipe ends the same."""

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune.errors import DataError, PassError, UsageError
from graphprune.ir.graph import Graph
from graphprune.passes.transforms.recover import Recover
from graphprune.pipeline.passes import Context, Pass, run_passes
from graphprune.spec import parse_spec, print_spec
from tests.support.rows import held_out
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
SMALL = Recover(tokens=960, rows=4, length=12, lr=3e-3, device="cpu")


def words() -> Any:
    """A tokenizer that knows the numbers 0 to 63 as words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({str(number): number for number in range(64)}, unk_token="0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="63")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of numbers that go up by one."""
    path = tmp_path_factory.mktemp("text") / "numbers.txt"
    path.write_text("<|endoftext|>".join(" ".join(str((s + k) % 63) for k in range(100)) for s in range(63)))
    return str(path)


@pytest.fixture
def context(text: str) -> Context:
    return Context(seed=1, tokenizer=words(), data=text, source=tiny_graph())


def recover(graph: Graph, passes: Sequence[Pass], context: Context) -> Graph:
    return run_passes(graph, passes, context)


def test_the_specs_read_back() -> None:
    spec = "recover{tokens=5000,distill=0.5,lora_targets=[q_proj,v_proj],precision=bf16,schedule=cosine}"
    item = parse_spec("passes", spec)
    assert isinstance(item, Recover)
    assert item.lora_targets == ("q_proj", "v_proj")
    assert parse_spec("passes", print_spec(item)) == item


def test_a_budget_of_tokens_is_trained_and_remembered(context: Context, tmp_path: Path) -> None:
    said: list[str] = []
    stages: list[tuple[str, int, int, str]] = []
    whole = replace(context, folder=tmp_path, log=said.append, progress=lambda *entry: stages.append(entry))
    result = SMALL.run(tiny_graph(), replace(whole, held_out=held_out()))
    assert result.memo["schedule"] == {"steps": 20, "total": None, "tokens": 960, "rows": 80}
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert all(row["held_out"] is not None for row in rows)  # twenty evaluations
    assert said[-1].startswith("recover: 20 steps, 960 tokens, last loss ")
    stage, done, total, detail = [entry for entry in stages if entry[0] == "recovering"][-1]
    assert (stage, done, total) == ("recovering", 20, 20)
    assert detail.startswith("loss ")
    assert "tokens/s" in detail
    assert "left" in detail


def test_three_stages_of_one_schedule_are_one_pass_bit_for_bit(context: Context) -> None:
    one = recover(tiny_graph(), [replace(SMALL, total_tokens=960)], context)
    shares = [replace(SMALL, tokens=tokens, total_tokens=960) for tokens in (130, 330, 500)]
    three = recover(tiny_graph(), shares, context)
    assert three.memo["schedule"] == one.memo["schedule"] == {"steps": 20, "total": 20, "tokens": 960, "rows": 80}
    assert all(torch.equal(three.tensors()[name], tensor) for name, tensor in one.tensors().items())


def test_stages_with_a_cut_between_resume_from_their_folder(context: Context, tmp_path: Path) -> None:
    cut = parse_spec("passes", "prune{target=90%,importance=magnitude,allocation=uniform,kinds=[mlp]}")
    stages = [replace(SMALL, tokens=480, total_tokens=960), cut, replace(SMALL, tokens=480, total_tokens=960)]
    straight = recover(tiny_graph(), stages, context)
    first = recover(tiny_graph(), stages[:2], context)
    second = stages[2].run(first, replace(context, folder=tmp_path))
    assert all(torch.equal(second.tensors()[name], tensor) for name, tensor in straight.tensors().items())
    assert second.memo["moments"] == {"updates": 20}
    again = stages[2].run(first, replace(context, folder=tmp_path))
    assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in straight.tensors().items())
    with pytest.raises(UsageError, match=r"lr was 0.003, is now 0.01"):
        replace(stages[2], lr=0.01).run(first, replace(context, folder=tmp_path))  # type: ignore[type-var]


def test_steps_and_places_can_be_given() -> None:
    graph = tiny_graph()
    place = replace(SMALL, steps=7, first_step=3, total_steps=50).place(graph, 4, 12)
    assert (place.first, place.steps, place.total) == (3, 7, 50)
    assert replace(SMALL, tokens=10_000, first_step=45, total_steps=50).place(graph, 4, 12).steps == 5
    done = graph.remember("schedule", {"steps": 50, "total": 50, "tokens": 2400, "rows": 200})
    assert replace(SMALL, tokens=48, total_steps=50).place(done, 4, 12).steps == 0
    other = replace(SMALL, tokens=48, total_steps=60).place(done, 4, 12)
    assert (other.first, other.row) == (0, 200)


def test_an_adapted_model_recovers_too(context: Context) -> None:
    result = recover(tiny_graph(), [replace(SMALL, lora=2, distill=0.5)], context)
    assert not result.companions
    assert result.parameter_count() == tiny_graph().parameter_count()


def test_what_is_missing_or_does_not_fit_is_named(context: Context, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no text to train on"):
        recover(tiny_graph(), [SMALL], replace(context, data=None))
    with pytest.raises(UsageError, match="total_tokens and total_steps"):
        replace(SMALL, total_tokens=1, total_steps=1)
    with pytest.raises(UsageError, match="temperature of training is above 0"):
        parse_spec("passes", "recover{temperature=0}")
    short = tmp_path / "short.txt"
    short.write_text("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16")
    with pytest.raises((DataError, PassError), match="holds 1 rows of 12 tokens, fewer than one batch of 4"):
        recover(tiny_graph(), [SMALL], replace(context, data=str(short)))


def test_the_guide_names_every_option_and_none_else() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "recovery.md").read_text(encoding="utf-8")
    table = text.partition("## Options")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(Recover))
