"""A language model as proposer: it is shown the best rates so far and asked for others, in words."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from graphprune.errors import SourceError, first_line, foreign
from graphprune.pruning.search.rates import Judged, Mean, Rates

_SHOWN = 8  # sets of rates in a prompt
_TOKENS = 8  # that a model may take for a rate: digits, a point and a comma
Writer = Callable[[str, int], str]  # what a model writes behind a prompt, in so many tokens at most


@final
@dataclass(frozen=True, eq=False)
class LanguageProposer:
    """Asks a language model for each child; an answer that is no list of as many numbers counts as unread.

    `asked` holds the prompts and the answers, for whoever wants to see them.
    """

    write: Writer
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, known: Sequence[Judged], mean: Mean, count: int, /) -> Sequence[Rates | None]:
        layers = len(mean.sizes)
        found = list[Rates | None]()
        for number in range(count):
            text = prompt(known, mean, "Mix two of them." if number % 2 else "Change a few numbers of the best.")
            answer = self.write(text, _TOKENS * layers)
            self.asked.append((text, answer))
            found.append(read_rates(answer, layers))
        return found


def prompt(known: Sequence[Judged], mean: Mean, task: str) -> str:
    """What a model is told: the best so far, worst first, so that what is written next follows the best."""
    told = [
        f"A model has {len(mean.sizes)} layers. Each keeps a share of its units, from {mean.least:.2f} to "
        f"{mean.most:.2f}, {mean.share:.2f} on average. A lower loss is better.",
        *(f"{show(each.rates)} loss {each.value:.4f}" for each in reversed(known[:_SHOWN])),
        f"{task} Answer with one list of {len(mean.sizes)} numbers.",
        "[",
    ]
    return "\n".join(told)


def show(rates: Rates) -> str:
    return json.dumps([round(rate, 2) for rate in rates])


def read_rates(answer: str, layers: int) -> Rates | None:
    """The rates in an answer that goes on behind `[`; None where it has no list of so many numbers from 0 to 1."""
    inside = re.match(r"\s*\[?([^\[\]]*)\]", answer)
    if inside is None:
        return None
    try:
        rates = tuple(float(word) for word in inside.group(1).split(","))
    except ValueError:
        return None
    return rates if len(rates) == layers and all(math.isfinite(r) and 0 <= r <= 1 for r in rates) else None


def open_writer(folder: Path, seed: int) -> Writer:
    """A model of text in a folder, sampled; none of its code runs. Raises SourceError where it cannot be opened."""
    import torch
    import transformers

    with foreign(lambda error: SourceError(f"the proposer in {folder} cannot be opened: {first_line(error)[:200]}")):
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **options)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **options).eval()
    state = torch.Generator().manual_seed(seed)

    def write(text: str, tokens: int) -> str:
        given = tokenizer(text, return_tensors="pt")
        with torch.random.fork_rng([]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=state)))
            end = tokenizer.eos_token_id or 0
            made = model.generate(**given, do_sample=True, temperature=0.8, max_new_tokens=tokens, pad_token_id=end)
        return str(tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True))

    return write
