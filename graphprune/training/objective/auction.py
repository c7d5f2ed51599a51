"""Auction: rows are shared out among experts so that each is given as many, at nearly the largest affinity in all.

Source: BASE layers, arXiv 2103.16716, as CPM-2 has them (arXiv 2106.10715). There experts bid for tokens; here tokens
bid for places (Bertsekas, similar objects): a bid raises the price of an expert by what it is worth more than the next.
"""

import torch
from torch import Tensor

_STEP = 400  # the least rise of a price: so much of the range of affinities
_TURNS = 2_000  # after which who has no place yet takes what is left


def assign(affinity: Tensor) -> Tensor:
    """Which expert each row is given, int64 [rows], of affinities [rows, experts].

    Each expert is given rows / experts; where that is no whole number, the first ones have one more. The sum of the
    affinities is never below that of taking the largest affinity first.
    """
    scores = affinity.detach().double().cpu()
    rows, experts = scores.shape
    room = torch.full((experts,), rows // experts)
    room[: rows % experts] += 1
    bought, greedy = fill(scores, bid(scores, room), room), fill(scores, torch.full((rows,), -1), room)
    chosen = max((bought, greedy), key=lambda each: float(scores.gather(1, each[:, None]).sum()))
    return chosen.to(affinity.device)


def bid(scores: Tensor, room: Tensor) -> Tensor:
    """Where each row has a place after the auction, -1 for those that have none yet."""
    rows, experts = scores.shape
    step = float(scores.max() - scores.min()) / _STEP
    place, paid, price = torch.full((rows,), -1), torch.zeros(rows).double(), torch.zeros(experts).double()
    for _ in range(_TURNS if step > 0 and experts > 1 else 0):
        free = (place < 0).nonzero()[:, 0]
        if not len(free):
            break
        best, which = (scores[free] - price).topk(2, dim=1)
        place[free] = which[:, 0]
        paid[free] = price[which[:, 0]] + best[:, 0] - best[:, 1] + step
        for expert in sorted(set(which[:, 0].tolist())):
            held, most = (place == expert).nonzero()[:, 0], int(room[expert])
            if len(held) >= most:
                order = paid[held].argsort(descending=True, stable=True)
                place[held[order[most:]]] = -1
                price[expert] = paid[held[order[most - 1]]] if most else torch.inf
    return place


def fill(scores: Tensor, place: Tensor, room: Tensor) -> Tensor:
    """Give each row without a place one of those that are left, the largest affinity first."""
    place, left = place.clone(), room - torch.bincount(place[place >= 0], minlength=len(room))
    free = (place < 0).nonzero()[:, 0]
    order = scores[free].flatten().argsort(descending=True, stable=True)
    wanted, places, rooms = free[order // len(room)].tolist(), (order % len(room)).tolist(), left.tolist()
    given = place.tolist()
    for row, expert in zip(wanted, places, strict=True):
        if given[row] < 0 and rooms[expert] > 0:
            given[row] = expert
            rooms[expert] -= 1
    return torch.tensor(given)
