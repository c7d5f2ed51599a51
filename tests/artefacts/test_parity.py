"""Parity: artefacts loaded in a fresh process agree with the graph, and damage is noticed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from graphprune.artefacts.check_process import check_all, main
from graphprune.artefacts.parity import REFERENCE, check, check_and_go_on, save_reference
from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.backends.onnx.backend import Onnx
from graphprune.errors import ParityError
from graphprune.running.comparison import Check, Coarseness, compare, compare_tokens, in_fewer_bits, require
from graphprune.running.observations import greedy, reference
from graphprune.running.runners import graph_runner
from tests.support.tiny_llama import tiny_graph

CHECKS_BEGIN_ANEW = True


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generic checkpoint with its reference."""
    folder = tmp_path_factory.mktemp("parity") / "out"
    HuggingFace(form="generic").export(tiny_graph(), folder)
    save_reference(tiny_graph(), folder)
    return folder


def test_the_reference_is_deterministic_and_complete() -> None:
    one, other = reference(tiny_graph(), seed=3), reference(tiny_graph(), seed=3)
    assert all(torch.equal(one[name], other[name]) for name in one)
    names = {
        "prefill",
        "cached steps",
        "left-padded batch",
        "left-padded cached step",
        "greedy.tokens",
        "greedy.margins",
    }
    assert names <= set(one)
    assert len(one["greedy.tokens"]) == 48 - 12  # the context is smaller than 64 new tokens
    assert not torch.equal(one["prefill"], reference(tiny_graph(), seed=4)["prefill"])


def test_a_faithful_checkpoint_passes_in_a_fresh_process(out: Path) -> None:
    told: list[tuple[object, ...]] = []
    checks = check(out, lambda *entry, **_: told.append(entry))
    assert [entry[1:] for entry in told] == [(), *((n, 0, f"huggingface {c.name}") for n, c in enumerate(checks, 1))]
    assert [entry.name for entry in checks] == [
        "prefill", "cached steps", "left-padded batch", "left-padded cached step", "greedy tokens",
        "the card's call",
    ]  # fmt: skip
    assert all(entry.passed and entry.artefact == "huggingface" for entry in checks)
    require(checks)


def test_a_changed_weight_fails(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] *= 1.5
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ParityError, match="huggingface: "):
        require(list(check_all(tmp_path)))


@pytest.mark.parametrize("name", ["modeling_graphprune.py", "modules_graphprune.py", "program_graphprune.py"])
def test_foreign_code_is_not_run(out: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    code = tmp_path / name
    code.write_text(code.read_text() + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ParityError, match="differs from the file that this graphprune writes"):
        list(check_all(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_missing_or_damaged_reference_is_one_line(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="is missing"):
        list(check_all(tmp_path))
    (tmp_path / REFERENCE).parent.mkdir()
    (tmp_path / REFERENCE).write_bytes((out / REFERENCE).read_bytes()[:50])
    with pytest.raises(ParityError, match="is damaged"):
        list(check_all(tmp_path))


def test_the_fresh_process_reports_an_error_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "reference.safetensors is missing" in json.loads(capsys.readouterr().out)["error"]


def test_the_process_goes_on_with_a_prompt_when_it_has_checked(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    Onnx().export(tiny_graph(), tmp_path)
    checked = check_and_go_on(tmp_path, [5, 6, 7], 4)
    require(checked.checks)
    made, _ = greedy(graph_runner(tiny_graph()), torch.tensor([[5, 6, 7]]), 4)
    assert list(checked.made) == made.tolist()


def test_comparing_is_relative_to_the_largest_logit() -> None:
    wanted = torch.tensor([0.0, 200.0])
    assert compare("a", "b", wanted, wanted + 0.01).passed
    assert not compare("a", "b", wanted / 200, wanted / 200 + 0.01).passed
    assert not compare("a", "b", wanted, wanted[:1]).passed
    assert not compare("a", "b", wanted, wanted * torch.nan).passed


def test_greedy_tokens_may_differ_at_a_tie_only() -> None:
    expected = {
        "greedy.tokens": torch.tensor([5, 6, 7]),
        "greedy.margins": torch.tensor([1.0, 1e-6, 1.0]),
        "prefill": torch.ones(1),
    }
    assert compare_tokens("a", expected, [5, 6, 7]).passed
    assert compare_tokens("a", expected, [5, 9, 9]).passed
    assert not compare_tokens("a", expected, [4, 6, 7]).passed
    assert not compare_tokens("a", expected, [5, 6]).passed


def test_nothing_compared_is_a_failure() -> None:
    with pytest.raises(ParityError, match="no artefact"):
        require([])
    require([Check("onnx", "prefill", 0.0, 1e-4, 1.0, True)])


@pytest.mark.parametrize(
    ("difference", "state"), [(0.05, "ok"), (0.2, "care"), (0.6, "broken"), (float("nan"), "broken")]
)
def test_a_model_in_fewer_bits_is_as_good_or_coarse_or_broken(difference: float, state: str) -> None:
    check = in_fewer_bits(Check("onnx-int4", "prefill", difference, 1e-4, 1.0, False), Coarseness(0.1, 0.5))
    assert (check.state, bool(check.advice)) == (state, state == "care")
    if state == "broken":
        with pytest.raises(ParityError, match="leave it out, or take more bits"):
            require([check])


def test_other_tokens_of_a_model_in_fewer_bits_are_no_failure_and_not_ok() -> None:
    told = Check("onnx-int4", "greedy tokens", 62.0, 0.0, 1.0, False, "2 of 64 tokens equal")
    assert in_fewer_bits(told, Coarseness(0.1, 0.5)).state == "care"
    same = Check("onnx-int8", "greedy tokens", 0.0, 0.0, 1.0, True, "64 of 64 tokens equal")
    assert in_fewer_bits(same, Coarseness(0.1, 0.5)).state == "ok"
