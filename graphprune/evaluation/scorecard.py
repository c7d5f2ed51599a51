"""A scorecard: what one model scores on a text and on tasks, with everything that a comparison must hold fixed."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from graphprune.data.stream.lead import NO_LEAD, find_lead
from graphprune.data.tokens import check_tokens, read_tokens
from graphprune.errors import UsageError
from graphprune.evaluation.language_model import Interface, LanguageModel
from graphprune.evaluation.task_scores import TaskScore, score_tasks
from graphprune.progress import Progress, no_progress
from graphprune.running.perplexity import stream_perplexity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_TEXT = "stdlib:held-out"
_WINDOW = 256


@dataclass(frozen=True)
class Questions:
    """What a model is scored on: a text, tasks, or both.

    `text` is None for tasks alone. `window` None is 256 tokens, or the model's context where that is shorter. `bos`
    starts every window with the tokenizer's first token, where it has one. See `score_tasks` for the tasks.
    """

    text: str | None = DEFAULT_TEXT
    text_bytes: int | None = None
    text_tokens: int | None = None
    field: str = "text"
    window: int | None = None
    stride: int | None = None
    bos: bool = True
    tasks: tuple[str, ...] = ()
    data: Path | None = None
    limit: int | None = None
    shots: int | None = None
    batch: int = 16

    def __post_init__(self) -> None:
        if self.text is None and not self.tasks and self.data is None:
            raise UsageError("nothing to score: name a text or tasks")


@dataclass(frozen=True)
class TextScore:
    """Perplexity of a text and how it was measured.

    `bos` is the token that every window starts with, or None. `unknown` counts the tokens that the tokenizer had no
    word for; they make a text look easier than it is.
    """

    source: str
    window: int
    stride: int
    bos: str | None
    tokens: int
    bytes: int
    unknown: int
    nats_per_token: float
    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True)
class Scorecard:
    """The scores of one face of a model; `dtype` is what its weights are computed in."""

    model: str
    face: Interface
    dtype: str
    text: TextScore | None
    tasks: tuple[TaskScore, ...]


def fill_in(name: str, model: LanguageModel, questions: Questions, progress: Progress = no_progress) -> Scorecard:
    """Score a model. Raises UsageError and DataError for what cannot be asked of it."""
    label = f"{name} ({model.face})"
    text = score_text(model, questions, label, progress) if questions.text is not None else None
    tasks: tuple[TaskScore, ...] = ()
    if questions.tasks or questions.data is not None:
        stage = f"tasks on {label}"
        progress(stage, 0, 0)
        tasks = score_tasks(
            model,
            questions.tasks,
            questions.data,
            questions.limit,
            questions.shots,
            questions.batch,
            lambda done, total: progress(stage, done, total),
        )
    return Scorecard(name, model.face, model.dtype, text, tasks)


def score_text(
    model: LanguageModel, questions: Questions, label: str = "model", progress: Progress = no_progress
) -> TextScore:
    """The perplexity of the text of these questions."""
    assert questions.text is not None
    tokenizer = model.tokenizer
    lead = find_lead(tokenizer) if questions.bos else NO_LEAD
    bos = lead.begin(tokenizer.bos_token_id if questions.bos else None)
    window = choose_window(model.context - lead.more(bos), questions.window)
    stage = f"{questions.text} on {label}"
    progress(stage, 0, 0)
    tokens, size = read_tokens(tokenizer, questions.text, questions.field, questions.text_bytes, questions.text_tokens)
    check_tokens(tokens, model.vocabulary, 2, questions.text)
    found = stream_perplexity(
        lead.around(model.logits),
        tokens,
        window,
        questions.batch,
        vocabulary=model.vocabulary,
        stride=questions.stride,
        bos=bos,
        text_bytes=size,
        progress=lambda done, total: progress(stage, done, total),
    )
    return TextScore(
        source=questions.text,
        window=window,
        stride=questions.stride or window - 1,
        bos=None if bos is None else str(tokenizer.convert_ids_to_tokens(bos)),
        tokens=found.tokens,
        bytes=size,
        unknown=count_unknown(tokenizer, tokens),
        nats_per_token=found.nats_per_token,
        perplexity=found.perplexity,
        bits_per_byte=found.bits_per_byte or 0.0,
    )


def choose_window(context: int, window: int | None) -> int:
    """The window's length. Raises UsageError for one that is longer than the model's context."""
    if window is not None and window > context:
        raise UsageError(f"windows of {window} tokens are longer than the model's context of {context}")
    return window or min(_WINDOW, context)


def count_unknown(tokenizer: "PreTrainedTokenizerBase", tokens: Tensor) -> int:
    unknown = tokenizer.unk_token_id
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    return 0 if unknown is None or unknown in ends else int((tokens == unknown).sum())
