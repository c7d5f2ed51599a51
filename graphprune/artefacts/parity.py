"""Parity: every artefact is loaded in a process of its own and compared with what the graph computed."""

import gc
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphprune.artefacts.source_tokens import encodings
from graphprune.errors import ParityError
from graphprune.garbage import end
from graphprune.ir.graph import Graph
from graphprune.processes import Spare, fresh_process
from graphprune.progress import Progress, no_progress
from graphprune.running.comparison import Check
from graphprune.running.observations import reference, reference_kind

REFERENCE = Path("graphprune") / "reference.safetensors"
ENCODINGS = "encodings"
CHECKING = "checking in a fresh process"  # the stage


def save_reference(graph: Graph, out: Path, seed: int = 0) -> Path:
    """Write `out/graphprune/reference.safetensors`, which `check` compares every artefact with."""
    from safetensors.torch import save_file

    path = out / REFERENCE
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in reference(graph, seed).items()
    }
    tokens = encodings(graph.source.files)
    told = {} if tokens is None else {ENCODINGS: json.dumps(tokens)}
    save_file(found, path, metadata={"kind": reference_kind(graph), "seed": str(seed), **told})
    return path


@dataclass(frozen=True)
class Checked:
    """What the process of a check found, and the tokens that what runs in OUT goes on with, where it was asked."""

    checks: tuple[Check, ...]
    made: tuple[int, ...] = ()


def check(
    out: Path, progress: Progress = no_progress, memory: str | None = None, spare: Spare | None = None
) -> list[Check]:
    """Load every artefact in `out` in a fresh process, or in a spare one, and compare it with the saved reference.

    Either has seen no model before, and says in a line what it has compared. A checkpoint that is too large for the
    memory stays in its file. Raises ParityError where the check fails; a comparison that fails is in the result, see
    `require`.
    """
    return list(check_and_go_on(out, (), 0, progress, memory, spare).checks)


def check_and_go_on(
    out: Path,
    prompt: Sequence[int],
    count: int,
    progress: Progress = no_progress,
    memory: str | None = None,
    spare: Spare | None = None,
) -> Checked:
    """`check`, and then the `count` likeliest tokens after a prompt, by the model that runs in OUT.

    One process does both: it has the memory for a model, and holds none when the checks are done.
    """
    progress(CHECKING)
    threads = str(torch.get_num_threads())
    environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": threads}
    asked = {"--memory": memory, "--go-on": json.dumps({"prompt": list(prompt), "count": count}) if count else None}
    arguments = [*(f"{name}={value}" for name, value in asked.items() if value is not None), "--", str(out)]
    fresh = fresh_process("graphprune.artefacts.parity", arguments, environment)
    with fresh if spare is None else spare.ask(arguments, environment) as process:
        answer = follow(process.output, progress)
        code = process.wait()
        process.errors.seek(0)
        said = process.errors.read().strip().splitlines()
    if answer is None:
        raise ParityError(f"the check of {out} did not finish: {(said or [f'exit code {code}'])[-1][:300]}")
    if "error" in answer:
        raise ParityError(answer["error"])
    return Checked(tuple(Check(**entry) for entry in answer["checks"]), tuple(answer["made"]))


def follow(lines: Iterable[str], progress: Progress) -> dict[str, Any] | None:
    """Pass on what the process says that it has compared; its answer, None where it gave none."""
    answer, done = None, 0
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:  # what a library prints
            continue
        if isinstance(told, dict) and "compared" in told:
            done += 1
            progress(CHECKING, done, 0, str(told["compared"]))
        elif isinstance(told, dict):
            answer = told
    return answer


if __name__ == "__main__":
    gc.disable()  # a third of the time of its imports goes into looking for garbage, and the process ends soon
    from graphprune.artefacts.check_process import main

    end(main(sys.argv[1:]))
