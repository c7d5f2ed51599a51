"""The verdict: what words a loss of quality gets, and what is not the result's fault."""

import math

import pytest
import torch

from graphprune.data.calibration import Text
from graphprune.evaluation.measure import Measure
from graphprune.reporting.verdict import Floor, floor_of, judge, judge_variants
from graphprune.running.perplexity import Perplexity

FLOOR = Floor(2.0, 4.0)
TEXT = Text((), torch.arange(100), 100, None)


def measured(bits: float, tokens: int = 100) -> Perplexity:
    """Bits a byte of a text with one token a byte."""
    nats = bits * math.log(2)
    return Perplexity(nats, math.exp(min(nats, 700)), bits, tokens)


@pytest.mark.parametrize(
    ("before", "after", "standing"),
    [
        (1.0, 0.9, "kept"),
        (1.0, 1.0, "kept"),
        (1.0, 1.05, "kept"),
        (1.0, 1.06, "trainable"),
        (1.0, 1.99, "trainable"),
        (1.0, 2.0, "broken"),
        (1.0, 9.0, "broken"),
        (1.0, math.inf, "broken"),
        (1.0, math.nan, "broken"),
        (2.5, 2.4, "unknown"),
        (math.nan, 1.0, "unknown"),
    ],
)
def test_a_loss_is_said_in_words(before: float, after: float, standing: str) -> None:
    verdict = judge(measured(before), measured(after), FLOOR, trained=False)
    assert verdict.standing == standing
    assert ("trigrams" in verdict.reason) == (standing != "kept")


def test_a_guess_is_the_measure_where_counting_is_worse() -> None:
    assert judge(measured(1.0), measured(3.0), Floor(9.0, 2.5), trained=False).standing == "broken"


def test_what_to_do_depends_on_whether_it_was_trained() -> None:
    assert "--method adapt-accel" in str(judge(measured(1), measured(1.5), FLOOR, trained=False))
    assert "--train-tokens" in str(judge(measured(1), measured(1.5), FLOOR, trained=True))
    assert "keep more of it" in str(judge(measured(1), measured(3), FLOOR, trained=True))


@pytest.mark.parametrize(
    "given", [(None, measured(1), FLOOR), (measured(1), None, FLOOR), (measured(1), measured(1), None)]
)
def test_what_was_not_measured_is_not_judged(given: tuple[Perplexity | None, Perplexity | None, Floor | None]) -> None:
    verdict = judge(*given, trained=False)
    assert str(verdict).startswith("quality not measured: ")
    assert "graphprune eval OUT" in verdict.reason


def test_the_floor_is_that_of_the_text() -> None:
    rows = torch.arange(16).repeat(4, 2)
    floor = floor_of(Text((rows,), torch.arange(16).repeat(5), 80, None), 256)
    assert floor.guess == 8.0
    assert floor.trigrams < 1
    assert floor.least == floor.trigrams


def variants(**perplexities: float | None) -> tuple[Measure, ...]:
    return tuple(Measure(f"held-out perplexity, onnx-{name}", None, value) for name, value in perplexities.items())


def test_each_variant_has_one_of_three_states() -> None:
    bits = {"fp16": 1.0, "int8": 1.02, "int4": 1.3, "int2": 2.5}
    found = judge_variants(variants(**{n: 2.0**b for n, b in bits.items()}, none=None), measured(1.0), TEXT, FLOOR)
    assert [(check.artefact, check.state) for check in found] == [
        ("onnx-fp16", "ok"),
        ("onnx-int8", "ok"),
        ("onnx-int4", "care"),
        ("onnx-int2", "broken"),
        ("onnx-none", "broken"),
    ]
    assert found[2].detail == "+30.0% nats a token"
    assert "take more bits" in found[2].advice


def test_what_the_model_lacks_is_not_the_variant_s_fault() -> None:
    (check,) = judge_variants(variants(int8=2.0**3.01), measured(3.0), TEXT, FLOOR)
    assert check.state == "ok"
    assert judge_variants(variants(int8=2.0), None, TEXT, FLOOR) == ()
    assert judge_variants((Measure("parameters", 1, 1),), measured(1.0), TEXT, FLOOR) == ()
