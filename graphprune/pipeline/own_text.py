"""Own text: what a model writes itself, for users without a corpus; `self{tokens=2M}` as a source."""

from dataclasses import asdict, dataclass
from typing import ClassVar, final

from graphprune.amounts import parse_count
from graphprune.data.sources import is_own
from graphprune.errors import UsageError
from graphprune.running.sampling import Sampling
from graphprune.spec import build, print_spec, split_spec


@final
@dataclass(frozen=True)
class OwnText:
    """So many `tokens` of text that the source model writes, in documents of `length` tokens at most.

    Tokens are drawn from what the model predicts (arXiv 2305.17888 trains a model in fewer bits on such text), at
    `temperature`, from the `top_k` best and what `top_p` of the probability needs; all of it by default.
    """

    name: ClassVar[str] = "self"
    tokens: str = "256k"
    length: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self.count, self.sampling
        if self.length < 2 or self.temperature <= 0 or self.seed < 0:
            raise UsageError(
                "a text of its own has documents of 2 tokens or more, a temperature above 0 and a seed from 0 on, not "
                f"{self.length}, {self.temperature} and {self.seed}"
            )

    @property
    def count(self) -> int:
        """The tokens to write. Raises UsageError."""
        try:
            return parse_count(self.tokens)
        except ValueError as error:
            raise UsageError(f"self{{tokens=..}}: {error}") from error

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p)

    @property
    def draws(self) -> dict[str, object]:
        """All that the documents depend on but how many there are."""
        return {key: value for key, value in asdict(self).items() if key != "tokens"}

    def __str__(self) -> str:
        return print_spec(self)


def own_text(spec: str) -> OwnText | None:
    """What a source that is the model itself asks for; None for other sources. Raises UsageError for wrong options."""
    return build(OwnText, *split_spec(spec)) if is_own(spec) else None
