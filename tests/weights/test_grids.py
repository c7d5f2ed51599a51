"""Grids of 4 bits: what is fitted, what moving an offset does, and when a weight is known to lie on one."""

import pytest
import torch
from torch import Tensor

from graphprune.weights.grids import GRID, MOST, Grid, find_grid, fit_grid


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def again(grid: Grid, values: Tensor, block: int | None = None) -> Grid | None:
    return find_grid(values, list(grid.companions().values()), block or grid.block)


@pytest.mark.parametrize(("inputs", "block"), [(64, 32), (40, 16), (7, 16), (130, 64)])
def test_a_fit_is_near_and_has_sixteen_values_a_block(inputs: int, block: int) -> None:
    matrix = draw(6, inputs)
    grid = fit_grid(matrix, block)
    blocks = -(-inputs // block)
    assert grid.scale.shape == grid.offset.shape == (6, blocks)
    assert int(grid.codes.max()) <= MOST
    assert grid.is_whole()
    assert bool(((grid.values() - matrix).abs() <= 0.5001 * grid.spread(grid.scale)).all())
    for row in range(6):
        for place in range(blocks):
            part = matrix[row, place * block : (place + 1) * block]
            low, high = min(0.0, float(part.min())), max(0.0, float(part.max()))
            assert float(grid.scale[row, place]) == pytest.approx((high - low) / 15, rel=1e-6)


def test_a_fit_is_what_onnxruntime_packs() -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer

    matrix = draw(8, 64)
    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=False)
    packed, scales, offsets = DefaultWeightOnlyQuantizer(config).qbits_block_quant(matrix.T.contiguous().numpy())
    grid = fit_grid(matrix, 32)
    torch.testing.assert_close(grid.scale, torch.from_numpy(scales), rtol=1e-6, atol=0)
    codes = torch.from_numpy(packed).flatten(1)
    codes = torch.stack([codes & 15, codes >> 4], 2).flatten(1)
    theirs = Grid(codes, grid.scale, torch.from_numpy(offsets).view(8, -1).bitwise_and(15).float(), 32)
    assert float((codes != grid.codes).float().mean()) < 0.01, "but for entries in the middle of two"
    assert theirs.codes.shape == grid.codes.shape


def test_a_block_of_zeros_stays_and_can_be_moved() -> None:
    grid = fit_grid(torch.zeros(2, 32), 16)
    assert torch.equal(grid.values(), torch.zeros(2, 32))
    torch.testing.assert_close(grid.moved(torch.full((2, 2), 0.25)).values(), torch.full((2, 32), 0.25))


def test_moving_changes_every_entry_of_a_block_alike_and_no_code() -> None:
    grid, change = fit_grid(draw(5, 40), 16), 0.1 * draw(5, 3, seed=1)
    moved = grid.moved(change)
    torch.testing.assert_close(moved.values() - grid.values(), grid.spread(change), rtol=1e-4, atol=1e-6)
    assert moved.codes is grid.codes
    assert moved.scale is grid.scale
    torch.testing.assert_close(moved.offset, grid.offset - change / grid.scale)
    assert not moved.is_whole()


@pytest.mark.parametrize("size", [1.0, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_is_known_to_lie_on_its_grid_also_when_it_was_rounded(dtype: torch.dtype, size: float) -> None:
    """Blocks that are small beside what they were moved by are coarser than the rounding, and known all the same."""
    grid = fit_grid(size * draw(9, 72), 32).moved(0.3 * draw(9, 3, seed=2))
    found = again(grid, grid.values().to(dtype).float())
    assert found is not None
    assert torch.equal(found.codes, grid.codes)
    assert torch.equal(found.values(), grid.values())
    half = again(grid, grid.values(), 16)
    assert half is not None, "a block is two of half its size"
    assert torch.equal(half.values(), grid.values())


def test_other_weights_do_not_lie_on_it() -> None:
    grid = fit_grid(draw(4, 64), 32)
    assert again(grid, grid.values() + 0.2 * grid.spread(grid.scale)) is None
    assert again(grid, grid.values() * 40) is None
    assert again(grid, grid.values(), 64) is None, "blocks of another size"
    kept = torch.tensor([i for i in range(64) if i != 3])
    beside = list(grid.companions().values())
    assert tuple(grid.companions()) == GRID
    assert find_grid(grid.values()[:, kept], [t[:, kept] for t in beside], 32) is None, "a cut moves blocks"
    assert find_grid(grid.values()[:2], [t[:2] for t in beside], 32) is not None, "a cut of outputs does not"
    assert find_grid(torch.full((4, 64), float("nan")), beside, 32) is None
