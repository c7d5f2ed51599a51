"""The class that runs any graph from a checkpoint. CODE is copied beside weights, and imports nothing of ours."""

from pathlib import Path

MODELING = "modeling_graphprune"
PARTS = ("modeling", "caches", "configuration", "modules", "program", "tasks")
CODE = tuple(Path(__file__).with_name(f"{part}_graphprune.py") for part in PARTS)
