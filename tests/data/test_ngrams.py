"""Trigrams: probabilities by hand, that they are probabilities, and the bits of simple texts."""

import math

import pytest
import torch

from graphprune.data.ngrams import bits_per_byte, count_trigrams, guess_bits_per_byte

ROWS = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 3, 3, 0, 1]])


def chance(token: int, before: list[int], vocabulary: int = 5) -> float:
    """By the definition: Witten and Bell's interpolation, a loop for each count."""
    if before == [-1]:
        return 1 / vocabulary
    followed = [
        row[i + len(before)]
        for row in ROWS.tolist()
        for i in range(len(row) - len(before))
        if row[i : i + len(before)] == before
    ]
    below = chance(token, before[1:], vocabulary) if before else 1 / vocabulary
    kinds = len(set(followed))
    return (followed.count(token) + kinds * below) / (len(followed) + kinds) if followed else below


@pytest.mark.parametrize("text", [[0], [0, 1], [0, 1, 2], [3, 0, 1, 4, 4, 2, 0, 1, 3]])
def test_counting_is_what_the_definition_says(text: list[int]) -> None:
    wanted = -sum(math.log(chance(token, text[max(0, i - 2) : i])) for i, token in enumerate(text))
    assert count_trigrams((ROWS,), 5).nats(torch.tensor(text)) == pytest.approx(wanted)


def test_what_may_follow_comes_to_one() -> None:
    trigrams = count_trigrams((ROWS[:1], ROWS[1:]), 5)
    for before in ([0, 1], [3, 3], [4, 4]):
        known = trigrams.nats(torch.tensor(before))
        assert sum(math.exp(known - trigrams.nats(torch.tensor([*before, t]))) for t in range(5)) == pytest.approx(1)


def test_a_text_that_was_counted_takes_fewer_bits_than_a_guess_and_noise_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    pattern = torch.arange(40).repeat(20)
    noise = torch.randint(256, (800,), generator=generator)
    guess = guess_bits_per_byte(256, pattern, 800)
    assert guess == 8.0
    assert bits_per_byte((pattern[:200].reshape(2, 100),), 256, pattern, 800) < 1
    assert bits_per_byte((noise[:400].reshape(4, 100),), 256, noise[400:], 400) > 7.5


def test_without_a_text_to_count_it_is_a_guess() -> None:
    tokens = torch.tensor([1, 2, 3])
    assert bits_per_byte((), 256, tokens, 3) == pytest.approx(8.0)


def test_the_largest_vocabularies_fit() -> None:
    last = 1_999_999
    rows = torch.tensor([[last, last, last, 1]])
    assert count_trigrams((rows,), 2_000_000).nats(torch.tensor([last, last, last])) < 3 * math.log(2_000_000)
