"""What commands see of their folders before anything is imported."""

from pathlib import Path

import pytest

from graphprune.cli.looks import check_folder, check_models, check_reference, check_runnable, check_text
from graphprune.errors import DataError, GraphpruneError, UsageError


def test_a_name_of_no_folder_is_one_line(tmp_path: Path) -> None:
    for name in (tmp_path / "x", Path("a" * 5000), Path("/dev/null")):
        with pytest.raises(UsageError) as caught:
            check_folder(name)
        assert len(str(caught.value)) < 300


def test_models_that_run_are_named_where_another_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no ONNX model; compile with --backends"):
        check_runnable(tmp_path)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").touch()
    check_runnable(tmp_path)
    check_runnable(tmp_path / "onnx")
    with pytest.raises(UsageError, match="has no ONNX model onnx-int4; it has onnx"):
        check_runnable(tmp_path, "onnx-int4")


def test_a_folder_that_compile_did_not_write_is_not_verified(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the folder was not written by graphprune compile"):
        check_reference(tmp_path)


def test_models_and_texts_are_looked_at(tmp_path: Path) -> None:
    check_models(["demo"], "checkpoint", False)
    for backend in ("checkpoint", "onnx", "all", "graph"):
        with pytest.raises(GraphpruneError):
            check_models(["demo", str(tmp_path)], backend, False)
    check_text(None, "text")
    with pytest.raises(DataError, match="no text file at"):
        check_text(str(tmp_path / "a.txt"), "text")
