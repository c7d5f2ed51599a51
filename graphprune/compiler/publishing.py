"""Publishing: a complete OUT goes to a repository of the Hugging Face hub."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from graphprune.errors import ExportError, GraphpruneError, UsageError, first_line, foreign
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.run_text import RUN
from graphprune.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?")
# What is never uploaded: paths of this machine, hidden files, and pickles, of which OUT has none.
_LEFT_OUT = [RUN, ".*", "*/.*", "*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt"]


class Push(NamedTuple):
    """Where OUT goes: a repository, perhaps a branch of it, seen by others or not, in place of what is there or not."""

    repository: str
    branch: str | None
    private: bool
    replaces: bool

    @property
    def address(self) -> str:
        return f"https://huggingface.co/{self.repository}" + (f"/tree/{self.branch}" if self.branch else "")


def read_push(text: str | None, private: bool = False, overwrite: bool = False) -> Push | None:
    """What `--push-to-hub` means; None where nothing is to be pushed. Raises UsageError for no name of a repository."""
    if text is None:
        if private:
            raise UsageError("--private is of --push-to-hub ORG/NAME; give that too, or leave it out")
        return None
    found = _REPOSITORY.fullmatch(text)
    if found is None:
        raise UsageError(f"--push-to-hub {text[:60]}: write org/name, or org/name@branch")
    return Push(found[1], found[2], private, overwrite)


def open_api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(library_name="graphprune")


def check_push(push: Push) -> None:
    """Raise UsageError, before any work, where nobody is logged in or something is there that may not be replaced."""
    api = open_api()
    with foreign(lambda error: UsageError(explain(push, error))):
        api.whoami()
        if push.replaces:
            return
        there = api.repo_exists(push.repository)
        if there and push.branch is not None:
            there = api.revision_exists(push.repository, push.branch)
        if there:
            raise UsageError(f"{push.address} exists; pass --overwrite to replace what it holds, or give another name")


def explain(push: Push, error: Exception) -> str:
    return (
        f"{push.repository} cannot be pushed to: {first_line(error)[:200]}; log in with `hf auth login` with a token "
        "that may write there"
    )


def publish(options: CompileOptions, progress: Progress) -> tuple[str, ...]:
    """Upload OUT where that was asked for; say where it is. Raises ExportError, which says that OUT is complete."""
    push = read_push(options.push_to_hub, options.private, options.overwrite)
    if push is None or options.out is None:
        return ()
    progress(f"pushing to {push.repository}", 0, 0)
    with foreign(lambda error: unpushed(push, Path(str(options.out)), error)):
        upload(open_api(), push, options.out)
    return (f"pushed to {push.address}",)


def upload(api: "HfApi", push: Push, out: Path) -> None:
    """Make the repository and the branch where they are not there, and put OUT in place of what they hold."""
    api.create_repo(push.repository, private=push.private or None, repo_type="model", exist_ok=True)
    if push.branch is not None:
        api.create_branch(push.repository, branch=push.branch, repo_type="model", exist_ok=True)
    given: dict[str, Any] = {"revision": push.branch, "ignore_patterns": _LEFT_OUT}
    given |= {"delete_patterns": ["*"]} if push.replaces else {}
    api.upload_folder(
        repo_id=push.repository,
        folder_path=out,
        repo_type="model",
        commit_message="A model made by graphprune",
        **given,
    )


def unpushed(push: Push, out: Path, error: Exception) -> GraphpruneError:
    branch = f" --revision {push.branch}" if push.branch else ""
    return ExportError(
        f"{out} is complete, but was not pushed to {push.repository}: {first_line(error)[:200]}; push it with "
        f"`hf upload {push.repository} {out} .{branch}`"
    )
