"""Preflight: places where nothing can be written, and backends that are none."""

from pathlib import Path

import pytest

from graphprune.compiler.preflight import check_backends, check_place, check_replay, check_request
from graphprune.errors import DataError, PlanError, RegistryError, UsageError
from graphprune.ir.plan import Plan
from graphprune.pipeline.options import ApplyOptions, CompileOptions


def test_the_folder_that_a_command_runs_in_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    for name in (".", "..", "../inner", str(tmp_path), "/"):
        with pytest.raises(UsageError, match="is the folder that the command runs in, or one around it"):
            check_place(Path(name), overwrite=True, model="demo")
    check_place(Path("new/deeper"), overwrite=False, model="demo")


def test_places_that_can_be_no_folder_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "x", tmp_path / ("n" * 400), Path("/dev/null/x")):
        with pytest.raises(UsageError) as caught:
            check_place(place, overwrite=False, model="demo")
        assert "-o OUT" in str(caught.value)


def test_backends_are_found_by_name(tmp_path: Path) -> None:
    check_backends(("onnx", "ort{precision=int4}"))
    with pytest.raises(UsageError, match="names none"):
        check_backends(())
    with pytest.raises(RegistryError, match="did you mean onnx"):
        check_backends(("onxn",))


def test_the_text_is_opened_and_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"body": "x"}]')
    options = CompileOptions("demo", "60%", tmp_path / "out", data=str(path))
    with pytest.raises(DataError, match="no field 'text'; it has body"):
        check_request(options)
    check_request(CompileOptions("demo", "60%", tmp_path / "out", data=str(path), field="body"))


def test_a_plan_is_read_before_the_model(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(PlanError, match="no plan can be read at"):
        check_replay(ApplyOptions("demo", path, tmp_path / "out"))
    path.write_text(Plan().to_json())
    check_replay(ApplyOptions("demo", path, tmp_path / "out"))
