"""A comparison from its cells to its files: what is kept, what a stop loses, what is refused, what a failure leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphprune.artefacts.outputs import check_output
from graphprune.cli.main import run
from graphprune.comparison.compare import command_line, compare, failures, without_folder
from graphprune.comparison.kept import read_cell, request_of
from graphprune.comparison.options import CompareOptions
from graphprune.comparison.schema import Comparison, json_schema
from graphprune.errors import BudgetError, GraphpruneError, UsageError
from tests.support.tree import ROOT

Options = Callable[..., CompareOptions]
Asked = Callable[[], list[str]]


def line_of(options: CompareOptions) -> list[str]:
    """The command line of options, with whole paths."""
    line = ["compare", options.model, "--methods", ",".join(options.methods), "--targets", ",".join(options.targets)]
    line += ["--data", str(options.data), "--held-out", str(options.held_out), "--window", str(options.window)]
    line += ["--samples", str(options.samples), "--length", str(options.length), "--seeds", str(options.seeds)]
    return [*line, "-o", str(options.out)]


def test_every_method_has_a_row_for_every_size_and_the_same_command_measures_nothing_again(
    options: Options, stand_in: Asked
) -> None:
    asked = options(seeds=2, train_tokens=("0", "1k"))
    found = compare(asked)
    cells = [f"{m} {t} {s}" for s in (0, 1) for _ in range(2) for t in ("80%", "60%") for m in ("magnitude", "taylor")]
    assert stand_in() == ["dense 100% 0", *cells]
    assert [(r.tokens, r.target, r.method) for r in found.rows[:3]] == [
        (0, "80%", "magnitude"),
        (0, "80%", "taylor"),
        (0, "60%", "magnitude"),
    ]
    assert all(row.state == "ok" and row.seeds == 2 for row in found.rows)
    out = asked.out
    assert out is not None
    assert sorted(path.name for path in out.iterdir()) == [
        "cells",
        "compare.html",
        "compare.json",
        "compare.md",
        "graphprune",
    ]
    assert Comparison.model_validate_json((out / "compare.json").read_text()) == found
    assert compare(asked).rows == found.rows
    assert len(stand_in()) == 17, "all cells were there"
    check_output(out, True)  # what any command may replace: all files are on the list


def test_a_kill_loses_no_more_than_the_cell_at_work(
    options: Options, stand_in: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = options(seeds=2)
    assert asked.out is not None
    monkeypatch.setenv("STAND_IN", '{"taylor": "sleeps"}')
    code = "from graphprune.comparison import running; running.WORKER = 'tests.support.stand_in_cell'\n"
    code += f"from graphprune.cli import main; main.run({line_of(asked)!r})"
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stderr=subprocess.PIPE, cwd=ROOT) as process:
        wait_until(lambda: "taylor 80% 0" in stand_in())
        process.send_signal(signal.SIGKILL)
    log = Path(os.environ["STAND_IN_LOG"])
    at_work = int(log.read_text().splitlines()[-1].rpartition(" ")[2])
    wait_until(lambda: not is_alive(at_work))
    kept = sorted((asked.out / "cells").glob("*.json"))
    assert len(kept) == 2, "the dense model and one cell"
    log.unlink()
    monkeypatch.setenv("STAND_IN", "{}")
    assert run(line_of(asked)) == 0
    assert stand_in() == [
        "taylor 80% 0",
        "magnitude 60% 0",
        "taylor 60% 0",
        "magnitude 80% 1",
        "taylor 80% 1",
        "magnitude 60% 1",
        "taylor 60% 1",
    ]
    assert len(list((asked.out / "cells").iterdir())) == 9, "and nothing half-written is left"


def wait_until(true: Callable[[], bool], most: float = 120.0) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < most, "it never came to that"
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_model_above_its_target_is_refused_and_not_compared(
    options: Options, stand_in: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", '{"magnitude": "above"}')
    asked = options(targets=("80%",))
    found = compare(asked)
    assert asked.out is not None
    assert [(row.method, row.state, row.best) for row in found.rows] == [
        ("magnitude", "above", False),
        ("taylor", "ok", True),
    ]
    assert "| magnitude | *refused* |" in (asked.out / "compare.md").read_text()
    assert "more parameters than the target" in (asked.out / "compare.html").read_text()
    assert stand_in()[1:] == ["magnitude 80% 0", "taylor 80% 0"]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("fails", "the pass prune failed: no reason given"),
        ("dies", "its process was killed, as systems do where memory runs out; lower --samples or --length, or --jobs"),
        ("ends", "its process ended with code 1: it could not go on"),
    ],
)
def test_a_cell_that_fails_is_named_and_the_others_go_on(
    options: Options, stand_in: Asked, monkeypatch: pytest.MonkeyPatch, capsys: Any, what: str, said: str
) -> None:
    monkeypatch.setenv("STAND_IN", json.dumps({"magnitude": what}))
    asked = options()
    assert run(line_of(asked)) == 1
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1] == (
        f"error: 2 of 5 cells failed: magnitude: {said}; the same command tries them again"
    )
    assert re.search(r"taylor\s+1.600 \*\s+2.200 \*", shown.out)
    assert f"note: magnitude at 80%, 60%: {said}" in shown.out
    monkeypatch.setenv("STAND_IN", "{}")
    assert failures(compare(asked)) == ""
    assert stand_in()[5:] == ["magnitude 80% 0", "magnitude 60% 0"]


def test_where_the_model_itself_cannot_be_measured_nothing_is_left(
    options: Options, stand_in: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", '{"dense": "fails"}')
    asked = options()
    with pytest.raises(GraphpruneError, match="the model itself cannot be measured, so nothing is compared: the pass"):
        compare(asked)
    assert asked.out is not None
    assert not asked.out.exists()
    assert stand_in() == ["dense 100% 0"]


def test_another_comparison_takes_the_place_where_that_is_asked_for(options: Options, stand_in: Asked) -> None:
    compare(options())
    more = options(methods=("magnitude", "taylor", "second=taylor+uniform", "obs"))
    with pytest.raises(UsageError, match="taylor is a recipe"):
        compare(more)
    more = options(methods=("magnitude", "same=taylor", "obs"))
    with pytest.raises(UsageError, match=r"holds another comparison .* --overwrite replaces"):
        compare(more)
    found = compare(options(methods=more.methods, overwrite=True))
    assert stand_in()[5:] == ["obs 80% 0", "obs 60% 0"], "cells are known by what they are, not by their names"
    assert [row.method for row in found.rows[:3]] == ["magnitude", "same", "obs"]
    compare(options(methods=more.methods, restart=True))
    assert len(stand_in()) == 7 + 7


def test_a_target_above_the_model_is_told_once_its_size_is_known(options: Options, stand_in: Asked) -> None:
    asked = options(targets=("80%", "2M"))
    with pytest.raises(BudgetError, match=r"the target '2M' \(2,000,000\) is above the model's 1,000,000; lower it"):
        compare(asked)
    assert stand_in() == ["dense 100% 0"]


def test_names_of_files_may_hold_any_bytes(options: Options, stand_in: Asked, model: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"se\xffen.txt")
    text = tmp_path / name
    text.write_bytes((model / "val.txt").read_bytes())
    recipe = tmp_path / os.fsdecode(b"r\xfe.yaml")
    recipe.write_text("name: größe\nprune: {importance: magnitude}\n")
    asked = options(held_out=str(text), methods=(str(recipe), "taylor"))
    found = compare(asked)
    assert found.text.held_out == "se?en.txt"
    assert [method.name for method in found.methods] == ["größe", "taylor"]
    assert failures(found) == ""
    compare(asked)
    assert len(stand_in()) == 5


def test_a_damaged_cell_is_measured_again(options: Options, stand_in: Asked) -> None:
    asked = options()
    compare(asked)
    assert asked.out is not None
    path = sorted((asked.out / "cells").iterdir())[0]
    path.write_text(path.read_text()[:-40])
    compare(asked)
    assert len(stand_in()) == 6


def test_cells_of_other_code_are_said(options: Options, stand_in: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = options()
    compare(asked)
    monkeypatch.setattr("graphprune.comparison.compare.code_hash", lambda: "other")
    assert compare(asked).notes == [
        "5 of 5 cells were measured by another state of graphprune's code than the present one, of the same version; "
        "--restart measures them anew"
    ]
    assert len(stand_in()) == 5


def test_several_cells_at_once_give_the_same_table(options: Options, stand_in: Asked, tmp_path: Path) -> None:
    one, two = compare(options()), compare(options(jobs=3, out=tmp_path / "two"))
    assert one.rows == two.rows
    assert len(stand_in()) == 10


def test_a_dry_run_lists_the_cells_and_writes_nothing(
    options: Options, stand_in: Asked, capsys: Any, tmp_path: Path
) -> None:
    asked = options(targets=("80%",))
    assert run([*line_of(asked), "--dry-run"]) == 0
    assert "3 to measure; dry run: nothing was written" in capsys.readouterr().out
    assert stand_in() == []
    assert not (tmp_path / "out").exists()
    compare(asked)
    assert run([*line_of(asked), "--dry-run", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["cells"]
    assert [(cell["method"], cell["state"]) for cell in listed] == [
        ("dense", "there"),
        ("magnitude", "there"),
        ("taylor", "there"),
    ]


def test_nothing_says_where_the_files_lie(options: Options, stand_in: Asked, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\nprune: {importance: magnitude}\n")
    asked = options(methods=("taylor", f"x={recipe}+prune.steps=2"))
    compare(asked)
    assert asked.out is not None
    assert stand_in()
    for name in ("compare.md", "compare.html", "compare.json"):
        text = (asked.out / name).read_text()
        assert str(tmp_path) not in text
        assert asked.model not in text
    said = command_line(asked)
    assert "--methods taylor,x=mine.yaml+prune.steps=2" in said
    assert "--data text.txt --held-out val.txt --samples 8 --length 16 --window 32" in said
    assert without_folder("a=taylor{x='/b'}") == "a=taylor{x='/b'}"


def test_a_cell_is_read_under_the_name_of_the_table(options: Options, stand_in: Asked) -> None:
    from graphprune.comparison.compare import prepare

    asked = options()
    compare(asked)
    assert asked.out is not None
    plans = prepare(asked).plans
    assert stand_in()
    assert [cell.method for plan in plans if (cell := read_cell(asked.out, plan))] == [plan.method for plan in plans]
    assert request_of(plans) != request_of(plans[1:])


def test_cells_from_before_there_were_peaks_of_devices_are_used(options: Options, stand_in: Asked) -> None:
    asked = options(methods=("magnitude",), targets=("80%",))
    found = compare(asked)
    assert asked.out is not None
    for path in (asked.out / "cells").glob("*.json"):
        cell = json.loads(path.read_text())
        del cell["measured"]["device_peak"]
        path.write_text(json.dumps(cell))
    before = len(stand_in())
    assert compare(asked).rows == found.rows
    assert len(stand_in()) == before, "nothing is measured again"


def test_the_schema_is_printed() -> None:
    assert {"cells", "rows", "dense"} <= json.loads(json_schema())["properties"].keys()
