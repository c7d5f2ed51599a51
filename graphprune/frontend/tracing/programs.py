"""Export: a module under a contract becomes a program of torch.export, for all sizes or up to those it holds for."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sympy
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from graphprune.ir.operators import opname
from graphprune.ir.sizes import symbol
from graphprune.models.contract import Contract

_SHORTEST = 64  # tokens: what is captured for fewer is of no use
_LONG = 1_000_003  # a size that no bound of a model reaches, and no multiple of anything


def export_within_bounds(module: nn.Module, contract: Contract) -> tuple[ExportedProgram, Mapping[str, int]]:
    """The exported program, and the largest sizes for which it holds where the model computes otherwise beyond them."""
    try:
        return export_program(module, contract), {}
    except torch._dynamo.exc.UserError as error:
        program = export_long(module, contract)
        if program is not None:
            return program, {}
        bounds = suggested_bounds(str(error))
        if not bounds or min(bounds.values()) < _SHORTEST:
            raise
    return export_program(module, replace(contract, maximum={**contract.maximum, **bounds})), bounds


def export_long(module: nn.Module, contract: Contract) -> ExportedProgram | None:
    """The program that holds for long texts where torch does not fix how sizes compare; None where there is none.

    torch asks that where it chooses a memory layout, and holds the model to the answer. Where the model asks itself,
    it computes otherwise beyond some size: the program then asserts a bound.
    """
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        try:
            program = export_program(module, contract)
        except (torch._dynamo.exc.UserError, GuardOnDataDependentSymNode):  # the latter before torch 2.12 or so
            return None
    return program if holds_for_long(program, contract) else None


def holds_for_long(program: ExportedProgram, contract: Contract) -> bool:
    """Say whether what a program asserts of sizes is so for the longest texts of the contract."""
    names = size_names(program, contract)
    asserted = [node.args[0].meta.get("val") for node in program.graph.nodes if opname(node) == "_assert_scalar"]
    claims = [value.node.expr.xreplace(names) for value in asserted if isinstance(value, torch.SymBool)]
    sizes = {s: contract.maximum.get(s.name, _LONG) for claim in claims for s in claim.free_symbols}
    return not any(claim.xreplace({s: sympy.Integer(n) for s, n in sizes.items()}) == sympy.false for claim in claims)


def size_names(program: ExportedProgram, contract: Contract) -> dict[sympy.Symbol, sympy.Expr]:
    """What export's symbols stand for in the contract, wherever one stands alone as a dimension of an input."""
    placeholders = program.graph.find_nodes(op="placeholder")
    specs = zip(placeholders, program.graph_signature.input_specs, strict=True)
    inputs = [node for node, spec in specs if spec.kind == InputKind.USER_INPUT]
    named: dict[sympy.Symbol, sympy.Expr] = {}
    for node, name in zip(inputs, contract.inputs, strict=True):
        for dim, text in contract.dynamic.get(name, {}).items():
            size = node.meta["val"].shape[dim]
            expression = size.node.expr if isinstance(size, torch.SymInt) else None
            if isinstance(expression, sympy.Symbol):
                symbols = {n: symbol(n) for n in re.findall(r"[A-Za-z_]\w*", text)}
                named.setdefault(expression, sympy.sympify(text, locals=symbols))
    return named


def export_program(module: nn.Module, contract: Contract) -> ExportedProgram:
    dimensions = export_dimensions(contract)
    return torch.export.export(
        module,
        tuple(contract.inputs.values()),
        dynamic_shapes=(dimensions,) if takes_star(module) else dimensions,
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def suggested_bounds(message: str) -> dict[str, int]:
    """The upper bounds that torch.export asks for, where bounds are all that it asks for."""
    _, _, fixes = message.partition("Suggested fixes:")
    lines = [line.strip() for line in fixes.split("\n\n")[0].splitlines() if line.strip()]
    found = [re.fullmatch(r"_(\w+) = Dim\('_\w+', max=(\d+)\)", line) for line in lines]
    return {match[1]: int(match[2]) for match in found if match} if found and all(found) else {}


def note_bounds(bounds: Mapping[str, int]) -> str:
    sizes = " and ".join(f"{name} up to {count:,}" for name, count in bounds.items())
    return f"captured for {sizes}: beyond, the model computes otherwise, and what is written does not"


def takes_star(module: nn.Module) -> bool:
    """Say whether `forward` takes its tensors as `*inputs`, which export describes as one tuple."""
    return module.forward.__code__.co_varnames[1:2] == ("inputs",)


def export_dimensions(contract: Contract) -> tuple[dict[int, Any] | None, ...]:
    """The dynamic shapes for torch.export: plain names are dimensions, expressions are left to its arithmetic."""
    # The underscore: when torch explains a failure it parses these names with sympy, which has a `sequence` of its own.
    plain = {n for dims in contract.dynamic.values() for n in dims.values() if n.isidentifier()}
    dims: dict[str, Any] = {
        name: torch.export.Dim(f"_{name}", min=0 if name == "past" else None, max=contract.maximum.get(name))
        for name in plain
    }
    for name in {n for sizes in contract.dynamic.values() for n in sizes.values()}:
        multiple = re.fullmatch(r"(\d+)\*(\w+)", name)
        if multiple:
            dims[name] = int(multiple[1]) * dims[multiple[2]]
    return tuple(
        {d: dims.get(n, torch.export.Dim.DYNAMIC) for d, n in contract.dynamic.get(name, {}).items()} or None
        for name in contract.inputs
    )
