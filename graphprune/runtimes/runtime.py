"""A runtime as data: which shapes it holds without code of its own, which files it wants, and where that is said."""

from dataclasses import dataclass
from typing import Literal

Rule = Literal["equal", "multiple", "whole", "first", "stock"]


@dataclass(frozen=True)
class Source:
    """Where a fact is from: a file of the runtime's own code at a commit, as it was read on a day."""

    place: str
    read: str = "2026-11-30"


@dataclass(frozen=True)
class Limit:
    """One thing that a runtime's stock model cannot hold, which a plan must keep to, and why.

    `equal`: groups of one of the `kinds` keep the same count in every layer. `multiple`: their widths are multiples of
    `of`, the full width too. `whole`: nothing of these kinds is cut. `first`: attention of the first layer is not
    dropped. `stock`: every layer is equal, as with `--uniform`.
    """

    rule: Rule
    kinds: tuple[str, ...]
    why: str
    source: Source
    of: int = 1

    @property
    def words(self) -> str:
        """What the limit asks for."""
        return {
            "equal": "the same count in every layer",
            "multiple": f"a multiple of {self.of}",
            "whole": "is not cut",
            "first": "attention of the first layer stays",
            "stock": "the same in every layer",
        }[self.rule]


@dataclass(frozen=True)
class Runtime:
    """A runtime: the class of its own that holds a pruned model, what may differ from layer to layer there, and limits.

    `backends` are the specs that write its form, the file for it last. `files` is where they lie in OUT, `opened` the
    way to open them there. Widths are multiples of `even` by default, which its kernels like. `checked` says how it is
    known that they open: by being run, or by the loader's own names.
    """

    name: str
    architecture: str
    free: str
    backends: tuple[str, ...]
    files: str
    opened: str
    checked: str
    limits: tuple[Limit, ...] = ()
    even: int = 8

    def kinds_under(self, rule: Rule) -> tuple[str, ...]:
        """The kinds that a rule is about here."""
        return tuple(kind for limit in self.limits if limit.rule == rule for kind in limit.kinds)

    def limit_of(self, rule: Rule, kind: str) -> Limit | None:
        """The limit of a kind under a rule."""
        return next((limit for limit in self.limits if limit.rule == rule and kind in limit.kinds), None)

    @property
    def stock(self) -> bool:
        """Whether only equal layers are held."""
        return any(limit.rule == "stock" for limit in self.limits)
