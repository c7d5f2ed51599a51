"""Kept scores: what an importance found is written down, so that the same question is not worked out twice."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from graphprune.budget.budgets import cost_of
from graphprune.data.tensor_names import name_tensors
from graphprune.pruning.interfaces import Allocation, Importance, Scene
from graphprune.running.inputs import by_name
from graphprune.spec import print_spec

Scores = Mapping[str, Tensor]


def kept_scores(
    folder: Path | None, importance: Importance, scene: Scene, make: Callable[[], Scores], parts: int = 0
) -> Scores:
    """The scores of a scene's candidates: as a file of the folder has them, or as they are made now, and then kept.

    With `parts`, those on so many parts of the text.
    Without a folder nothing is kept, nor of an importance that looks at no text, which is soon asked again.
    """
    if folder is None or not importance.needs_data:
        return make()
    path = folder / f"scores-{name_scene(importance, scene, parts)}.safetensors"
    if path.is_file():
        return load_file(path)
    found = make()
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({id: scores.contiguous() for id, scores in found.items()}, part)
    os.replace(part, path)
    return found


def name_scene(part: Importance | Allocation, scene: Scene, parts: int = 0) -> str:
    """A name for all that what a part of a method finds hangs on: model, text, candidates, seed and the part itself,
    and the budget where that is what it searches at."""
    candidates = [f"{g.id} {g.units}" for g in scene.candidates]
    asked = "\n".join((print_spec(part), str(scene.seed), *candidates, *([f"parts {parts}"] if parts else [])))
    if part.searches:
        asked += f"\n{scene.budget.target} of {sorted(cost_of(scene.groups, scene.budget).terms.items())}"
    texts = {f"text {i} {name}": t for i, batch in enumerate(scene.batches) for name, t in by_name(batch).items()}
    return name_tensors({**scene.graph.tensors(), **texts}, asked)
