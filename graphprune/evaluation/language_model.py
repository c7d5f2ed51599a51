"""One language model behind one call, whatever it is made of: a captured graph, a checkpoint or an ONNX model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from graphprune.context import stated_context
from graphprune.data.tokens import load_tokenizer
from graphprune.errors import GraphpruneError, SourceError, UsageError, foreign
from graphprune.ir.contract import context_length, is_present, vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.json_data import JsonObject
from graphprune.running.forms.causal import with_outputs
from graphprune.running.likelihood import Reader
from graphprune.running.runners import Runner, graph_runner, row_axes, runner_of
from graphprune.training.objective.head import split_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Interface = Literal["graph", "checkpoint", "onnx"]
FACES: tuple[Interface, ...] = get_args(Interface)
_UNSTATED_CONTEXT = 2048


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A decoder with its tokenizer, run step by step through `runner`; `faster` scores texts where it is given.

    `context` is the longest sequence that it was made for, `vocabulary` the number of its tokens, None where unknown.
    """

    face: Interface
    runner: Runner
    tokenizer: "PreTrainedTokenizerBase"
    context: int
    vocabulary: int | None
    dtype: str
    faster: Reader | None = None

    @property
    def reader(self) -> Reader:
        """What scores texts."""
        return self.faster or Reader(self.runner)

    def logits(self, ids: Tensor) -> Tensor:
        """Logits [rows, length, vocabulary] of token ids [rows, length]; nothing is masked; pad on the right."""
        positions = torch.arange(ids.shape[1]).expand(ids.shape).contiguous()
        with torch.no_grad():
            return self.runner(ids, torch.ones_like(ids), positions, None)[0]


def of_graph(graph: Graph, tokenizer: "PreTrainedTokenizerBase | None" = None) -> LanguageModel:
    """The model that a captured decoder is. Without a tokenizer, the one in the source's folder is loaded."""
    if graph.source.kind != "decoder":
        raise UsageError(f"{graph.source.name or 'the graph'} is no language model with a cache; it cannot be scored")
    if tokenizer is None:
        if graph.source.files is None:
            raise UsageError("the graph has no folder with a tokenizer; pass the tokenizer")
        tokenizer = load_tokenizer(graph.source.files, graph.source.trusted)
    dtype = next(t.dtype for t in graph.parameters().values() if t.is_floating_point())
    context = context_length(graph) or _UNSTATED_CONTEXT
    return LanguageModel(
        "graph",
        graph_runner(graph),
        tokenizer,
        context,
        vocabulary_size(graph),
        name_of(dtype),
        reader_of(graph),
    )


def reader_of(graph: Graph) -> Reader:
    """A decoder that makes logits only of the tokens that are asked for, and goes on from caches of chosen rows."""
    split, axes = split_head(graph), row_axes(graph)
    runner, head = graph_runner(graph), None
    if split is not None:
        presents = [name for name in graph.outputs if is_present(name)]
        nodes = (split.body.results["hidden"].name, *(graph.results[name].name for name in presents))
        runner, head = graph_runner(with_outputs(graph, ("hidden", *presents), nodes), "hidden"), split.head

    def select(past: object, rows: Tensor) -> dict[str, Tensor]:
        assert isinstance(past, dict)
        assert axes is not None
        return {name: state.index_select(axes[name], rows.to(state.device)) for name, state in past.items()}

    return Reader(runner, head, select if axes is not None else None)


