"""What a compilation measures on is the start of the held-out text, with its bytes."""

import torch

from graphprune.data.calibration import Text, describe_text, measured_bytes, measured_part
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


def test_a_short_text_is_measured_on_as_it_is_and_the_report_says_how_much_at_most() -> None:
    text = held_out(("w1 w2", "w3"))
    part = measured_part(text, 1000)
    assert torch.equal(part.held_out, text.held_out)
    assert part.held_out_bytes == text.held_out_bytes == 7
    said = describe_text("/data/a.txt", 1000)
    assert said["source"] == "a.txt"
    assert said["held_out"] == "the last tenth, 200 kB at most; of rows, every twentieth; measured on its first 32 KiB"
