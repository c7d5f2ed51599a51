"""The two forms that a vocabulary has in tokenizer.json are read as one."""

from graphprune.vocabulary.tokenizer_data import TokenizerModel, ids_by_text, scored_texts

BY_TEXT: TokenizerModel = {"vocab": {"a": 2, "b": 0}}
BY_ID: TokenizerModel = {"vocab": [("b", -1.0), ("c", -2.5)]}


def test_ids_are_found_by_text_in_both_forms() -> None:
    assert ids_by_text(BY_TEXT) == {"a": 2, "b": 0}
    assert ids_by_text(BY_ID) == {"b": 0, "c": 1}


def test_only_the_form_by_id_has_scores() -> None:
    assert scored_texts(BY_TEXT) == []
    assert scored_texts(BY_ID) == [("b", -1.0), ("c", -2.5)]
