"""Example calls: the lines that a model's card shows, which its check runs, for each kind of model.

They are made here alone. What is read from a folder enters them only as names that are known and as numbers.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor

from graphprune.context import stated_context
from graphprune.errors import DataError
from graphprune.generic.interfaces import Interface, auto_class, known_classes
from graphprune.ir.contract import DERIVED
from graphprune.json_data import Json

TRUST = ", trust_remote_code=True"
PROMPT, SENTENCE, TOKENS, SHORT = "Once", "The cat sat on the mat.", 16, 8
PIPELINES = {
    "text-classification": f'"{SENTENCE}"',
    "token-classification": f'"{SENTENCE}"',
    "fill-mask": 'f"The cat {model.tokenizer.mask_token} on the mat."',
    "feature-extraction": f'"{SENTENCE}"',
    "image-classification": 'Image.new("RGB", (64, 64))',
    "audio-classification": 'numpy.zeros(16000, "float32")',
}
# What a configuration may have imported: `torch.nn.modules.activation.Tanh`.
KNOWN_MODULES, IMPORTABLE = ("sentence_transformers.", "torch.nn."), re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
IMPORTS = {"image-classification": "from PIL import Image\n", "audio-classification": "import numpy\n"}


@final
@dataclass(frozen=True)
class Written:
    """A folder that was written: how its model is loaded, what it takes, and what lies beside it.

    `inputs` are examples by the name of the argument, `kind` is that of the graph.
    """

    loader: str
    kind: str
    inputs: Mapping[str, Tensor]
    trust: str = ""
    tokenizer: bool = False
    masks: bool = False
    processor: bool = False
    sentences: bool = False
    context: int | None = None

    @property
    def generates(self) -> bool:
        return self.kind == "decoder" or (self.kind == "seq2seq" and self.loader != "AutoModel")


def example_calls(out: Path, expected: Mapping[str, Tensor], kind: str) -> tuple[str, ...]:
    """The calls of the model in a folder, each a piece of Python that runs there: first transformers', then others'."""
    written = describe(out, expected, kind)
    sentences = (sentence_call(written),) if written.sentences else ()
    return (model_call(written), *sentences)


def describe(out: Path, expected: Mapping[str, Tensor], kind: str) -> Written:
    """What the calls depend on, read from the folder and its reference."""
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    inputs = {n.removeprefix("input."): t for n, t in expected.items() if n.startswith("input.")}
    if "prompt" in inputs:
        inputs = {"input_ids": inputs["prompt"]}
    masks = find_mask(out)
    return Written(
        loader=loader_of(config),
        kind=kind,
        inputs={name: tensor for name, tensor in inputs.items() if name.isidentifier()},
        trust=TRUST if "auto_map" in config else "",
        tokenizer=masks is not None,
        masks=bool(masks),
        processor=(out / "preprocessor_config.json").is_file(),
        sentences=kind == "encoder" and has_known_modules(out),
        context=stated_context(config),
    )


def has_known_modules(out: Path) -> bool:
    """Say whether this is a model of sentence-transformers, of nothing but its own modules and torch's.

    It imports what modules.json and the modules' configurations name, from the folder too, without asking.
    """
    path = out / "modules.json"
    if not path.is_file():
        return False
    configs = (file for file in out.glob("*/*.json") if file.name == "config.json")
    named = [text for file in (path, *configs) for text in texts_in(json.loads(file.read_text(encoding="utf-8")))]
    return all(text.startswith(KNOWN_MODULES) for text in named if IMPORTABLE.fullmatch(text))


def texts_in(data: Json) -> Iterator[str]:
    """Every text of some JSON data but `auto_map`, which needs trust."""
    if isinstance(data, dict):
        yield from (text for key, value in data.items() if key != "auto_map" for text in texts_in(value))
    elif isinstance(data, list):
        yield from (text for value in data for text in texts_in(value))
    elif isinstance(data, str):
        yield data


def find_mask(out: Path) -> str | None:
    """The mask token of the tokenizer, empty where it has none; None where there is no tokenizer."""
    from graphprune.data.tokens import load_tokenizer

    try:
        return load_tokenizer(out).mask_token or ""
    except DataError:
        return None


def loader_of(config: Mapping[str, object]) -> str:
    """The class of transformers that loads a model: its Auto class, or its own where it has none."""
    import transformers

    autos = {name: classes for name, classes in known_classes() if hasattr(transformers, name)}
    own, named = config.get("auto_map"), config.get("architectures")
    if isinstance(own, Mapping):
        return next((auto for auto in autos if auto in own), "AutoModel")
    architecture = str(named[0]) if isinstance(named, Sequence) and named else ""
    auto = auto_class(architecture)
    known = architecture in autos.get(auto, ()) or not isinstance(getattr(transformers, architecture, None), type)
    return auto if auto in autos and known else architecture


def model_call(written: Written) -> str:
    """How transformers runs the model: by the pipeline of its task, on text where there is a tokenizer, on tensors."""
    task = Interface(written.loader, "").task
    texts = written.tokenizer and "input_ids" in written.inputs
    usable = {"image-classification": written.processor, "audio-classification": written.processor}
    if task in PIPELINES and usable.get(task, texts) and (task != "fill-mask" or written.masks):
        return pipeline_call(written, task)
    if texts and written.generates and len(written.inputs["input_ids"]) == (1 if written.kind == "decoder" else 2):
        return text_call(written)
    if texts and written.loader == "AutoModelForQuestionAnswering":
        return question_call(written)
    return tensor_call(written)


def pipeline_call(written: Written, task: str) -> str:
    return (
        f"{IMPORTS.get(task, '')}from transformers import pipeline\n\n"
        f'model = pipeline("{task}", "."{written.trust})\n'
        f"print(model({PIPELINES[task]}))\n"
    )


def loading(written: Written, tokenizer: bool = False) -> Iterator[str]:
    yield f"from transformers import {written.loader}{', AutoTokenizer' if tokenizer else ''}"
    yield ""
    if tokenizer:
        yield 'tokenizer = AutoTokenizer.from_pretrained(".")'
    yield f'model = {written.loader}.from_pretrained("."{written.trust})'


def new_tokens(written: Written, prompt: int) -> int:
    """How many tokens are written: no more than the context has room for."""
    return TOKENS if written.context is None else max(1, min(TOKENS, written.context - prompt))


def text_call(written: Written) -> str:
    text = PROMPT if written.kind == "decoder" else SENTENCE
    lines = [
        *loading(written, tokenizer=True),
        f'ids = tokenizer("{text}", return_tensors="pt").input_ids',
        f"made = model.generate(ids, max_new_tokens={new_tokens(written, SHORT)})",
        "print(tokenizer.decode(made[0], skip_special_tokens=True))",
    ]
    return "\n".join(lines) + "\n"


def question_call(written: Written) -> str:
    lines = [
        *loading(written, tokenizer=True),
        f'tokens = tokenizer("Who sat on the mat?", "{SENTENCE}", return_tensors="pt")',
        "output = model(**tokens)",
        "first, last = int(output.start_logits.argmax()), int(output.end_logits.argmax())",
        "print(tokenizer.decode(tokens.input_ids[0, first : last + 1]))",
    ]
    return "\n".join(lines) + "\n"


def tensor_call(written: Written) -> str:
    """The call on tensors of the shapes that the model takes, which say nothing."""
    inputs, generates = written.inputs, written.generates and written.kind != DERIVED
    if generates:
        inputs = {name: tensor for name, tensor in inputs.items() if not name.startswith("decoder_")}
    given = [f"    {name}={example(name, tensor)}," for name, tensor in inputs.items()]
    count = min(SHORT, new_tokens(written, next(iter(inputs.values())).shape[-1]))
    call = ["made = model.generate(", *given, f"    max_new_tokens={count},", ")", "print(made)"]
    lines = [
        "import torch",
        *loading(written),
        *(call if generates else ["output = model(", *given, ")", "print(output[0].shape)"]),
    ]
    return "\n".join(lines) + "\n"


def example(name: str, tensor: Tensor) -> str:
    """A tensor of this shape and type as Python writes it."""
    maker = "ones" if "mask" in name else "zeros"
    dtype = "model.dtype" if tensor.is_floating_point() else str(tensor.dtype)
    return f"torch.{maker}({', '.join(map(str, tensor.shape))}, dtype={dtype})"


def sentence_call(written: Written) -> str:
    return (
        "from sentence_transformers import SentenceTransformer\n\n"
        f'model = SentenceTransformer("."{written.trust})\n'
        f'print(model.encode(["{SENTENCE}"]).shape)\n'
    )
