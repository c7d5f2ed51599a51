"""The lead: what stands before a text is put there, taken off again, and never learned as text."""

import pytest
import torch
from torch import Tensor

from graphprune.data.stream.lead import NO_LEAD, Lead
from graphprune.running.perplexity import graph_logits, perplexity, stream_perplexity
from tests.support.rows import held_out
from tests.support.tiny_llama import ids, tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")


@pytest.mark.parametrize(
    ("lead", "row", "led"),
    [
        (NO_LEAD, [5, 6, 7], [5, 6, 7]),
        (Lead((60, 61)), [5, 6, 7], [60, 61, 5, 6, 7]),
        (Lead((60, 61), 1), [5, 6, 7], [1, 60, 61, 5, 6, 7]),
        (Lead((60, 61), 1), [1, 6, 7], [1, 60, 61, 6, 7]),
    ],
)
def test_a_lead_stands_behind_the_first_token_of_a_text(lead: Lead, row: list[int], led: list[int]) -> None:
    rows = torch.tensor([row, row])
    assert lead.before(rows).tolist() == [led, led]
    assert len(led) - len(row) == lead.more(row[0])


def test_training_rows_are_longer_by_the_prompt_and_nothing_of_it_is_learned() -> None:
    rows = torch.tensor([[5, 6, 7], [1, 6, 7]])
    labels = torch.tensor([[5, 6, -100], [1, 6, 7]])
    assert [each.tolist() for each in NO_LEAD.rows(rows, labels)] == [rows.tolist(), labels.tolist()]
    ids, wanted = Lead((60, 61)).rows(rows, labels)
    assert ids.tolist() == [[60, 61, 5, 6, 7], [60, 61, 1, 6, 7]]
    assert wanted.tolist() == [[-100, -100, 5, 6, -100], [-100, -100, 1, 6, 7]]
    ids, wanted = Lead((60, 61), 1).rows(rows, labels)
    assert ids.tolist() == [[1, 60, 61, 5, 6], [1, 60, 61, 6, 7]]
    assert wanted.tolist() == [[-100, -100, -100, 5, 6], [-100, -100, -100, 6, 7]]


def test_where_the_prompt_itself_begins_texts_no_other_token_does() -> None:
    assert (NO_LEAD.begin(1), NO_LEAD.tokens, NO_LEAD.more(1)) == (1, (), 0)
    assert (Lead((60,)).begin(1), Lead((60,)).tokens) == (None, (60,))
    assert (Lead((60,), 1).begin(1), Lead((60,), 1).tokens) == (1, (1, 60))


def test_the_logits_of_a_text_are_those_behind_the_lead() -> None:
    text, lead, seen = ids(2, 9), Lead((62, 63), 1), list[Tensor]()

    def echo(rows: Tensor) -> Tensor:
        seen.append(rows)
        return rows[..., None].float()

    assert lead.around(echo)(text).squeeze(-1).long().tolist() == text.tolist()
    assert seen[0].tolist() == [[1, 62, 63, *row] for row in text.tolist()]
    assert NO_LEAD.around(echo) is echo


def test_a_text_is_measured_behind_its_lead() -> None:
    """Each window alone, in rows that were put together by hand."""
    graph, text, lead, total = tiny_graph(), held_out(), Lead((62, 63)), 0.0
    logits = graph_logits(graph)
    for start in range(0, len(text) - 1, 7):
        row = torch.cat([torch.tensor([62, 63]), text[start : start + 8]])
        own, front = stream_perplexity(logits, row, 10, 1), stream_perplexity(logits, row[:3], 3, 1)
        total += own.nats_per_token * own.tokens - front.nats_per_token * front.tokens
    found = perplexity(graph, text, 8, 4, lead=lead)
    assert found.tokens == len(text) - 1
    assert found.nats_per_token * found.tokens == pytest.approx(total, rel=1e-5)
    assert found.nats_per_token != pytest.approx(perplexity(graph, text, 8, 4).nats_per_token, rel=1e-4)
