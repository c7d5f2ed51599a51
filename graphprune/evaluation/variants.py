"""What each further ONNX model of an artefact costs in bytes and in quality."""

from pathlib import Path

from graphprune.artefacts.staging import folder_size
from graphprune.context import fitting
from graphprune.data.calibration import Text
from graphprune.evaluation.language_model import of_onnx
from graphprune.evaluation.measure import Measure
from graphprune.evaluation.measures import LARGEST_MEASURED, finite
from graphprune.progress import Progress
from graphprune.running.perplexity import stream_perplexity

PERPLEXITY = "held-out perplexity, "
_WINDOW = 256


def variant_measures(folder: Path, text: Text | None, parameters: int, progress: Progress) -> tuple[Measure, ...]:
    """Bytes, and perplexity on the held-out text, of every `onnx-*` folder and of `onnx` beside them;
    bytes of GGUF files."""
    places = sorted(path.parent.name for path in folder.glob("onnx*/model.onnx"))
    rows = [
        Measure(f"{place} model", None, float(folder_size(folder / place, "model.onnx*")), "bytes")
        for place in places
        if place != "onnx"
    ]
    rows += [
        Measure(
            f"{path.parent.parent.name} {path.stem}", None, float(folder_size(path.parent, f"{path.name}*")), "bytes"
        )
        for path in sorted(folder.glob("*/onnx/model*.onnx"))
    ]
    rows += [Measure(path.stem, None, float(path.stat().st_size), "bytes") for path in sorted(folder.glob("*/*.gguf"))]
    if places in ([], ["onnx"]):
        return tuple(rows)
    if text is None or parameters > LARGEST_MEASURED or len(text.held_out) < 2:
        return tuple(rows)
    for index, place in enumerate(places):
        progress("measuring what fewer bits cost", index, len(places), place)
        rows.append(Measure(f"{PERPLEXITY}{place}", None, finite(token_perplexity(folder / place, text))))
    return tuple(rows)


def token_perplexity(model: Path, text: Text) -> float:
    """Of an ONNX folder, on the held-out text."""
    opened = of_onnx(model)
    window = max(2, fitting(opened.context, _WINDOW))
    return stream_perplexity(opened.logits, text.held_out, window, 4, bos=text.bos).perplexity
