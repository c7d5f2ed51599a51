"""One model in a process of its own, timed on request: its peak of memory is nobody else's."""

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from graphprune.artefacts.checks.genai_check import require_known
from graphprune.budget.installed import backend_class
from graphprune.errors import GraphpruneError

TOKEN = 1  # what is fed does not change how long it takes


def main() -> int:
    """Read how to run, open the model, and time one run for each line on stdin; the peak of memory is in bytes."""
    try:
        for answer in answers(json.loads(sys.stdin.readline())):
            print(json.dumps(answer), flush=True)
    except GraphpruneError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    return 0


def answers(work: dict[str, Any]) -> Iterator[dict[str, Any]]:
    time_run = {"onnxruntime": open_own, "genai": open_genai}[work["engine"]](work)
    time_run()  # the first run allocates
    yield {"ready": True}
    for _ in sys.stdin:
        prefill, decode = time_run()
        yield {"prefill": prefill, "decode": decode, "peak": peak_memory()}


def open_own(work: dict[str, Any]) -> Callable[[], tuple[float, float]]:
    """Seconds to the first token and of the tokens after it, in our runner."""
    model = backend_class(work["backend"]).open(Path(work["folder"]), work["provider"], work["threads"])
    return lambda: model.run_timed(work["context"], work["tokens"])


def open_genai(work: dict[str, Any]) -> Callable[[], tuple[float, float]]:
    """The same in onnxruntime-genai, whose threads are those of its configuration."""
    import numpy as np

    require_known(Path(work["folder"]))
    genai: Any = importlib.import_module("onnxruntime_genai")
    config = genai.Config(work["folder"])
    threads = {"intra_op_num_threads": work["threads"]} if work["threads"] else {}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
    model, whole = genai.Model(config), work["context"] + work["tokens"] + 1
    prompt = np.full((1, work["context"]), TOKEN, np.int32)

    def run() -> tuple[float, float]:
        options = genai.GeneratorParams(model)
        options.set_search_options(min_length=whole, max_length=whole, do_sample=False)
        generator = genai.Generator(model, options)
        began = time.perf_counter()
        generator.append_tokens(prompt)
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(work["tokens"]):
            generator.generate_next_token()
        return first - began, time.perf_counter() - first

    return run


def peak_memory() -> int:
    """The most memory that this process held so far, in bytes."""
    path = Path("/proc/self/status")
    if path.is_file():
        line = next(line for line in path.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
