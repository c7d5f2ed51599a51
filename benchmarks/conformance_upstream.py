"""What transformers' own exporter makes of the causal language models that the sweep cannot capture.

    python benchmarks/conformance_upstream.py

Each is exported by `transformers.exporters.DynamoExporter` with dynamic sizes, from ids and a mask, in a process of its
own; what it says goes into the model's entry in OUT/conformance.jsonl under `upstream`, and conformance.py writes it
into the page.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def export(name: str, class_name: str) -> str:
    """`exported`, which of the two sizes were fixed, or the error."""
    from conformance_configs import small_config
    from conformance_one import make_model
    from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter

    model = make_model(small_config(name, class_name), class_name)
    ids = torch.randint(3, 60, (2, 8))
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    try:
        program: Any = DynamoExporter().export(model, given, DynamoConfig(dynamic=True)).program
    except Exception as error:  # whatever the model's code or torch raises
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text}"[:200]
    shape = next(n for n in program.graph.find_nodes(op="placeholder") if n.name == "input_ids").meta["val"].shape
    fixed = [
        f"{what} = {size}" for what, size in zip(("batch", "sequence"), shape, strict=True) if isinstance(size, int)
    ]
    return f"exported for {' and '.join(fixed)} alone" if fixed else "exported"


def ask(name: str, class_name: str, limit: int) -> str:
    command = [sys.executable, "-W", "ignore", __file__, "--one", name, class_name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment, check=False)
        return str(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return f"not done after {limit} s"
    except (IndexError, ValueError):
        return f"ended with {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1][:150]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder with the results of the sweep")
    parser.add_argument("--limit", type=int, default=200, help="seconds for one model")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(export(*arguments.one)))
        return
    path = arguments.out / "conformance.jsonl"
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for entry in entries:
        if entry["failed"] == "capture":
            entry["upstream"] = ask(entry["name"], entry["class"], arguments.limit)
            print(f"{entry['name']}: {entry['upstream']}", flush=True)
            path.write_text("".join(json.dumps(e) + "\n" for e in entries), encoding="utf-8")


if __name__ == "__main__":
    main()
