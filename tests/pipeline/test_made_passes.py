"""Passes of a recipe's options, and the pattern that goes to a learner which learns one."""

import pytest

from graphprune.errors import UsageError
from graphprune.pipeline.made_passes import check_learner, learns_pattern, make_recover, option_text, with_pattern
from graphprune.training.learning.weights import Full
from graphprune.training.patterns.adaptive_sparse import Ast


def label(key: str) -> str:
    return f"my.yaml: {key}"


def test_the_options_of_sparsify_go_to_a_learner_of_patterns_alone() -> None:
    asked = {"pattern": "50%", "skip": ["down_proj"]}
    given = {"learner": "ast{pattern=1:4,slorb=16}", "tokens": 10}
    recover, sparsify = with_pattern(given, asked, label)
    assert recover == {"learner": "ast{pattern=50%,slorb=16,skip=[down_proj]}", "tokens": 10}
    assert sparsify is None
    assert make_recover(recover).made_learner == Ast(pattern="50%", slorb=16, skip=("down_proj",))
    solved = {**asked, "method": "alternating", "damping": 0.05}
    assert with_pattern(given, solved, label) == (recover, solved)
    assert with_pattern(given, {**asked, "method": None}, label) == (recover, None)
    for other in ({"tokens": 10}, {"learner": "full"}):
        assert with_pattern(other, asked, label) == (other, asked)
    assert with_pattern(given, None, label) == (given, None)
    assert learns_pattern(Ast)
    assert not learns_pattern(Full)
    assert option_text("3e-4") == "3e-4"


def test_what_does_not_go_with_a_learner_is_told_with_its_key() -> None:
    with pytest.raises(UsageError, match=r"my.yaml: sparsify.start: ast begins with dense weights and has no start"):
        with_pattern({"learner": "ast"}, {"start": "wanda"}, label)
    with pytest.raises(UsageError, match=r"my.yaml: stages: ast makes weights sparse in one training"):
        check_learner("ast", 2, False, label)
    with pytest.raises(UsageError, match=r"my.yaml: recover.learner: ast\{slorb=8\} adds parameters behind the cut"):
        check_learner("ast{slorb=8}", 1, True, label)
    check_learner("full", 4, True, label)
