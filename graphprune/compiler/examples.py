"""Examples of a compilation: what an encoder is calibrated on, and how much of its embeddings is left."""

from graphprune.data.calibration import held_out_part, training_part
from graphprune.data.library import LIBRARY
from graphprune.data.tokenizer_files import has_tokenizer
from graphprune.encoders.embeddings import find_embeddings
from graphprune.encoders.examples import Examples, Left, Wanted, prepare_examples
from graphprune.errors import DataError, UsageError
from graphprune.evaluation.measure import Measure
from graphprune.evaluation.measures import finite
from graphprune.ir.graph import Graph
from graphprune.pipeline.made_passes import make_recover
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import Recipe
from graphprune.pipeline.stages import needs_text
from graphprune.progress import Progress
from graphprune.reporting.work import Asked, Work


def reads_examples(graph: Graph, data: str) -> bool:
    """Whether there is something that the model reads, and a loss for it, though it is no language model.

    Pairs of images and texts are only where the user has some: the library has none.
    """
    files = graph.source.files
    if graph.source.kind != "encoder" or files is None or not has_tokenizer(files):
        return False
    found = len(find_embeddings(graph))
    return found == 1 or (found == 2 and data not in LIBRARY)


def read_examples(asked: Asked, recipe: Recipe, source: Graph, progress: Progress) -> Examples | None:
    """The examples to calibrate and to measure with; None for a model that has none. Raises DataError."""
    if not reads_examples(source, asked.data):
        return None
    progress("reading text", 0, 0)
    calibration, train = recipe.calibration, training_part(asked.data, asked.held_out)
    wanted = Wanted(
        train,
        calibration.samples,
        calibration.length,
        asked.seed,
        calibration.loss,
        held_out_part(asked.data, asked.held_out),
        asked.field,
        make_recover(recipe.recover).tokens if recipe.recover is not None else 0,
    )
    try:
        return prepare_examples(source, wanted)
    except DataError:
        if needs_text(recipe) or asked.data != CompileOptions.data:
            raise
        return None  # text would only have been measured on


def unread(recipe: Recipe, graph: Graph) -> UsageError:
    """What is said where a method looks at what nobody can give this model."""
    name, said = graph.source.name, f"the method {recipe.name} looks at"
    if len(find_embeddings(graph)) == 2:
        return UsageError(
            f"{said} pairs of an image and a text, which {name} compares; give records of both with --data, or use "
            "--importance magnitude"
        )
    return UsageError(
        f"{said} text, so it needs a language model with a cache, or an encoder of texts with a tokenizer, which "
        f"{name} was not captured as; use --importance magnitude or the Python API"
    )


def agreement_measures(left: Left) -> tuple[Measure, ...]:
    """How near embeddings are to the source's, and whether they rank what is similar as it does; of the source 1."""
    several = len(left.embeddings) > 1
    rows = tuple(
        Measure(f"held-out {name}{f' of {output}' if several else ''}", 1.0, finite(value))
        for output, each in left.embeddings
        for name, value in (("cosine", each.cosine), ("rank correlation", each.ranks))
    )
    return (*rows, Measure("held-out recall@1", *left.recall)) if left.recall is not None else rows


def measure_examples(work: Work, progress: Progress) -> Left:
    """What is left of the source's embeddings in the result, where there are any."""
    if work.examples is None:
        return Left()
    progress("measuring")
    return work.examples.measure(work.source, work.graph)
