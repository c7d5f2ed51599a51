"""The shear pass: a target or a shape becomes equal layers, the training after it goes on in the text."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphprune.analysis.analyse import analyze
from graphprune.budget.quantities import Parameters
from graphprune.budget.targets import Target
from graphprune.errors import PassError, UsageError
from graphprune.ir.graph import Graph
from graphprune.passes.transforms.recover import Recover
from graphprune.passes.transforms.shear import Shear
from graphprune.pipeline.passes import Context, run_passes
from graphprune.pipeline.recipes import read_recipe
from graphprune.pipeline.stages import expand
from graphprune.pruning.options import Pruning
from graphprune.pruning.stock_widths import has_stock_form
from graphprune.spec import parse_spec, print_spec
from tests.passes.test_recover import words
from tests.support.rows import held_out
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")
SMALL = Shear(target="60%", tokens=960, rows=4, length=12, lr=3e-3)
TRAINED = Recover(tokens=480, rows=4, length=12, lr=3e-3, device="cpu")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two texts of numbers, that go up by one and by two."""
    folder = tmp_path_factory.mktemp("texts")
    for step, name in ((1, "one.txt"), (2, "two.txt")):
        runs = (" ".join(str((s + step * k) % 63) for k in range(100)) for s in range(63))
        (folder / name).write_text("<|endoftext|>".join(runs))
    return f"{folder}/one.txt#train,{folder}/two.txt#train"


def context(texts: str, **parts: Any) -> Context:
    held = texts.replace("#train", "#held-out")
    return Context(seed=1, tokenizer=words(), data=texts, source=tiny_graph(), held_out_name=held, **parts)


def widths(graph: Graph) -> Mapping[str, set[int]]:
    found: dict[str, set[int]] = {}
    for group in analyze(graph).prunable(frozenset({"mlp", "attention", "residual"})):
        found.setdefault(group.kind, set()).add(group.units)
    return found


def test_layers_are_equal_and_training_goes_on_in_the_text(texts: str, tmp_path: Path) -> None:
    said: list[str] = []
    asked = context(texts.partition(",")[0], log=said.append, held_out=held_out(), folder=tmp_path)
    passes = [replace(SMALL, uniform=True), TRAINED]
    result = run_passes(tiny_graph(), passes, asked)
    assert result.parameter_count() <= 0.6 * tiny_graph().parameter_count()
    assert all(len(each) == 1 for each in widths(result).values())
    assert has_stock_form(result)
    assert result.memo["schedule"]["rows"] == 80 + 40
    assert any(line.startswith("shear: 20 steps, 960 tokens") for line in said)


def test_a_given_shape_is_the_shape_and_layers_may_go(texts: str) -> None:
    shape = ("residual=24", "attention=2", "mlp=9", "layers=1")
    result = replace(SMALL, target="100%", shape=shape, tokens=192).run(tiny_graph(), context(texts))
    assert widths(result) == {"residual": {24}, "attention": {2}, "mlp": {9}}
    assert len(analyze(result).branches) == 2


def test_weights_of_domains_move_and_the_next_training_goes_on_with_them(texts: str, tmp_path: Path) -> None:
    asked = context(texts, held_out=held_out(), folder=tmp_path)
    passes = [replace(SMALL, reweigh=5, references=(9.0, 0.5)), TRAINED]
    result = run_passes(tiny_graph(), passes, asked)
    starts = [start for start, _ in result.memo["schedule"]["segments"]]
    weights = [weights[1] for _, weights in result.memo["schedule"]["segments"]]
    assert starts == [0, 20, 40, 60, 80]
    assert weights[0] == 0.5
    assert weights == sorted(weights), "the one text is known as well as it can be, the other lags"
    assert any("two.txt" in note and "weight" in note for note in result.notes)


def test_options_are_those_of_the_target_and_of_what_may_be_cut(texts: str) -> None:
    target = Target(Parameters(), 6000, 10_000)
    made = SMALL.towards(target, None, Pruning(kinds=("mlp",), round_to=2, uniform=True))
    assert (made.target, made.kinds, made.round_to, made.uniform) == ("6000", ("mlp",), 2, True)
    assert made.request(tiny_graph()).budget.target == 6000
    assert parse_spec("passes", print_spec(made)) == replace(made)
    with pytest.raises(UsageError, match="importance has no place in shear"):
        SMALL.towards(target, None, Pruning(importance="taylor{order=2}"))
    recipe = read_recipe("sheared")
    first, second = expand(recipe, target)
    assert isinstance(first, Shear)
    assert isinstance(second, Recover)
    assert first.kinds == ("mlp", "attention", "residual")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shear{kinds=[blocks]}", "drops whole layers and no single blocks"),
        ("shear{kinds=[mlp,layers]}", "drops layers where shape says how many stay"),
        ("shear{shape=[mlp=0]}", "shape 'mlp=0': write a kind"),
        ("shear{temperature=0}", "temperature of shear is above 0"),
    ],
)
def test_a_wrong_option_is_said_before_anything_is_read(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_spec("passes", spec)


def test_what_does_not_fit_the_model_or_its_texts_is_said(texts: str) -> None:
    with pytest.raises(UsageError, match=r"shape mlp=30: .* has 24 units"):
        replace(SMALL, target="100%", shape=("mlp=30",)).run(tiny_graph(), context(texts))
    with pytest.raises(UsageError, match="gates cannot learn to keep 1 of 32 units"):
        replace(SMALL, target="1%").run(tiny_graph(), context(texts))
    with pytest.raises(UsageError, match="2 domains need as many references, one loss each in their order, not 3"):
        replace(SMALL, reweigh=2, references=(1.0, 1.0, 1.0)).run(tiny_graph(), context(texts))
    with pytest.raises(UsageError, match="reweigh needs a held-out text for each domain"):
        replace(SMALL, reweigh=2).run(tiny_graph(), replace(context(texts), held_out_name="one.txt"))
    with pytest.raises((UsageError, PassError), match="reweigh moves the weights of several texts"):
        replace(SMALL, reweigh=2).run(tiny_graph(), context(texts.partition(",")[0]))
