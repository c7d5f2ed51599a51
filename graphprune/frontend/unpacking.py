"""Unpacking: a model whose weights are packed in a GGUF file, or by compressed-tensors, as a folder of plain ones."""

import atexit
import copy
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from graphprune.errors import SourceError, first_line, foreign
from graphprune.frontend.config_checks import quantisation
from graphprune.json_data import read_object
from graphprune.paths import is_file, stays_inside

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAGIC = b"GGUF"
COMPRESSED = "compressed-tensors"
_LARGEST = 64 << 20  # of what is copied beside the weights


class Packed(NamedTuple):
    """A GGUF file, or a folder of compressed tensors, with what says that it is still the same."""

    path: Path
    stamps: tuple[tuple[int, int], ...]

    @property
    def package(self) -> str:
        """What reads it beside transformers."""
        return COMPRESSED if self.path.is_dir() else "gguf"


def packed_in(path: Path) -> Packed | None:
    """What is packed at a path: a GGUF file that it names, or a folder holds in place of safetensors, or the folder.

    None where nothing is. Raises SourceError for a folder of several files, and for a file that is none after all.
    """
    if path.suffix == ".gguf" and is_file(path):
        return seen(path)
    if not path.is_dir():
        return None
    if any(path.glob("*.safetensors")):
        return stamped(path, *sorted(path.iterdir())) if is_compressed(path) else None
    files = sorted(each for each in path.glob("*.gguf") if is_file(each))
    if len(files) > 1:
        raise SourceError(f"{path} holds {len(files)} GGUF files; name one of them: {files[0]}")
    return seen(files[0]) if files else None


def is_compressed(folder: Path) -> bool:
    try:
        return quantisation(read_object(folder / "config.json")) == COMPRESSED
    except (OSError, ValueError):  # whoever reads it next says what is wrong
        return False


def seen(path: Path) -> Packed:
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise SourceError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}; download it again")
    return stamped(path, path)


def stamped(path: Path, *files: Path) -> Packed:
    stats = [file.stat() for file in files if is_file(file)]
    return Packed(path, tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


@functools.cache
def unpack(packed: Packed) -> Path:
    """A folder with the model's configuration, tokenizer and weights, which goes with this process.

    From a GGUF file weights are float16 or bfloat16 where it has them so, else float32, which holds what each quantised
    number stands for; compressed tensors are of the type of their scales. Raises SourceError.
    """
    folder = tempfile.TemporaryDirectory(prefix="graphprune-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    write = write_decompressed if packed.path.is_dir() else write_unpacked
    with foreign(lambda error: explain(packed, error)):
        from graphprune.models.patches import quiet_transformers

        with quiet_transformers():
            write(packed.path, Path(folder.name))
    return Path(folder.name)


def explain(packed: Packed, error: Exception) -> SourceError:
    if isinstance(error, ImportError):
        return SourceError(f"{packed.path} is read by a package of its own: pip install {packed.package}")
    return SourceError(
        f"{packed.path} cannot be unpacked: {first_line(error)[:200]}; pass the checkpoint that it was made of"
    )


def write_unpacked(path: Path, folder: Path) -> None:
    """Load the model and the tokenizer as transformers reads them from a GGUF file, and save them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    # By itself: transformers would take along an adapter that lies beside it, which may be a pickle.
    with tempfile.TemporaryDirectory(prefix="graphprune-") as alone:
        (Path(alone) / path.name).symlink_to(path.absolute())
        dtype = getattr(torch, stored_type(path))
        save_plain(load_whole(AutoModelForCausalLM, path, Path(alone), dtype=dtype, **place), folder)
        AutoTokenizer.from_pretrained(alone, **place).save_pretrained(folder)


def load_whole(loader: Any, path: Path, folder: Path, **options: Any) -> "PreTrainedModel":
    """The model, all of whose tensors were there."""
    loaded, info = loader.from_pretrained(folder, output_loading_info=True, **options)
    lacking = sorted([*info["missing_keys"], *info["mismatched_keys"]])
    if lacking:
        raise SourceError(f"{path} lacks {len(lacking)} tensors of {type(loaded).__name__}, such as {lacking[0]}")
    return cast("PreTrainedModel", loaded)


def save_plain(loaded: "PreTrainedModel", folder: Path) -> None:
    """Save the model as one whose weights were never packed."""
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(loaded)._from_config(config, dtype=loaded.dtype)
    found = loaded.state_dict()
    plain.load_state_dict({name: found[name] for name in plain.state_dict()})
    plain.save_pretrained(folder)


def stored_type(path: Path) -> str:
    """The name of the type that all matrices of the file have, float32 where they are quantised or of several."""
    import gguf

    reader = gguf.GGUFReader(path)
    kinds = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1}
    return {"F16": "float16", "BF16": "bfloat16"}.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"


def write_decompressed(path: Path, folder: Path) -> None:
    """Load the model, whose tensors transformers decompresses, save them, and copy what lies beside them."""
    import transformers
    from transformers.utils.import_utils import is_compressed_tensors_available

    if not is_compressed_tensors_available():
        raise ImportError
    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    config.quantization_config = {**config.quantization_config, "dequantize": True}
    save_plain(load_as_named(path, config=config), folder)
    copy_companions(path, folder, lambda name: not name.startswith("model"))


def load_as_named(path: Path, config: Any = None, **options: Any) -> "PreTrainedModel":
    """The model of a folder as the class that its configuration names, all of whose tensors were there."""
    import transformers

    read = {"local_files_only": True, "trust_remote_code": False}
    config = config or transformers.AutoConfig.from_pretrained(path, **read)
    known = [getattr(transformers, name) for name in config.architectures or [] if hasattr(transformers, name)]
    loader = known[0] if known else transformers.AutoModelForCausalLM
    return load_whole(loader, path, path, config=config, use_safetensors=True, **read, **options)


def copy_companions(path: Path, folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> None:
    """Copy the small files beside the weights that are not there yet."""
    written = {each.name for each in folder.iterdir()}
    for each in sorted(path.iterdir()):
        small = is_file(each) and stays_inside(each, path) and each.stat().st_size <= _LARGEST
        weights = each.suffix == ".safetensors" or each.name.endswith(".safetensors.index.json")
        if small and not weights and each.name not in written and wanted(each.name):
            shutil.copyfile(each, folder / each.name)
