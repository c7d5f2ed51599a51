"""`graphprune compile` and `apply`: every option of the library has one, and an interruption says how to go on."""

import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import pytest

from graphprune.cli import compilation
from graphprune.cli.compilation import apply_command, compile_command, read_rounding, run_compile
from graphprune.cli.main import call, run
from graphprune.errors import InterruptedRunError, UsageError
from graphprune.ir.plan import Plan
from graphprune.pipeline.options import ApplyOptions, CompileOptions, work_folder
from graphprune.reporting.results import Result

Asked = list[Any]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Asked]:
    """An engine that notes what it is asked for, and answers or fails as it is told."""

    def install(answer: Any) -> Asked:
        asked: Asked = []

        def act(options: Any, progress: Any, began: float, spare: Any) -> Any:
            asked.append(options)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        module = types.ModuleType("graphprune.compiler.compile")
        module.__dict__.update(compile_model=act, apply_plan=act)
        monkeypatch.setitem(sys.modules, "graphprune.compiler.compile", module)
        return asked

    return install


def test_every_option_of_the_library_is_one_of_the_command_and_has_its_default(engine: Any, tmp_path: Path) -> None:
    asked = engine(Result(None))
    plain = CompileOptions("demo", "60%", tmp_path / "x")
    assert run(["compile", "demo", "--target-params", "60%", "-o", str(tmp_path / "x")]) == 0
    assert asked == [plain]
    words = {"settings": "--set", "runtime": "--for", "out": "--out", "model": ""}
    names = {words.get(field.name, f"--{field.name.replace('_', '-')}") for field in fields(CompileOptions)}
    parameters = inspect.signature(compile_command).parameters
    assert len(parameters) == len(names) + 2, "and --json, and the context"


def test_settings_are_many_and_prune_is_a_list(engine: Any, tmp_path: Path) -> None:
    asked = engine(Result(None))
    text = tmp_path / "b.txt"
    text.write_text("words")
    line = ["compile", "demo", "-o", str(tmp_path / "x"), "--target-size", "onnx:1MB"]
    line += ["--method", "adapt-accel", "--train-tokens", "2M", "--set", "recover.clip=1", "--set", "recover.rows=2"]
    assert run([*line, "--prune", "mlp, experts", "--round-to", "auto", "--lr", "1e-3", "--held-out", str(text)]) == 0
    (found,) = asked
    assert (found.settings, found.prune, found.round_to) == (
        ("recover.clip=1", "recover.rows=2"),
        ("mlp", "experts"),
        "auto",
    )
    assert (found.target, found.lr, found.held_out) == (("--target-size", "onnx:1MB"), 1e-3, str(text))


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("8", 8), ("064", 64)])
def test_a_rounding_is_a_number_or_measured(text: str, value: Any) -> None:
    assert read_rounding(text) == value


@pytest.mark.parametrize("text", ["-8", "8.0", "Auto", "", "8x"])
def test_another_rounding_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--round-to is a whole number or auto, not {text}"):
        read_rounding(text)


def test_an_interrupted_run_that_kept_its_state_says_how_to_go_on(engine: Any, tmp_path: Path) -> None:
    engine(KeyboardInterrupt())
    command = ["compile", "demo", "--target-params", "60%", "-o", str(tmp_path / "x")]
    with pytest.raises(KeyboardInterrupt):
        call(command)
    work_folder(tmp_path / "x").mkdir()
    with pytest.raises(InterruptedRunError) as caught:
        call(command)
    assert str(caught.value) == (
        f"interrupted; the same command goes on from {tmp_path / '.x.graphprune-run'}, with --restart it begins again"
    )


@pytest.mark.parametrize("old", [True, False])
def test_a_stop_between_the_writing_and_the_end_says_that_out_is_there(
    old: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever runs then: the memory that is freed, the last line of the progress, the printing, an upload."""
    out = tmp_path / "out"
    if old:
        out.mkdir()

    def done(*_: object) -> NoReturn:
        (tmp_path / "new").mkdir()
        (tmp_path / "new").replace(out)
        raise KeyboardInterrupt

    monkeypatch.setattr(compilation, "run_compile", done)
    with pytest.raises(InterruptedRunError, match="out was complete before: it is new and whole"):
        call(["compile", "demo", "--target-params", "60%", "-o", str(out)])


def test_a_dry_run_that_is_interrupted_has_kept_nothing(engine: Any) -> None:
    engine(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_compile(CompileOptions("demo", "60%", dry_run=True))


def test_a_dry_run_may_name_an_out_that_exists(engine: Any, tmp_path: Path) -> None:
    asked = engine(Result(None))
    (tmp_path / "letter.txt").write_text("dear")
    line = ["compile", "demo", "-o", str(tmp_path), "--target-params", "60%"]
    assert run([*line, "--dry-run"]) == 0
    assert len(asked) == 1
    assert run(line) == 2
    assert len(asked) == 1, "an out in the way is told before any work"


def test_of_several_processes_the_first_prints(engine: Any, monkeypatch: Any, capsys: Any, tmp_path: Path) -> None:
    engine(Result(tmp_path, notes=("here",)))
    line = ["compile", "demo", "-o", str(tmp_path / "x"), "--target-params", "60%"]
    for rank, said in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert run(line) == 0
        assert ("note: here" in capsys.readouterr().out) == said


def test_apply_needs_a_place_that_is_free(engine: Any, tmp_path: Path) -> None:
    asked, plan = engine(Result(None)), tmp_path / "plan.json"
    plan.write_text(Plan().to_json())
    with pytest.raises(UsageError, match="where to\\? give -o OUT"):
        apply_command(plan, "demo")
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="exists; pass --overwrite"):
        apply_command(plan, "demo", tmp_path)
    assert asked == []
    apply_command(plan, "demo", tmp_path / "x", "onnx,ort{precision=int4}", trust_remote_code=True)
    backends = ("onnx", "ort{precision=int4}")
    assert asked == [ApplyOptions("demo", plan, tmp_path / "x", backends, trust_remote_code=True)]
