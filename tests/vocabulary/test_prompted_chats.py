"""Chat templates with a prompt: what they write is what they wrote, with the prompt where texts have it."""

import json
from pathlib import Path
from typing import Any

import pytest

from graphprune.data.stream.lead import prompt_names
from graphprune.data.tokens import load_tokenizer
from graphprune.vocabulary.prompted_chats import led_template, led_value, quoted
from tests.vocabulary.test_prompt_tokens import RULES, model, prompted, with_rule

__all__ = ["model"]
pytestmark = pytest.mark.xdist_group("prompt_tokens")
TEMPLATES = {  # what each writes with the first token where it names it
    "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}": "{b}the cat\nsat 'on'\n",
    "{% for m in messages %}{{ bos_token + m['content'] }}{% endfor %}": "{b}the cat{B}sat 'on'",
    "{% for m in messages %}{{ m['content'] }}{% endfor %}\n": "the catsat 'on'",
    "\n  {% for m in messages %}\n{{ m['content'] }}\n  {% endfor %}\n\n\n": "\nthe cat\nsat 'on'\n\n",
    "{%- for m in messages %}{{ m['content'] }}{% endfor %}{{ eos_token }}\n": "the catsat 'on'<s>",
}


@pytest.mark.parametrize("name", ["none", "template"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_conversations_begin_with_it_too(name: str, template: str, model: Path, tmp_path: Path) -> None:
    files = with_rule(model, tmp_path / "files", RULES[name])
    (files / "chat_template.jinja").write_text(template)
    prompted(files, tmp_path / "made")
    old, new = load_tokenizer(files), load_tokenizer(tmp_path / "made")
    said = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat 'on'"}]
    before, after = (str(each.apply_chat_template(said, tokenize=False)) for each in (old, new))
    prompt = "".join(prompt_names(3))
    assert before == TEMPLATES[template].format(b="<s>", B="<s>")
    begun = before.startswith("<s>") and name == "template"
    assert after == ("<s>" + prompt + before.removeprefix("<s>") if begun else prompt + before)
    ids: Any = new.apply_chat_template(said, return_dict=False)
    assert [id for id in ids if id >= 300] == [300, 301, 302]


@pytest.mark.parametrize("name", ["none", "template"])
def test_marks_of_what_is_generated_stay_where_they_are(name: str, model: Path, tmp_path: Path) -> None:
    files = with_rule(model, tmp_path / "files", RULES[name])
    inside = "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    said = "{% for m in messages %}{{ bos_token }}" + inside + "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    (files / "chat_template.jinja").write_text(said)
    prompted(files, tmp_path / "made")
    talk = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on"}]
    marked = []
    for folder in (files, tmp_path / "made"):
        tokenizer = load_tokenizer(folder)
        found: Any = tokenizer.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
        chosen = [id for id, own in zip(found["input_ids"], found["assistant_masks"], strict=True) if own]
        marked.append(tokenizer.decode(chosen))
    assert marked[0].strip() == marked[1].strip() == "sat on"


def test_templates_within_other_files_are_changed_too(model: Path, tmp_path: Path) -> None:
    files = with_rule(model, tmp_path / "files", None)
    (files / "chat_template.jinja").unlink()
    settings = json.loads((files / "tokenizer_config.json").read_text())
    several = [{"name": "default", "template": "a"}, {"name": "tools", "template": "b"}]
    (files / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": several}))
    (files / "chat_template.json").write_text(json.dumps({"chat_template": "c"}))
    prompted(files, tmp_path / "made")
    for name, last in (("default", "a"), ("tools", "b")):
        tokenizer = load_tokenizer(tmp_path / "made")
        said = tokenizer.apply_chat_template([{"role": "user", "content": ""}], chat_template=name, tokenize=False)
        assert said == "".join(prompt_names(3)) + last
    assert json.loads((tmp_path / "made" / "chat_template.json").read_text())["chat_template"].endswith("c")


def test_what_is_no_template_stays_and_texts_are_quoted() -> None:
    assert led_value(None, "", "p") is None
    assert led_value([{"name": "a", "template": "x"}, 3], "", "p") == [
        {"name": "a", "template": led_template("x", "", "p")}
    ]
    assert quoted("a'b\\c\nd") == "'a\\'b\\\\c\\nd'"