def of_module(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> LanguageModel:
    """A transformers model in memory."""
    config = sizes(model.config.get_text_config().to_dict())
    return LanguageModel("checkpoint", runner_of(model), tokenizer, *config, name_of(model.dtype))


def of_checkpoint(
    folder: str, trust_remote_code: bool = False, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> LanguageModel:
    """A folder, hub id or `demo` as transformers loads it, on a device.

    A checkpoint in the generic form runs in graphprune's own class, other code only with `trust_remote_code`.
    """
    from graphprune.artefacts.loading import load_checkpoint
    from graphprune.frontend.generic_checkpoint import unreadable
    from graphprune.frontend.places import is_generic
    from graphprune.frontend.source import load_source
    from graphprune.models.kinds import writes_text
    from graphprune.models.patches import quiet_transformers

    path = Path(folder).expanduser()
    if is_generic(path):
        with quiet_transformers(), foreign(lambda error: SourceError(unreadable(path, error))):
            generic = load_checkpoint(path, "decoder", dtype or stored_dtype(path))
        return of_module(generic.to(device), load_tokenizer(path, trust_remote_code))
    model, source = load_source(folder, True, trust_remote_code, dtype)
    if source.kind != "decoder" and not writes_text(model):
        raise UsageError(f"{folder} is no language model with a cache; it cannot be scored")
    assert source.folder is not None
    return of_module(model.to(device), load_tokenizer(source.folder, trust_remote_code))


def of_onnx(out: Path, provider: str = "cpu") -> LanguageModel:
    """The ONNX model that compile wrote into a folder. Raises UsageError where there is none."""
    from graphprune.artefacts.loading import onnx_runner
    from graphprune.budget.installed import open_model

    if not runs_in_onnx(out):
        raise UsageError(
            f"{out} holds no ONNX model; compile with --backends huggingface,onnx or evaluate another face"
        )
    model = open_model(out, provider)
    past = model.empty_past(1)
    if not past or "logits" not in model.outputs:
        raise UsageError(f"{model.path} is no language model with a cache; it cannot be scored")
    config = read_config(model.path.parent)
    inner = config.get("model")
    if isinstance(inner, dict):  # genai_config.json
        config = {**inner, "max_position_embeddings": inner.get("context_length")}
    kind = name_of(torch.from_numpy(past[0]).dtype)
    return LanguageModel("onnx", onnx_runner(model), onnx_tokenizer(model.path.parent), *sizes(config), kind)


def runs_in_onnx(out: Path) -> bool:
    """Say whether a folder holds an ONNX model, itself or below, or a path is that of one."""
    if out.suffix == ".onnx":
        return out.is_file()
    return (out / "model.onnx").is_file() or any(out.glob("onnx*/model.onnx"))


def onnx_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of an ONNX folder, or of the folder around it."""
    try:
        return load_tokenizer(folder)
    except GraphpruneError:
        return load_tokenizer(folder.parent)


def read_config(folder: Path) -> JsonObject:
    """The configuration of an ONNX model: the checkpoint's around it, or its own for onnxruntime-genai."""
    for path in (folder.parent / "config.json", folder / "config.json", folder / "genai_config.json"):
        if path.is_file():
            found: JsonObject = json.loads(path.read_text(encoding="utf-8"))
            text = found.get("text_config")
            return text if isinstance(text, dict) and text else found
    return {}


def sizes(config: Mapping[str, object]) -> tuple[int, int | None]:
    """Context length and vocabulary, as a configuration names them."""
    vocabulary = config.get("vocab_size")
    return stated_context(config) or _UNSTATED_CONTEXT, vocabulary if isinstance(vocabulary, int) else None


def stored_dtype(folder: Path) -> torch.dtype:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"), None)
    return found if isinstance(found, torch.dtype) else torch.float32


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def load_face(
    model: str,
    face: Interface,
    trust_remote_code: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> LanguageModel:
    """Load a folder, a hub id or `demo` as one of its faces, on a device. Raises UsageError, SourceError, CaptureError.

    For a GPU, the ONNX face runs there where this onnxruntime can.
    """
    device = device or torch.device("cpu")
    if face == "onnx":
        out = Path(model).expanduser()
        if not out.is_dir():
            raise UsageError(f"no folder at {out}; the ONNX face is in a folder that graphprune compile wrote")
        return of_onnx(out, "cpu" if device.type == "cpu" else "auto")
    if face == "checkpoint":
        return of_checkpoint(model, trust_remote_code, dtype, device)
    from graphprune.frontend.source import capture

    graph = capture(model, trust_remote_code=trust_remote_code, dtype=dtype)
    return of_graph(graph if device.type == "cpu" else place(graph, device))


def faces_in(model: str) -> tuple[Interface, ...]:
    """The faces that a model can be evaluated as. Raises SourceError where there is nothing at its place."""
    path = Path(model).expanduser()
    if model != "demo" and not path.exists() and model.startswith(("/", ".", "~")):
        raise SourceError(f"no folder at {model}; pass a model folder, a hub id (org/name) or demo")
    return FACES if any(path.glob("onnx*/model.onnx")) else ("graph", "checkpoint")
