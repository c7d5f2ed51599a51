"""`--memory` of `eval` and `generate`: the same text and scores as the whole model, a log, and refusals in one line."""

import json
from pathlib import Path

import pytest
import torch

from graphprune.cli.main import run
from graphprune.offload.language_model import StreamedWriter, describe_loads, load_offloaded
from graphprune.running.sampling import Sampling
from tests.support.tiny_mixture import load_resident, write_mixture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixture(tmp_path_factory.mktemp("mixture") / "source")


def test_text_is_what_the_whole_model_writes(folder: Path) -> None:
    language, offloaded = load_offloaded(str(folder), "400KB")
    prompts = [[5, 17, 40, 8], [200, 3]]
    made = StreamedWriter(language).generate(prompts, 6, (), Sampling())
    resident = load_resident(folder)
    for prompt, tokens in zip(prompts, made, strict=True):
        ids = torch.tensor([prompt])
        for token in tokens:
            with torch.no_grad():
                assert int(resident(ids).logits[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
    assert list(StreamedWriter(language).stream(prompts[0], 6, (), Sampling())) == made[0]
    assert made[0][3] not in list(StreamedWriter(language).stream(prompts[0], 6, (made[0][3],), Sampling()))
    offloaded.residents.close()
    assert "loads" in describe_loads(offloaded)


def test_eval_scores_the_same_and_leaves_a_log(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["eval", str(folder), "--data", str(folder / "text.txt"), "--tokens", "60", "--window", "20", "--json"]
    assert run(asked) == 0
    whole = json.loads(capsys.readouterr().out)["scorecards"][0]
    assert run([*asked, "--memory", "400KB", "--loads", str(tmp_path / "loads.jsonl")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["scorecards"][0] == whole
    assert "visits found their expert in memory" in printed.err
    events = [json.loads(line)["event"] for line in (tmp_path / "loads.jsonl").read_text().splitlines()]
    assert {*events} == {"load", "use"}


def test_generate_writes_with_the_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", str(folder), "the cat", "--tokens", "4", "--memory", "400KB", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["provider"] == "checkpoint"
    assert len(made["tokens"]) <= 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--memory", "1KB"], "bytes are the least"),
        (["--memory", "much"], "much"),
        (["--loads", "x.jsonl"], "--memory"),
        (["--memory", "1MB", "--backend", "graph"], "--backend graph"),
        (["--memory", "1MB", "--device", "cuda"], "--device cuda"),
        (["--memory", "1MB", "--loads", "/nowhere/x.jsonl"], "/nowhere"),
    ],
)
def test_what_does_not_work_is_told_in_a_line(
    options: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", str(folder), "--data", str(folder / "text.txt"), *options]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in line
