"""A plug-in of pytest that writes a row as each test ends, so that a run that is killed keeps those before."""

import os
from pathlib import Path
from typing import Any

import pytest
from part import stamp, write_row


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One row a test: when it has run, or where it was skipped or failed before or after that."""
    if report.when != "call" and report.outcome == "passed":
        return
    row: dict[str, Any] = {"part": "checks", "what": report.nodeid.partition("::")[2], "outcome": report.outcome}
    row |= {"seconds": round(report.duration, 2), **stamp(bool(os.environ["GRAPHPRUNE_TINY"]))}
    if report.outcome == "failed":
        crash = getattr(report.longrepr, "reprcrash", None)
        row["error"] = (crash.message if crash else str(report.longrepr))[:300]
    write_row(Path(os.environ["GRAPHPRUNE_ROWS"]), row)
