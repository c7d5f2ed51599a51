"""Relations: what each block did in a recorded run, written relative to the block.

Parameters stand by their names inside the block, states by the distance of their layer, values of earlier blocks by
the distance of the block: two blocks whose lines are equal do the same.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphprune.frontend.blocks.recording import Owner, Recording, Stack, Token

_STATE = re.compile(r"(past_key_values|present)\.(\d+)\.(\w+)")
_BORDERS = {"first", "carried", "end", "outside"}


class NotRepeatedError(Exception):
    """The model does something that cannot be continued from its first blocks; the message says what."""


@dataclass(frozen=True)
class Relative:
    """A recorded run, written relative to blocks: what each block did, what was done outside, what was returned."""

    outside: tuple[Any, ...]
    blocks: Mapping[str, tuple[Any, ...]]
    returned: Mapping[str, Any]


def relate(recording: Recording, stacks: Sequence[Stack], stateful: str | None) -> Relative:
    """A recorded run relative to the blocks of some stacks. Raises NotRepeatedError where it cannot be said so."""
    return Relation(recording, stacks, stateful).write()


class Relation:
    """Writes the tokens of one recording relative to the blocks of some stacks."""

    def __init__(self, recording: Recording, stacks: Sequence[Stack], stateful: str | None) -> None:
        self.recording, self.stacks, self.stateful = recording, stacks, stateful
        self.lengths = {stack.path: len(stack.members) for stack in stacks}
        self.owners = [c.owner if c.owner and c.owner[0] in self.lengths else None for c in recording.calls]
        self.places: list[int] = []
        counts: dict[Owner, int] = {}
        for owner in self.owners:
            self.places.append(counts.get(owner, 0))
            counts[owner] = self.places[-1] + 1
        self.carried = self.find_carried()

    def home(self, name: str) -> Owner:
        """The block that a state of the contract belongs to."""
        layer = layer_of(name)
        return None if layer is None or self.stateful is None else (self.stateful, layer)

    def find_carried(self) -> dict[Owner, list[Token]]:
        """For each block the results that something outside it reads, in order; states that are returned are not."""
        found: dict[Owner, set[Token]] = {}
        for call, owner in zip(self.recording.calls, self.owners, strict=True):
            for token in results_in(call.operands):
                if self.owners[token.what] != owner:
                    found.setdefault(self.owners[token.what], set()).add(token)
        for name, token in self.recording.returned.items():
            if token.kind == "result" and self.home(name) is None:
                found.setdefault(self.owners[token.what], set()).add(token)
        return {owner: sorted(results) for owner, results in found.items()}

    def write(self) -> Relative:
        lines: dict[Owner, list[Any]] = {(path, i): [] for path, n in self.lengths.items() for i in range(n)}
        lines[None] = []
        for call, owner in zip(self.recording.calls, self.owners, strict=True):
            lines[owner].append((call.target, self.rewrite(call.operands, owner), call.results))
        returned: dict[str, Any] = {}
        for name, token in self.recording.returned.items():
            owner = self.home(name)
            entry = (rename_state(name, 0), self.relative(token, owner))
            (lines[owner].append(entry) if owner else returned.update([entry]))
        for owner, results in self.carried.items():
            if owner is not None:
                lines[owner].append([(self.places[token.what], token.place) for token in results])
        blocks = {path: tuple(lines[path, i] for i in range(n)) for path, n in self.lengths.items()}
        return Relative(tuple(lines[None]), blocks, returned)

    def rewrite(self, value: Any, owner: Owner) -> Any:
        if type(value) is Token:
            return self.relative(value, owner)
        return tuple(self.rewrite(part, owner) for part in value) if type(value) is tuple else value

    def relative(self, token: Token, owner: Owner) -> Token:
        """What a tensor is, seen from a block. Raises NotRepeatedError where that cannot be said."""
        if token.kind == "result":
            return self.relative_result(token, owner)
        if token.kind == "tensor":
            return self.relative_tensor(token, owner)
        if token.kind == "object":
            raise NotRepeatedError("a tensor that is neither a parameter nor a constant is read")
        if token.kind == "input" and owner is not None and self.home(token.what) is not None:
            return Token("state", self.home(token.what)[1] - owner[1], rename_state(token.what, 0))  # type: ignore[index]
        return token

    def relative_tensor(self, token: Token, owner: Owner) -> Token:
        home = owner_of(token.what, self.stacks)
        if home is None:
            return token
        if home != owner:
            raise NotRepeatedError(f"{token.what} is read outside its block")
        return Token("own", token.what.removeprefix(f"{home[0]}.{home[1]}."))

    def relative_result(self, token: Token, owner: Owner) -> Token:
        """A result of the same block by its place, of an earlier one by its distance, of another stack from its end."""
        made = self.owners[token.what]
        if made is None or made == owner:
            return Token("local" if made else "outside", self.places[token.what], token.place)
        rank = self.carried[made].index(token) if token in self.carried.get(made, ()) else None
        near = owner is not None and owner[0] == made[0]
        distance = owner[1] - made[1] if near and owner is not None else self.lengths[made[0]] - made[1]
        if made[1] == 0 and distance > 1:
            return Token("first", made[0], rank)
        return Token("carried" if near else "end", (made[0], distance), rank)


def results_in(operands: Any) -> Iterator[Token]:
    """Every token of a call's result within the operands of another."""
    if type(operands) is Token:
        if operands.kind == "result":
            yield operands
    elif type(operands) is tuple:
        for part in operands:
            yield from results_in(part)


def owner_of(name: str, stacks: Sequence[Stack]) -> Owner:
    """The block that a dotted name lies in."""
    for stack in stacks:
        if name.startswith(f"{stack.path}."):
            return stack.path, int(name.removeprefix(f"{stack.path}.").partition(".")[0])
    return None


def layer_of(name: str) -> int | None:
    """The layer that a state belongs to; None for a name that is no state's."""
    match = _STATE.fullmatch(name)
    return int(match[2]) if match else None


def rename_state(name: str, layer: int) -> str:
    """The state of another layer."""
    return _STATE.sub(rf"\g<1>.{layer}.\g<3>", name)


def without_borders(value: Any) -> Any:
    """Lines of a block in which all that comes from other blocks and from outside looks the same."""
    if type(value) is Token:
        return Token("border", None) if value.kind in _BORDERS else value
    return type(value)(map(without_borders, value)) if type(value) in (tuple, list) else value
