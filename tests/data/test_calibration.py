"""What a compilation measures on is the start of the held-out text, with its bytes."""

import torch

from graphprune.data.calibration import (
    Text,
    describe_text,
    measured_bytes,
    measured_part,
    part_held_out,
    watched_part,
)
from graphprune.data.tokens import encode
from tests.data.test_tokens import word_tokenizer


def held_out(documents: tuple[str, ...]) -> Text:
    tokenizer = word_tokenizer(eos_token="</s>")
    whole = sum(len(each.encode()) for each in documents)
    return Text((), encode(tokenizer, documents), whole, None, tokenizer, documents)


def test_a_long_text_is_measured_on_its_first_bytes_and_they_are_counted() -> None:
    limit = measured_bytes(1000)
    text = held_out(("w1 w2", "é w5 " * limit, "w3"))
    part = measured_part(text, 1000)
    less = measured_part(text, 10**8)
    assert 0 <= limit - part.held_out_bytes <= 1, "a character is not split"
    assert torch.equal(part.held_out, text.held_out[: len(part.held_out)])
    assert len(text.held_out) > 2 * len(part.held_out) > 0
    assert 0 <= 8192 - less.held_out_bytes <= 1, "of a large model's text less"
    assert part.held_out_bytes == sum(len(each.encode()) for each in part.documents)


def test_no_byte_that_is_measured_on_is_one_that_weights_are_chosen_by() -> None:
    limit = measured_bytes(1000)
    for documents in (("w1 w2", "é w5 " * limit, "w3"), ("w1 w2", "w3"), ("w1 é w2 w3 w4",), ("w1 w2 w3 w4",)):
        text = held_out(documents)
        measured, watched = part_held_out(text, 1000)
        assert sum(len(part) for part in (*measured, *watched)) >= sum(map(len, documents)) - 1
        assert "".join((*measured, *watched)) in ("".join(documents), "".join(documents).replace("é", "", 1))
        assert measured_part(text, 1000).documents == tuple(measured)
        tokens = watched_part(text, 1000)
        assert tokens is None or torch.equal(tokens, encode(word_tokenizer(eos_token="</s>"), watched))
    assert watched_part(held_out(("w1",)), 1000) is None


def test_of_a_short_text_half_is_measured_on_and_the_report_says_how_much_at_most() -> None:
    text = held_out(("w1 w2", "w3 w4"))
    part = measured_part(text, 1000)
    assert part.documents == ("w1 w2",)
    assert part.held_out_bytes == 5
    said = describe_text("/data/a.txt", 1000)
    assert said["source"] == "a.txt"
    assert said["held_out"].startswith(
        "the last tenth, 200 kB at most; of rows, every twentieth; measured on its first"
    )
    assert said["held_out"].endswith("32 KiB, or half; trainings are watched on the rest")
