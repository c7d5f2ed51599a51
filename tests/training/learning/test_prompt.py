"""Prompt tuning: rows before every text are learned, all else stays to the bit, and a killed training goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit, Plan, plan_of
from graphprune.pipeline.passes import Context, run_passes
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import decoder_inputs
from graphprune.running.perplexity import perplexity
from graphprune.spec import parse_spec
from graphprune.training.learning.prompt import Prompt, Prompted
from graphprune.training.metrics import Moment, Report, no_report
from graphprune.training.options import TrainOptions
from graphprune.training.train import Trained, train
from graphprune.vocabulary.prompts import prompt_size
from tests.support.families import families, graph
from tests.support.rows import Rows, held_out
from tests.support.tiny_llama import tiny_graph

LLAMA = pytest.mark.xdist_group("tiny_llama")
OPTIONS = TrainOptions(steps=30, rows=8, lr=3e-2, eval_every=10, device="cpu")
ASKED = Prompt(tokens=4)
TABLE = "model.embed_tokens.weight"


def grown(source: Graph) -> Graph:
    return apply(source, Plan(edits=ASKED.edits(source)))


def tuned(options: TrainOptions = OPTIONS, folder: Path | None = None, report: Report = no_report) -> Trained:
    return train(grown(tiny_graph()), options, Rows(), None, held_out(), folder, report, ASKED)


@LLAMA
def test_only_the_rows_of_the_prompt_change_and_the_text_becomes_likelier() -> None:
    found = tuned()
    before, after = tiny_graph().tensors(), found.graph.tensors()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items() if name != TABLE)
    assert torch.equal(after[TABLE][:64], before[TABLE])
    assert found.graph.parameter_count() == tiny_graph().parameter_count() + 4 * 32
    dense = perplexity(tiny_graph(), held_out(), 12).nats_per_token
    assert found.held_out is not None
    assert found.held_out < dense - 0.02  # of a model with random weights
    assert "128 numbers of 4 tokens" in found.told


@LLAMA
def test_what_is_held_out_is_measured_behind_the_prompt() -> None:
    found = tuned()
    lead = Prompted(found.graph, (64, 65, 66, 67), "mean", 0).lead
    text = held_out()[: OPTIONS.eval_tokens]
    assert perplexity(found.graph, text, 12, lead=lead).nats_per_token == pytest.approx(found.held_out, abs=1e-5)


@LLAMA
def test_gradients_are_those_of_the_rows_alone() -> None:
    """By hand: the same rows as entries of the grown table, the text behind their ids."""
    source = grown(tiny_graph())
    learning = Prompted(source, (64, 65, 66, 67), "mean", 0)
    ids, labels = learning.lead.rows(*Rows().rows(0, 3))
    losses, gradients = [], []
    for made, tensor in ((learning.trainee.graph, learning.table), (source, source.tensors()[TABLE])):
        logits = made(*decoder_inputs(made, ids))[0]
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        losses.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, tensor.requires_grad_())[0])
    learning.table.grad = gradients[0].clone()
    learning.after_backward(0)
    assert not learning.table.grad[:-4].any()
    assert torch.equal(learning.table.grad[-4:], gradients[0][-4:])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@LLAMA
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def stop(moment: Moment) -> None:
        if moment.step == 20:
            raise KeyboardInterrupt

    options = replace(OPTIONS, save_every=10)
    with pytest.raises(KeyboardInterrupt):
        tuned(options, folder=tmp_path, report=stop)
    again, whole = tuned(options, folder=tmp_path), tuned(options)
    assert torch.equal(*(each.graph.tensors()[TABLE] for each in (again, whole)))
    assert again.held_out == whole.held_out


@LLAMA
def test_rows_that_are_no_better_are_taken_back() -> None:
    found = tuned(replace(OPTIONS, lr=30.0, divergence=100.0, steps=10, eval_every=5))
    rows = found.graph.tensors()[TABLE]
    assert found.best_step == 0
    torch.testing.assert_close(rows[64:], rows[:64].mean(0).expand(4, -1))


# Tables of their own and shared ones; positions that are learned; ids that are reshaped before they are looked up.
@pytest.mark.parametrize("name", families(("llama", "phi3", "gpt2", "mamba", "gemma2")))
def test_the_edit_is_replayed_and_other_tokens_keep_their_logits(name: str) -> None:
    source = graph(name)
    made = grown(source)
    plan = plan_of(Plan(edits=ASKED.edits(source)).to_data())
    assert prompt_size(plan) == 4
    again = apply(source, plan)
    assert all(torch.equal(tensor, made.tensors()[n]) for n, tensor in again.tensors().items())
    ids = torch.arange(3, 11)[None]
    before, after = (each(*decoder_inputs(each, ids))[0] for each in (source, made))
    assert after.shape[-1] == before.shape[-1] + 4
    torch.testing.assert_close(after[..., :-4], before, rtol=0, atol=1e-5)
    learned = train(made, replace(OPTIONS, steps=2, eval_every=0), Rows(vocabulary=50), learner=ASKED).graph
    changed = [n for n, tensor in learned.tensors().items() if not torch.equal(tensor, made.tensors()[n])]
    (table,) = {id(learned.tensors()[n]): n for n in changed}.values()
    assert torch.equal(learned.tensors()[table][:-4], made.tensors()[table][:-4])


@LLAMA
def test_what_cannot_be_learned_so_is_said() -> None:
    source = tiny_graph()
    with pytest.raises(UsageError, match="no prompt of 4 tokens"):
        ASKED.begin(source, OPTIONS)
    with pytest.raises(UsageError, match="no teacher knows; leave distill out"):
        parse_spec("passes", "recover{learner=prompt,distill=0.5}")
    with pytest.raises(UsageError, match="a prompt already"):
        ASKED.edits(grown(source))
    cut = apply(source, Plan({"model.embed_tokens.weight:0": tuple(range(60))}))
    with pytest.raises(UsageError, match="learn a prompt of its result"):
        ASKED.edits(cut)
    with pytest.raises(UsageError, match="leaves no room for a text in a context of 48 tokens"):
        run_passes(source, [parse_spec("passes", "recover{learner=prompt{tokens=47}}")], Context(data="x"))
    shorter = replace(source, source=replace(source.source, companions=Path("made")))
    with pytest.raises(UsageError, match="learn a prompt of its result"):
        ASKED.edits(shorter)
    with pytest.raises(UsageError, match="in_backward"):
        tuned(replace(OPTIONS, in_backward=True, clip=0.0))
    assert Edit("prompt{tokens=4}", "model.embed_tokens.weight:0") in ASKED.edits(source)
