"""Passes in sequence: run, verify, record; an error names the pass and what ran before it."""

import dataclasses
import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphprune.errors import GraphpruneError, PassError, foreign
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Step
from graphprune.ir.placement import device_of, place
from graphprune.ir.plan import Edit
from graphprune.ir.verification import verify
from graphprune.pipeline.run_state import load_state, pass_folder, save_state
from graphprune.processes import is_first, meet
from graphprune.progress import Progress, no_progress
from graphprune.running.devices import is_shortage, room
from graphprune.running.loss import Loss
from graphprune.spec import print_spec
from graphprune.training.metrics import Track, no_track

_NAMED = 2  # of the passes before one that failed, so many are named
Log = Callable[[str], None]


def silent(line: str) -> None:
    """The log that says nothing."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a pass may ask of the outside: data, the seed of everything random, where to report and to keep things.

    `calibration` is what the data module makes (None where no pass needs it), `draw` what it makes for a stage of
    several, `loss` what goes with it where it is no text of a language model. `source` is the model before the first
    pass: the teacher, and what floors are shares of. `epochs` gives what a model of embeddings is trained on, epoch by
    epoch. `tokenizer` and `data` (a text's name, as `read_texts` takes it) and the `field` of its records are for
    passes that train, `held_out` [tokens] is text that none may learn from, of the source `held_out_name`. `folder` is
    where a pass keeps what it needs to go on after it was killed, None where nothing is to be kept; each pass of a run
    has one of its own, and all share `cache`, for what is made once and used again. `log` takes one line at a time,
    `progress` a stage, what is done and of how much.
    `device` is where a pass computes, None for where the graph is; graphs go from pass to pass where they were before.
    `room` are the bytes that the run may take, None where nobody knows. `track` takes the lines of metrics of a
    training.
    """

    calibration: Any = None
    draw: Callable[[int], Any] | None = None
    seed: int = 0
    log: Log = silent
    source: Graph | None = None
    tokenizer: Any = None
    data: str | None = None
    held_out: Tensor | None = None
    field: str = "text"
    folder: Path | None = None
    progress: Progress = no_progress
    cache: Path | None = None
    device: torch.device | None = None
    room: int | None = None
    loss: Loss | None = None
    epochs: Callable[[int], Any] | None = None
    held_out_name: str | None = None
    track: Track = no_track

    def windows(self, stage: int) -> Any:
        """What to calibrate on in a stage: each has its own where `draw` gives them."""
        return self.draw(stage) if self.draw is not None else self.calibration

    def placed(self, graph: Graph) -> Graph:
        """The graph on the device that passes compute on."""
        return graph if self.device is None or device_of(graph) == self.device else place(graph, self.device)


@dataclasses.dataclass(frozen=True)
class Pass(ABC):
    """A frozen dataclass whose fields are its options and that turns a graph into a graph.

    One that `reshapes` adds operators, so that no class of the source's own computes the result.
    """

    name: ClassVar[str]
    reshapes: ClassVar[bool] = False

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> Graph:
        """Return the changed graph; the one given stays usable."""

    def edits(self, graph: Graph, seed: int) -> tuple[Edit, ...]:
        """The edits that it will make of a graph, whose weights are not looked at."""
        return ()


def run_passes(graph: Graph, passes: Sequence[Pass], context: Context | None = None) -> Graph:
    """Run the passes in order and return the last graph, its history extended by one step a pass.

    Every result is verified before the next pass sees it. Where the context has a folder, each result is kept there,
    and the same call goes on after the last one that is there, to the same bits. Raises PassError, which names the
    failed pass and those before it. A GraphpruneError raised by a pass that is the user's to mend (exit code 2) is
    passed on unchanged.
    """
    context = context or Context()
    kept = load_state(context.folder, graph) if context.folder else None
    if context.folder:
        meet()  # before the first process changes what the others still read
    first, current = (0, graph) if kept is None else (kept[0] + 1, kept[1])
    for index, item in itertools.islice(enumerate(passes), first, None):
        current = run_pass(current, item, own_context(context, index, len(passes)), passes[:index])
        if context.folder and is_first():
            save_state(context.folder, index, current)
    return current


def own_context(context: Context, index: int, count: int) -> Context:
    """The context of one pass of several: a folder of its own, and progress that says which pass it is."""

    progress: Progress = functools.partial(context.progress, part=(index + 1, count))
    if context.folder is None:
        return dataclasses.replace(context, progress=progress)
    cache = context.cache or context.folder / "shared"
    return dataclasses.replace(context, progress=progress, folder=pass_folder(context.folder, index), cache=cache)


def run_pass(graph: Graph, item: Pass, context: Context, done: Sequence[Pass]) -> Graph:
    before, spec = graph.parameter_count(), print_spec(item)
    try:
        with foreign(lambda error: PassError(explain_failure(spec, done, describe(error)))):
            result = item.run(graph, context)
            verify(result)
    except GraphpruneError as error:
        if error.exit_code != 1 or isinstance(error, PassError):
            raise
        raise PassError(explain_failure(spec, done, str(error))) from error
    after = result.parameter_count()
    context.log(f"{spec}: {before:,} -> {after:,} parameters")
    return result.record(Step(spec, context.seed, before, after))


def describe(error: Exception) -> str:
    return explain_shortage(error) if is_shortage(error) else f"{type(error).__name__}: {error}"


def explain_shortage(error: BaseException) -> str:
    return f"out of memory{room(error)}; look at less text with --samples and --length, or compute with --device cpu"


def explain_failure(spec: str, done: Sequence[Pass], reason: str) -> str:
    """One line: the pass, what ran before it, and the first line of the reason."""
    names = [print_spec(item) for item in done[-_NAMED:]]
    ran = f" after {'' if len(done) <= _NAMED else f'{len(done) - _NAMED} others, '}{', '.join(names)}" if done else ""
    return f"the pass {spec} failed{ran}: {reason.strip().splitlines()[0] if reason.strip() else 'no reason given'}"
