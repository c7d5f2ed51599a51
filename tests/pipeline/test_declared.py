"""Declared options: what is read of a plug-in's source is what the plug-in has, and the same mistakes are found."""

import typing
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from graphprune import registry
from graphprune.errors import UsageError
from graphprune.pipeline.declared import declare, make_declared
from graphprune.spec import option_types, parse_spec

KINDS: tuple[registry.PluginKind, ...] = ("passes", "importance", "allocation", "compensation", "training", "backends")
BUILT_IN = [(kind, name) for kind in KINDS for name in registry.names(kind)]

SAMPLE = """
import dataclasses
from abc import ABC
from typing import Annotated, ClassVar, Literal, Union

import torch

from annotated_types import Ge
from graphprune.bounds import Count as Many
from sample_base import Base, Word

Way = Literal["up", "down"]

@dataclasses.dataclass(frozen=True)
class Plugin(Base, ABC):
    name: ClassVar[str] = "plugin"
    way: Way | None = None
    many: Many = 1
    least: Annotated[float, Ge(2)] = 2.0
    words: tuple[Word, ...] = ()
    told: torch.dtype = None
    either: Union[int, str] = 0
    made: int = dataclasses.field(default=0, init=False)
    _ = 3

    def score(self): ...

class NoDataclass:
    way: int = 3
"""
BASE = """
from dataclasses import dataclass
Word: "TypeAlias" = Literal["a"]
from typing import Literal

@dataclass
class Base:
    old: bool = False
"""


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EntryPoint:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sample_plugin.py").write_text(SAMPLE)
    (tmp_path / "sample_base.py").write_text(BASE)
    return EntryPoint("plugin", "sample_plugin:Plugin", "graphprune.importance")


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_what_is_declared_is_what_the_class_has(kind: registry.PluginKind, name: str) -> None:
    declared, real = declare(registry.find(kind, name)), registry.load(kind, name)
    assert declared is not None
    assert list(option_types(declared)) == list(option_types(real))
    hints = typing.get_type_hints(real, include_extras=True)
    assert typing.get_type_hints(declared, include_extras=True) == {key: hints[key] for key in option_types(real)}


def test_a_third_party_is_read_across_its_modules_and_not_imported(sample: EntryPoint) -> None:
    declared = declare(sample)
    assert declared is not None
    shown = {key: str(kind).replace("typing.", "") for key, kind in option_types(declared).items()}
    assert shown == {
        "old": "<class 'bool'>",
        "way": "Optional[Literal['up', 'down']]",
        "many": "<class 'int'>",
        "least": "<class 'float'>",
        "words": "tuple[Literal['a'], ...]",
        "told": "Any",
        "either": "Union[int, str]",
    }


@pytest.mark.parametrize(
    "place", ["sample_plugin:Nothing", "sample_plugin:Plugin.score", "nowhere:X", "math:X", "sys:X"]
)
def test_what_is_not_told_is_left_to_the_plug_in(sample: EntryPoint, place: str) -> None:
    assert declare(EntryPoint("x", place, "graphprune.importance")) is None


MISTAKES = [
    ("importance", "taylor{foo=1}", "taylor has no option 'foo'; its options are aggregate, gradients, order, members"),
    ("importance", "taylor{order=third}", "order=third is not first or second"),
    ("importance", "magnitude{p=3}", "p=3 is not 1 or 2"),
    ("importance", "obs{rounds=0}", "rounds of obs is 1 or more, not 0"),
    ("importance", "random{seed=x}", "seed=x is not int"),
    ("allocation", "adaptive{amplitude=2}", "amplitude of adaptive is from 0 to 1, not 2.0"),
    ("allocation", "adaptive{outside=0}", "outside of adaptive is above 0 and up to 1, not 0.0"),
    ("allocation", "knapsack{ceiling=-1}", "ceiling of knapsack is 0 or more, not -1.0"),
    ("compensation", "least-squares{damping=-1}", "damping of least-squares is 0 or more, not -1.0"),
    ("passes", "drop-blocks{counts=1}", "did you mean count"),
    ("backends", "ort{block=3}", "block=3 is not 16 or 32 or 64 or 128 or 256"),
    ("backends", "gguf{precision=q4}", "precision=q4 is not f32 or f16 or bf16 or q8_0"),
]


@pytest.mark.parametrize(("kind", "spec", "message"), MISTAKES)
def test_a_mistake_is_told_as_the_plug_in_itself_tells_it(kind: registry.PluginKind, spec: str, message: str) -> None:
    told = []
    for make in (make_declared, parse_spec):
        with pytest.raises(UsageError) as caught:
            make(kind, spec)
        told.append(str(caught.value))
    assert message in told[0]
    assert told[0] == told[1]


def test_a_spec_among_the_options_of_a_pass_is_checked_too() -> None:
    with pytest.raises(UsageError, match="taylor has no option 'foo'"):
        make_declared("passes", "prune{importance=taylor{foo=1}}")


def test_what_is_right_is_made_with_its_values() -> None:
    made = make_declared("importance", "taylor{order=second}")
    assert (made.name, made.order, made.aggregate) == ("taylor", "second", None)
    assert make_declared("passes", "prune{importance=taylor,kinds=[mlp]}").kinds == ("mlp",)
