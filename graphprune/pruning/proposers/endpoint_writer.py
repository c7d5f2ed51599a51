"""A language model behind an address as writer: OpenAI's chat completions, as many servers speak them."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, final
from urllib.parse import urlsplit

from graphprune.errors import SourceError, UsageError, first_line
from graphprune.pruning.proposers.answers import Writer

_SECONDS = 60
_BYTES = 1 << 20  # of an answer; more is no list of rates
_HERE = ("localhost", "127.0.0.1", "::1")


def is_address(proposer: str) -> bool:
    return proposer.startswith(("http://", "https://"))


def require_address(address: str, model: str) -> None:
    """Raise UsageError for what no request can be sent to."""
    parts = urlsplit(address)
    if not parts.hostname:
        raise UsageError(f"{address} names no host; write proposer=https://HOST/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(
            f"the proposer at {parts.hostname} is named by host and path alone; a key goes into OPENAI_API_KEY"
        )
    if not model:
        raise UsageError(f"the proposer at {parts.hostname} needs the name of a model: self-pruner{{model=NAME}}")


def open_endpoint(address: str, model: str, key: str | None, seed: int) -> Writer:
    """A model behind an address such as http://localhost:8000/v1, which is asked for chat completions.

    A key is sent over https, or to this machine, and never on to where an answer redirects. Writing raises SourceError
    where no answer comes.
    """
    require_address(address, model)
    parts = urlsplit(address)
    headers = {"Content-Type": "application/json"}
    if key and (parts.scheme == "https" or parts.hostname in _HERE):
        headers["Authorization"] = f"Bearer {key}"
    opener = urllib.request.build_opener(StayHere())

    def write(text: str, tokens: int, number: int, /) -> str:
        asked: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0.8,
            "max_tokens": 4 * tokens,  # a chat says more than the list
            "seed": seed * 1_000_003 + number,
        }
        request = urllib.request.Request(f"{address.rstrip('/')}/chat/completions", json.dumps(asked).encode(), headers)
        try:
            with opener.open(request, timeout=_SECONDS) as reply:
                return content_of(json.loads(reply.read(_BYTES)))
        except urllib.error.HTTPError as error:
            raise SourceError(f"the proposer at {parts.hostname} refused: {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SourceError(f"the proposer at {parts.hostname} gave no answer: {first_line(error)}") from error

    return write


@final
class StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the key and the text are for the host that was named."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def content_of(reply: Any) -> str:
    """The text of the first choice. Raises ValueError where there is none."""
    choices = reply.get("choices") if isinstance(reply, Mapping) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, Mapping) else None
    text = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(text, str):
        raise ValueError("the reply holds no message")
    return text
