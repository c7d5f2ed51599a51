"""The notebooks of the docs run from the first cell to the last, and are stored with what they printed."""

from pathlib import Path

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_some() -> None:
    assert len(NOTEBOOKS) == 3


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in cells), "a reader who runs nothing sees nothing"
    stored = ["outputs" in cell and bool(cell.outputs) for cell in cells]
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    printed = [any(output.get("name") == "stdout" for output in cell.outputs) for cell in cells]
    assert printed == stored
    if path.stem == "groups-and-plans":  # which measures no time
        again = nbformat.read(path, as_version=4)
        assert [text_of(cell) for cell in notebook.cells] == [text_of(cell) for cell in again.cells]


def text_of(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.get("outputs", ()) if output.get("name") == "stdout")
