"""Clean-ups: the record of what made a graph from what was traced, in order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cleanup:
    """One pass that made a graph: its name and what it did in a line, which is empty where it changed nothing."""

    name: str
    did: str = ""
