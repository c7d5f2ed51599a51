"""Run files: what the options of compile say, read as the command line reads them, or refused in a line."""

import contextlib
import tempfile
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.errors import UsageError
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.run_file import CONSENTS, is_run_file, key_of, merge_run, read_run


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_values_are_those_of_the_command_line_whatever_yaml_makes_of_them(tmp_path: Path) -> None:
    text = """
model: demo
target-params: 6e8
pattern: 2:4
method: "no"
uniform: yes
samples: 0064
lr: 1e-3
protect: 4,2
prune: [mlp, attention]
backends: huggingface,ort{precision=int4,embeddings=true}
round_to: auto
compensation: none
held-out:
set: {recover.clip: 0.5, recover: {rows: 2}, prune.kinds: [mlp, residual]}
"""
    assert read_run(write(tmp_path, text)) == {
        "model": "demo",
        "target_params": "6e8",
        "pattern": "2:4",
        "method": "no",
        "uniform": True,
        "samples": 64,
        "lr": 1e-3,
        "protect": (4.0, 2.0),
        "prune": ("mlp", "attention"),
        "backends": ("huggingface", "ort{precision=int4,embeddings=true}"),
        "round_to": "auto",
        "compensation": "none",
        "settings": ("recover.clip=0.5", "recover.rows=2", "prune.kinds=[mlp, residual]"),
    }


def test_every_option_of_compile_is_a_key_but_those_that_a_person_alone_may_give(tmp_path: Path) -> None:
    for field in fields(CompileOptions):
        path = write(tmp_path, f"model: demo\n{key_of(field.name)}:\n" if field.name != "model" else "model: demo\n")
        if field.name in CONSENTS:
            with pytest.raises(UsageError, match=f"{key_of(field.name)} is for you to say"):
                read_run(path)
        else:
            assert read_run(path) == {"model": "demo"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no run file: it must hold options"),
        ("- a", "no run file: it must hold options"),
        ("target-params: 60%", "names no model; write a line model:"),
        ("model:\n", "names no model"),
        (
            "model: demo\ntargetparams: 60%",
            r"line 2: 'targetparams' is no option of compile; did you mean target-params\?",
        ),
        ("model: demo\n? [a]\n: b", "line 2: 'a list' is no option"),
        ("model: demo\nmodel: other", "line 2: model stands here a second time"),
        ("model: demo\nround-to: 8\nround_to: 9", "line 3: round_to stands here a second time"),
        ("model: [a, b]", "line 1: model is a list; write one value"),
        ("model: {a: b}", "line 1: model is a mapping; write one value"),
        ("model: demo\nsamples: many", "line 2: samples is 'many': input should be a valid integer"),
        ("model: demo\nuniform: perhaps", "line 2: uniform is 'perhaps': input should be a valid boolean"),
        ("model: demo\nprotect: a,b", "line 2: protect is 'a,b'"),
        ("model: demo\nprune: [[mlp]]", "line 2: prune is a list of what is no single value"),
        ("model: demo\nmethod: ''", "line 2: method is empty"),
        ("model: demo\nset: [{a: b}]", "line 2: set is a list of what is no single value"),
        ("model: &a demo\nmethod: *a", "line 2: not YAML: an alias"),
        ("model: demo\n---\nmodel: demo", "not YAML: but found another document"),
        ("model: 'demo", "not YAML"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("name: mine\nrecover: {lr: 1}", "line 1: 'name' is a field of a recipe"),
        ("#" * (1 << 20) + "\nmodel: demo", "larger than any run file is"),
    ],
)
def test_a_wrong_file_is_one_line_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError, match=said) as caught:
        read_run(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_no_tag_makes_anything(tmp_path: Path) -> None:
    mark = tmp_path / "made"
    told = read_run(
        write(tmp_path, f"model: !!python/object/apply:os.mkdir ['{mark}']\n".replace("['", "'").replace("']", "'"))
    )
    assert told == {"model": str(mark)}
    assert not mark.exists()


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"model: \xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        read_run(tmp_path / "run.yaml")
    with pytest.raises(UsageError, match=r"no run file at .*; `graphprune init` writes one"):
        read_run(tmp_path / "none.yaml")


@given(st.text(max_size=200))
def test_whatever_it_holds_it_is_read_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_bytes(f"model: demo\n{text}".encode("utf-8", "surrogatepass"))
        with contextlib.suppress(UsageError):
            assert read_run(path)["model"]


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there / "model", here):
        folder.mkdir(parents=True)
    (there / "text.txt").write_text("words")
    path = write(
        there, "model: model\ndata: text.txt=2,stdlib=1\nmethod: ./none.yaml\nheld-out: ./gone.txt\nout: ./small\n"
    )
    assert read_run(path, here) == {
        "model": "../there/model",
        "data": "../there/text.txt=2,stdlib=1",
        "method": "./none.yaml",
        "held_out": "../there/gone.txt",
        "out": Path("../there/small"),
    }
    assert read_run(path, there)["data"] == "text.txt=2,stdlib=1"


def test_what_is_given_beside_it_wins_and_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, "model: demo\ntarget-params: 60%\nsteps: 2\nprune: mlp\n")
    values, notes = merge_run(path, {"target_size": "1MB", "steps": 4, "prune": ("mlp",), "seed": 3})
    assert values == {"model": "demo", "target_size": "1MB", "steps": 4, "prune": ("mlp",), "seed": 3}
    assert notes == (
        f"target-params: left out, as the command line says; {path} has 60%",
        f"steps: 4, as the command line says; {path} has 2",
    )


@pytest.mark.parametrize(("name", "is_one"), [("run.yaml", True), ("a/b.yml", True), ("demo", False), ("org/m", False)])
def test_a_run_file_is_known_by_its_name(name: str, is_one: bool, tmp_path: Path) -> None:
    assert is_run_file(name) == is_one
    (tmp_path / "folder.yaml").mkdir()
    assert not is_run_file(str(tmp_path / "folder.yaml"))
