"""Models that compute otherwise beyond a length are captured up to it, and say so."""

from typing import Any

import torch
import transformers

from graphprune import analyze, capture
from graphprune.frontend.tracing.failures import fixed_sizes
from graphprune.frontend.tracing.programs import suggested_bounds

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
ASKED = """Constraints violated (_past, _sequence)!
  - Not all values of _sequence = L['inputs'][0].size()[1] satisfy the generated guard
Suggested fixes:
  _sequence = Dim('_sequence', max=22)
  _past = Dim('_past', max=30)

The error above occurred when calling torch.export.export."""


def test_upper_bounds_are_read_where_nothing_else_is_asked_for() -> None:
    assert suggested_bounds(ASKED) == {"sequence": 22, "past": 30}
    assert suggested_bounds(ASKED.replace("_past = Dim('_past', max=30)", "_past = 3")) == {}
    assert suggested_bounds("Suggested fixes:\n") == suggested_bounds("no fixes") == {}


def test_sizes_that_a_model_fixes_are_named() -> None:
    assert fixed_sizes(ASKED) == "sequence up to 22 and past up to 30"
    asked = ASKED.replace("max=22", "min=4, max=7").replace("_past = Dim('_past', max=30)", "_past = 3")
    assert fixed_sizes(asked) == "sequence from 4 up to 7 and past = 3"
    assert fixed_sizes("no fixes") == ""


def test_a_model_with_a_window_is_captured_up_to_it() -> None:
    torch.manual_seed(0)
    config = transformers.DogeConfig(**SMALL, **HEADS, keep_window_size=80)
    model: Any = transformers.DogeForCausalLM(config).eval()
    model.set_attn_implementation("eager")  # in transformers 5.17 the other one lets Doge look at later tokens
    graph = capture(model)
    [note] = graph.notes
    assert "sequence up to 78" in note
    ids = torch.randint(64, (2, 20))
    past = [torch.zeros(2, 2, 0, 8)] * 2
    places = torch.arange(20).repeat(2, 1)
    with torch.no_grad():
        found = graph(ids, torch.ones_like(ids), places, *past)[0]
        torch.testing.assert_close(found, model(ids).logits)


def test_queries_under_a_norm_are_locked_with_the_reason() -> None:
    config = transformers.BitNetConfig(**SMALL, **HEADS)
    groups = analyze(capture(transformers.BitNetForCausalLM(config).eval()))
    reasons = {str(group.locked) for group in groups.groups if group.kind == "query"}
    assert len(reasons) == 1
    assert "a removed query is not zero" in reasons.pop()
