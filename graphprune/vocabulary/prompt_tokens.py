"""Prompt tokens: a folder with the tokenizer and configurations of a model whose vocabulary has a learned prompt.

The tokenizer itself puts the prompt before every text, behind the token that begins one where it has that, and chat
templates do so too. Generation never chooses its tokens.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphprune.data.stream.lead import begins_with, find_lead, prompt_names
from graphprune.data.tokens import load_tokenizer
from graphprune.errors import UsageError
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph, Source
from graphprune.json_data import Json, JsonObject, read_object
from graphprune.vocabulary.prompted_chats import change_templates
from graphprune.vocabulary.prompts import prompt_size
from graphprune.vocabulary.token_ids import integers, parts_of
from graphprune.vocabulary.tokenizer_data import TokenizerData
from graphprune.vocabulary.tokenizer_folder import copy_inside, read_tokenizer, write_over

_PIECE = "<|prompt|>"  # the name of the prompt as a whole, within the rule that puts it before texts
_RULE = "TemplateProcessing"
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_SUPPRESSED, _SIZE = "suppress_tokens", "vocab_size"


def with_prompt_tokens(graph: Graph, folder: Path) -> Graph:
    """The graph whose tokenizer has the prompt that was appended to its vocabulary; the graph itself without one.

    See `prompted_source`.
    """
    tokens, rows = prompt_size(graph.lineage.plan), vocabulary_size(graph)
    if not tokens or rows is None:
        return graph
    return replace(graph, source=prompted_source(graph.source, rows - tokens, tokens, folder))


def prompted_source(source: Source, rows: int, tokens: int, folder: Path) -> Source:
    """The source of a model that had so many rows of tokens before a prompt was appended.

    `folder` is filled with the tokenizer and the configurations, and must last as long as the source is used. Raises
    UsageError where the tokenizer cannot have further tokens.
    """
    if source.files is None:
        return source
    tokenizer, data = read_tokenizer(source.files)
    known = len(tokenizer)
    if find_lead(tokenizer).prompt:
        raise UsageError(
            "the tokenizer has a prompt already, and a second would not be told from it; learn one of the model that "
            "it was made from"
        )
    if known > rows:
        raise UsageError(
            f"the tokenizer has {known:,} tokens and the model {rows:,} rows, so that a prompt has no numbers left"
        )
    first = next(iter(begins_with(tokenizer)), None)
    unused = tuple(f"<|unused_{id}|>" for id in range(known, rows))
    prompt, ids = prompt_names(tokens), tuple(range(rows, rows + tokens))
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.files.iterdir()):
        copy_inside(path, folder / path.name)
    begin = "" if first is None else str(tokenizer.convert_ids_to_tokens(first))
    write_over(folder / "tokenizer.json", with_tokens(data, known, (*unused, *prompt), prompt, ids))
    change_settings(folder, known, (*unused, *prompt))
    change_templates(folder, begin, "".join(prompt))
    require_prompt(source.files, folder, first, ids)
    if (folder / "config.json").is_file():
        write_over(folder / "config.json", resized(read_object(folder / "config.json"), rows, rows + tokens))
    generation = copy.deepcopy(source.generation_config)
    if generation is not None:
        setattr(generation, _SUPPRESSED, [*(getattr(generation, _SUPPRESSED, None) or ()), *ids])
    change_generation(folder, None if generation is None else json.loads(generation.to_json_string()), ids)
    config = copy.deepcopy(source.config)
    for part in parts_of(config):
        if getattr(part, _SIZE, None) == rows:
            setattr(part, _SIZE, rows + tokens)
    return replace(source, config=config, generation_config=generation, companions=folder)


def resized(data: JsonObject, rows: int, more: int) -> JsonObject:
    """A configuration as JSON has it, with another size of its vocabulary, parts in it too."""
    inner: JsonObject = {
        key: resized(value, rows, more) if isinstance(value, dict) else value for key, value in data.items()
    }
    return {**inner, _SIZE: more} if inner.get(_SIZE) == rows else inner


def with_tokens(
    data: TokenizerData, known: int, names: Sequence[str], prompt: Sequence[str], ids: Sequence[int]
) -> TokenizerData:
    """The content of tokenizer.json with tokens that follow the known ones, of which the prompt stands before texts."""
    added: list[Any] = [{"id": known + place, "content": name, **_PLAIN} for place, name in enumerate(names)]
    rule = with_rule(data.get("post_processor"), prompt, ids)
    return {**data, "added_tokens": [*(data.get("added_tokens") or ()), *added], "post_processor": rule}


def with_rule(rule: Json, prompt: Sequence[str], ids: Sequence[int]) -> Json:
    """What is put around texts, with the prompt right before them. Raises UsageError for rules that have no place."""
    kind = rule.get("type") if isinstance(rule, dict) else None
    if isinstance(rule, dict) and kind == "Sequence":
        steps = rule.get("processors")
        steps = list(steps) if isinstance(steps, list) else []
        place = next((i for i, step in enumerate(steps) if isinstance(step, dict) and step.get("type") == _RULE), None)
        changed = with_rule(None if place is None else steps[place], prompt, ids)
        steps[len(steps) if place is None else place : len(steps) if place is None else place + 1] = [changed]
        return {**rule, "processors": steps}
    if isinstance(rule, dict) and kind == _RULE:
        special = rule.get("special_tokens")
        entry: Json = {"id": _PIECE, "ids": [*ids], "tokens": [*prompt]}
        pieces = {name: before_first(rule.get(name)) for name in ("single", "pair")}
        return {**rule, **pieces, "special_tokens": {**(special if isinstance(special, dict) else {}), _PIECE: entry}}
    if rule is None:
        text: list[Json] = [{"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B")]
        return with_rule({"type": _RULE, "single": text[:1], "pair": text, "special_tokens": {}}, prompt, ids)
    if kind == "ByteLevel":
        return {"type": "Sequence", "processors": [rule, with_rule(None, prompt, ids)]}
    raise UsageError(f"this tokenizer puts tokens around texts by {kind}, into which a prompt cannot be put")


def before_first(template: Json) -> Json:
    """A template with the prompt before its first text."""
    pieces = list(template) if isinstance(template, list) else []
    place = next((i for i, piece in enumerate(pieces) if isinstance(piece, dict) and "Sequence" in piece), len(pieces))
    return [*pieces[:place], {"SpecialToken": {"id": _PIECE, "type_id": 0}}, *pieces[place:]]


def change_settings(folder: Path, known: int, names: Sequence[str]) -> None:
    """tokenizer_config.json, where it has a table of added tokens, and added_tokens.json."""
    settings, table = folder / "tokenizer_config.json", folder / "added_tokens.json"
    found = read_object(settings) if settings.is_file() else {}
    decoder = found.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        more = {str(known + place): {"content": name, **_PLAIN} for place, name in enumerate(names)}
        write_over(settings, {**found, "added_tokens_decoder": {**decoder, **more}})
    if table.is_file():
        write_over(table, {**read_object(table), **{name: known + place for place, name in enumerate(names)}})


def change_generation(folder: Path, known: JsonObject | None, ids: Sequence[int]) -> None:
    """generation_config.json: tokens of the prompt are never chosen. Without a file it is made of what is `known`."""
    path = folder / "generation_config.json"
    if path.is_file():
        found = read_object(path)
        write_over(path, {**found, _SUPPRESSED: [*integers(found.get(_SUPPRESSED)), *ids]})
    else:
        write_over(path, known or {_SUPPRESSED: [*ids]})


def require_prompt(old: Path, made: Path, first: int | None, ids: Sequence[int]) -> None:
    """Raise UsageError where the tokenizer, read back, does not put the prompt, and nothing else, before a text."""
    text, tokenizer = "a b", load_tokenizer(made)
    plain = list(load_tokenizer(old)(text, add_special_tokens=False)["input_ids"])
    wanted = [*([] if first is None else [first]), *ids, *plain]
    found = list(tokenizer(text)["input_ids"])[: len(wanted)]
    if found != wanted or list(tokenizer(text, add_special_tokens=False)["input_ids"]) != plain:
        raise UsageError(
            f"the tokenizer cannot have a prompt: read back, {text!r} is {found[:12]} and not {wanted[:12]}; save it "
            "with a fast tokenizer, whose tokenizer.json says what stands before texts"
        )
