"""A run of prune and recover that is killed with SIGKILL at random moments and started again until it is through.

Prints one JSON object: how often it was killed, and a hash of the weights, moments and memo at the end. The source is
captured once; each start is a fork of this process, which has neither pruned nor trained.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import accelerate  # noqa: F401 - before the forks, so that none of them takes time for it
import torch
import transformers

from graphprune import Context, Graph, capture, run_passes
from graphprune.budget.quantities import Parameters
from graphprune.budget.targets import Target
from graphprune.pipeline.recipes import Recipe
from graphprune.pipeline.stages import expand

RECIPE = Recipe.model_validate(
    {
        "name": "killed",
        "prune": {"importance": "taylor", "allocation": "global", "steps": 2},
        "stages": 3,
        "recover": {"tokens": 640, "rows": 2, "length": 16, "lr": 1e-3, "eval_every": 3, "save_every": 2},
    }
)


def digest(graph: Graph) -> str:
    """A hash of all that a run leaves."""
    sums = hashlib.sha256()
    companions = {f"{k}/{n}": t for k, tensors in graph.companions.items() for n, t in tensors.items()}
    for name, tensor in sorted({**graph.parameters(), **companions}.items()):
        sums.update(name.encode() + tensor.detach().numpy().tobytes())
    sums.update(json.dumps([graph.memo, [vars(step) for step in graph.history]], sort_keys=True).encode())
    return sums.hexdigest()


def run(source: Graph, folder: Path, slow: float) -> str:
    """The whole run, or what is left of it; it dawdles where it reports, so that any moment can be hit."""
    windows = torch.randint(60, (4, 2, 16), generator=torch.Generator().manual_seed(1))
    text = "".join(
        chr(97 + int(i) % 24) for i in torch.randint(24, (4000,), generator=torch.Generator().manual_seed(2))
    )
    data = folder.parent / "text.txt"
    data.write_text(text)
    context = Context(
        calibration=tuple(windows),
        source=source,
        tokenizer=transformers.AutoTokenizer.from_pretrained(sys.argv[2]),
        data=str(data),
        held_out=torch.randint(60, (200,), generator=torch.Generator().manual_seed(3)),
        folder=folder,
        progress=lambda *_, **__: time.sleep(slow),
    )
    folder.mkdir(exist_ok=True)
    size = source.parameter_count()
    return digest(run_passes(source, expand(RECIPE, Target(Parameters(), size * 7 // 10, size)), context))


def in_child(source: Graph, folder: Path, slow: float, patience: float | None) -> bool:
    """Run in a process that is killed after some seconds; say whether it got through."""
    child = os.fork()
    if child == 0:
        try:
            (folder.parent / f"{folder.name}.done").write_text(run(source, folder, slow))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    began = time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, f"a run failed by itself: {status}"
            return True
        if patience is not None and time.monotonic() - began > patience:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.002)


def main() -> None:
    """FOLDER MODEL SEED KILLS"""
    torch.set_num_threads(1)  # a fork has none of the threads that OpenMP would wait for
    folder, model, chance, kills = Path(sys.argv[1]), sys.argv[2], random.Random(int(sys.argv[3])), int(sys.argv[4])
    source = capture(model, dtype=torch.float32)
    whole = time.monotonic()
    in_child(source, folder / "quiet", 0.0, None)
    whole = time.monotonic() - whole
    killed = sum(not in_child(source, folder / "killed", 0.02, chance.uniform(0.05, whole)) for _ in range(kills))
    in_child(source, folder / "killed", 0.0, None)
    found = [(folder / f"{name}.done").read_text() for name in ("quiet", "killed")]
    print(json.dumps({"killed": killed, "quiet": found[0], "resumed": found[1]}))


if __name__ == "__main__":
    main()
