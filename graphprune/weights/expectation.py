"""Expectation: when an expert will be asked for again, by how often it was and by where the model is now."""

from collections.abc import Collection, Sequence
from typing import final

_NEW = 1 / 8  # of what is known of an expert, how much the last forward says
_LEAST = 1e-3
_SURE = 0.9  # a share from which a guess pays: one that is wrong delays what is needed, and takes its place


@final
class Expectation:
    """Stacks are visited one after the other, and again from the first: `counts` are their experts, in this order.

    What lies furthest in the future is what memory can spare best (Belady 1966). A stack's turn is known, and of its
    experts the share of forwards that asked for them. Where all are asked for each time, as by long texts, the last
    of what is visited goes, so that the others are there the next time; the least recently used would be what is needed
    next.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.shares = [[0.0] * count for count in counts]
        self.seen = [False] * len(counts)
        self.now = 0

    def visited(self, stack: int, experts: Collection[int]) -> None:
        """Note which experts a stack was asked for."""
        self.now = stack
        weight = _NEW if self.seen[stack] else 1.0
        self.seen[stack] = True
        shares, asked = self.shares[stack], set(experts)
        for expert, share in enumerate(shares):
            shares[expert] = share + weight * ((expert in asked) - share)

    def wait(self, stack: int, expert: int) -> float:
        """After how many visits of stacks this expert is likely to be asked for."""
        turns = len(self.shares)
        return ((stack - self.now - 1) % turns) + turns * (1 / max(self.shares[stack][expert], _LEAST) - 1)

    def likely(self, stack: int) -> list[int]:
        """The experts that nearly all of the last forwards asked this stack for, the likeliest first."""
        shares = self.shares[stack]
        return sorted((e for e, share in enumerate(shares) if share > _SURE), key=lambda e: -shares[e])
