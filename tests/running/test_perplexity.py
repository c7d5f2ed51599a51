"""Perplexity and the next-token loss against transformers' own, each token predicted once."""

import functools
import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from graphprune.errors import DataError, UsageError
from graphprune.ir.contract import rows_of_ids
from graphprune.ir.graph import Graph
from graphprune.running import perplexity as measuring
from graphprune.running.forms.scoring import scoring_form
from graphprune.running.inputs import decoder_inputs, run_batch
from graphprune.running.loss import next_token_loss
from graphprune.running.perplexity import cut_windows, perplexity
from tests.support import oracle
from tests.support.families import families, graph
from tests.support.tiny_llama import CONFIG, ids, tiny_graph
from tests.support.zoo import DECODERS


@functools.cache
def eager() -> Any:
    """The uncaptured model with the same weights."""
    model: Any = transformers.LlamaForCausalLM(CONFIG).eval()
    model.load_state_dict({name: p.detach() for name, p in tiny_graph().parameters().items()}, strict=False)
    model.tie_weights()
    return model


def token_losses(rows: Tensor) -> Tensor:
    """The loss of each predicted token of each row, by the eager model: [rows, length - 1]."""
    with torch.no_grad():
        logits = eager()(input_ids=rows).logits[:, :-1].log_softmax(-1)
    return -logits.gather(-1, rows[:, 1:, None])[..., 0]  # type: ignore[no-any-return]


def test_inputs_fit_the_contract() -> None:
    inputs = dict(zip(tiny_graph().inputs, decoder_inputs(tiny_graph(), ids(2, 7)), strict=True))
    assert inputs["attention_mask"].tolist() == [[1] * 7] * 2
    assert inputs["position_ids"].tolist() == [list(range(7))] * 2
    assert inputs["past_key_values.1.value"].shape == (2, 4, 0, 4)
    assert inputs["past_key_values.1.value"].dtype == torch.float32


def test_next_token_loss_equals_the_eager_models() -> None:
    rows = ids(3, 20)
    expected = eager()(input_ids=rows, labels=rows).loss
    torch.testing.assert_close(next_token_loss(tiny_graph(), rows), expected)
    torch.testing.assert_close(next_token_loss(tiny_graph(), rows, "sum"), expected * 3 * 19)


def test_each_token_is_predicted_once_after_the_first_token() -> None:
    """The protocol: windows of BOS and 9 tokens, the last one shorter, bits per byte over the given bytes."""
    stream = ids(1, 32)[0]
    parts = [torch.cat([torch.tensor([0]), stream[i : i + 9]])[None] for i in range(0, 32, 9)]
    total = sum(token_losses(part).sum().item() for part in parts)
    result = perplexity(tiny_graph(), stream, window=10, batch=2, bos=0, text_bytes=77)
    assert result.tokens == 32
    assert result.nats_per_token == pytest.approx(total / 32, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(total / 32), rel=1e-5)
    assert result.bits_per_byte == pytest.approx(total / math.log(2) / 77, rel=1e-5)


def test_without_first_token_windows_overlap_by_one() -> None:
    stream = ids(1, 24)[0]
    total = sum(token_losses(stream[None, i : i + 6]).sum().item() for i in range(0, 23, 5))
    result = perplexity(tiny_graph(), stream, window=6)
    assert result.tokens == 23
    assert result.bits_per_byte is None
    assert result.nats_per_token == pytest.approx(total / 23, rel=1e-5)


@pytest.mark.parametrize("count", [2, 5, 9, 10, 11, 19, 20])
@pytest.mark.parametrize("bos", [None, 99])
def test_windows_predict_every_token_in_order(count: int, bos: int | None) -> None:
    blocks = cut_windows(torch.arange(count), 6, bos)
    predicted = [token for block in blocks for row in block for token in row[1:].tolist()]
    assert predicted == list(range(count))[bos is None :]
    assert all(block.shape[1] == 6 for block in blocks[:-1])
    if bos is not None:
        assert all(row[0] == bos for block in blocks for row in block)


def test_progress_counts_windows() -> None:
    seen: list[tuple[int, int]] = []
    perplexity(tiny_graph(), ids(1, 22)[0], 6, 3, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(3, 5), (4, 5), (5, 5)]


def test_what_cannot_be_evaluated_is_refused() -> None:
    graph = tiny_graph()
    with pytest.raises(DataError, match="outside the vocabulary of 64"):
        perplexity(graph, torch.tensor([1, 64]))
    with pytest.raises(DataError, match="fewer than one window"):
        perplexity(graph, torch.tensor([1]))
    with pytest.raises(UsageError, match="2 tokens or more"):
        perplexity(graph, ids(1, 9)[0], window=1)
    with pytest.raises(UsageError, match="no logits"):
        next_token_loss(Graph(graph.module, graph.inputs, ("hidden", *graph.outputs[1:])), ids(1, 4))
    with pytest.raises(DataError, match="lacks attention_mask"):
        run_batch(graph, {"input_ids": ids(1, 4)})
    empty = graph.with_tensors({n: torch.nn.Parameter(p.to("meta")) for n, p in graph.parameters().items()})
    with pytest.raises(UsageError, match="without weights"):
        decoder_inputs(empty, ids(1, 4))


def test_the_form_for_scoring_computes_the_same_with_less() -> None:
    rows = ids(3, 45)
    form = scoring_form(tiny_graph(), 45)
    assert form.outputs == ("logits",)
    calls = [n for n in form.nodes if n.target is torch.ops.aten.scaled_dot_product_attention.default]
    assert len(calls) == 2 * 2  # two layers, blocks of 32 and of 13 queries
    wanted = tiny_graph()(*decoder_inputs(tiny_graph(), rows))[0]
    torch.testing.assert_close(form(*decoder_inputs(form, rows))[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", families(DECODERS))
def test_every_family_scores_the_same(name: str) -> None:
    wide = oracle.double(graph(name))
    rows = torch.randint(3, 60, (2 * rows_of_ids(wide), 35), generator=torch.Generator().manual_seed(0))
    form = scoring_form(wide, 35)
    wanted = wide(*decoder_inputs(wide, rows))[wide.outputs.index("logits")]
    torch.testing.assert_close(form(*decoder_inputs(form, rows))[0], wanted, rtol=1e-9, atol=1e-9)


def test_many_windows_give_what_few_at_a_time_give() -> None:
    stream = ids(1, 700)[0]
    parts = [torch.cat([torch.tensor([0]), stream[i : i + 39]])[None] for i in range(0, 700, 39)]
    total = sum(token_losses(part).sum().item() for part in parts)
    result = perplexity(tiny_graph(), stream, window=40, batch=4, bos=0)
    assert result.nats_per_token == pytest.approx(total / 700, rel=1e-5)


def test_of_many_words_few_rows_are_run_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, sizes = ids(1, 60)[0], list[int]()
    whole = perplexity(tiny_graph(), stream, window=10)
    monkeypatch.setattr(measuring, "_LOGITS", 2 * 10 * CONFIG.vocab_size)
    seen = perplexity(tiny_graph(), stream, window=10, progress=lambda done, _: sizes.append(done))
    assert sizes == [2, 4, 6, 7]
    assert seen.nats_per_token == pytest.approx(whole.nats_per_token, rel=1e-6)
