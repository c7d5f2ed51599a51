"""Parity: every artefact is loaded in a fresh process and compared with what the graph computed."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from graphprune.artefacts.source_tokens import encodings
from graphprune.errors import ParityError
from graphprune.garbage import end
from graphprune.ir.graph import Graph
from graphprune.processes import child_command
from graphprune.running.comparison import Check
from graphprune.running.observations import reference, reference_kind

REFERENCE = Path("graphprune") / "reference.safetensors"
ENCODINGS = "encodings"


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


def check(out: Path) -> list[Check]:
    """Load every artefact in `out` in a fresh process and compare it with the saved reference.

    Raises ParityError where the process fails; a comparison that fails is in the result, see `require`.
    """
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": threads}
    command = child_command("graphprune.artefacts.parity", str(out))
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, check=False
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ParityError(f"the check of {out} did not finish: {last[:300]}") from error
    if "error" in answer:
        raise ParityError(answer["error"])
    return [Check(**entry) for entry in answer["checks"]]


if __name__ == "__main__":
    gc.disable()  # a third of the time of its imports goes into looking for garbage, and the process ends soon
    from graphprune.artefacts.check_process import main

    end(main(sys.argv[1:]))
