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
    """Bytes, and perplexity on the held-out text, of every `onnx-*` folder and of `onnx` beside them, and of every file
    for the web; bytes of GGUF files."""
    places = {path.parent.name: path.parent for path in sorted(folder.glob("onnx*/model.onnx"))}
    files = {f"{path.parent.parent.name} {path.stem}": path for path in sorted(folder.glob("*/onnx/model*.onnx"))}
    sizes = {f"{name} model": folder_size(path, "model.onnx*") for name, path in places.items() if name != "onnx"}
    sizes |= {name: folder_size(path.parent, f"{path.name}*") for name, path in files.items()}
    sizes |= {path.stem: path.stat().st_size for path in sorted(folder.glob("*/*.gguf"))}
    rows = [Measure(name, None, float(size), "bytes") for name, size in sizes.items()]
    measured = {**(places if set(places) != {"onnx"} or files else {}), **files}
    if text is None or parameters > LARGEST_MEASURED or len(text.held_out) < 2:
        return tuple(rows)
    for index, (name, path) in enumerate(measured.items()):
        progress("measuring what fewer bits cost", index, len(measured), name)
        rows.append(Measure(f"{PERPLEXITY}{name}", None, finite(token_perplexity(path, text))))
    return tuple(rows)


def token_perplexity(model: Path, text: Text) -> float:
    """Of an ONNX folder, or a file, on the held-out text."""
    opened = of_onnx(model)
    more = text.lead.more(text.bos)
    window = max(2, fitting(opened.context, _WINDOW + more) - more)
    return stream_perplexity(text.lead.around(opened.logits), text.held_out, window, 4, bos=text.bos).perplexity
