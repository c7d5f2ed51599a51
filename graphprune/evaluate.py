"""Perplexity on held-out text, every token predicted exactly once."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.data import check_tokens, split_rows, vocabulary_size
from graphprune.errors import UsageError
from graphprune.ir import Graph
from graphprune.loss import next_token_loss


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text: nats per token, its exponential, bits per byte where the bytes are known.

    `tokens` is the number of predicted tokens. Perplexities of different tokenizers or windows do not compare; bits per
    byte of different tokenizers do.
    """

    nats_per_token: float
    perplexity: float
    bits_per_byte: float | None
    tokens: int


def perplexity(
    graph: Graph,
    tokens: Tensor,
    window: int = 256,
    batch: int = 8,
    *,
    bos: int | None = None,
    text_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Predict each token of a stream once, in windows of `window` tokens whose contexts do not cross.

    With `bos` every window is `bos` and the next window-1 tokens. Without, it starts with the token before them, so
    that only the stream's first token goes unpredicted. The last window may be shorter. `text_bytes` is the length of
    the text in UTF-8 and gives bits per byte. `progress(done, windows)` is called after each batch.
    Raises DataError for tokens that the model does not know or too few of them.
    """
    if window < 2 or batch < 1:
        raise UsageError(f"windows are 2 tokens or more and batches 1 or more, not {window} and {batch}")
    check_tokens(tokens, vocabulary_size(graph), 1 if bos is not None else 2, "the text")
    windows = cut_windows(tokens, window, bos)
    total, done, count = 0.0, 0, sum(map(len, windows))
    with torch.no_grad():
        for part in (rows for block in windows for rows in split_rows(block, batch)):
            total += next_token_loss(graph, part, "sum").item()
            done += len(part)
            if progress is not None:
                progress(done, count)
    predicted = sum(block.numel() - len(block) for block in windows)
    nats = total / predicted
    bits = None if text_bytes is None else total / math.log(2) / text_bytes
    return Perplexity(nats, math.exp(nats) if nats < 700 else math.inf, bits, predicted)


def cut_windows(tokens: Tensor, window: int, bos: int | None) -> list[Tensor]:
    """The windows of `perplexity`: [windows, window], and one shorter row where tokens are left over."""
    step = window - 1
    stream = tokens if bos is None else torch.cat([tokens.new_tensor([bos]), tokens])
    full = (len(stream) - 1) // step
    rows = stream[: full * step + 1].unfold(0, window, step).clone() if full else stream.new_empty(0, window)
    rest = stream[full * step :][None].clone()
    blocks = [block for block in (rows, rest) if len(block) and block.shape[1] > 1]
    if bos is not None:
        for block in blocks:
            block[:, 0] = bos
    return blocks
