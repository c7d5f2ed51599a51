from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from graphprune.errors import BudgetError, PassError
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.lineage import Step
from graphprune.pipeline.passes import Context, Pass, run_passes


@dataclass(frozen=True)
class Halve(Pass):
    """Halves a weight's values, or its rows, which leaves a graph that is half done."""

    name: ClassVar[str] = "halve"
    weight: str = "2.weight"
    rows: bool = False

    def run(self, graph: Graph, context: Context) -> Graph:
        context.log(f"seed {context.seed}")
        old = graph.tensors()[self.weight].detach()
        new = old[: len(old) // 2] if self.rows else old / 2
        return graph.with_tensors({self.weight: torch.nn.Parameter(new)})


@dataclass(frozen=True)
class Fail(Pass):
    """Raises what it is given."""

    name: ClassVar[str] = "fail"
    error: Any = None

    def run(self, graph: Graph, context: Context) -> Graph:
        raise self.error


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    return capture(module, inputs={"x": torch.zeros(3, 4)})


def test_passes_run_in_order_and_are_recorded(graph: Graph) -> None:
    lines: list[str] = []
    x, count = torch.randn(5, 4), graph.parameter_count()
    before = graph(x)[0]
    result = run_passes(graph, [Halve(), Halve("2.bias")], Context(seed=7, log=lines.append))
    torch.testing.assert_close(result(x)[0], before / 2)
    assert result.history == (Step("halve", 7, count, count), Step("halve{weight=2.bias}", 7, count, count))
    assert lines == [
        "seed 7",
        f"halve: {count} -> {count} parameters",
        "seed 7",
        f"halve{{weight=2.bias}}: {count} -> {count} parameters",
    ]


def test_the_graph_given_stays_as_it_was(graph: Graph) -> None:
    x = torch.randn(5, 4)
    before = graph(x)[0]
    run_passes(graph, [Halve()])
    torch.testing.assert_close(graph(x)[0], before, rtol=0, atol=0)
    assert graph.history == ()


def test_a_half_done_cut_is_refused_with_the_pass_that_did_it(graph: Graph) -> None:
    with pytest.raises(PassError, match=r"the pass halve\{weight=0.weight,rows=true\} failed after halve: "):
        run_passes(graph, [Halve(), Halve("0.weight", rows=True)])


def test_an_error_names_the_pass_and_those_before_it(graph: Graph) -> None:
    with pytest.raises(PassError) as caught:
        run_passes(graph, [Halve(), Fail(ZeroDivisionError("by zero\nand more"))])
    assert str(caught.value).endswith("failed after halve: ZeroDivisionError: by zero")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_what_the_user_can_mend_is_passed_on(graph: Graph) -> None:
    with pytest.raises(BudgetError, match="the least is 10"):
        run_passes(graph, [Fail(BudgetError("the least is 10"))])
