"""The shrink pass: a target in any unit is met while the model is trained, and the training after it goes on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphprune.analysis.analyse import analyze
from graphprune.budget.budgets import cost_of
from graphprune.budget.quantities import CacheBytes, Parameters
from graphprune.budget.targets import Target
from graphprune.errors import BudgetError, UsageError
from graphprune.passes.transforms.recover import Recover
from graphprune.passes.transforms.shrink import Shrink
from graphprune.pipeline.passes import Context, run_passes
from graphprune.pipeline.recipes import read_recipe
from graphprune.pipeline.stages import expand
from graphprune.pruning.options import Pruning
from graphprune.pruning.stock_widths import has_stock_form
from graphprune.spec import parse_spec, print_spec
from tests.passes.test_recover import words
from tests.support.rows import held_out
from tests.support.tiny_llama import tiny_graph
from tests.training.test_train import equal

pytestmark = pytest.mark.xdist_group("tiny_llama")
SMALL = Shrink(target="60%", tokens=480, rows=4, length=12, lr=3e-3)
TRAINED = Recover(tokens=240, rows=4, length=12, lr=3e-3, device="cpu")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A text of numbers that go up by one."""
    path = tmp_path_factory.mktemp("text") / "one.txt"
    path.write_text("<|endoftext|>".join(" ".join(str((s + k) % 63) for k in range(100)) for s in range(63)))
    return f"{path}#train"


def context(text: str, **parts: Any) -> Context:
    return Context(seed=1, tokenizer=words(), data=text, source=tiny_graph(), held_out=held_out(), **parts)


def test_the_target_is_met_while_training_which_goes_on_in_the_text(text: str, tmp_path: Path) -> None:
    said: list[str] = []
    stages: list[tuple[Any, ...]] = []
    asked = context(text, log=said.append, folder=tmp_path, progress=lambda *entry, **_: stages.append(entry))
    result = run_passes(tiny_graph(), [SMALL, TRAINED], asked)
    assert 0.6 * tiny_graph().parameter_count() - 96 < result.parameter_count() <= 0.6 * tiny_graph().parameter_count()
    assert result.memo["schedule"]["rows"] == 40 + 20
    assert result.memo["moments"]["updates"] == 10 + 5, "the optimizer goes on"
    assert any(line.startswith("shrink: 10 steps, 480 tokens") for line in said)
    assert any("is left; gone are" in line for line in said)
    assert any(entry[0] == "shrinking" for entry in stages)
    assert equal(run_passes(tiny_graph(), [SMALL, TRAINED], asked), result), "what was done is not done again"


def test_uniform_widths_are_those_of_a_stock_checkpoint(text: str) -> None:
    result = replace(SMALL, uniform=True).run(tiny_graph(), context(text))
    assert has_stock_form(result)
    assert result.parameter_count() <= 0.6 * tiny_graph().parameter_count()


def test_widths_are_multiples_and_keep_their_floor(text: str) -> None:
    result = replace(SMALL, target="75%", round_to=4, floor=0.5).run(tiny_graph(), context(text))
    groups = analyze(result).prunable(frozenset({"mlp", "residual"}))
    assert all(g.units % 4 == 0 and g.units >= (12 if g.kind == "mlp" else 16) for g in groups)


def test_a_target_may_be_of_another_quantity_and_of_an_earlier_cut(text: str) -> None:
    first = parse_spec("passes", "prune{target=90%,importance=magnitude,kinds=[mlp]}").run(tiny_graph(), context(text))
    result = replace(SMALL, target="50%", quantity="cache").run(first, context(text))
    groups = analyze(result)
    assert CacheBytes().cost(groups)(groups.sizes()) == 2 * 2 * 2 * 4 * 4
    again = analyze(tiny_graph())
    assert {again[id].kind for id in result.lineage.plan.keep} == {"mlp", "attention"}


def test_a_target_that_is_met_already_leaves_the_training_of_recover(text: str) -> None:
    same = Recover(tokens=480, rows=4, length=12, lr=3e-3, device="cpu", schedule="constant", keep="last")
    wanted = same.run(tiny_graph(), context(text))
    assert equal(replace(SMALL, target="100%").run(tiny_graph(), context(text)), wanted)


def test_a_teacher_may_be_learned_from(text: str) -> None:
    plain = SMALL.run(tiny_graph(), context(text))
    taught = replace(SMALL, distill=0.5, compensate="obs").run(tiny_graph(), context(text))
    assert taught.parameter_count() <= 0.6 * tiny_graph().parameter_count()
    assert not equal(taught, plain)


def test_options_are_those_of_the_target_and_of_what_may_be_cut() -> None:
    target = Target(Parameters(), 9000, 10_000)
    made = SMALL.towards(target, None, Pruning(kinds=("mlp",), round_to=2))
    assert (made.target, made.kinds, made.round_to) == ("9000", ("mlp",), 2)
    request = made.request(tiny_graph())
    assert (request.budget.target, request.budget.uniform) == (9000, False)
    assert cost_of(analyze(tiny_graph()), request.budget).variables()
    assert parse_spec("passes", print_spec(made)) == made
    with pytest.raises(UsageError, match="importance has no place in shrink, which has its own saliency"):
        SMALL.towards(target, None, Pruning(importance="taylor{order=2}"))
    first, second = expand(read_recipe("efficientllm"), target)
    assert isinstance(first, Shrink)
    assert isinstance(second, Recover)
    assert second.moments == "carry"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shrink{kinds=[mlp,blocks]}", "blocks and layers have none"),
        ("shrink{kinds=[vocabulary]}", "shrink does not cut tokens"),
        ("shrink{every=0}", "every of shrink is 1 or more"),
        ("shrink{compensate=most}", "compensate=most is not none or obs"),
        ("shrink{factors=[residual=0]}", "factors 'residual=0': write a kind and how many times"),
        ("shrink{factors=[mpl=2]}", "mpl"),
        ("shrink{memory=2}", "memory of shrink is"),
    ],
)
def test_a_wrong_option_is_said_before_anything_is_read(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_spec("passes", spec)


def test_too_few_tokens_and_targets_out_of_reach_are_said(text: str) -> None:
    few = replace(SMALL, tokens=96, target="50%")
    with pytest.raises(UsageError, match=r"2 removals of 25% of the model each, with 48 tokens between them; give it"):
        few.request(tiny_graph())
    with pytest.raises(BudgetError, match="out of reach"):
        replace(SMALL, kinds=("mlp",)).run(tiny_graph(), context(text))
