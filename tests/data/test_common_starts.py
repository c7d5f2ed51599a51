"""Texts that begin alike are grouped so that most is saved, and batches of like length have little padding."""

import itertools
import random

import pytest

from graphprune.data.common_starts import Key, Start, batch_starts, batches, best_runs, find_starts

START = tuple(range(10, 30))


def test_texts_are_grouped_by_what_they_share() -> None:
    alike: list[Key] = [((*START, 1, 2), 2), ((*START, 1, 3, 4), 3), ((*START, 5), 1)]
    others: list[Key] = [((7, 8, 9), 1), ((7, 9), 1)]
    (found,) = find_starts([*others, *alike], 16)
    assert set(found.keys) == set(alike)
    assert found.length == 19, "the last of the twenty is read with each: it predicts what differs"
    assert found.scored == (START, 0)


def test_what_is_scored_of_a_start_is_known() -> None:
    """As in minimal pairs, where all but the first token is scored."""
    found = Start(3, (((1, 2, 3, 4, 5), 4), ((1, 2, 3, 4, 6, 7), 5)))
    assert found.scored == ((1, 2, 3, 4), 3)


def test_a_text_that_begins_another_leaves_it_a_token_to_read() -> None:
    long = (*START, *START)
    (found,) = find_starts([(START, 1), (long, 3)], 16)
    assert found.length == len(START) - 2
    assert all(len(text) - found.length >= 2 for text, _ in found.keys)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_cut_of_sorted_texts_saves_more(seed: int) -> None:
    rng = random.Random(seed)
    texts = {tuple(rng.choice((1, 2)) for _ in range(rng.randint(6, 14))) for _ in range(9)}
    keys: list[Key] = [(text, 1) for text in texts]
    saved = sum((len(group.keys) - 1) * group.length - 4 for group in find_starts(keys, 3))
    assert saved == most_saved(sorted(keys), 3)


def most_saved(texts: list[Key], most: int) -> int:
    """Of all ways to cut texts in a row into groups, what the best saves: what all of a group share, but its last."""
    found = 0
    for cuts in itertools.product((False, True), repeat=len(texts) - 1):
        groups = [[texts[0][0]]]
        for (text, _), cut in zip(texts[1:], cuts, strict=True):
            groups = [*groups, [text]] if cut else [*groups[:-1], [*groups[-1], text]]
        if max(map(len, groups)) <= most:
            found = max(found, sum(saving(group) for group in groups if len(group) > 1))
    return found


def saving(group: list[tuple[int, ...]]) -> int:
    inputs = [text[:-1] for text in group]
    alike = next((i for i, each in enumerate(zip(*inputs, strict=False)) if len(set(each)) > 1), min(map(len, inputs)))
    return (len(group) - 1) * (alike - 1) - 4


def test_starts_of_a_batch_are_cut_to_its_shortest() -> None:
    starts = [Start(length, (((length,) * (length + 2), 1),)) for length in (30, 9, 28, 27, 26, 8)]
    found = batch_starts(starts, 3)
    assert [[start.length for start in batch] for batch in found] == [[27, 27, 27], [26], [8, 8]]
    assert [start.keys[0][0][0] for start in found[0]] == [30, 28, 27]


def test_batches_pad_no_more_than_another_call_would_cost() -> None:
    keys: list[Key] = [((length,) * length, 1) for length in (100, 99, 98, 20, 19, 3)]
    lengths = [[len(text) for text, _ in batch] for batch in batches(keys, 4)]
    assert lengths == [[100, 99, 98], [20, 19], [3]]
    assert [len(batch) for batch in batches(keys, 2)] == [2, 1, 2, 1]
    assert batches([], 4) == []


def test_runs_are_the_cheapest() -> None:
    assert best_runs(5, 2, lambda begin, end: 1) == [(0, 2), (2, 4), (4, 5)]
    assert best_runs(3, 3, lambda begin, end: (end - begin) ** 2) == [(0, 1), (1, 2), (2, 3)]
