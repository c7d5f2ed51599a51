"""Greedy text from a language model through its cache: prompts padded on the left, ended by stop strings."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphprune.evaluation.language_model import LanguageModel


def greedy_texts(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    stop: Sequence[str] = (),
    never: Sequence[int] = (),
) -> list[str]:
    """Go on from each prompt by at most `new_tokens` likeliest tokens; a text ends before its first stop string.

    The tokenizer's end token ends a text too. Prompts are token ids, none of them empty; tokens of
    `never` are not chosen.
    """
    ids, mask = pad_left(prompts)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    made: list[list[int]] = [[] for _ in prompts]
    running, past = set(range(len(prompts))), None
    for _ in range(new_tokens):
        with torch.no_grad():
            logits, past = model.runner(ids, mask, positions, past)
        last = logits[:, -1].clone()
        last[:, list(never)] = -torch.inf
        ids = last.argmax(-1, keepdim=True).cpu()
        mask, positions = torch.cat([mask, torch.ones_like(ids)], 1), positions[:, -1:] + 1
        for row in tuple(running):
            token = int(ids[row])
            if token == model.tokenizer.eos_token_id:
                running.discard(row)
                continue
            made[row].append(token)
            if ends(model, made[row], stop):
                running.discard(row)
        if not running:
            break
    return [cut(str(model.tokenizer.decode(tokens, skip_special_tokens=True)), stop) for tokens in made]


def pad_left(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask [prompts, longest], zeros on the left."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def ends(model: LanguageModel, tokens: Sequence[int], stop: Sequence[str]) -> bool:
    """Say whether a stop string is among the last tokens; as many are looked at as it can have."""
    longest = max((len(text.encode()) for text in stop), default=0)
    text = str(model.tokenizer.decode(list(tokens[-(longest + 4) :]), skip_special_tokens=True))
    return any(each in text for each in stop)


def cut(text: str, stop: Sequence[str]) -> str:
    return text[: min((place for each in stop if (place := text.find(each)) >= 0), default=len(text))]
