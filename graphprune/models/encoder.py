"""The contract of models without a cache: encoders of text, images and sound, with their own inputs and outputs."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from graphprune.context import stated_context
from graphprune.errors import CaptureError, ForeignError, foreign_code
from graphprune.generic.interfaces import auto_class
from graphprune.models.contract import Contract
from graphprune.models.decoder import BATCH, accepts, same_tensors
from graphprune.models.patches import transformers_patches
from graphprune.models.sound import INPUTS, Sound, example_sounds
from graphprune.models.trial_runs import fake_run, real_run

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


LENGTH, IMAGES, FRAMES, CHOICES = 7, 3, 4, 5
IMAGE_SIZE = 224  # pixels a side, where a configuration does not say: what image classifiers are trained on
_EXAMPLES = 17
_IMAGE_SIZES = ("image_size", "input_size", "img_size")
_CHANNELS = ("num_channels", "in_channels", "in_chans", "num_input_channels")


class Stateless(nn.Module):
    """A model without a cache as a function of flat tensors; returns the tensors of its output object."""

    def __init__(self, model: "PreTrainedModel", inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names, self.outputs = inputs, outputs
        self.options = options(model)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = self.model(**dict(zip(self.names, inputs, strict=True)), **self.options)
        return tuple(output[name] for name in self.outputs)


def options(model: "PreTrainedModel") -> dict[str, bool]:
    """What a call says besides its tensors."""
    return {"return_dict": True} | ({"use_cache": False} if accepts(model, "use_cache") else {})


def encoder_contract(model: "PreTrainedModel") -> tuple[Stateless, Contract]:
    """The wrapper and the contract of a model without a cache; image sizes stay static, batch and text length vary."""
    model = same_tensors(model)
    inputs, dynamic = model_inputs(model)
    outputs = probe_outputs(model, inputs)
    contract = Contract(inputs, dynamic, outputs, longest_text(model, "sequence"))
    return Stateless(model, tuple(inputs), outputs), contract


def model_inputs(
    model: "PreTrainedModel", others: Mapping[str, Tensor] = MappingProxyType({})
) -> tuple[dict[str, Tensor], dict[str, dict[int, str]]]:
    """Examples of the tensors that the model takes, read off `forward` and the configuration, and what varies.

    Where a model takes text and images, images are an input if it cannot run without. `others` are inputs besides.
    """
    device = next(model.parameters()).device
    inputs: dict[str, Tensor] = {}
    dynamic: dict[str, dict[int, str]] = {}
    if accepts(model, "input_ids"):
        sizes = {"batch": BATCH, **({"choices": CHOICES} if chooses(model) else {}), "sequence": LENGTH}
        inputs["input_ids"] = torch.zeros(*sizes.values(), dtype=torch.long, device=device)
        dynamic["input_ids"] = dict(enumerate(sizes))
    texts = dict(text_companions(model, inputs))
    if inputs and not runs(model, {**inputs, **texts}) and runs(model, first_rows({**inputs, **texts})):
        # A classifier on a decoder that has no padding token looks at the last token of one text.
        inputs, texts = first_rows(inputs), first_rows(texts)
        dynamic["input_ids"] = {dim: size for dim, size in dynamic["input_ids"].items() if dim}
    rows = rows_of_one(model, {**inputs, **texts}) if inputs else 1
    if rows > 1:
        inputs["input_ids"] = inputs["input_ids"].repeat(rows, 1)
        dynamic["input_ids"] = {0: f"{rows}*batch", 1: "sequence"}
    images = next((name for name in ("pixel_values", "pixel_values_videos") if accepts(model, name)), None)
    if images is not None and not (inputs and runs(model, {**inputs, **texts, **others})):
        count = IMAGES if inputs else BATCH
        shape = image_shape(model.config)
        if images.endswith("videos"):
            frames = (first(place, ("num_frames",)) for place in configurations(model.config))
            shape = [next(filter(None, frames), FRAMES), *shape]
        dynamic[images] = {0: "images" if inputs else "batch"}
        inputs[images] = torch.zeros(count, *shape, device=device)
    sound = next((name for name in INPUTS if accepts(model, name)), None)
    if sound is not None and not inputs:
        inputs[sound], dynamic[sound] = sounds_of(model, sound, others)
    inputs |= texts
    dynamic |= {name: dynamic["input_ids"] if rows == 1 else {0: "batch", 1: "sequence"} for name in texts}
    return inputs, dynamic


def first_rows(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor[:1] for name, tensor in inputs.items()}


def sounds_of(model: "PreTrainedModel", name: str, others: Mapping[str, Tensor]) -> Sound:
    """The form of sounds that the model runs on. Raises CaptureError where none of those known does."""
    device = next(model.parameters()).device
    places = configurations(model.config)
    found = (sound for place in places for sound in example_sounds(place, BATCH, device))
    for sound in found:
        if runs(model, {name: sound.tensor, **others}):
            return sound
    raise CaptureError(
        f"{type(model).__name__} takes sounds as {name} in a form that is not known here; "
        "models of speech are captured where they take waveforms, or spectra of a size that their configuration says"
    )


def chooses(model: "PreTrainedModel") -> bool:
    """Say whether an example of the model is several texts, of which one fits."""
    return auto_class(type(model).__name__) == "AutoModelForMultipleChoice"


def rows_of_one(model: "PreTrainedModel", inputs: dict[str, Tensor]) -> int:
    """How many rows of ids one example has: sound is told in several streams of codes. 1 where none would do."""
    if "attention_mask" not in inputs or runs(model, inputs):
        return 1
    # A prime number of examples: fewer rows than there are streams cannot make whole ones of another number.
    many = {name: tensor[:1].expand(_EXAMPLES, *tensor.shape[1:]) for name, tensor in inputs.items()}
    ids = many["input_ids"]
    several = (n for n in range(2, _EXAMPLES) if runs(model, {**many, "input_ids": ids.repeat(n, 1)}))
    return next(several, 1)


def text_companions(model: "PreTrainedModel", inputs: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """What goes along with token ids: the mask, segments (one or, for tables, several a token), boxes on the page."""
    if "input_ids" not in inputs:
        return
    if accepts(model, "attention_mask"):
        yield "attention_mask", torch.ones_like(inputs["input_ids"])
    if accepts(model, "token_type_ids") and not model.can_generate():  # what generates text has one segment
        sizes = getattr(model.config, "type_vocab_sizes", None)
        segments = torch.zeros_like(inputs["input_ids"])
        yield "token_type_ids", segments if sizes is None else segments[..., None].repeat(1, 1, len(sizes))
    if accepts(model, "bbox"):
        yield "bbox", torch.zeros_like(inputs["input_ids"])[..., None].repeat(1, 1, 4)


def image_shape(config: "PreTrainedConfig") -> list[int]:
    """Channels, height and width of the images that a configuration, or one nested in it, speaks of."""
    places = configurations(config)
    size = next((found for place in places if (found := first(place, _IMAGE_SIZES)) is not None), IMAGE_SIZE)
    size = [size["height"], size["width"]] if isinstance(size, dict) else size
    channels = next((c for place in places if isinstance(c := first(place, _CHANNELS), int)), 3)
    return [channels, *(size if isinstance(size, (list, tuple)) else [size, size])]


def configurations(config: "PreTrainedConfig") -> list[Any]:
    """A configuration and those nested in it."""
    return [config, *(v for name, v in vars(config).items() if name.endswith("_config") and hasattr(v, "to_dict"))]


def first(config: "PreTrainedConfig", names: tuple[str, ...]) -> Any:
    """The first of these fields that a configuration has."""
    return next((found for name in names if (found := getattr(config, name, None)) is not None), None)


def longest_text(model: "PreTrainedModel", *symbols: str) -> dict[str, int]:
    """The bounds of text lengths that the configuration gives; -1 stands for no limit (XLNet)."""
    longest = stated_context(model.config.get_text_config())
    return dict.fromkeys(symbols, longest) if longest is not None else {}


def probe_outputs(model: "PreTrainedModel", inputs: dict[str, Tensor]) -> tuple[str, ...]:
    """The names of the tensors in the model's output object, from one run on fake tensors. Raises CaptureError."""
    try:
        output = run_once(model, inputs)
    except ForeignError as error:  # control flow that depends on values, states of its own: whatever the model does
        reason = f"{type(error.error).__name__}: {error}"
        raise CaptureError(f"cannot run {type(model).__name__} on tensors without values: {reason}") from error
    return tuple(name for name, value in output.items() if isinstance(value, Tensor))


def runs(model: "PreTrainedModel", inputs: dict[str, Tensor]) -> bool:
    """Say whether the model runs with these inputs alone."""
    try:
        run_once(model, inputs)
    except ForeignError:  # a model says in its own way what it lacks
        return False
    return True


@foreign_code()
def run_once(model: "PreTrainedModel", inputs: dict[str, Tensor]) -> Any:
    """One run on fake tensors; on real ones where the model looks at values, as assertions do, and has weights."""
    try:
        with transformers_patches(), fake_run(model) as fake:  # models ask their inputs whether they are traced
            given = {name: fake.from_tensor(tensor) for name, tensor in inputs.items()}
            return model(**given, **options(model))
    except DataDependentOutputException:
        if any(parameter.is_meta for parameter in model.parameters()):
            raise
        with real_run(model):
            return model(**inputs, **options(model))
