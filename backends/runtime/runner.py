"""Our own onnxruntime runner: opens an exported folder, reads all shapes from the session, generates with the cache."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from graphprune.backends.runtime.decoding import Decoding
from graphprune.backends.runtime.providers import choose_providers, load_cuda, require_provider
from graphprune.errors import GraphpruneError, UsageError, first_line, foreign
from graphprune.paths import stays_inside
from graphprune.running.open_model import Array, Ids, OpenModel
from graphprune.running.sampling import GREEDY, Sampling
from graphprune.threads import thread_count

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession, NodeArg

# The folders of ONNX models below an artefact's, the one that is opened first in front.
PLACES = ("onnx", "onnx-ort", "onnx-fp16", "onnx-int8", "onnx-int4")
LAST = "num_logits_to_keep"  # of how many tokens logits are given, 0 for all, where a model takes it
_PAST = "past_sequence_length"
_ELEMENT_TYPES: Mapping[str, type[np.floating]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


@final
@dataclass(frozen=True)
class Cache:
    """One input of a session that a layer keeps between calls: its layer, part (`key`, `value`, `conv`, `recurrent`),
    element type and shape, batch first, with None along the tokens of the past."""

    name: str
    layer: int
    part: str
    shape: tuple[int | None, ...]
    dtype: type[np.floating]

    @property
    def present(self) -> str:
        return f"present.{self.layer}.{self.part}"

    def empty(self, batch: int, places: int = 0) -> Array:
        """Zeros, with room for this many tokens."""
        return np.zeros((batch, *(places if size is None else size for size in self.shape[1:])), self.dtype)


@final
@dataclass(frozen=True)
class OnnxModel(OpenModel):
    """An open onnxruntime session. `caches` lists the layers that have a cache, in input order; encoders have none."""

    path: Path
    session: "InferenceSession"
    caches: tuple[Cache, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.session.get_inputs())

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.session.get_outputs())

    @property
    def shares_cache(self) -> bool:
        """Say whether past and present of a layer may be one buffer."""
        return bool(self.session.get_modelmeta().custom_metadata_map.get("graphprune.cache") == "shared")

    @property
    def precision(self) -> str:
        """What the weights are kept in: fp32, unless the model says otherwise."""
        return str(self.session.get_modelmeta().custom_metadata_map.get("graphprune.precision", "fp32"))

    @property
    def provider(self) -> str:
        return str(self.session.get_providers()[0])

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the session on named arrays; returns every output by name. Raises GraphpruneError on a bad input."""
        with foreign(lambda error: GraphpruneError(f"onnxruntime cannot run {self.path}: {said(error)}")):
            return dict(zip(self.outputs, self.session.run(None, dict(feeds)), strict=True))

    def empty_past(self, batch: int) -> tuple[Array, ...]:
        return tuple(cache.empty(batch) for cache in self.caches)

    def run(
        self, ids: Array, mask: Array, positions: Array, past: Sequence[Array] | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """One step; `past` are the arrays of `caches` in order."""
        past = self.empty_past(len(mask)) if past is None else past
        known = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, LAST: np.array(0, np.int64)}
        feeds = {name: array for name, array in known.items() if name in self.inputs}
        result = self.infer(feeds | {cache.name: array for cache, array in zip(self.caches, past, strict=True)})
        return result["logits"], tuple(result[cache.present] for cache in self.caches)

    def steps(self, ids: Ids, sampling: Sampling = GREEDY, room: int = 256) -> Iterator[NDArray[np.int64]]:
        """The next tokens; `room` is made at once where the cache is one buffer."""
        rows = next((value.shape[0] for value in self.session.get_inputs() if value.name == "input_ids"), "batch")
        if "*" in str(rows):
            raise UsageError(f"{self.path} takes {rows} rows of ids, several for a text: call `run` for each step")
        tokens, mask = pad_left(ids)
        if not mask.all() and "attention_mask" not in self.inputs:
            raise UsageError(f"{self.path} takes no attention mask: generate from prompts of one length")
        positions = np.maximum(mask.cumsum(-1) - 1, 0)
        random = np.random.default_rng(sampling.seed)
        decoding, seen = Decoding(self, len(ids), max(room, mask.shape[1])), [list(row) for row in ids]
        while True:
            chosen = sampling.choose(decoding.step(tokens, mask, positions), random, seen)
            yield chosen
            for row, token in zip(seen, chosen, strict=True):
                row.append(int(token))
            tokens, positions = chosen[:, None], positions[:, -1:] + 1
            mask = np.concatenate([mask, np.ones_like(tokens)], axis=1)


