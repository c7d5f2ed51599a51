"""The versions that the suite was written with, and what is installed."""

from importlib.metadata import version
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent.parent / "constraints.txt"


def other_versions() -> str:
    """The pins of torch and transformers that are not what is installed."""
    pins = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    names = [name for name in ("torch", "transformers") if version(name).partition("+")[0] != pins[name]]
    return ", ".join(f"{name} {pins[name]}" for name in names)
