"""Every command on a folder that somebody else filled: none of its code runs, nothing is asked, nothing is sent."""

import ast
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import graphprune
from graphprune.artefacts.export import export
from graphprune.artefacts.loading import generic_class, is_generic_form, require_own_code
from graphprune.cli.main import run
from graphprune.compiler.compile import capture_for_work
from graphprune.errors import ParityError
from graphprune.processes import child_command
from tests.support.hostile import edit, edit_graph, plant
from tests.support.tiny_language import save_model
from tests.support.tree import SOURCES, TREES

pytestmark = pytest.mark.xdist_group("consent")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_model(tmp_path_factory.mktemp("consent") / "model")
    (folder / "text.txt").write_text("the cat sees a dog . " * 200)
    return folder


@pytest.fixture(scope="module")
def compiled(source: Path) -> Path:
    """A generic checkpoint and an ONNX model."""
    out = source.with_name("out")
    export(capture_for_work(str(source), False), out, ("huggingface{form=generic}", "onnx"))
    assert is_generic_form(out)
    return out


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """No answer on stdin, and a note of every try to reach the network."""
    tried: list[str] = []

    def refuse(*address: object, **options: object) -> None:
        tried.append(str(address))
        raise OSError("no network")

    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield tried
    assert not tried


def commands(model: Path, out: Path, to: Path) -> dict[str, list[str]]:
    text = str(model / "text.txt")
    small = ["--target-params", "90%", "--data", text, "--importance", "magnitude", "-o", str(to)]
    return {
        "inspect": ["inspect", str(model)],
        "inspect OUT": ["inspect", str(out)],
        "explain": ["explain", str(model), "a:0", "b:0"],
        "compile": ["compile", str(model), *small],
        "compile OUT": ["compile", str(out), *small],
        "dry run": ["compile", str(model), *small, "--dry-run"],
        "verify": ["verify", str(out)],
        "generate": ["generate", str(out), "the cat", "--tokens", "3"],
        "bench": ["bench", str(out), "--runs", "1", "--context", "4", "--tokens", "2", "--against", str(model)],
        "eval": ["eval", str(model), "--data", text, "--bytes", "200"],
        "eval OUT": ["eval", str(out), "--data", text, "--bytes", "200", "--backend", "all"],
    }


NAMES = tuple(commands(Path(), Path(), Path()))


CASES = [(name, False) for name in NAMES] + [(n, True) for n in ("inspect", "compile", "generate", "verify", "eval")]


@pytest.mark.parametrize(("name", "named"), CASES)
def test_no_code_of_a_folder_runs(
    name: str,
    named: bool,
    source: Path,
    compiled: Path,
    tmp_path: Path,
    quiet: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sentinel, model, out = tmp_path / "ran", tmp_path / "model", tmp_path / "out"
    shutil.copytree(source, model)
    shutil.copytree(compiled, out)
    for folder in (model, out):
        plant(folder, sentinel, named)
    monkeypatch.chdir(out)  # no module is taken from where the user stands
    code = run(commands(model, out, tmp_path / "made")[name])
    assert not sentinel.exists()
    said = capsys.readouterr()
    assert "y/N" not in said.out + said.err
    assert "internal error" not in said.err
    if name == "explain":
        return
    if not named:
        assert code == 0, said.err
    elif code:
        assert said.err.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("name", ["modeling_graphprune.py", "program_graphprune.py"])
def test_changed_code_in_a_checkpoint_is_never_run(
    compiled: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`eval` needs none of it; `verify` says that it is not ours, since whoever trusts the folder runs it."""
    out, text = tmp_path / "out", tmp_path / "text.txt"
    shutil.copytree(compiled, out)
    text.write_text("the cat sees a dog . " * 50)
    (out / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert run(["eval", str(out), "--data", str(text), "--bytes", "200", "--backend", "checkpoint"]) == 0
    with pytest.raises(ParityError, match="differs from the file that this graphprune writes"):
        require_own_code(out)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_an_earlier_version_is_read(compiled: Path, tmp_path: Path) -> None:
    """It has another model type and other files of code, and needs neither."""
    shutil.copytree(compiled, tmp_path / "out")
    edit(tmp_path / "out" / "config.json", model_type="graphprune")
    assert generic_class(tmp_path / "out").__name__ == "GraphpruneForCausalLM"
    assert run(["inspect", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("name", ["GraphpruneConfig", "Program", "os", "", 3])
def test_a_class_that_is_none_of_ours_is_refused(compiled: Path, tmp_path: Path, name: object) -> None:
    shutil.copytree(compiled, tmp_path / "out")
    edit(tmp_path / "out" / "config.json", architectures=[name])
    with pytest.raises(ParityError, match="names no class of graphprune's"):
        generic_class(tmp_path / "out")


def test_a_harmful_graph_is_refused_by_every_command(
    source: Path, compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(compiled, out)
    run_it = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"
    edit_graph(out, lambda graph: graph["nodes"][-1][2].__setitem__(f"{run_it}, a", 1))
    for name in ("inspect OUT", "compile OUT", "eval OUT", "verify"):
        assert run(commands(source, out, tmp_path / "made")[name]) == 1
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert "takes no the argument" in last or "cannot be loaded or run" in last
    assert not (tmp_path / "ran").exists()


def outside(program: str, home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a program as a user without graphprune, with nothing on stdin."""
    hide = f"import sys; sys.modules['graphprune'] = None; sys.path = [p for p in sys.path if p]\n{program}"
    environment = {**os.environ, "HOME": str(home), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", "-W", "ignore", "-c", hide, *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, check=False
    )


def test_the_tokenizer_of_our_output_opens_without_a_question(compiled: Path, tmp_path: Path) -> None:
    program = (
        "from transformers import AutoTokenizer, AutoModelForCausalLM\n"
        "print(AutoTokenizer.from_pretrained(sys.argv[1])('the cat')['input_ids'])\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(type(model).__name__)\n"
        "try: AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=False)\n"
        "except ValueError: print('refused')\n"
    )
    done = outside(program, tmp_path, str(compiled))
    assert done.stdout.splitlines() == ["[1, 3, 5]", "GraphpruneForCausalLM", "refused"], done.stderr


def test_nothing_is_kept_under_the_users_home(compiled: Path, tmp_path: Path) -> None:
    """onnxruntime would keep the device's id there, to send it."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "ORT_", "XDG_"))}
    command = child_command("graphprune.artefacts.parity", str(compiled))
    done = subprocess.run(command, capture_output=True, text=True, env={**environment, "HOME": str(home)}, check=True)
    assert all(check["passed"] for check in json.loads(done.stdout.splitlines()[-1])["checks"])
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_telemetry_is_off_before_anything_can_send() -> None:
    assert graphprune.__file__
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


# Loaders that run no code, whatever they read: a configuration by its own class.
CODELESS = {"GraphpruneConfig.from_pretrained", "type(config).from_pretrained"}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_loader_is_told_whether_to_trust(name: str) -> None:
    """By name and never `True` for good: where it is left out, transformers asks on stdin."""
    for call in (node for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        if called.endswith((".from_pretrained", ".from_config")) and called not in CODELESS:
            told = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert {"trust_remote_code", None} & told.keys(), f"{name}: {ast.unparse(call)}"
        for keyword in call.keywords:
            assert (keyword.arg, ast.unparse(keyword.value)) != ("trust_remote_code", "True"), name
