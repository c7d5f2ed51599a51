"""Examples of a compilation: what an encoder is calibrated on, and how much of its embeddings is left."""

from collections.abc import Sequence

from graphprune.data.calibration import held_out_part, training_part
from graphprune.data.tokenizer_files import has_tokenizer
from graphprune.encoders.agreement import Agreement
from graphprune.encoders.embeddings import is_text_encoder
from graphprune.encoders.examples import Examples, prepare_passages
from graphprune.errors import DataError
from graphprune.evaluation.measure import Measure
from graphprune.evaluation.measures import finite
from graphprune.ir.graph import Graph
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import Recipe
from graphprune.pipeline.stages import needs_text
from graphprune.progress import Progress
from graphprune.reporting.work import Asked, Work


def reads_examples(graph: Graph) -> bool:
    """Whether there is something that the model reads, and a loss for it, though it is no language model."""
    files = graph.source.files
    return graph.source.kind == "encoder" and is_text_encoder(graph) and files is not None and has_tokenizer(files)


def read_examples(asked: Asked, recipe: Recipe, source: Graph, progress: Progress) -> Examples | None:
    """The examples to calibrate and to measure with; None for a model that has none. Raises DataError."""
    if not reads_examples(source):
        return None
    progress("reading text", 0, 0)
    calibration = recipe.calibration
    tokens = calibration.samples * calibration.length
    held = held_out_part(asked.data, asked.held_out)
    train = training_part(asked.data, asked.held_out)
    try:
        return prepare_passages(source, train, tokens, calibration.length, asked.seed, held, asked.field)
    except DataError:
        if needs_text(recipe) or asked.data != CompileOptions.data:
            raise
        return None  # text would only have been measured on


def agreement_measures(found: Sequence[tuple[str, Agreement]]) -> tuple[Measure, ...]:
    """How near embeddings are to the source's, and whether they rank what is similar as it does; of the source 1."""
    several = len(found) > 1
    return tuple(
        Measure(f"held-out {name}{f' of {output}' if several else ''}", 1.0, finite(value))
        for output, each in found
        for name, value in (("cosine", each.cosine), ("rank correlation", each.ranks))
    )


def measure_examples(work: Work, progress: Progress) -> Sequence[tuple[str, Agreement]]:
    """How the result's embeddings agree with the source's, where there are any."""
    if work.examples is None:
        return ()
    progress("measuring")
    return work.examples.measure(work.source, work.graph)
