"""Sources: a folder, a hub id, a live model or a plain module becomes a `Graph`."""

import contextlib
import copy
import functools
import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphprune import source_checks as checks
from graphprune.capturing import capture_graph
from graphprune.decoder import accepts, decoder_contract, is_decoder, traceable_experts, transformers_patches
from graphprune.demo import DEMO_FOLDER
from graphprune.encoder import encoder_contract
from graphprune.errors import CaptureError, ParityError, SourceError, UsageError
from graphprune.even_chunks import EvenChunks
from graphprune.ir import Graph, Source
from graphprune.kernels import traceable_recurrences
from graphprune.parity import DERIVED, compare_models, require
from graphprune.programs import Contract
from graphprune.seq2seq import is_seq2seq, seq2seq_contract

CONTRACTS: Mapping[str, Callable[[Any], tuple[nn.Module, Contract]]] = {
    "decoder": decoder_contract,
    "seq2seq": seq2seq_contract,
    "encoder": encoder_contract,
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SMALL_FILES = ["*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "LICENSE*", "LICENCE*", "NOTICE*", "README.md"]


def capture(
    model: str | Path | nn.Module,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    weights: bool = True,
    trust_remote_code: bool = False,
    dtype: torch.dtype | None = None,
) -> Graph:
    """Capture a model as a `Graph`.

    `model` is a folder, a hub id, `demo`, a live `PreTrainedModel`, or any `nn.Module` together with example
    `inputs` by argument name, in order, whose first dimension is the batch. With `weights=False` only the configuration
    is read and the graph holds meta tensors, which is enough to analyse and to plan. `dtype` converts the weights of a
    folder or hub id as they are loaded. Raises SourceError, CaptureError.
    """
    if isinstance(model, (str, Path)) and is_generic(Path(model).expanduser()):
        return capture_generic(Path(model).expanduser(), weights)
    if isinstance(model, (str, Path)):
        loaded, source = load_source(model, weights, trust_remote_code, dtype)
        graph = capture_pretrained(loaded)
        return replace(graph, source=replace(source, kind=graph.source.kind))
    if hasattr(model, "config") and hasattr(model, "can_generate"):
        return capture_pretrained(model)
    if inputs is None:
        raise UsageError("a plain module needs example inputs: capture(module, inputs={'x': tensor})")
    dynamic = {name: {0: "batch"} for name in inputs}
    return capture_graph(Positional(model), Contract(inputs, dynamic), "module.")


def is_generic(folder: Path) -> bool:
    """Say whether a folder is a checkpoint in graphprune's generic form, which holds its graph."""
    try:
        return bool(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("graph"))
    except (OSError, ValueError, AttributeError):
        return False


def capture_generic(folder: Path, weights: bool) -> Graph:
    """Read the graph that a generic checkpoint holds; nothing is traced again."""
    checks.check_weights(folder)
    graph: Graph = importlib.import_module("graphprune.backends.huggingface").read_generic(folder)
    if weights:
        checks.check_finite(str(folder), graph.tensors().items())
        return graph
    parameters = graph.parameters()
    meta = {n: t.detach().to("meta") for n, t in graph.tensors().items()}
    return graph.with_tensors({n: nn.Parameter(t) if n in parameters else t for n, t in meta.items()})


class Positional(nn.Module):
    """A plain module that returns its output as a flat tuple."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = self.module(*inputs)
        return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def capture_pretrained(model: Any) -> Graph:
    """Capture a live transformers model under the contract that fits it, and compare the graph with the model.

    A decoder whose form with a cache cannot be captured is captured without one, as an encoder is, and a note says so.
    """
    kind = kind_of(model)
    with traceable_experts(model), quiet_transformers():
        try:
            graph = capture_checked(model, kind)
        except CaptureError as error:
            if kind != "decoder":
                raise
            return capture_without_cache(model, str(error))
        return with_derived_cache(model, graph, "its class has none") if writes_text(model) else graph


def capture_without_cache(model: Any, reason: str) -> Graph:
    """The graph of a decoder as an encoder. Where it fails, raises the reason for which there is none with a cache."""
    try:
        graph = capture_checked(model, "encoder")
    except CaptureError:
        raise CaptureError(reason) from None
    return with_derived_cache(model, graph, reason)


def with_derived_cache(model: Any, graph: Graph, reason: str) -> Graph:
    """The graph in its stepwise form where that computes what the model does on whole texts, else as it is."""
    from graphprune.stepwise import stepwise

    try:
        found = stepwise(graph).remember(DERIVED, True)
        if is_comparable(model):
            require_same(model, found, [])
        return note(found, f"its cache is derived from its graph: {reason}")
    except (CaptureError, RuntimeError) as error:  # the latter from a graph that cannot run step by step
        without = f"captured without a cache, so that each new token is computed from the whole text: {reason}"
        return note(graph, f"{without}; none can be derived: {error}")


def note(graph: Graph, text: str) -> Graph:
    return graph.remember("notes", [*graph.memo.get("notes", ()), text])


def capture_checked(model: Any, kind: str) -> Graph:
    """The graph of one kind. Raises CaptureError where there is none, or it does not compute what the model does."""
    used: list[str] = []
    generation = getattr(model, "generation_config", None)
    graph = with_own_tensors(capture_as(model, kind, used))
    graph = replace(graph, source=Source(kind, "", type(model).__name__, model.config, generation))
    if is_comparable(model) or (used and has_weights(model)):
        require_same(model, graph, used)
    return graph


def with_own_tensors(graph: Graph) -> Graph:
    """The graph with copies of the tensors that its model changes when it first runs (RWKV): in the graph they stay."""
    changed = {name.removeprefix("model.") for name in graph.memo.get("changed", ())}
    return graph.with_tensors({n: copy.deepcopy(t) for n, t in graph.tensors().items() if n in changed})


def has_weights(model: Any) -> bool:
    return not any(parameter.is_meta for parameter in model.parameters())


def is_comparable(model: Any) -> bool:
    """Say whether a model's outputs are exact enough to be compared: in short types, routers choose by rounding."""
    exact = {torch.float32, torch.float64}
    return has_weights(model) and all(p.dtype in exact for p in model.parameters() if p.is_floating_point())


def require_same(model: Any, graph: Graph, used: list[str]) -> None:
    """Raise CaptureError where a graph does not compute what its model does, naming what differs."""
    try:
        require(compare_models(model, graph))
    except ParityError as error:
        rows = f"; it picks rows by value ({', '.join(dict.fromkeys(used))})" if used else ""
        raise CaptureError(
            f"cannot capture the model: its graph does not compute what it does: {error}{rows}"
        ) from error


def capture_as(model: Any, kind: str, used: list[str]) -> Graph:
    wrapper, contract = CONTRACTS[kind](model)
    return capture_graph(wrapper, contract, "model.", lambda: tracing_patches(model, used))


@contextlib.contextmanager
def tracing_patches(model: Any, used: list[str]) -> Iterator[None]:
    """Everything that is changed in transformers, and put back, while a model is traced; `used`: see `dense_rows`."""
    with transformers_patches(used), traceable_recurrences(model), EvenChunks():
        yield


def writes_text(model: Any) -> bool:
    """Say whether a model without a cache generates text: it gives logits for the ids that it takes."""
    return kind_of(model) == "encoder" and bool(model.can_generate()) and accepts(model, "input_ids")


def kind_of(model: Any) -> str:
    """The contract that fits a transformers model."""
    return "seq2seq" if is_seq2seq(model) else "decoder" if is_decoder(model) else "encoder"


def load_source(
    model: str | Path, weights: bool, trust_remote_code: bool, dtype: torch.dtype | None = None
) -> tuple[Any, Source]:
    """Load a transformers model and say where it came from. Raises SourceError with the remedy."""
    folder, revision = locate(str(model), weights, trust_remote_code)
    checks.check_config(folder)
    if weights:
        checks.check_weights(folder)
    with quiet_transformers():
        config = load_config(folder, str(model), trust_remote_code)
        stored = config.dtype if isinstance(config.dtype, torch.dtype) else None
        load = load_weights if weights else load_skeleton
        config.dtype = dtype or config.dtype
        loaded = load(folder, str(model), config, trust_remote_code)
    kind = kind_of(loaded)
    generation = getattr(loaded, "generation_config", None)
    hashes = checks.hash_files(folder, weights)
    name = type(loaded).__name__
    return loaded, Source(kind, str(model), name, loaded.config, generation, folder, revision, hashes, stored)


def locate(model: str, weights: bool, trust_remote_code: bool) -> tuple[Path, str | None]:
    """The folder of a model, and the revision where it came from the hub."""
    if model == "demo":
        if not DEMO_FOLDER.is_dir():
            raise SourceError(f"this installation lacks the embedded model at {DEMO_FOLDER}; install graphprune again")
        return DEMO_FOLDER, None
    folder = Path(model).expanduser()
    if not folder.exists() and _HUB_ID.fullmatch(model) and not folder.parent.exists():
        snapshot = download(model, weights, trust_remote_code)
        return snapshot, snapshot.name
    checks.check_folder(folder)
    return folder, None


def download(model: str, weights: bool, trust_remote_code: bool) -> Path:
    """Fetch a model of the Hugging Face hub into its cache: never a pickle, code only where it is trusted."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    patterns = [*_SMALL_FILES, *["*.safetensors"] * weights, *["*.py"] * trust_remote_code]
    try:
        return Path(snapshot_download(model, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        remedy = "check the name and the network, log in with `hf auth login` where access is limited, or pass a folder"
        raise SourceError(
            f"no folder {model}, and the hub gives no model of that id: {reason[:200]}; {remedy}"
        ) from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' log and progress bars off the terminal while a model is loaded."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_config(folder: Path, name: str, trust_remote_code: bool) -> Any:
    """The configuration object. Raises SourceError where transformers does not know the model or needs its code."""
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # a configuration's own validation raises what it likes
        raise SourceError(explain_load_failure(name, error)) from error


def explain_load_failure(name: str, error: Exception) -> str:
    import transformers

    text = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in text:
        return f"{name} brings its own code; read it, then pass --trust-remote-code to let it run"
    if "does not recognize this architecture" in text:
        unknown = re.search(r"model type `([^`]*)`", text)
        kind = unknown[1] if unknown else "of this model"
        return (
            f"{name}: transformers {transformers.__version__} does not know the model type {kind}; upgrade transformers"
        )
    return f"{name} cannot be loaded: {text[:300]}"


def load_weights(folder: Path, name: str, config: Any, trust_remote_code: bool) -> Any:
    """The model with its weights, each of them present, of the right shape and finite."""
    loader = model_class(config)
    try:
        load = functools.partial(
            loader.from_pretrained,
            folder,
            config=config,
            use_safetensors=True,
            dtype=config.dtype or "auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported, and refused, with the others
            trust_remote_code=trust_remote_code,
        )
        model, info = with_whole_attention(loader, load)
    except Exception as error:  # remote code and configurations raise what they like
        raise SourceError(explain_load_failure(name, error)) from error
    checks.check_keys(name, type(model).__name__, info)
    checks.check_finite(name, model.named_parameters())
    return model.eval()


def load_skeleton(folder: Path, name: str, config: Any, trust_remote_code: bool) -> Any:
    """The model on the meta device, made from its configuration alone."""
    loader = model_class(config)
    make = getattr(loader, "_from_config", None) or loader.from_config
    options = {"trust_remote_code": trust_remote_code} if make.__name__ == "from_config" else {}
    try:
        with torch.device("meta"):
            load = functools.partial(make, config, dtype=config.dtype, **options)
            return with_whole_attention(loader, load).eval()
    except Exception as error:
        raise SourceError(explain_load_failure(name, error)) from error


def with_whole_attention(loader: Any, load: Callable[..., Any]) -> Any:
    """Load with whole scaled-dot-product attention where the class has it; the automatic choice is right elsewhere."""
    if not getattr(loader, "_supports_sdpa", False):
        return load()
    try:
        return load(attn_implementation="sdpa")
    except ValueError as error:  # a model within the model has it not
        if "attention implementation" not in str(error):
            raise
        return load()


def model_class(config: Any) -> Any:
    """The class that the configuration names, or the causal language model of its type."""
    import transformers

    names = config.architectures or []
    known = [getattr(transformers, name) for name in names if hasattr(transformers, name)]
    return known[0] if known else transformers.AutoModelForCausalLM
