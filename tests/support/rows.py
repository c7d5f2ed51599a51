"""A stream of rows that can be learned: each token is the one before it plus a step of its row's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.training.objective.sums import IGNORED


@dataclass(frozen=True)
class Rows:
    """Endless rows of an arithmetic; `masked` of each row's first labels do not count."""

    length: int = 12
    vocabulary: int = 64
    seed: int = 0
    masked: int = 0

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        ids = torch.stack([self.row(number) for number in range(start, start + count)])
        labels = ids.clone()
        labels[:, : self.masked] = IGNORED
        return ids, labels

    def row(self, number: int) -> Tensor:
        draw = torch.Generator().manual_seed(self.seed * 100_003 + number)
        first, step = torch.randint(self.vocabulary, (2,), generator=draw)
        return (first + (1 + step % 3) * torch.arange(self.length)) % self.vocabulary


def held_out(tokens: int = 240) -> Tensor:
    """A text of the same kind that no row of seed 0 is drawn for."""
    return Rows(seed=1).rows(0, tokens // 12)[0].flatten()
