"""Token weights: all alike where no token stands out, bounded energy where one does, whatever the scales of inputs."""

import torch

from graphprune.pruning.signals.token_weights import text_length, token_weights


def batches(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 16, 32, generator=generator) for _ in range(3)]


def flat(value: torch.Tensor) -> torch.Tensor:
    return value.flatten(0, -2).double()


def test_where_no_token_stands_out_all_count_the_same() -> None:
    weights = torch.cat(token_weights(batches(), [16] * 3))
    torch.testing.assert_close(weights, torch.full((96,), 1 / 96, dtype=torch.float64))


def test_a_huge_token_has_at_most_eight_times_the_usual_share() -> None:
    values = batches()
    values[1][0, 0] *= 1e4
    weights = token_weights(values, [16] * 3)
    usual = flat(batches()[0]).square().mean(0)
    energy = float((flat(values[1])[0].square() / usual).mean() * weights[1][0] * 96)
    assert 5 < energy < 11
    others = torch.cat(weights)[torch.arange(96) != 32]
    torch.testing.assert_close(others, others[:1].expand(95))


def test_scales_of_inputs_change_nothing_and_empty_inputs_are_no_trouble() -> None:
    values = batches()
    values[0][1, 3] *= 50
    scale = torch.logspace(-2, 2, 32)
    scale[5] = 0.0
    plain = [value.clone() for value in values]
    for value in plain:
        value[..., 5] = 0.0
    for left, right in zip(
        token_weights(plain, [0] * 3), token_weights([v * scale for v in values], [0] * 3), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-9)


def test_a_token_whose_error_is_huge_counts_less_too() -> None:
    values, errors = batches(), batches(1)
    errors[2][1, 0] *= 1e3
    weights = torch.cat(token_weights(values, [16] * 3, errors))
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0, dtype=torch.float64))
    others = weights[torch.arange(96) != 80]
    torch.testing.assert_close(others, others[:1].expand(95))
    assert float(weights[80]) < 1e-4 * float(others[0])


def test_first_tokens_do_not_say_what_is_usual() -> None:
    """A sixteenth of all tokens, huge in one input of 32: their energy is no outlier of a mean that they rule."""
    values = batches()
    for value in values:
        value[:, 0, 7] = 1e3
    for shaped in (values, [value.flatten(0, 1) for value in values]):
        weights = torch.cat(token_weights(shaped, [16] * 3))
        first = weights.unflatten(0, (6, 16))[:, 0]
        assert float(first.max()) < 1e-3 * float(weights.max())
    assert text_length(torch.zeros(2, 16, dtype=torch.long)) == text_length({"input_ids": torch.zeros(3, 16)}) == 16
    assert text_length({"pixel_values": torch.zeros(1, 3, 8, 8)}) == 0
