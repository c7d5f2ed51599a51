"""A part of a model as an ONNX file of its own: one tower of two."""

from pathlib import Path

import pytest
import torch

from graphprune.backends.onnx.backend import Onnx
from graphprune.backends.onnx.outputs import giving
from graphprune.errors import ExportError
from graphprune.spec import parse_spec, print_spec
from tests.support.families import graph
from tests.support.tiny_pairs import random_pairs

pytestmark = pytest.mark.xdist_group("clip")


@pytest.mark.parametrize(
    ("name", "inputs"), [("text_embeds", {"input_ids", "attention_mask"}), ("image_embeds", {"pixel_values"})]
)
def test_each_tower_alone_computes_what_it_does_within_the_whole(name: str, inputs: set[str], tmp_path: Path) -> None:
    clip, batch = graph("clip"), random_pairs(graph("clip"), 3)
    wanted = clip(*(batch[each] for each in clip.inputs))[clip.outputs.index(name)]  # type: ignore[index]
    part = giving(clip, (name,))
    assert set(part.inputs) == inputs
    torch.testing.assert_close(part(*(batch[each] for each in part.inputs))[0], wanted)  # type: ignore[index]
    assert part.parameter_count() < clip.parameter_count()
    backend = Onnx(folder="onnx-tower", outputs=(name,))
    assert parse_spec("backends", print_spec(backend)) == backend
    path, *_ = backend.export(clip, tmp_path)
    assert path == tmp_path / "onnx-tower" / "model.onnx"
    model = Onnx.open(path.parent, "cpu")
    assert (set(model.inputs), model.outputs) == (inputs, (name,))
    found = model.infer({each: batch[each].numpy() for each in model.inputs})[name]  # type: ignore[index]
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4)


def test_what_is_no_output_or_goes_together_is_refused() -> None:
    assert giving(graph("clip"), ()) is graph("clip")
    with pytest.raises(ExportError, match=r"onnx\{outputs=embeds\}: the graph gives .*text_embeds"):
        giving(graph("clip"), ("embeds",))
    with pytest.raises(ExportError, match="is of models without a cache"):
        giving(graph("llama"), ("logits",))
