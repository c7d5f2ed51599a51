"""The adapter through which lm-eval asks a `LanguageModel`; importing it needs lm-eval (`graphprune[eval]`)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict, final

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from graphprune.data.stream.lead import find_lead
from graphprune.data.tokenizer_files import encoding
from graphprune.errors import UsageError
from graphprune.evaluation.generation import greedy_texts
from graphprune.evaluation.language_model import LanguageModel
from graphprune.evaluation.minimal_pairs import first_token
from graphprune.running.likelihood import Continuation, Count, score_continuations

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

_NEW_TOKENS = 256  # where a task does not say, as lm-eval's own models have it


class Options(TypedDict, total=False):
    """What a task says of the texts that it wants."""

    do_sample: bool
    temperature: float
    until: str | list[str] | None
    max_gen_toks: int


@final
class Harness(TemplateLM):  # type: ignore[misc]
    """Tokenises, truncates and scores as lm-eval's model for transformers does, so that numbers are comparable."""

    def __init__(self, model: LanguageModel, batch: int = 16, progress: Count | None = None) -> None:
        super().__init__()
        self.model, self.batch, self.progress = model, batch, progress
        self.tokenizer = model.tokenizer
        self.lead = find_lead(model.tokenizer)

    @property
    def eot_token_id(self) -> int:
        end = self.tokenizer.eos_token_id
        return int(end) if end is not None else first_token(self.tokenizer)

    @property
    def prefix_token_id(self) -> int:
        return first_token(self.tokenizer)

    @property
    def max_length(self) -> int:
        return self.model.context

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: object) -> list[int]:
        """Token ids of a text; the tokenizer adds its special tokens unless the text starts with the first one."""
        if add_special_tokens is None and string.startswith(str(self.tokenizer.decode(self.prefix_token_id))):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        with encoding():
            return list(self.tokenizer.encode(string, verbose=False, **options))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def loglikelihood(self, requests: list["Instance"], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[object, list[int], list[int]]], **kwargs: object
    ) -> list[tuple[float, bool]]:
        """Score (texts, context, continuation); contexts lose their oldest tokens where they are too long.

        One without a text is what stands before texts.
        """
        wanted = [Continuation(self.begun(texts, context), tuple(tokens)) for texts, context, tokens in requests]
        scores = score_continuations(self.model.reader, wanted, self.batch, self.model.context, self.progress)
        return [(score.log_probability, score.greedy) for score in scores]

    def begun(self, texts: object, context: Sequence[int]) -> tuple[int, ...]:
        """The context, or where its text is empty the learned prompt, if the tokenizer has one."""
        empty = isinstance(texts, tuple) and not texts[0]
        return self.lead.tokens if empty and self.lead.prompt else tuple(context)

    def loglikelihood_rolling(self, requests: list["Instance"], disable_tqdm: bool = True) -> list[float]:
        """The log-probability of whole texts in windows of the context, each token predicted once.

        The first window starts with the tokenizer's first token, each later one with the token before it; the last
        window is full, its earlier tokens being context only.
        """
        windows = [self.windows(request.args[0]) for request in requests]
        flat = [("", context, tokens) for group in windows for context, tokens in group]
        scores = iter(self._loglikelihood_tokens(flat))
        return [sum(next(scores)[0] for _ in group) for group in windows]

    def windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        """What is predicted behind what; every window behind the learned prompt, if the tokenizer has one."""
        before = list(self.lead.tokens)
        rolled = get_rolling_token_windows(
            token_list=self.tok_encode(text, add_special_tokens=False if before else None),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length - len(before),
            context_len=1,
        )
        pairs = [make_disjoint_window(pair) for pair in rolled]
        if not before:
            return pairs
        return [([*before, *(context if place else [])], wanted) for place, (context, wanted) in enumerate(pairs)]

    def generate_until(self, requests: list["Instance"], disable_tqdm: bool = True) -> list[str]:
        """Greedy texts through the cache, each ended by the first of the request's stop strings or the end token.

        At most half of the context is generated; prompts lose their oldest tokens to make room.
        """
        order = sorted(range(len(requests)), key=lambda index: -len(requests[index].args[0]))
        found = [""] * len(requests)
        done = 0
        for group in group_by_options(order, requests, self.batch):
            texts = self.generate([requests[index].args[0] for index in group], requests[group[0]].args[1])
            for index, text in zip(group, texts, strict=True):
                found[index] = text
            done += len(group)
            if self.progress is not None:
                self.progress(done, len(requests))
        return found

    def generate(self, prompts: Sequence[str], options: Options) -> list[str]:
        """Continue prompts of one set of options. Raises UsageError where a task asks for sampling."""
        if options.get("do_sample") and options.get("temperature", 1.0) > 0:
            raise UsageError(
                "the task asks for sampled text; generation here is greedy, so its score would not compare"
            )
        until = options.get("until") or []
        stop = [until] if isinstance(until, str) else list(until)
        count = min(int(options.get("max_gen_toks", _NEW_TOKENS)), max(1, self.max_length // 2))
        ids = [self.tok_encode(prompt)[-(self.max_length - count) :] or [self.prefix_token_id] for prompt in prompts]
        return greedy_texts(self.model, ids, count, [each for each in stop if each], self.lead.prompt)


def group_by_options(order: Sequence[int], requests: Sequence["Instance"], size: int) -> list[list[int]]:
    """Batches of requests whose generation options are the same, in the given order."""
    kinds: dict[str, list[int]] = {}
    for index in order:
        kinds.setdefault(repr(sorted(requests[index].args[1].items(), key=lambda item: item[0])), []).append(index)
    return [group[start : start + size] for group in kinds.values() for start in range(0, len(group), size)]
