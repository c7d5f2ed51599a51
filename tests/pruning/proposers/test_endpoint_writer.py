"""A language model behind an address: one on this machine is asked, and whatever goes wrong is said in one line."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from graphprune.errors import SourceError, UsageError
from graphprune.pruning.proposers.endpoint_writer import is_address, open_endpoint, require_address

SAID = {"choices": [{"message": {"role": "assistant", "content": "[0.9, 0.6]"}}]}


class Server(BaseHTTPRequestHandler):
    """Answers each path in its way, and keeps what it was asked."""

    asked: ClassVar[list[tuple[str, dict[str, Any], str | None]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body, self.headers["Authorization"]))
        kind = self.path.split("/")[1]
        self.send_response({"gone": 404, "moved": 302}.get(kind, 200))
        if kind == "moved":
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/v1/chat/completions")
        self.end_headers()
        self.wfile.write({"broken": b"{", "empty": b"[]"}.get(kind, json.dumps(SAID).encode()))

    def log_message(self, *arguments: Any) -> None:
        """Nothing: a test's output is its own."""


@contextmanager
def serving() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_it_is_asked_for_a_completion_with_the_key() -> None:
    Server.asked.clear()
    with serving() as address:
        assert open_endpoint(f"{address}/v1/", "small", "secret", 1)("how much?", 48, 2) == "[0.9, 0.6]"
    (path, body, key), *rest = Server.asked
    assert (path, key, rest) == ("/v1/chat/completions", "Bearer secret", [])
    assert body["model"] == "small"
    assert body["messages"] == [{"role": "user", "content": "how much?"}]
    assert body["seed"] == 1_000_005


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gone", "refused: 404"),
        ("moved", "refused: 302"),
        ("broken", "gave no answer"),
        ("empty", "gave no answer: the reply holds no message"),
    ],
)
def test_what_goes_wrong_is_said_and_no_other_host_is_asked(path: str, said: str) -> None:
    Server.asked.clear()
    with serving() as address, pytest.raises(SourceError, match=rf"the proposer at 127\.0\.0\.1 {said}"):
        open_endpoint(f"{address}/{path}", "small", None, 1)("?", 8, 0)
    assert [(asked, key) for asked, _, key in Server.asked] == [(f"/{path}/chat/completions", None)]


def test_nobody_there() -> None:
    with serving() as address:
        pass
    with pytest.raises(SourceError, match="gave no answer"):
        open_endpoint(address, "small", None, 1)("?", 8, 0)


@pytest.mark.parametrize(
    ("address", "model", "said"),
    [
        ("https://", "small", "names no host"),
        ("https://me:secret@host/v1", "small", "a key goes into OPENAI_API_KEY"),
        ("https://host/v1?key=secret", "small", "a key goes into OPENAI_API_KEY"),
        ("https://host/v1", "", "needs the name of a model"),
    ],
)
def test_an_address_that_cannot_be_asked_is_refused_without_showing_a_key(address: str, model: str, said: str) -> None:
    assert is_address(address)
    with pytest.raises(UsageError, match=said) as caught:
        require_address(address, model)
    assert "secret" not in str(caught.value)


def test_a_folder_is_no_address() -> None:
    assert not is_address("models/http")
