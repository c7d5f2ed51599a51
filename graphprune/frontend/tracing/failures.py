"""Capture failures: which operation stopped the export, on which line, in which part of the model."""

import contextlib
import io
import linecache
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from graphprune.errors import first_line, foreign_code

# What has frames that are not the model's: torch, the package here, and where its errors pass through.
_OTHERS = ("torch", __name__.partition(".tracing")[0], foreign_code.__module__)


@dataclass(frozen=True)
class Place:
    """A line of model code, and the module whose `forward` it belongs to."""

    file: str
    line: int
    function: str
    module: str

    def __str__(self) -> str:
        code = linecache.getline(self.file, self.line).strip()
        inside = f" of {self.module}" if self.module else ""
        return f"at {Path(self.file).name}:{self.line} in {self.function}{inside} ({code})"


def explain_failure(model: nn.Module, error: BaseException) -> str:
    """One line: where in the model the export stopped, and what it said first."""
    text = first_line(error)
    places = list(model_places(model, error))
    where = f" {places[-1]}" if places else ""
    fixed = fixed_sizes(str(error))
    if not fixed and (violated := re.findall(r"Constraints violated \(([^)]+)\)", text)):
        fixed = f"some {violated[0].replace('_', '')}"
    if fixed:
        return f"cannot capture the model{where}: its code computes with sizes as numbers, and holds for {fixed} alone"
    return f"cannot capture the model{where}: {type(error).__name__}: {text[:300]}"


def fixed_sizes(message: str) -> str:
    """What torch.export says that sizes would have to be: `sequence = 3 and past up to 33`."""
    _, _, fixes = message.partition("Suggested fixes:")
    found = re.findall(r"^\s*_(\w+) = (?:Dim\('\w+'(?:, min=(\d+))?(?:, max=(\d+))?\)|(\d+))$", fixes, re.MULTILINE)
    bounds = {"from": 1, "up to": 2, "=": 3}
    return " and ".join(
        " ".join([entry[0], *(f"{word} {entry[place]}" for word, place in bounds.items() if entry[place])])
        for entry in found
    )


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def model_places(model: nn.Module, error: BaseException) -> Iterator[Place]:
    """The frames of the traceback that are the model's own code, outermost first."""
    names = {id(part): name for name, part in model.named_modules()}
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        code = frame.f_code
        if not within(frame.f_globals.get("__name__", ""), _OTHERS):
            first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
            module = names.get(id(first), "")
            yield Place(code.co_filename, trace.tb_lineno, code.co_name, module)
        trace = trace.tb_next


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Keep torch.export from logging and printing the whole graph when it fails; the error says what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            # What is traced is a copy; what it keeps of the run is thrown away with it.
            warnings.filterwarnings("ignore", message="The tensor attribute .* was assigned during export")
            yield
    finally:
        logging.disable(before)
