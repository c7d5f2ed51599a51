"""The lead: what stands before every text, where a prompt of tokens without a text has been learned for it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from graphprune.data.stream.packing import NO_LOSS
from graphprune.data.tokenizer_files import encoding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAME = re.compile(r"<\|prompt_\d+\|>")


@final
@dataclass(frozen=True)
class Lead:
    """The tokens of a prompt, behind `first` where the tokenizer itself begins every text with that token."""

    prompt: tuple[int, ...] = ()
    first: int | None = None

    @property
    def tokens(self) -> tuple[int, ...]:
        """What stands before a text, the first token included; nothing without a prompt."""
        first = () if self.first is None else (self.first,)
        return (*first, *self.prompt) if self.prompt else ()

    def begin(self, bos: int | None) -> int | None:
        """The token that texts are to begin with where that was `bos`: none where the prompt itself begins them."""
        return None if self.prompt and self.first is None else bos

    def more(self, bos: int | None) -> int:
        """The tokens by which `before` makes rows longer that begin with `bos`."""
        return len(self.prompt) if self.first is None or bos == self.first else len(self.tokens)

    def before(self, ids: Tensor) -> Tensor:
        """Rows behind the lead: [rows, length] to [rows, more]. Where all begin with the first token it stays there."""
        if not self.prompt:
            return ids
        prompt = ids.new_tensor(self.prompt).expand(len(ids), -1)
        if self.first is None:
            return torch.cat([prompt, ids], 1)
        begun = bool((ids[:, 0] == self.first).all())
        first = torch.full_like(ids[:, :1], self.first)
        return torch.cat([first, prompt, ids[:, int(begun) :]], 1)

    def rows(self, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Training rows behind the lead, longer by the prompt, of which nothing is learned as text.

        Where the tokenizer has a first token each row begins with it: in place of its own, or of its last token.
        """
        if not self.prompt:
            return ids, labels
        prompt = ids.new_tensor(self.prompt).expand(len(ids), -1)
        if self.first is None:
            return torch.cat([prompt, ids], 1), torch.cat([torch.full_like(prompt, NO_LOSS), labels], 1)
        begun = ids[:, :1] == self.first
        first, none = torch.full_like(ids[:, :1], self.first), torch.full_like(ids[:, :1], NO_LOSS)
        texts, wanted = (torch.where(begun, each[:, 1:], each[:, :-1]) for each in (ids, labels))
        return torch.cat([first, prompt, texts], 1), torch.cat([none, torch.full_like(prompt, NO_LOSS), wanted], 1)

    def around(self, logits: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The same function from ids to logits, token by token, of texts that stand behind the lead."""
        if not self.prompt:
            return logits

        def led(ids: Tensor) -> Tensor:
            rows = self.before(ids)
            return logits(rows)[:, rows.shape[1] - ids.shape[1] :]

        return led


NO_LEAD = Lead()


def prompt_names(count: int) -> tuple[str, ...]:
    """How a tokenizer writes the tokens of a prompt."""
    return tuple(f"<|prompt_{number}|>" for number in range(count))


def begins_with(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """The tokens that a tokenizer itself puts before a text."""
    with encoding():
        whole, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    place = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0) if plain else 0
    return tuple(int(id) for id in whole[:place])


def find_lead(tokenizer: "PreTrainedTokenizerBase") -> Lead:
    """The prompt that a tokenizer puts before every text; none for most."""
    before = begins_with(tokenizer)
    prompt = tuple(id for id in before if _NAME.fullmatch(str(tokenizer.convert_ids_to_tokens(id))))
    first = next(iter(before), None)
    return Lead(prompt, None if first in prompt else first) if prompt else NO_LEAD
