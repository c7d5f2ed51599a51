"""What transformers' own exporter makes of the causal language models that the sweep cannot capture.

    python benchmarks/conformance_upstream.py

Each is exported by `transformers.exporters.DynamoExporter` with dynamic sizes, from ids and a mask, in a process of its
own, and what was exported is compared with the model for texts of other sizes. What comes out goes into the model's
entry in OUT/conformance.jsonl under `upstream`, and conformance.py writes it into the page.
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
    if fixed:
        return f"exported for {' and '.join(fixed)} alone"
    return compare(model, program, given)


def compare(model: Any, program: Any, given: dict[str, Any]) -> str:
    """Whether what was exported computes what the model does, for texts of other sizes than the example's."""
    import inspect

    accepted = inspect.signature(model.forward).parameters
    module = program.module()
    for rows, length in ((2, 8), (2, 11), (3, 2), (1, 70)):
        ids = torch.randint(3, 60, (rows, length))
        text = {name: ids if name == "input_ids" else torch.ones_like(ids) for name in given if name in accepted}
        with torch.no_grad():
            expected = model(**text).logits
            try:
                found = module(**text)
                found = found["logits"] if isinstance(found, dict) else found[0]
            except Exception as error:  # whatever the program's own checks raise
                said = " ".join(str(error).split())[:150]
                return f"exported; fails for {rows} texts of {length} tokens: {type(error).__name__}: {said}"
        if found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-3):
            return f"exported; computes something else for {rows} texts of {length} tokens"
    return "exported, and right for other sizes"


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
        if entry["failed"] and entry["failed"] != "model":
            entry["upstream"] = ask(entry["name"], entry["class"], arguments.limit)
            print(f"{entry['name']}: {entry['upstream']}", flush=True)
            path.write_text("".join(json.dumps(e) + "\n" for e in entries), encoding="utf-8")


if __name__ == "__main__":
    main()
