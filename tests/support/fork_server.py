"""A process that has imported what a check needs and forks one for each, for a suite that checks hundreds of times.

What is forked has seen no model, as a process that begins anew, which takes seconds to import torch and transformers.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from graphprune.processes import Child, child_command, fresh_process, spare_process
from tests.support.tree import ROOT

CHECK = "graphprune.artefacts.parity"  # the module whose processes are forked

Fresh = Callable[[str, Sequence[str], Mapping[str, str]], contextlib.AbstractContextManager[Child]]


@contextlib.contextmanager
def forking() -> Iterator[Fresh]:
    """What stands in for `fresh_process`; the server begins with the first check, others begin anew as always."""
    with contextlib.ExitStack() as stack:
        servers = list[subprocess.Popen[str]]()

        @contextlib.contextmanager
        def forked(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[Child]:
            if module != CHECK:
                with fresh_process(module, arguments, environment) as child:
                    yield child
                return
            if not servers:
                servers.append(stack.enter_context(begin()))
            with ask(servers[0], arguments, environment) as child:
                yield child

        yield forked


def begin() -> "subprocess.Popen[str]":
    pipe, found = subprocess.PIPE, {**os.environ, "PYTHONPATH": str(ROOT)}  # where the tests lie, as pytest has it
    return subprocess.Popen(child_command("tests.support.fork_server"), stdin=pipe, stdout=pipe, text=True, env=found)


@contextlib.contextmanager
def ask(server: "subprocess.Popen[str]", arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[Child]:
    """Have the server fork a process and run it to its end."""
    assert server.stdin is not None
    assert server.stdout is not None
    print(json.dumps([list(arguments), dict(environment)]), file=server.stdin, flush=True)
    lines, code, complaint = json.loads(server.stdout.readline())
    yield Child(lines, io.StringIO(complaint), lambda: int(code))


def serve() -> None:
    """Answer each line with what a process printed, its exit code and what it complained of."""
    import transformers.modeling_utils  # noqa: F401

    from graphprune.artefacts.check_process import main_of_spare

    for line in sys.stdin:
        with spare_process(main_of_spare) as spare:
            assert spare is not None
            with spare.ask(*json.loads(line)) as child:
                lines, code = list(child.output), child.wait()
                child.errors.seek(0)
                print(json.dumps([lines, code, child.errors.read()]), flush=True)


if __name__ == "__main__":
    serve()
