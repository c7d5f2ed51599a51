"""Perplexity on held-out text, every token predicted exactly once."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from graphprune.context import check_windows
from graphprune.data.stream.lead import NO_LEAD, Lead
from graphprune.data.tokens import check_tokens, split_rows
from graphprune.errors import UsageError
from graphprune.ir.contract import fitting_length, vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.running.forms.picked import picked_form
from graphprune.running.forms.scoring import scoring_form
from graphprune.running.inputs import decoder_inputs
from graphprune.running.likelihood import IGNORED, Logits

_LOGITS = 1 << 26  # numbers that the logits of a batch may have: a quarter of a gigabyte
_LONG = 16  # windows, from which a form of the graph that is made for their length pays


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
    stride: int | None = None,
    bos: int | None = None,
    text_bytes: int | None = None,
    lead: Lead = NO_LEAD,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Predict each token of a stream once, in windows of `window` tokens, or of as many as the model was made for; see
    `stream_perplexity`. Windows stand behind the `lead`, which is not counted among their tokens."""
    more = lead.more(bos)
    window = min(window, max(2, fitting_length(graph, window + more) - more))
    whole = window - 1 + more if len(tokens) >= _LONG * window else None
    return stream_perplexity(
        lead.around(graph_logits(graph, whole)),
        tokens,
        window,
        batch,
        vocabulary=vocabulary_size(graph),
        stride=stride,
        bos=bos,
        text_bytes=text_bytes,
        progress=progress,
    )


def is_flat(graph: Graph) -> bool:
    """Say whether a graph is made of operators alone: adapters and shards put modules into one that is trained."""
    return not graph.module.graph.find_nodes(op="call_module")


def graph_logits(graph: Graph, length: int | None = None) -> Logits:
    """The graph as a function from token ids to logits, the faster for rows of the given length.

    Raises UsageError where it has none.
    """
    if "logits" not in graph.outputs:
        raise UsageError("the graph has no logits; perplexity is for language models")
    place = graph.outputs.index("logits")
    graph = picked_form(graph) if is_flat(graph) else graph

    def logits(ids: Tensor) -> Tensor:
        return graph(*decoder_inputs(graph, ids))[place]

    if length is None or not is_flat(graph):
        return logits
    form = scoring_form(graph, length)
    return lambda ids: form(*decoder_inputs(form, ids))[0] if ids.shape[1] == length else logits(ids)


def stream_perplexity(
    logits: Logits,
    tokens: Tensor,
    window: int = 256,
    batch: int = 8,
    *,
    vocabulary: int | None = None,
    stride: int | None = None,
    bos: int | None = None,
    text_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Predict each token of a stream once, in windows of `window` tokens that start `stride` tokens apart.

    The first window predicts all its tokens, each later one its last `stride`; the last window may be shorter. By
    default the stride is window - 1: contexts do not cross. With `bos` every window is `bos` and window - 1 tokens.
    Without, it starts with the token before them, so that only the stream's first token goes unpredicted. With a stride
    of the whole window, which is what many papers have, windows share nothing and the first token of each goes
    unpredicted; bits per byte are then those of the mean token. Of many words fewer rows than `batch` run at once.

    `text_bytes` is the length of the text in UTF-8 and gives bits per byte. `progress(done, windows)` is called after
    each batch. Raises DataError for tokens that the model does not know or too few of them.
    """
    stride = check_windows(window, stride, batch, bos is not None)
    check_tokens(tokens, vocabulary, 1 if bos is not None else 2, "the text")
    windows = cut_windows(tokens, window, bos, stride)
    total, done, count = 0.0, 0, sum(map(len, windows))
    batch = min(batch, max(1, _LOGITS // (window * (vocabulary or 1))))
    with torch.no_grad():
        for rows in (rows for block in windows for rows in split_rows(block, batch)):
            seen = [0 if done + row == 0 else max(0, window - 1 - stride) for row in range(len(rows))]
            total += stream_loss(logits(rows[:, :-1]), targets(rows, seen))
            done += len(rows)
            if progress is not None:
                progress(done, count)
    apart = stride == window
    predicted = sum(block.numel() - len(block) for block in windows) if apart else len(tokens) - (bos is None)
    nats = total / predicted
    whole = nats * len(tokens) if apart else total
    bits = None if text_bytes is None else whole / math.log(2) / text_bytes
    return Perplexity(nats, math.exp(nats) if nats < 700 else math.inf, bits, predicted)


def stream_loss(logits: Tensor, targets: Tensor) -> float:
    """The nats of all targets, a row at a time: what is computed of one row's logits stays in the processor's cache."""
    losses = [
        functional.cross_entropy(row.float(), wanted, ignore_index=IGNORED, reduction="none").double().sum()
        for row, wanted in zip(logits, targets.to(logits.device), strict=True)
    ]
    return float(torch.stack(losses).sum())


def targets(rows: Tensor, seen: list[int]) -> Tensor:
    """The next tokens of windows [rows, window - 1], without the first `seen` of each, which came before."""
    wanted = rows[:, 1:].clone()
    for row, count in zip(wanted, seen, strict=True):
        row[:count] = IGNORED
    return wanted


def cut_windows(tokens: Tensor, window: int, bos: int | None, stride: int | None = None) -> list[Tensor]:
    """The windows of `stream_perplexity`: [windows, window], and one shorter row where tokens are left over."""
    step = window - 1 if stride is None else stride
    stream = tokens if bos is None else torch.cat([tokens.new_tensor([bos]), tokens])
    full = (len(stream) - window) // step + 1 if len(stream) >= window else 0
    rows = stream.unfold(0, window, step).clone() if full else stream.new_empty(0, window)
    covered = (full - 1) * step + window if full else 1
    blocks = [block for block in (rows, stream[full * step :][None].clone()) if len(block)]
    if covered == len(stream):
        blocks = blocks[:1] if full else []
    if step == window and full:
        blocks = [block for block in blocks if block.shape[1] > 1]  # one token left over is after none
    if bos is not None:
        for block in blocks:
            block[:, 0] = bos
    return blocks
