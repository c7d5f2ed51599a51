"""Results: what a session has made of its graph, and the session that goes on with a part of it."""

import torch

from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply
from graphprune.training.learning.results import build, compacted
from graphprune.training.learning.weights import Weights
from graphprune.training.loop import advance
from graphprune.training.optimizer.moments import read_moments
from graphprune.training.session import make_accelerator, prepare
from tests.support.rows import Rows
from tests.support.tiny_llama import tiny_graph
from tests.training.learning.test_learner import CUT, OPTIONS, Shrink, Shrinking
from tests.training.test_train import equal


def test_before_any_step_the_graph_is_what_was_given_without_moments() -> None:
    made = prepare(make_accelerator(OPTIONS), tiny_graph(), OPTIONS, Rows(), None, None, None)
    assert isinstance(made.learning, Weights)
    assert equal(build(made), tiny_graph())
    assert build(made).companions == {}


def test_a_compacted_session_has_the_weights_moments_and_memory_of_the_cut_graph() -> None:
    made = prepare(make_accelerator(OPTIONS), tiny_graph(), OPTIONS, Rows(), None, None, None, Shrink())
    advance(made, 0)
    wanted = apply(build(made), CUT)
    smaller = compacted(made, CUT)
    assert equal(build(smaller), wanted)
    moments = read_moments(smaller.optimizer, smaller.trainee.trainable)
    assert moments.updates == 1
    assert all(torch.equal(t, moments.tensors["exp_avg"][n]) for n, t in wanted.companions["exp_avg"].items())
    assert isinstance(smaller.learning, Shrinking)
    assert isinstance(made.learning, Shrinking)
    assert smaller.learning.count is made.learning.count
    assert (smaller.stream, smaller.options) == (made.stream, made.options)
    assert equal(build(compacted(smaller, Plan())), wanted), "a plan that cuts nothing changes nothing"
