"""Places: where a model is by its name, and a look at what is there that needs neither transformers nor torch."""

import re
from pathlib import Path

from graphprune.demo import DEMO_FOLDER
from graphprune.errors import SourceError, first_line
from graphprune.frontend.adapters import Adapter, adapter_in
from graphprune.frontend.checks import check_folder, check_modules, check_no_extras, check_weights
from graphprune.frontend.config_checks import check_config, check_widths
from graphprune.frontend.unpacking import packed_in, unpack
from graphprune.json_data import read_object
from graphprune.paths import path_of

# With a branch, a tag or a commit behind it where a revision is meant.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w./-]*)?")
_SMALL_FILES = ["*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "LICENSE*", "LICENCE*", "NOTICE*", "README.md"]
# Folders whose name begins with a digit are those of sentence-transformers' modules, such as 1_Pooling.
_OTHER_FOLDERS = "[!0-9]*/*"


def look_at(model: str, weights: bool = True, trust_remote_code: bool = False) -> Path:
    """The folder of a model, whose configuration and weights were seen to be whole as far as their headers say.

    A model of the hub is fetched. Raises SourceError with the remedy.
    """
    folder, _ = locate(model, weights, trust_remote_code)
    if is_generic(folder):
        check_weights(folder)
    else:
        look_inside(folder, weights, trust_remote_code)
    return folder


def look_inside(folder: Path, weights: bool, trust_remote_code: bool) -> None:
    """See that a folder has a whole configuration and weights, and nothing that would run or be fetched unasked."""
    config = check_config(folder)
    if not trust_remote_code:
        check_no_extras(folder, config)
    check_modules(folder)
    if weights:
        check_widths(folder, config, check_weights(folder).entries)


def locate(model: str, weights: bool, trust_remote_code: bool) -> tuple[Path, str | None]:
    """The folder of a model, and the revision where it came from the hub; packed weights are unpacked first."""
    if model == "demo":
        if not DEMO_FOLDER.is_dir():
            raise SourceError(f"this installation lacks the embedded model at {DEMO_FOLDER}; install graphprune again")
        return DEMO_FOLDER, None
    folder = path_of(model)
    if is_hub_id(model):
        snapshot = download(model, weights, trust_remote_code)
        return with_adapter(snapshot, weights, True) or snapshot, snapshot.name
    adapted = with_adapter(folder, weights, False)
    if adapted is not None:
        return adapted, None
    packed = packed_in(folder)
    if packed is not None:
        if packed.path.is_dir():  # transformers reads it all, so it is looked at before
            check_folder(packed.path)
            look_inside(packed.path, True, False)
        return unpack(packed), None
    check_folder(folder)
    return folder, None


def is_hub_id(model: str) -> bool:
    """Whether a name is of a model of the hub, `org/name`, perhaps at a revision of it, `org/name@v2`."""
    folder = path_of(model)
    return not folder.exists() and _HUB_ID.fullmatch(model) is not None and not folder.parent.exists()


def with_adapter(folder: Path, weights: bool, fetched: bool) -> Path | None:
    """The folder of the model that an adapter makes of its base; None where there is no adapter.

    Without `weights` it is the base, whose shapes are the same. Of a model of the hub that is not on this machine
    nothing is fetched, unless the adapter itself was.
    """
    adapter = adapter_in(folder)
    if adapter is None:
        return None
    try:
        base = base_folder(adapter, weights, fetched)
        look_inside(base, weights, False)
    except SourceError as error:
        raise SourceError(f"{folder} is an adapter of {adapter.base[:200]}: {error}") from error
    if not weights:
        return base
    from graphprune.frontend.merging import merged

    return merged(adapter, base)


def base_folder(adapter: Adapter, weights: bool, fetched: bool) -> Path:
    """Where the model of an adapter is: at the path that it names, or cached.

    A path is seen from here, as PEFT writes it, and else from the adapter's own folder; one that begins with a dot the
    other way round.
    """
    here, own = path_of(adapter.base), path_of(str(adapter.folder / adapter.base))
    is_own = own.exists() and (adapter.base.startswith(".") or not here.exists())
    name = str(own) if is_own else adapter.base
    if is_hub_id(name):
        return download(name, weights, False, local=not fetched)
    if adapter_in(path_of(name)) is not None:
        raise SourceError("that is an adapter itself; merge it first")
    return locate(name, weights, False)[0]


def is_generic(folder: Path) -> bool:
    """Say whether a folder is a checkpoint in graphprune's generic form, which holds its graph."""
    try:
        return bool(read_object(folder / "config.json").get("graph"))
    except (OSError, ValueError):
        return False


def download(model: str, weights: bool, trust_remote_code: bool, local: bool = False) -> Path:
    """Fetch a model of the Hugging Face hub into its cache: never a pickle, code only where it is trusted.

    With `local` it is only looked for there. Raises SourceError.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    patterns = [*_SMALL_FILES, *["*.safetensors"] * weights, *["*.py"] * trust_remote_code]
    try:
        name, _, revision = model.partition("@")
        found = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=patterns,
            ignore_patterns=[_OTHER_FOLDERS],
            local_files_only=local,
        )
        return Path(found)
    except (OSError, ValueError, HfHubHTTPError) as error:
        if local:
            raise SourceError(f"it is not on this machine; fetch it first: hf download {model}") from error
        reason = first_line(error)
        remedy = "check the name and the network, log in with `hf auth login` where access is limited, or pass a folder"
        raise SourceError(
            f"no folder {model}, and the hub gives no model of that id: {reason[:200]}; {remedy}"
        ) from error
