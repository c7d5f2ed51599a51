"""Kept scores: found once, read again for the same question, and for no other."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, final

import pytest
import torch
from torch import Tensor

from graphprune.pruning.interfaces import Importance, Scene, view
from graphprune.pruning.kept_scores import kept_scores
from tests.support.families import graph

BATCHES = (torch.randint(3, 60, (2, 8), generator=torch.Generator().manual_seed(0)),)
ASKED: list[int] = []


@final
@dataclass(frozen=True)
class Counted(Importance):
    """Scores by place, and counts how often it is asked."""

    name: ClassVar[str] = "counted"
    needs_data: ClassVar[bool] = True
    scale: float = 1.0

    def score(self, scene: Scene) -> dict[str, Tensor]:
        ASKED.append(1)
        return {g.id: self.scale * torch.arange(g.units).float() for g in scene.candidates}


@final
@dataclass(frozen=True)
class Aimed(Importance):
    """What it finds is for one budget."""

    name: ClassVar[str] = "aimed"
    needs_data: ClassVar[bool] = True
    searches: ClassVar[bool] = True

    def score(self, scene: Scene) -> dict[str, Tensor]:
        ASKED.append(1)
        return {g.id: torch.ones(g.units) for g in scene.candidates}


@final
@dataclass(frozen=True)
class Textless(Importance):
    name: ClassVar[str] = "textless"
    needs_data: ClassVar[bool] = False

    def score(self, scene: Scene) -> dict[str, Tensor]:
        ASKED.append(1)
        return {g.id: torch.ones(g.units) for g in scene.candidates}


@pytest.mark.xdist_group("llama")
def test_the_same_question_is_worked_out_once(tmp_path: Path) -> None:
    ASKED.clear()
    scene, importance = view(graph("llama"), None, BATCHES), Counted()
    first = kept_scores(tmp_path, importance, scene, lambda: importance.score(scene))
    again = kept_scores(tmp_path, importance, scene, lambda: importance.score(scene))
    assert len(ASKED) == 1
    assert first.keys() == again.keys()
    assert all(torch.equal(again[id], scores) for id, scores in first.items())
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    others = [
        (Counted(scale=2.0), scene),
        (importance, replace(scene, seed=1)),
        (importance, replace(scene, candidates=scene.candidates[1:])),
        (importance, replace(scene, batches=(BATCHES[0] + 1,))),
    ]
    for asked, other in others:
        kept_scores(tmp_path, asked, other, lambda asked=asked, other=other: asked.score(other))  # type: ignore[misc]
    assert len(ASKED) == 1 + len(others)


@pytest.mark.xdist_group("llama")
def test_another_budget_is_another_question_to_what_searches(tmp_path: Path) -> None:
    scene = view(graph("llama"), None, BATCHES)
    less = replace(scene, budget=replace(scene.budget, target=scene.budget.target - 1))
    for importance, times in ((Aimed(), 2), (Counted(), 1)):
        ASKED.clear()
        for asked in (scene, less, scene):
            kept_scores(tmp_path, importance, asked, lambda asked=asked, by=importance: by.score(asked))  # type: ignore[misc]
        assert len(ASKED) == times


@pytest.mark.xdist_group("llama")
def test_nothing_is_kept_without_a_folder_or_without_text(tmp_path: Path) -> None:
    scene = view(graph("llama"), None, BATCHES)
    for folder, importance in ((None, Counted()), (tmp_path / "new", Textless())):
        ASKED.clear()
        for _ in range(2):
            kept_scores(folder, importance, scene, lambda importance=importance: importance.score(scene))  # type: ignore[misc]
        assert len(ASKED) == 2
    assert not (tmp_path / "new").exists()
