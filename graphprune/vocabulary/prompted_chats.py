"""Chats with a prompt: templates that write what they did, with the tokens of a prompt where texts have them."""

import re
from pathlib import Path

from graphprune.json_data import Json, read_object
from graphprune.vocabulary.tokenizer_folder import write_over

_FILES = ("tokenizer_config.json", "chat_template.json")  # those that may hold templates under this key
_KEY = "chat_template"
_LOOP = re.compile(r"\{%-?\s*(for|macro)\b")
_MARKS = re.compile(r"\{%-?\s*generation\b")


def change_templates(folder: Path, begin: str, prompt: str) -> None:
    """Change the chat templates of a folder, in files of their own and within others.

    `begin` is the text of the token that texts begin with, nothing where there is none.
    """
    for path in [*folder.glob("*.jinja"), *folder.glob("additional_chat_templates/*.jinja")]:
        text = path.read_text(encoding="utf-8")
        path.unlink()
        path.write_text(led_template(text, begin, prompt), encoding="utf-8")
    for path in [folder / name for name in _FILES if (folder / name).is_file()]:
        found = read_object(path)
        if found.get(_KEY) is not None:
            write_over(path, {**found, _KEY: led_value(found[_KEY], begin, prompt)})


def led_value(value: Json, begin: str, prompt: str) -> Json:
    """A template, or several with their names."""
    if isinstance(value, list):
        named = [each for each in value if isinstance(each, dict)]
        return [{**each, "template": led_template(str(each.get("template")), begin, prompt)} for each in named]
    return led_template(value, begin, prompt) if isinstance(value, str) else value


def led_template(template: str, begin: str, prompt: str) -> str:
    """A template that writes what this one does, with the prompt before it, or behind `begin` where it writes that.

    Lines of our own end with a block, whose newline is not written, so that the template begins on a line as it did.
    Where `bos_token` is named once, before any loop, it stands for both; else what was written is looked at. Marks of
    what is generated count from the beginning, so that with them nothing is looked at, and the prompt comes first.
    """
    before = f"{{{{ {quoted(prompt)} }}}}{{% set led = true %}}\n{template}"
    if not begin:
        return before
    loop = _LOOP.search(template)
    if template.count("bos_token") == 1 and (loop is None or template.index("bos_token") < loop.start()):
        return f"{{% set bos_token = bos_token ~ {quoted(prompt)} %}}\n{template}"
    if _MARKS.search(template):
        return before
    first, led = quoted(begin), quoted(begin + prompt)
    inside = f"{{% set written %}}\n{template.removesuffix(chr(10))}{{% endset %}}"
    rest = f"written[{len(begin)}:] if written.startswith({first})"
    return f"{inside}{{{{ {led} ~ {rest} else {quoted(prompt)} ~ written }}}}"


def quoted(text: str) -> str:
    """A text as jinja writes it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