def pad_left(ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Stack prompts to [batch, longest], zeros on the left, with the mask that is 1 on real tokens."""
    if not ids or not all(len(row) for row in ids):
        raise UsageError("nothing to generate from: every prompt needs at least one token")
    longest = max(len(row) for row in ids)
    tokens = np.array([[0] * (longest - len(row)) + list(row) for row in ids], np.int64)
    mask = np.array([[0] * (longest - len(row)) + [1] * len(row) for row in ids], np.int64)
    return tokens, mask


def load(folder: Path | str, provider: str = "auto", threads: int | None = None) -> OnnxModel:
    """Open `folder/onnx/model.onnx`, another ONNX model of an artefact, `folder/model.onnx`, or a file.

    `provider` is `auto` (CUDA where this onnxruntime has it, else CPU), `cpu` or `cuda`; `threads` the number of CPU
    threads, None for few where the model is small and else onnxruntime's choice; they sleep while they wait. Raises
    GraphpruneError for a missing or damaged file.
    """
    path = find_model(Path(folder))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; the log would only repeat it
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads or thread_count(weights_in(path) // 4) or 0
    with foreign(lambda error: GraphpruneError(f"cannot open {path}: {said(error)}; export the model again")):
        check_external_data(path)
        providers = choose_providers(provider)
        load_cuda(providers)
        session = onnxruntime.InferenceSession(path, options, providers=providers)
        require_provider(provider, session)
        return OnnxModel(path, session, read_caches(session))


def weights_in(path: Path) -> int:
    """Bytes of a model with its external data."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def said(error: Exception) -> str:
    """What onnxruntime says, which may be long."""
    return first_line(error)[:300]


def find_model(folder: Path) -> Path:
    """The model file of an exported folder, or the file itself."""
    candidates = model_files(folder)
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise GraphpruneError(f"no ONNX model in {folder}: expected {candidates[0]}; export one with the onnx backend")
    return found


def model_files(folder: Path) -> list[Path]:
    """Where the model of an artefact, or of one of its folders, may be, the one that is opened first in front.

    What is a model's file by itself is that.
    """
    return [folder] if folder.suffix == ".onnx" else [folder / place / "model.onnx" for place in (*PLACES, ".")]


def check_external_data(path: Path) -> None:
    """Refuse a model whose data file is missing, short or outside its folder.

    onnxruntime reports the first two as a failed read, and would read any file there is.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    needed: dict[Path, int] = {}
    for place in external_places(model):
        file = path.parent / place["location"]
        needed[file] = max(needed.get(file, 0), int(place.get("offset", 0)) + int(place.get("length", 0)))
    for file, size in needed.items():
        if not stays_inside(file, path.parent):
            raise GraphpruneError(f"{path} keeps its weights outside its folder, in {file}; that is not read")
        have = file.stat().st_size if file.is_file() else None
        if have is None or have < size:
            state = "is missing" if have is None else f"is damaged: {have} bytes where the model needs {size}"
            raise GraphpruneError(f"{file} {state}; export the model again")


def external_places(message: "ModelProto") -> Iterator[dict[str, str]]:
    """Where the tensors of a message lie that are not in the file itself, in graphs, functions and attributes."""
    for field, value in message.ListFields():
        if field.name == "external_data":
            place = {entry.key: entry.value for entry in value}
            if "location" in place:
                yield place
        elif field.message_type is not None:
            for part in value if isinstance(value, Sequence) or hasattr(value, "add") else (value,):
                yield from external_places(part)


def read_caches(session: "InferenceSession") -> tuple[Cache, ...]:
    """The cache inputs of a session, each with the static heads and head size of its own layer."""
    return tuple(read_cache(value) for value in session.get_inputs() if value.name.startswith("past_key_values."))


def read_cache(value: "NodeArg") -> Cache:
    _, layer, part = value.name.split(".")
    shape = tuple(None if size == _PAST else size for size in value.shape)
    if value.type not in _ELEMENT_TYPES or not all(size is None or isinstance(size, int) for size in shape[1:]):
        raise GraphpruneError(f"{value.name} is {value.type} {value.shape}: all but batch and past must be integers")
    return Cache(value.name, int(layer), part, (None, *shape[1:]), _ELEMENT_TYPES[value.type])
