"""Every artefact of two models at 60 and 40 %: bytes, how far its logits are off, equal tokens, perplexity.

    python benchmarks/edge_artefacts.py --data-root ../shared/data

Writes the page docs/edge-artefacts.md. Models are pruned by adapt-pruner-ls without training, then each artefact is
opened in a fresh process with nothing but its folder and compared with the graph.
"""

import argparse
import os
import platform
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "edge-artefacts.md"
BACKENDS = (
    "huggingface",
    "onnx",
    "ort",
    "ort{precision=fp16}",
    "ort{precision=int8}",
    "ort{precision=int4}",
    "ort{precision=int4,embeddings=true,folder=onnx-int4-all}",
    "gguf",
)
SHARES = ("60%", "40%")


def compile_all(model: str, share: str, data: dict[str, str], out: Path) -> dict[str, Any]:
    """The report of a compilation with every backend."""
    import graphprune

    options = graphprune.CompileOptions(model, share, out, method="adapt-pruner-ls", backends=BACKENDS, **data)
    return dict(graphprune.compile(options).report)


def rows_of(report: dict[str, Any]) -> list[str]:
    """One line an artefact."""
    measures = {row["name"]: row["after"] for row in report["measures"]}
    rows = []
    for artefact in dict.fromkeys(check["artefact"] for check in report["parity"]):
        checks = {check["name"]: check for check in report["parity"] if check["artefact"] == artefact}
        if artefact == "graph":
            continue
        error = max(check["difference"] for name, check in checks.items() if "tokens" not in name)
        cells = [artefact, f"{bytes_of(report, artefact) / 2**20:.2f}", f"{error:.1e}"]
        cells.append(tokens(checks.get("greedy tokens")))
        cells.append(tokens(checks.get("greedy tokens in genai")))
        found = next((v for name, v in measures.items() if name.endswith(f", {artefact}")), None)
        cells.append(f"{found:.1f}" if found is not None else "")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def tokens(check: dict[str, Any] | None) -> str:
    return "" if check is None else check["detail"].replace(" tokens equal", "").replace(" within the tolerance", "")


def bytes_of(report: dict[str, Any], artefact: str) -> int:
    ends = {"huggingface": ".safetensors", "gguf": ".gguf"}
    return sum(
        file["bytes"]
        for file in report["files"]
        if file["path"].startswith(f"{artefact}/model.onnx")
        or (artefact in ends and file["path"].endswith(ends[artefact]) and not file["path"].startswith("graphprune/"))
    )


def section(name: str, share: str, report: dict[str, Any]) -> str:
    measures = {row["name"]: (row["before"], row["after"]) for row in report["measures"]}
    before, after = measures["parameters"]
    bits = measures["held-out bits per byte"]
    rows = "\n".join(rows_of(report))
    return f"""## {name} at {share}

{before:,.0f} parameters to {after:,.0f}; held-out bits per byte {bits[0]:.3f} to {bits[1]:.3f}, not trained.

| artefact | MiB | largest logit error | equal tokens | in genai | perplexity |
|---|---|---|---|---|---|
{rows}
"""


def page(sections: list[str]) -> str:
    names = ("graphprune", "torch", "transformers", "onnxruntime", "onnxruntime-genai", "llama-cpp-python")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"""# The artefacts, compared

Made on {date.today()} with {versions}, Python {platform.python_version()}, {os.cpu_count()} cores, by

    python benchmarks/edge_artefacts.py

Every artefact is opened in a fresh process with nothing but its folder. The error is that of the logits of a prompt, of
cached steps and of left-padded batches, as a share of the largest logit; 1e-4 is allowed in full precision (gguf is f16
here). Equal tokens are those of 64 greedy ones that are the graph's, before the first that is not; models that are cut
this far and not trained have close seconds, so few bits soon take another one. In genai the tokens are compared with
the graph's in full precision, else with those of our runner on the same file; genai ends at the end token. Perplexity
is on the first 32 KiB of the held-out text (8 of models over 30M parameters).

{chr(10).join(sections)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("GRAPHPRUNE_DATA", "../shared/data")
    parser.add_argument("--data-root", type=Path, default=Path(data), help="folder with models/ and corpora/")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    arguments = parser.parse_args()
    stories = arguments.data_root / "corpora" / "tinystories"
    text = {"data": str(stories / "tinystories_train_head_2MiB.txt")}
    text["held_out"] = str(stories / "tinystories_val_794K.txt")
    models = {"demo": {}, str(arguments.data_root / "models" / "stories3M-hf"): text}
    sections = []
    with tempfile.TemporaryDirectory() as folder:
        for model, given in models.items():
            for share in SHARES:
                name = Path(model).name
                report = compile_all(model, share, given, Path(folder) / f"{name}-{share}")
                sections.append(section(name, share, report))
                print(sections[-1], flush=True)
    arguments.page.write_text(page(sections), encoding="utf-8")


if __name__ == "__main__":
    main()
