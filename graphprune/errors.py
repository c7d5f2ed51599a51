"""Every error that graphprune raises on purpose; each message names the thing and the remedy."""

import contextlib
from collections.abc import Callable, Iterator


class GraphpruneError(Exception):
    """What went wrong, in one line a user can act on. The command line ends with exit code 1."""

    exit_code = 1


class UsageError(GraphpruneError):
    """The request itself is wrong: a bad option, an unreachable target, an existing OUT. Exit code 2."""

    exit_code = 2


class SourceError(GraphpruneError):
    """The source model cannot be read: missing, truncated, pickled, not finite."""


class CaptureError(GraphpruneError):
    """The model cannot be captured as one graph: names the operator and where it is in the model."""


class InvariantError(GraphpruneError):
    """A graph breaks one of its rules: names the node and the rule."""


class PlanError(GraphpruneError):
    """A plan does not fit the graph: names the group and what does not fit."""


class BudgetError(UsageError):
    """The target lies outside what can be reached: names the reachable minimum."""


class DataError(GraphpruneError):
    """Calibration or evaluation text cannot be used: empty, too short, not text."""


class TrainingError(GraphpruneError):
    """Training cannot go on: it diverged, or memory or disk ran out. Says what to lower."""


class RegistryError(UsageError):
    """No plug-in, or more than one, has this name: lists the near ones."""


class MemoryShortError(GraphpruneError):
    """A device has too little memory for what was asked: says what to lower."""


class PassError(GraphpruneError):
    """A pass failed: names the pass and what ran before it."""


class ExportError(GraphpruneError):
    """A backend cannot write this graph: names the node or the file."""


class ParityError(GraphpruneError):
    """An artefact does not compute what the graph computes: names the check and the difference."""


class InterruptedRunError(GraphpruneError):
    """The user stopped a run that can go on: says how."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """The first line of an error that says anything, or the name of its class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class ForeignError(Exception):
    """Code of others failed, a model's or a library's; `error` is what it raised. Never shown as it is."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
    """Run code of others: whatever it raises comes out as one ForeignError, errors of ours among them."""
    try:
        yield
    except Exception as error:  # the one place for it: libraries and models raise what they like
        raise ForeignError(error) from error


@contextlib.contextmanager
def foreign(explain: Callable[[Exception], GraphpruneError]) -> Iterator[None]:
    """Run code of others, and turn whatever it raises into the error that `explain` makes of it; ours pass as they are.

    Where all of it is one thing to a user.
    """
    try:
        with foreign_code():
            yield
    except ForeignError as failure:
        if isinstance(failure.error, GraphpruneError):
            raise failure.error from failure.error.__cause__
        raise explain(failure.error) from failure.error
