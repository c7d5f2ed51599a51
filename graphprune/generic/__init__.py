"""The class that runs any graph from a checkpoint. CODE is copied beside weights, and imports nothing of ours."""

from pathlib import Path

MODELING = "modeling_graphprune"
CODE = tuple(Path(__file__).with_name(f"{name}.py") for name in (MODELING, "modules_graphprune", "program_graphprune"))
