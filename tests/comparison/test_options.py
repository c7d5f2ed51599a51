"""What is wrong with a comparison is said in one line before anything is measured, and nothing is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphprune.cli.main import run
from graphprune.comparison.options import CompareOptions, overlap, read_tokens
from graphprune.data.calibration import held_out_part, training_part

Options = Callable[..., CompareOptions]
LINE = "MODEL --methods taylor --targets 80% --data DATA --held-out TEXT --window 32 -o OUT"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("taylor", "tailor", "no method is named 'tailor'; did you mean taylor?"),
        ("taylor", "taylor{oder=2}", "taylor has no option 'oder'; did you mean order?"),
        ("taylor", "taylor,taylor", "--methods has taylor twice; name each once"),
        ("taylor", "taylor,taylor=magnitude", "two methods are called 'taylor'; name one"),
        ("taylor", "dense=magnitude", "a row is called dense in any case"),
        ("taylor", "adapt-pruner+uniform", "adapt-pruner is a recipe and has its parts"),
        ("taylor", "taylor{order=2}+a+b+c", "is no method; write importance+allocation+compensation"),
        ("taylor", "magnitude+uniforn", "no graphprune.allocation plug-in is named 'uniforn'; did you mean uniform"),
        ("taylor", "./none.yaml", "no recipe at ./none.yaml"),
        ("taylor", "taylor+prune.stepz=3", "is no field of a recipe; did you mean steps?"),
        ("--methods taylor", "", "--methods names none"),
        ("80%", "80x", "'80x' is not a target"),
        ("80%", "120%", "the target '120%' is above the whole"),
        ("80%", "80%,8e1%", "--targets has 80% twice, written in two ways"),
        ("80%", "80% --train-tokens 0,x", "--train-tokens x: write 0 for no training, or 2M"),
        ("80%", "80% --seeds 0", "--seeds must be from 1 to 1000, not 0"),
        ("80%", "80% --jobs 0", "--jobs must be 1 or more, not 0"),
        ("80%", "80% --task-limit 5", "--task-limit is of --tasks, and none is named"),
        ("80%", "80% --tasks piqa_local", "piqa_local reads local files: pass --eval-data"),
        ("80%", "80% --tasks piqa_local --eval-data ./none", "no folder of evaluation data at none"),
        ("80%", "80% --device gpu7", "gpu7"),
        ("--held-out TEXT", "", "on what text? give --data to calibrate and train on, and --held-out"),
        ("TEXT", "DATA", "is (a part of)"),
        ("TEXT", "DATA#held-out", "is (a part of)"),
        ("TEXT", "COPY", "--held-out and --data hold the same text"),
        ("TEXT", "TEXT --search TEXT", "is (a part of)"),
        ("DATA --held-out TEXT", "stdlib --held-out stdlib:held-out", "or name another with --search"),
        ("--window 32", "--window 65", "windows of 65 tokens are longer than the model's context of 64"),
        ("--window 32", "--window 32 --stride 32", "--no-bos makes windows that share nothing"),
        ("-o OUT", "", "where to? give -o"),
        ("-o OUT", "-o MODEL", "MODEL is or holds the model"),
        ("-o OUT", "-o FULL", "FULL exists and holds no comparison"),
    ],
)
def test_a_mistake_is_one_line_and_costs_nothing(
    model: Path, tmp_path: Path, capsys: Any, old: str, new: str, said: str
) -> None:
    full, copy = tmp_path / "full", tmp_path / "copy.txt"
    full.mkdir()
    (full / "letter.txt").write_text("dear")
    copy.write_text((model / "text.txt").read_text())
    places = {"MODEL": model, "DATA": model / "text.txt", "TEXT": model / "val.txt"}
    places |= {"OUT": tmp_path / "out", "FULL": full, "COPY": copy}
    assert old in LINE
    words = LINE.replace(old, new, 1)
    for name, path in places.items():
        words, said = words.replace(name, str(path)), said.replace(name, str(path))
    assert run(["compare", *words.split()]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert said in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "text"), [("MODEL", "no model folder"), ("TEXT", "no text file at")])
def test_a_file_that_is_not_there_is_named(model: Path, tmp_path: Path, capsys: Any, name: str, text: str) -> None:
    words = LINE.replace(name, str(tmp_path / "none.txt")).replace("MODEL", str(model))
    for other, path in {"DATA": "text.txt", "TEXT": "val.txt"}.items():
        words = words.replace(other, str(model / path))
    assert run(["compare", *words.replace("OUT", str(tmp_path / "out")).split()]) == 1
    assert text in capsys.readouterr().err


def test_what_methods_see_is_what_compile_would_give_them(options: Options) -> None:
    """The third text is what `compile` holds out; the one that is reported on is neither."""
    plain, named = options(), options(search="search.txt")
    assert (plain.calibrated, plain.searched) == (training_part(plain.data, None), held_out_part(plain.data, None))
    assert (named.calibrated, named.searched) == (training_part(named.data, "search.txt"), "search.txt")


def test_parts_of_a_source_overlap_as_their_names_say(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    assert overlap(str(path), str(tmp_path / "." / "a.txt"))
    assert overlap("a.txt#train", "a.txt")
    assert not overlap("a.txt#train", "a.txt#held-out")
    assert not overlap("stdlib", "stdlib:held-out")
    assert not overlap("a.txt", "b.txt")


def test_no_tokens_are_a_number_of_tokens() -> None:
    assert [read_tokens(text) for text in ("0", "1k", "2M")] == [0, 1000, 2_000_000]
