import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
import typer

from graphprune.artefacts.outputs import check_output, write_record
from graphprune.cli import main, running
from graphprune.errors import BudgetError, PassError
from graphprune.evaluation.measure import Measure
from graphprune.ir.plan import Plan
from graphprune.pipeline.options import ApplyOptions, CompileOptions
from graphprune.progress import Progress
from graphprune.reporting.results import Result, Width
from graphprune.running.comparison import Check

Capture = pytest.CaptureFixture[str]
RESULT = Result(
    out=Path("small"),
    measures=(
        Measure("parameters", 1000, 600),
        Measure("file size", 4 << 20, 2 << 20, "bytes"),
        Measure("x", None, None),
    ),
    widths=(Width("mlp.up:0", "mlp", "layers.0", 20, 12), Width("kept:0", "mlp", "layers.1", 20, 20)),
    dropped=("layers.1.attention",),
    checks=(Check("onnx", "prefill", 1e-6, 1e-4, 1.0, True),),
    notes=("the residual width shrinks too",),
    sample="def f():",
    report={"parameters": 600},
)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """An engine that notes what it is asked for and answers at once: the command line alone is under test."""
    asked: list[Any] = []

    def answer(options: Any, progress: Progress, began: float, spare: Any) -> Result:
        asked.append(options)
        progress("cutting [bold]", 1, 2)
        return RESULT

    def check(out: Path, _: Progress) -> list[Check]:
        return [*RESULT.checks, Check("huggingface", "cached steps", float("inf"), 1e-4, 1.0, "bad" not in out.name)]

    module = types.ModuleType("graphprune.compiler.compile")
    module.__dict__.update(compile_model=answer, apply_plan=answer)
    monkeypatch.setattr("graphprune.artefacts.parity.check", check)
    monkeypatch.setitem(sys.modules, "graphprune.compiler.compile", module)
    return asked


@pytest.fixture(scope="session")
def config_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "model"
    transformers.LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=29,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    ).save_pretrained(folder)
    return folder


def test_options_arrive_as_they_were_typed(engine: list[Any], tmp_path: Path, capsys: Capture) -> None:
    line = f"compile demo -o {tmp_path / 'x'} --target-params 60% --prune mlp,attention --round-to 8 --floor 0.25"
    line += " --importance taylor{aggregate=vector,gradients=sample} --steps 3 --backends onnx{opset=21,keep_half=true}"
    assert main.run([*line.split(), "--uniform", "--statistics", "exact", "--seed", "7", "--samples", "4"]) == 0
    assert engine == [
        CompileOptions(
            model="demo",
            target_params="60%",
            out=tmp_path / "x",
            prune=("mlp", "attention"),
            round_to=8,
            floor=0.25,
            importance="taylor{aggregate=vector,gradients=sample}",
            steps=3,
            backends=("onnx{opset=21,keep_half=true}",),
            uniform=True,
            statistics="exact",
            seed=7,
            samples=4,
        )
    ]
    printed = capsys.readouterr()
    assert "mlp.up:0" in printed.out
    assert "kept:0" not in printed.out, "only what changed is listed"
    assert "4.00 MiB" in printed.out
    assert "0.600" in printed.out
    assert "note: the residual width shrinks too" in printed.out
    assert "written to small" in printed.out
    assert printed.err == "cutting [bold]\n"


