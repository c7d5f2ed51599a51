"""Publishing: a complete OUT is pushed by huggingface_hub, of which a stand-in notes what it is asked."""

import fnmatch
from pathlib import Path
from typing import Any

import pytest

from graphprune.cli.main import run
from graphprune.compiler import publishing
from graphprune.compiler.publishing import Push, check_push, publish, read_push
from graphprune.errors import ExportError, UsageError
from graphprune.pipeline.options import CompileOptions
from graphprune.progress import no_progress
from tests.support.tiny_source import write_source

pytestmark = pytest.mark.xdist_group("compile")


class Hub:
    """What is asked of the hub, and what it has."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.there: set[str] = set()
        self.fails: dict[str, Exception] = {}

    def note(self, name: str, told: Any) -> None:
        self.asked.append((name, told))
        if name in self.fails:
            raise self.fails[name]

    def whoami(self) -> None:
        self.note("whoami", None)

    def repo_exists(self, name: str) -> bool:
        return name in self.there

    def revision_exists(self, name: str, branch: str) -> bool:
        return f"{name}@{branch}" in self.there

    def create_repo(self, name: str, **told: Any) -> None:
        self.note("create_repo", (name, told["private"], told["exist_ok"]))

    def create_branch(self, name: str, **told: Any) -> None:
        self.note("create_branch", (name, told["branch"]))

    def upload_folder(self, **told: Any) -> None:
        files = [p.relative_to(told["folder_path"]).as_posix() for p in Path(told["folder_path"]).rglob("*")]
        kept = [f for f in files if not any(fnmatch.fnmatch(f, pattern) for pattern in told["ignore_patterns"])]
        self.note("upload", (told["repo_id"], told["revision"], told.get("delete_patterns"), sorted(kept)))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(publishing, "open_api", lambda: made)
    return made


def options(out: Path, **changes: Any) -> CompileOptions:
    return CompileOptions("demo", "60%", out, **changes)


def test_names_are_read_or_refused() -> None:
    assert read_push(None) is None
    assert read_push("org/name", True) == Push("org/name", None, True, False)
    assert read_push("org/name@v1", overwrite=True) == Push("org/name", "v1", False, True)
    for wrong in ("name", "org/name/more", "https://huggingface.co/org/name", "../name", "org/name@"):
        with pytest.raises(UsageError, match="write org/name"):
            read_push(wrong)
    with pytest.raises(UsageError, match="--private is of --push-to-hub"):
        read_push(None, True)


def test_what_is_there_is_not_replaced_unasked(hub: Hub) -> None:
    hub.there = {"org/name"}
    with pytest.raises(UsageError, match="org/name exists; pass --overwrite"):
        check_push(Push("org/name", None, False, False))
    check_push(Push("org/name", "new", False, False))
    hub.there |= {"org/name@new"}
    with pytest.raises(UsageError, match="tree/new exists"):
        check_push(Push("org/name", "new", False, False))
    check_push(Push("org/name", None, False, True))
    check_push(Push("org/other", None, False, False))
    hub.fails["whoami"] = OSError("Token is required\nmore")
    with pytest.raises(UsageError, match=r"Token is required; log in with `hf auth login`"):
        check_push(Push("org/other", None, False, True))


def test_out_goes_up_without_paths_hidden_files_and_pickles(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    for name in ("run.yaml", "model.safetensors", ".hidden", "onnx/model.onnx", "onnx/.x", "old.bin"):
        (tmp_path / name).write_text("x")
    assert publish(options(tmp_path), no_progress) == ()
    assert hub.asked == []
    told = publish(options(tmp_path, push_to_hub="org/name@v1", private=True), no_progress)
    assert told == ("pushed to https://huggingface.co/org/name/tree/v1",)
    files = ["model.safetensors", "onnx", "onnx/model.onnx"]
    assert hub.asked == [
        ("create_repo", ("org/name", True, True)),
        ("create_branch", ("org/name", "v1")),
        ("upload", ("org/name", "v1", None, files)),
    ]
    publish(options(tmp_path, push_to_hub="org/name", overwrite=True), no_progress)
    assert hub.asked[-2:] == [
        ("create_repo", ("org/name", None, True)),
        ("upload", ("org/name", None, ["*"], files)),
    ]


def test_a_push_that_fails_leaves_out_and_says_how_to_go_on(hub: Hub, tmp_path: Path) -> None:
    hub.fails["upload"] = OSError("connection lost")
    with pytest.raises(
        ExportError, match=r"is complete, but was not pushed to org/name: connection lost; push it with `hf up"
    ):
        publish(options(tmp_path, push_to_hub="org/name"), no_progress)


def test_a_compilation_is_pushed_when_it_is_complete(hub: Hub, tmp_path: Path, capsys: Any) -> None:
    source = write_source(tmp_path / "source")
    line = ["compile", str(source), "-o", str(tmp_path / "out"), "--target-params", "80%", "--backends", "huggingface"]
    line += ["--data", str(source / "text.txt"), "--samples", "4", "--length", "16", "--push-to-hub"]
    hub.there = {"me/tiny"}
    assert run([*line, "me/tiny"]) == 2
    assert not (tmp_path / "out").exists()
    assert "exists; pass --overwrite" in capsys.readouterr().err
    assert run([*line, "me/other", "--private"]) == 0
    assert "note: pushed to https://huggingface.co/me/other" in capsys.readouterr().out
    name, told = hub.asked[-1]
    assert name == "upload"
    assert {"model.safetensors", "README.md", "graphprune/report.json"} <= set(told[3])
    assert "push-to-hub" not in (tmp_path / "out" / "run.yaml").read_text()


def test_a_dry_run_asks_the_hub_nothing(hub: Hub) -> None:
    assert run(["compile", "demo", "--target-params", "60%", "--dry-run", "--push-to-hub", "me/tiny"]) == 0
    assert hub.asked == []
