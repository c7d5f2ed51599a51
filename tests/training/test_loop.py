"""The loop: what one step does to the weights, which rows it takes, when it looks and saves, what it writes down."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from graphprune.data.stream.lead import NO_LEAD
from graphprune.errors import TrainingError
from graphprune.ir.graph import Graph, deep_copy
from graphprune.running.inputs import decoder_inputs
from graphprune.running.perplexity import perplexity
from graphprune.training.loop import advance, due, evaluate, own_rows, run, seeded
from graphprune.training.metrics import Metrics, Moment, no_report
from graphprune.training.options import LoraOptions, TrainOptions
from graphprune.training.saved_state import Snapshot
from graphprune.training.session import Session, State, make_accelerator, prepare
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import tiny_graph
from tests.training.test_train import lines

pytestmark = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=4, rows=2, accumulate=2, lr=3e-3, weight_decay=0.1, clip=0.5, device="cpu")


def session(options: TrainOptions = OPTIONS, stream: Rows | None = None, **parts: Any) -> Session:
    made = prepare(make_accelerator(options), tiny_graph(), options, stream or Rows(), None, None, None)
    return replace(made, **parts)


def by_hand(
    graph: Graph, rows: Rows, options: TrainOptions, rates: Sequence[float]
) -> tuple[dict[str, Tensor], Tensor]:
    """Steps of AdamW as its paper has them: the weights, and the loss and norm of the last gradient."""
    weights = deep_copy(graph).parameters()
    first, second = ({name: torch.zeros_like(p) for name, p in weights.items()} for _ in range(2))
    (one, two), count, told = options.betas, options.rows * options.accumulate, torch.zeros(2)
    for step, rate in enumerate(rates):
        here = graph.with_tensors({n: torch.nn.Parameter(p.detach().clone()) for n, p in weights.items()})
        ids, labels = rows.rows(step * count, count)
        logits = here(*decoder_inputs(here, ids))[0]
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        parameters = here.parameters()
        grads = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
        told = torch.stack([loss.detach(), norm])
        for name, grad in grads.items():
            grad = grad * min(1.0, options.clip / float(norm))
            first[name] = one * first[name] + (1 - one) * grad
            second[name] = two * second[name] + (1 - two) * grad**2
            update = first[name] / (1 - one ** (step + 1))
            update = update / ((second[name] / (1 - two ** (step + 1))).sqrt() + options.eps)
            decay = options.weight_decay if grad.dim() > 1 else 0.0
            weights[name] = torch.nn.Parameter(weights[name].detach() * (1 - rate * decay) - rate * update)
    return {name: p.detach() for name, p in weights.items()}, told


@pytest.mark.parametrize("masked", [0, 5])
def test_a_step_is_adamw_on_the_clipped_gradient_of_the_mean_over_what_counts(masked: int) -> None:
    rows = Rows(masked=masked)
    made = session(stream=rows)
    measured = [advance(made, step) for step in range(2)]
    rates = [OPTIONS.rate(0), OPTIONS.rate(1)]
    assert [each.rate for each in measured] == rates
    wanted, (loss, norm) = by_hand(tiny_graph(), rows, OPTIONS, rates)
    assert float(norm) > OPTIONS.clip, "so that the clipping is seen"
    for name, parameter in made.trainee.trainable.items():
        torch.testing.assert_close(parameter.detach(), wanted[name], atol=2e-5, rtol=1e-4)
    assert (measured[1].step, measured[1].tokens) == (2, 48)
    torch.testing.assert_close(measured[1].values[[0, 3]], torch.stack([loss, norm]), rtol=1e-4, atol=1e-5)


def test_processes_together_take_the_rows_that_one_would_take() -> None:
    def numbers(processes: int, step: int, **changes: Any) -> list[int]:
        asked: list[int] = []
        stream = SimpleNamespace(rows=lambda start, count: (asked.extend(range(start, start + count)), None))
        learning = SimpleNamespace(lead=NO_LEAD)
        for index in range(processes):
            place = SimpleNamespace(num_processes=processes, process_index=index)
            options = SimpleNamespace(**{"first_row": 0, "rows": 2, "accumulate": 2, **changes})
            made: Any = SimpleNamespace(options=options, accelerator=place, stream=stream, learning=learning)
            list(own_rows(made, step))
        return asked

    assert numbers(1, 0) == [0, 1, 2, 3]
    assert numbers(1, 1, first_row=10) == [14, 15, 16, 17]
    assert numbers(2, 1, accumulate=1) == numbers(1, 1)
    assert numbers(2, 3) != sorted(numbers(2, 3)) == list(range(24, 32)), "no row twice, and none left out"


@pytest.mark.parametrize(
    ("step", "every", "last", "always", "happens"),
    [
        (4, 2, False, False, True),
        (3, 2, False, False, False),
        (3, 2, True, False, True),
        (3, 0, True, False, False),
        (3, 0, True, True, True),
        (3, 0, False, True, False),
    ],
)
def test_what_happens_every_so_many_steps_happens_at_the_end_too(
    step: int, every: int, last: bool, always: bool, happens: bool
) -> None:
    assert due(step, every, last, always) == happens


@dataclass
class Log:
    """Collects what is reported."""

    moments: list[Moment] = field(default_factory=list)

    def __call__(self, moment: Moment) -> None:
        self.moments.append(moment)


def test_every_step_has_a_line_and_the_held_out_loss_where_it_was_due(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=5, eval_every=2, first_step=10, total_steps=20, stage=3)
    made, log = session(options, held_out=held_out()), Log()
    _, state = run(made, State(), Metrics(tmp_path), {}, log)
    rows = lines(tmp_path)
    assert [(row["stage"], row["step"], row["tokens"]) for row in rows] == [(3, 11 + n, 48 * (n + 1)) for n in range(5)]
    assert [row["held_out"] is not None for row in rows] == [False, True, False, True, True]
    assert {row["kd"] for row in rows} == {None}
    assert all(row["loss"] == pytest.approx(row["ce"]) for row in rows)
    assert [row["lr"] for row in rows] == [options.rate(step) for step in range(5)]
    assert (state.step, state.loss) == (5, rows[-1]["loss"])
    now = perplexity(made.trainee.graph, held_out(), 12, 2).nats_per_token
    assert state.watch.last == rows[-1]["held_out"] == pytest.approx(now)
    start = perplexity(tiny_graph(), held_out(), 12, 2).nats_per_token
    assert state.watch.start == pytest.approx(start), "it is looked at before the first step"
    assert [moment.held_out is not None for moment in log.moments[-1:]] == [True]
    assert log.moments[-1].step == log.moments[-1].steps == 5


def test_no_more_steps_are_made_than_are_left(tmp_path: Path) -> None:
    made = session()
    before = {name: p.detach().clone() for name, p in made.trainee.trainable.items()}
    state = State(step=4)
    assert run(made, state, Metrics(tmp_path), {}, no_report)[1] is state
    assert lines(tmp_path) == []
    assert all(torch.equal(before[name], p) for name, p in made.trainee.trainable.items())


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_best_weights_are_kept_as_they_were(keep: str) -> None:
    options = replace(OPTIONS, eval_every=1, keep=keep)  # type: ignore[arg-type]
    made = session(options, held_out=held_out())
    state = replace(State(step=2), watch=State().watch.evaluated(0, 100.0, 1.0))
    state = evaluate(made, state)
    if keep == "last":
        assert state.best is None
        return
    assert isinstance(state.best, Snapshot)
    assert state.best.step == state.watch.best_step == 2
    advance(made, 0)
    for name, tensor in state.best.weights.items():
        assert torch.equal(tensor, tiny_graph().parameters()[name])
    worse = replace(state, step=3, watch=replace(state.watch, best=-1.0))
    assert evaluate(made, worse).best is state.best


def test_only_so_many_held_out_tokens_are_read() -> None:
    made = session(replace(OPTIONS, eval_tokens=60), held_out=held_out())
    wanted = perplexity(tiny_graph(), held_out()[:60], 12, 2).nats_per_token
    assert evaluate(made, State()).watch.last == pytest.approx(wanted)


def test_a_loss_that_is_no_number_ends_the_run_and_is_written_down_as_far_as_it_went(tmp_path: Path) -> None:
    made = session(replace(OPTIONS, eval_every=1), held_out=held_out())
    with torch.no_grad():
        next(iter(made.trainee.trainable.values())).fill_(math.nan)
    with pytest.raises(TrainingError, match=r"the held-out loss is nan at step 0; lower lr \(now 0.003\)"):
        evaluate(made, State())
    with pytest.raises(TrainingError, match="diverged: the loss is nan at step 1"):
        run(replace(made, held_out=None), State(), Metrics(tmp_path), {}, no_report)
    assert lines(tmp_path) == []


def test_dropout_draws_the_same_numbers_at_the_same_place_of_a_run() -> None:
    def draw(step: int, part: int, dropout: float = 0.5, **changes: Any) -> list[float]:
        lora = LoraOptions(dropout=dropout)
        options = replace(OPTIONS, steps=4, total_steps=20, lora=lora, **changes)
        place = SimpleNamespace(num_processes=1, process_index=0)
        drawn = SimpleNamespace(options=options, accelerator=place, learning=SimpleNamespace(draws=dropout > 0))
        with seeded(drawn, step, part):  # type: ignore[arg-type]
            return torch.rand(3).tolist()

    torch.manual_seed(5)
    outside = torch.rand(3).tolist()
    torch.manual_seed(5)
    one = draw(2, 1)
    assert torch.rand(3).tolist() == outside, "what is drawn elsewhere goes on as if nothing had been"
    assert one == draw(2, 1) == draw(0, 1, first_step=2)
    assert one not in (draw(2, 0), draw(1, 1), draw(2, 1, seed=1))
    torch.manual_seed(5)
    assert draw(2, 1, dropout=0.0) == outside
