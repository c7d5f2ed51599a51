"""Records: lists, lines and tables of them, and what their fields say."""

import json
from pathlib import Path
from typing import Any

import pytest

from graphprune.data.readers import Row
from graphprune.data.records import conversation_of, text_of
from graphprune.data.sources import look_at_text, read_texts
from graphprune.errors import DataError
from tests.data.test_conversations import MESSAGES, SHAREGPT

ALPACA = {"instruction": "Add", "input": "1 and 2", "output": "3"}


def write(path: Path, data: str | bytes) -> str:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        '[{"text": "one"}, {"text": null}, {"text": "two"}]',
        ' \n[{"text": "one"},\n{"text": "two"}]\n',
        '{"data": [{"text": "one"}, {"text": "two"}], "version": "1"}',
        '{"text": "one"}\n\n{"text": "two"}\n',
        '\ufeff[{"text": "one"}, {"text": "two"}]',
    ],
)
def test_json_files_hold_records_in_every_form(tmp_path: Path, text: str) -> None:
    assert list(read_texts(write(tmp_path / "a.json", text))) == ["one", "two"]


def test_one_object_is_one_record(tmp_path: Path) -> None:
    assert list(read_texts(write(tmp_path / "a.json", '{"text": "one"}'))) == ["one"]


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t")])
def test_tables_name_their_columns_in_the_first_line(tmp_path: Path, name: str, mark: str) -> None:
    path = write(tmp_path / name, f'n{mark}text\n1{mark}"one{mark} and\nmore"\n2{mark}two\n3{mark}\n')
    assert list(read_texts(path)) == [f"one{mark} and\nmore", "two"]
    assert list(read_texts(path, "n")) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[1, 2]", "is a list that holds a int"),
        ("a.json", '[{"text": }]', "is not JSON"),
        ("a.json", "[" * 5000, "is not JSON"),
        ("a.json", '[{"a": ' + "[" * 200 + "]" * 200 + "}]", "nested more than"),
        ("a.json", '{"a": [1], "b": ', "line 1 of .* is not JSON"),
        ("a.json", "3", "holds no list of records"),
        ("a.json", '{"a": [{"x": 1}], "b": [{"x": 1}]}', "holds no list of records"),
        ("a.json", b"\xff[]", "is not UTF-8 text"),
        ("a.json", "[]", "holds no text"),
        ("a.csv", "text\na,b\n", "line 2 of .* has more cells"),
        ("a.csv", 'text\n"a', "is no table"),
        ("a.csv", "body\na\n", "no field 'text'; it has body; name the one that holds the text"),
        ("a.csv", b"text\n\xff\n", "is not UTF-8 text"),
        ("a.csv", "text\n", "holds no text"),
        ("a.json", '[{"text": {"a": 1}}]', "holds dict, not text"),
        ("a.json", json.dumps([{f"f{n}": 1 for n in range(40)}]), "it has f0, .*f7 and 32 more; name"),
    ],
)
def test_what_is_no_list_of_records_is_one_line(tmp_path: Path, name: str, text: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        look_at_text(write(tmp_path / name, text), "text")
    assert "\n" not in str(caught.value)


def test_a_list_that_does_not_end_is_told_where_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[{"text": "x"}')
    with pytest.raises(DataError, match="its list does not end"):
        list(read_texts(path))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        (ALPACA, "Add\n\n1 and 2\n\n3"),
        ({**ALPACA, "input": ""}, "Add\n\n3"),
        ({"prompt": "a", "completion": "b"}, "a\n\nb"),
        (
            {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
            "a\n\nb",
        ),
        ({"question": "a", "answer": "b", "id": 3}, "a\n\nb"),
        ({"instruction": "a", "context": None, "response": "b"}, "a\n\nb"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}]}, "a"),
        ({"text": "c", "messages": MESSAGES}, "c"),
        ({"text": "half \ud800"}, "half ?"),
    ],
)
def test_records_are_text(fields: dict[str, Any], wanted: str) -> None:
    assert list(text_of(Row("row", fields), "text")) == [wanted]


@pytest.mark.parametrize("fields", [{"messages": None}, {"messages": []}, {"text": None}, {"conversations": None}])
def test_records_that_say_nothing_are_passed_over(fields: dict[str, Any]) -> None:
    assert list(text_of(Row("row", fields), "text")) == []


@pytest.mark.parametrize("fields", [{"messages": MESSAGES}, {"conversations": SHAREGPT}])
def test_conversations_are_rendered_as_they_are_asked_to(fields: dict[str, Any]) -> None:
    row = Row("row", fields)
    assert conversation_of(row, "text") == tuple(MESSAGES)
    assert list(text_of(row, "text", lambda messages: f"{len(messages)} messages")) == [f"{len(MESSAGES)} messages"]


def test_an_instruction_and_its_answer_are_a_conversation_of_two() -> None:
    asked, said = conversation_of(Row("row", ALPACA), "text") or ((), ())
    assert asked == {"role": "user", "content": "Add\n\n1 and 2"}
    assert said == {"role": "assistant", "content": "3"}
