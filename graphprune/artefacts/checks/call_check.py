"""The check of the calls that a model's card shows: each is run as it stands there, in the model's folder."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from graphprune.artefacts.example_calls import TRUST, example_calls
from graphprune.errors import ForeignError, first_line, foreign_code
from graphprune.generic.auto_classes import register
from graphprune.running.comparison import Check

NAME = "the card's call"
UNTRIED = "a call of its card was not run: install what it needs, then `graphprune verify OUT`"


def check_calls(out: Path, expected: Mapping[str, Tensor], kind: str) -> Iterator[Check]:
    """Run the calls of a checkpoint; where one needs a library that is not installed, that is said, with what to do.

    The generic class is registered in this process, so nothing that lies in the folder is run: `trust_remote_code`
    alone is left out of the lines.
    """
    register()  # it may have been imported by name before, half way through transformers' own modules
    for call in example_calls(out, expected, kind):
        failure = run_call(out, call.replace(TRUST, ""))
        missing = isinstance(failure, ImportError)
        said = [] if failure is None else ["not run here: " if missing else "it fails: ", describe(failure)]
        passed = failure is None or missing
        off, detail = 0.0 if passed else float("inf"), "".join(said) or used(call)
        yield Check("huggingface", NAME, off, 0.0, 1.0, passed, detail, UNTRIED if missing else "")


def run_call(out: Path, call: str) -> Exception | None:
    """Run a piece of Python in a folder and return what it raised."""
    try:
        with contextlib.chdir(out), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with foreign_code():
                exec(compile(call, "the card's call", "exec"), {"__name__": "card"})
    except ForeignError as failure:
        return failure.error
    return None


def used(call: str) -> str:
    """What of a library a call uses: the line that loads the model."""
    return next((line.removeprefix("model = ") for line in call.splitlines() if line.startswith("model = ")), "")


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)[:200]}"
