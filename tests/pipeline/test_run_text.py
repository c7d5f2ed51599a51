"""Run texts: what is printed of the options is read back as the same options."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.panels import PANELS
from graphprune.pipeline.run_file import CONSENTS, key_of, read_run
from graphprune.pipeline.run_text import run_again, run_template, values_of

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12).filter(str.strip)
VALUES = {
    "field": WORDS,
    "scope": WORDS,
    "pattern": st.sampled_from(["2:4", "50%"]),
    "seed": st.integers(0, 2**63 - 1),
    "lr": st.floats(1e-9, 1e9),
    "uniform": st.booleans(),
    "round_to": st.one_of(st.none(), st.just("auto"), st.integers(1, 512)),
    "protect": st.one_of(st.none(), st.tuples(st.floats(0, 9), st.floats(0, 9))),
    "within": st.one_of(st.none(), st.just(("attention=80%", "mlp=50%"))),
    "settings": st.lists(st.sampled_from(["recover.lr=1e-3", "a.b='x y'", "c=[1, 2]", "d={e: f}"])).map(tuple),
    "backends": st.just(("huggingface", "ort{precision=int4,embeddings=true}")),
    "device": st.just("cpu"),
    "memory": st.just("50%"),
    "part": st.just("text"),
}


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional=VALUES))
def test_what_is_written_is_read_as_the_same(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("run")
    options = replace(CompileOptions("demo", "60%", folder / "out"), **changes)
    (folder / "run.yaml").write_text(run_again(options), encoding="utf-8")
    read = read_run(folder / "run.yaml", folder)
    assert CompileOptions(**read, out=folder / "out") == options
    (folder / "run.yaml").write_text(run_template(values_of(options)), encoding="utf-8")
    assert CompileOptions(**read_run(folder / "run.yaml", folder)) == options


def test_it_says_what_to_run_and_what_was_left_at_its_default() -> None:
    text = run_again(CompileOptions("demo", "60%", Path("out"), trust_remote_code=True, overwrite=True))
    assert "graphprune compile run.yaml -o ANOTHER --trust-remote-code\n" in text
    assert "seed 0" in text
    assert [line for line in text.splitlines() if line and line[0] != "#"] == ["model: demo", "target-params: 60%"]


def test_a_key_is_never_written() -> None:
    plain = CompileOptions("demo", "60%", Path("out"))
    told = "proposer=https://me:pass@host/v1", "token=hf_AbCdEfGhIjKlMnOpQrSt"
    text = run_again(replace(plain, settings=told, method="mine"))
    assert "pass" not in text
    assert "hf_" not in text
    assert "https://host/v1" in text
    assert "# A key was left out of set;" in text


def test_a_template_has_a_line_for_every_option_but_consents() -> None:
    lines = run_template({"model": "demo"}).splitlines()
    for field in fields(CompileOptions):
        named = [line for line in lines if line.lstrip("# ").startswith(f"{key_of(field.name)}:")]
        assert bool(named) == (field.name not in (*CONSENTS, "dry_run", "out")), field.name
    assert all(f"# {title}" in lines for title in PANELS if title != "What to write")
