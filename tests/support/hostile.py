"""A model folder from somebody who means harm: everything that some library would run if it were let."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphprune.generic.program_graphprune import pack, unpack

MODULES = ("torch", "json", "onnxruntime", "transformers", "sitecustomize", "usercustomize")


def plant(folder: Path, sentinel: Path, own_code: bool = True) -> Path:
    """Put code beside a checkpoint that writes `sentinel` when it runs; returns the folder.

    With `own_code` configurations name it too, which is refused; else it only lies there.
    """
    code = f"open({str(sentinel)!r}, 'a').write('ran')\n"
    (folder / "custom_generate").mkdir(exist_ok=True)
    (folder / "custom_generate" / "generate.py").write_text(f"{code}def generate(model, **kwargs):\n    {code}")
    for name in (*MODULES, "tokenization_evil", "processing_evil", "configuration_evil", "modeling_evil"):
        (folder / f"{name}.py").write_text(code)
    (folder / "__init__.py").write_text(code)
    if own_code:
        edit(folder / "config.json", auto_map={"AutoConfig": "acme/evil--configuration_evil.Config"})
        edit(
            folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.A", "tokenization_evil.A"]}
        )
        write(folder / "processor_config.json", {"auto_map": {"AutoProcessor": "processing_evil.Processor"}})
    return folder


def edit(path: Path, **changes: object) -> None:
    write(path, {**json.loads(path.read_text()), **changes} if path.is_file() else changes)


def write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data))


def edit_graph(folder: Path, change: Any) -> None:
    """Change the graph of a generic checkpoint."""
    config = json.loads((folder / "config.json").read_text())
    graph = unpack(config["graph"])
    change(graph)
    write(folder / "config.json", {**config, "graph": pack(graph)})


def harmful_graphs(sentinel: str) -> Iterator[tuple[str, Any]]:
    """What is done to a graph, by name."""
    run = f"__import__('pathlib').Path({sentinel!r}).touch()"
    for name, tensor in (
        ("quoted name", f'x") or {run} or getattr(self, "x'),
        ("expression as a name", run),
        ("name with a space", "a b"),
        ("special name", "__class__"),
        ("name with a line feed", f"x\n{run}"),
        ("empty part", "a..b"),
    ):
        yield f"tensor: {name}", lambda graph, tensor=tensor: rename_tensor(graph, tensor)
        yield f"input: {name}", lambda graph, tensor=tensor: rename_input(graph, tensor)
        yield f"output: {name}", lambda graph, tensor=tensor: graph["outputs"][0].__setitem__(0, tensor)
    for key in (f"alpha={run}, other", run, "not_an_argument", ""):
        yield f"keyword: {key[:20]}", lambda graph, key=key: first_call(graph)[2].__setitem__(key, 1)
    for operator in (
        "aten.save.default", "aten.from_file.default", "aten._unsafe_view.default", "aten.as_strided.default",
        "aten.empty.memory_format", "aten._local_scalar_dense.default", "aten.add_.Tensor", "aten.set_.default",
        "aten.warn.default", "aten.add.str", "prims.add.default", "quantized.add.default", "operator.attrgetter",
        "os.system", "torch.load", "builtins.eval", "aten.add", "aten.add.Tensor.__class__", "aten.__class__.default",
    ):  # fmt: skip
        yield f"operator: {operator}", lambda graph, operator=operator: first_call(graph).__setitem__(0, operator)
    yield "text argument", lambda graph: first_call(graph)[1].__setitem__(0, run)
    yield "too many arguments", lambda graph: first_call(graph)[1].extend([1] * 9)
    yield "no element type", lambda graph: graph.__setitem__("dtype", "load")
    yield "no element type of a tensor", lambda graph: next(iter(graph["tensors"].values())).__setitem__(0, "save")


def first_call(graph: Any) -> Any:
    return next(node for node in graph["nodes"] if node[0].startswith("aten."))


def rename_tensor(graph: Any, name: str) -> None:
    old = next(iter(graph["tensors"]))
    graph["tensors"] = {name if n == old else n: described for n, described in graph["tensors"].items()}
    for node in graph["nodes"]:
        if node[:2] == ["tensor", old]:
            node[1] = name


def rename_input(graph: Any, name: str) -> None:
    old = graph["inputs"][0][0]
    graph["inputs"][0][0] = name
    for node in graph["nodes"]:
        if node[:2] == ["input", old]:
            node[1] = name