def test_json_is_one_object_on_stdout(engine: list[Any], tmp_path: Path, capsys: Capture) -> None:
    assert main.run(["compile", "demo", "-o", str(tmp_path / "x"), "--target-params", "60%", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["out"] == "small"
    wanted = {"name": "parameters", "before": 1000, "after": 600, "unit": ""}
    assert data["measures"][0].items() >= wanted.items()
    assert data["report"] == {"parameters": 600}


def test_apply_takes_a_plan_and_a_model(engine: list[Any], tmp_path: Path) -> None:
    out, plan = tmp_path / "x", tmp_path / "plan.json"
    plan.write_text(Plan().to_json())
    assert main.run(["apply", str(plan), "demo", "-o", str(out), "--backends", "onnx"]) == 0
    assert engine == [ApplyOptions("demo", plan, out, ("onnx",))]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("compile", "Missing argument 'MODEL'. See graphprune compile --help"),
        ("compile demo -o x", "how small? give one of --target-params, --target-size"),
        ("compile demo -o x --target-params 60% --target-speed 2x", "not --target-params and --target-speed"),
        ("compile demo -o x --target-params 60% --round-to even", "--round-to is a whole number or auto, not even"),
        ("compile demo --target-params 60%", "where to? give -o OUT, or --dry-run"),
        ("compile demo -o x --target-params 60% --prune mpl", "--prune does not know 'mpl'; did you mean mlp?"),
        ("compile demo -o x --target-params 60% --prune auto,mlp", "--prune auto stands alone"),
        ("compile demo -o x --target-params 60% --steps 0", "--steps must be 1 or more, not 0"),
        ("compile demo -o x --target-params 60% --floor 1", "--floor is the share"),
        ("compile demo -o x --target-params 60% --statistics mean", "Invalid value for '--statistics'"),
        (
            "compile demo -o x --target-params 60% --statistics exakt",
            "'exakt' is not one of 'survivors', 'exact'. Did you",
        ),
        ("compile demo -o x --target-params 60% --for vlm", "'--for': 'vlm' is not one of 'vllm', 'sglang',"),
        ("inspect demo --for vlm", "Did you mean vllm? See graphprune inspect --help"),
        ("compile demo -o x --target-params 60% --sed 1", "No such option: --sed"),
        ("apply plan.json demo", "where to? give -o OUT"),
        ("verify no-such-folder", "no folder at no-such-folder"),
        ("generate no-such-folder hello", "no folder at no-such-folder"),
        ("list importances", "list does not know 'importances'; did you mean importance?"),
        ("compil", "No such command 'compil'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    engine: list[Any], line: str, message: str, capsys: Capture
) -> None:
    assert main.run(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert engine == []


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PassError("the pass prune failed:\n  no"), 1, "error: the pass prune failed: no\n"),
        (BudgetError("the least is 10"), 2, "error: the least is 10\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; nothing was written\n"),
        (
            ZeroDivisionError("by zero\nmore"),
            1,
            "error: internal error: ZeroDivisionError: by zero; run again with --debug",
        ),
    ],
)
def test_every_error_is_one_line(
    error: BaseException, code: int, message: str, engine: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(sys.modules["graphprune.compiler.compile"], "compile_model", raising(error))
    assert main.run(["compile", "demo", "--target-params", "60%", "--dry-run"]) == code
    assert capsys.readouterr().err.startswith(message)


def test_debug_shows_where_it_happened(engine: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules["graphprune.compiler.compile"], "compile_model", raising(ZeroDivisionError("by zero"))
    )
    with pytest.raises(ZeroDivisionError):
        main.run(["compile", "demo", "--target-params", "60%", "--dry-run", "--debug"])


def test_an_existing_out_is_not_touched(engine: list[Any], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    line = ["compile", "demo", "-o", str(tmp_path), "--target-params", "60%"]
    assert main.run(line) == 2
    assert "exists; pass --overwrite" in capsys.readouterr().err
    assert main.run([*line, "--overwrite"]) == 2
    assert "was not written by graphprune and is not overwritten" in capsys.readouterr().err
    assert engine == []
    write_record(tmp_path, [{"path": "letter.txt"}])
    check_output(tmp_path, overwrite=True)
    assert main.run([*line, "--overwrite"]) == 0


def test_verify_reports_each_check_and_fails_with_them(engine: list[Any], tmp_path: Path, capsys: Capture) -> None:
    for name, code in (("good", 0), ("bad", 1)):
        (tmp_path / name / "graphprune").mkdir(parents=True)
        (tmp_path / name / "graphprune" / "reference.safetensors").touch()
        assert main.run(["verify", str(tmp_path / name)]) == code
    printed = capsys.readouterr()
    assert "cached steps" in printed.out
    assert "BROKEN" in printed.out
    assert printed.err.endswith("\nerror: 1 of 2 checks failed: huggingface cached steps; compile it again\n")
    assert main.run(["verify", str(tmp_path / "bad"), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["passed"] is False
    assert data["checks"][1]["difference"] is None, "infinity has no JSON form"


def test_help_and_version(capsys: Capture) -> None:
    assert main.run([]) == 0
    assert "compile" in capsys.readouterr().out
    for command in ("compile", "apply", "inspect", "explain", "verify", "generate", "list"):
        assert main.run([command, "--help"]) == 0
    assert "Examples" in capsys.readouterr().out
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.strip().count(".") == 2


def test_list_shows_names_and_options(capsys: Capture) -> None:
    assert main.run(["list", "importance", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["importance"]
    assert {"magnitude", "random", "taylor"} <= {row["name"] for row in rows}
    assert "gradients (batch or sample" in next(row["options"] for row in rows if row["name"] == "taylor")
    assert main.run(["list", "axis_rules"]) == 0
    assert capsys.readouterr().out == "none is installed\n"


def test_inspect_needs_only_a_configuration(config_only: Path, capsys: Capture) -> None:
    assert main.run(["inspect", str(config_only), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    mlp = [group for group in data["groups"] if group["kind"] == "mlp"]
    assert [(group["units"], group["parameters_per_unit"]) for group in mlp] == [(20, 3 * 16)]
    attention = [group for group in data["groups"] if group["kind"] == "attention"]
    assert [group["units"] for group in attention] == [2]
    assert data["parameters"] == sum(p.numel() for p in skeleton(config_only).parameters())


def test_inspect_lists_the_passes_that_made_the_graph(config_only: Path, capsys: Capture) -> None:
    assert main.run(["inspect", str(config_only), "--passes", "--json"]) == 0
    passes = {entry["name"]: entry["did"] for entry in json.loads(capsys.readouterr().out)["passes"]}
    assert next(iter(passes)) == "dense_rows"
    assert "calls traced" in passes["export"]
    assert main.run(["inspect", str(config_only), "--passes"]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows if row and row[0] in passes] == list(passes)
    assert {row[1].strip() for row in rows if row and passes.get(row[0]) == ""} == {"-"}


def skeleton(folder: Path) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(folder))


class Bytes:
    """A tokenizer whose tokens are bytes, so that a character can take several."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return bytes(tokens).decode(errors="replace")


def test_a_character_of_several_tokens_is_printed_once_it_is_whole() -> None:
    text = "aé漢b"
    ids, *rest = text.encode()
    pieces = list(running.decode_stream(Bytes(), [ids], iter(rest)))
    assert pieces == ["a", "é", "漢", "b"]


def test_a_command_has_its_own_parameters_and_the_others_their_help() -> None:
    every, one = (vars(typer.main.get_command(main.make_app(asked)))["commands"] for asked in (None, "sweep"))
    assert {name: command.help for name, command in one.items()} == {n: command.help for n, command in every.items()}
    assert len(one["sweep"].params) == len(every["sweep"].params) > 10
    assert len(one["compile"].params) < len(every["compile"].params)


@pytest.mark.parametrize("arguments", [["sweep", "--help"], ["--debug", "sweep", "--help"], ["sweep", "demo", "-h"]])
def test_help_is_that_of_the_command_asked_for(arguments: list[str], capsys: Capture) -> None:
    assert main.run(arguments) == 0
    assert "--targets" in capsys.readouterr().out
