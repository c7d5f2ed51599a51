"""Looks: what a command sees of its folders before it imports what takes seconds."""

from collections.abc import Sequence
from pathlib import Path

from graphprune.errors import UsageError
from graphprune.paths import path_of

REFERENCE = Path("graphprune") / "reference.safetensors"  # what `verify` compares with


def check_folder(out: Path) -> None:
    """Raise UsageError where there is no folder."""
    if not path_of(str(out)).is_dir():
        raise UsageError(f"no folder at {str(out)[:200]}; pass a folder that graphprune compile wrote")


def check_reference(out: Path) -> None:
    """Raise UsageError for a folder that `verify` has nothing to compare with in."""
    check_folder(out)
    if not (out / REFERENCE).is_file():
        raise UsageError(f"{out / REFERENCE} is missing: the folder was not written by graphprune compile")


def check_runnable(out: Path, variant: str = "") -> None:
    """Raise UsageError, with what there is, for a folder without a model that runs, or without the one asked for."""
    check_folder(out)
    models = [path.parent.name for path in sorted(out.glob("*/model.onnx"))]
    if variant and not (out / variant / "model.onnx").is_file():
        raise UsageError(f"{out} has no ONNX model {variant[:60]}; it has {', '.join(models) or 'none'}")
    if not models and not (out / "model.onnx").is_file():
        raise UsageError(f"{out} holds no ONNX model; compile with --backends huggingface,onnx,ort")


def check_models(models: Sequence[str], backend: str, trust_remote_code: bool) -> None:
    """Look at the models that are to be scored: at their folders, or for ONNX models there. Raises GraphpruneError."""
    from graphprune.data.tokenizer_files import require_tokenizer
    from graphprune.frontend.places import look_at

    for model in models:
        if backend == "onnx":
            check_runnable(path_of(model))
        elif backend != "all" or not is_onnx(path_of(model)):
            require_tokenizer(look_at(model, True, trust_remote_code))


def is_onnx(folder: Path) -> bool:
    return any(folder.glob("onnx*/model.onnx"))


def check_text(spec: str | None, field: str) -> None:
    """Open a text where one is named. Raises GraphpruneError."""
    from graphprune.data.sources import look_at_text

    if spec is not None:
        look_at_text(spec, field)


def check_streaming(
    memory: str | None, loads: Path | None, device: str, trust: bool, backend: str = "checkpoint"
) -> None:
    """Raise UsageError for an amount of memory that is none, and for what does not go with one."""
    from graphprune.amounts import read_bytes

    if memory is None:
        if loads is not None:
            raise UsageError("--loads is the log of what --memory reads; give --memory too, such as 500MB")
        return
    read_bytes(memory)
    for wrong, what in (
        (backend != "checkpoint", f"--backend {backend}: it streams the checkpoint's experts"),
        (device.startswith("cuda"), f"--device {device}: experts are streamed to the processor's memory"),
        (trust, "--trust-remote-code: experts are found in classes of transformers and graphprune alone"),
    ):
        if wrong:
            raise UsageError(f"--memory does not go with {what}")
    if loads is not None and not loads.absolute().parent.is_dir():
        raise UsageError(f"no folder at {loads.parent} for the log {loads.name}; make it first")
