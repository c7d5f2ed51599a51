"""The stock configuration of a pruned model: found by search, proved on the meta device, the same for every family."""

import heapq
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from graphprune.backends.attempts import attempt
from graphprune.backends.huggingface.skeletons import (
    Shapes,
    Skeleton,
    layer_count,
    layer_index,
    partial_layers,
    quiet,
    renumber,
    shapes_of,
    skeleton,
    unequal_layers,
    unread_fit,
)
from graphprune.ir.graph import Graph
from graphprune.ir.types import tensor_type

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Path = tuple[str, ...]
Assignment = frozenset[tuple[Path, object]]
BUDGET = 300  # configurations that are instantiated before the search gives up
LONGEST, SLOW = 120.0, 2.0  # seconds: for the whole search; for one class, after which what was changed is left alone


def stock_config(graph: Graph) -> "PretrainedConfig | None":
    """The first of `stock_configs`, or None.

    Equal shapes do not prove equal function (attention scales, statistics of norms): compare before trusting it.
    """
    return next(stock_configs(graph), None)


def stock_configs(graph: Graph) -> Iterator["PretrainedConfig"]:
    """The configurations under which the source's own class has exactly this graph's parameter and buffer shapes.

    Where the graph chooses all that there is to choose from, also those with lower numbers that no shape shows.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in graph.tensors().items()}
    for config in solutions(graph.source.config, shapes, graph.source.architecture):
        yield config
        yield from fewer_choices(config, graph)


def fewer_choices(config: "PretrainedConfig", graph: Graph) -> Iterator["PretrainedConfig"]:
    """The configuration with one or two numbers lowered to how many entries the graph chooses, such as experts."""
    counts = exhausted_choices(graph)
    if not counts:
        return
    with quiet():
        base = shapes_of(config, graph.source.architecture)
        lowered = []
        for path, value in sorted(whole_numbers(config), key=lambda field: field[1]):
            for count in counts:
                if value > count and shapes_of(rebuild(config, {path: count}), graph.source.architecture) == base:
                    lowered.append((path, count))
        for changes in [*itertools.combinations(lowered, 1), *itertools.combinations(lowered, 2)]:
            found = rebuild(config, dict(changes))
            if found is not None:
                yield found


def exhausted_choices(graph: Graph) -> list[int]:
    """How many entries are chosen by calls that choose all there are, as they do where fewer are left than asked."""
    calls = graph.module.graph.find_nodes(op="call_function", target=torch.ops.aten.topk.default)
    sizes = [
        (call.args[1], tensor_type(call.args[0]).shape[call.args[2] if len(call.args) > 2 else -1]) for call in calls
    ]
    return sorted({count for count, size in sizes if count == size})


def is_expressible(config: "PretrainedConfig | None", shapes: Shapes, architecture: str) -> "PretrainedConfig | None":
    """A configuration of `architecture` (a transformers class name) with these tensor shapes by name, or None.

    `shapes` may name buffers too; they tell head sizes from head counts. Layers of which nothing is left may be absent:
    the configuration then has fewer layers, see `renumber`.
    """
    return next(solutions(config, shapes, architecture), None)


def solutions(config: "PretrainedConfig | None", shapes: Shapes, architecture: str) -> Iterator["PretrainedConfig"]:
    with quiet():
        old = None if config is None else skeleton(config, architecture)
        if config is not None and old is not None:
            yield from solve(config, old, shapes, architecture)


def solve(config: "PretrainedConfig", old: Skeleton, shapes: Shapes, architecture: str) -> Iterator["PretrainedConfig"]:
    names = renumber(old.shapes, shapes)
    new = {names[name]: shape for name, shape in shapes.items() if name in names}
    if not new or partial_layers(old, shapes) or unequal_layers(old.shapes, new):
        return
    depth = depth_path(config, architecture, old.shapes)
    count, kept = layer_count(old.shapes), layer_count(new)
    if kept != count and depth is None:
        return
    # Two layers have the same shapes as all of them; the full depth is proved at the end.
    few = 2 if depth and kept > 2 else kept
    shallow = explicit(resize_depth(config, depth, count, few), architecture)
    target = {name: shape for name, shape in new.items() if layer_index(name) < few}
    for assignment in search(shallow, architecture, target):
        full = rebuild(resize_depth(shallow, depth, few, kept, config), assignment)
        if full is None:
            continue
        found = skeleton(full, architecture)
        if found is not None and all(found.shapes.get(n) == s for n, s in new.items()) and unread_fit(old, found, new):
            yield full


def rebuild(config: "PretrainedConfig", changes: Assignment | Mapping[Path, object]) -> "PretrainedConfig | None":
    """The configuration with some values changed, through its constructor as in loading; None where that refuses."""
    data = config.to_dict()
    for path, value in changes.items() if isinstance(changes, Mapping) else changes:
        place = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    data.pop("transformers_version", None)
    found = attempt(lambda: type(config).from_dict(data))
    return None if isinstance(found, Exception) else found


def fields(data: Mapping[str, object], prefix: Path = ()) -> Iterator[tuple[Path, object]]:
    """Every value of a configuration by path, sub-configurations included."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from fields(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def depth_path(config: "PretrainedConfig", architecture: str, old: Shapes) -> Path | None:
    """The field that holds the number of layers: lowering it removes the last layer. None where there is none."""
    count = layer_count(old)
    for path, value in fields(config.to_dict()):
        if value == count and isinstance(value, int) and count > 1:
            smaller = rebuild(config, resized(config, path, count, count - 1))
            found = None if smaller is None else skeleton(smaller, architecture)
            if found is not None and found.shapes == {n: s for n, s in old.items() if layer_index(n) < count - 1}:
                return path
    return None


def resized(
    config: "PretrainedConfig", depth: Path, old: int, new: int, full: "PretrainedConfig | None" = None
) -> dict[Path, object]:
    """The changes for another number of layers; lists with one entry a layer are cut short, or taken from `full`."""
    known = dict(fields((full or config).to_dict()))
    lists = [p for p, v in fields(config.to_dict()) if isinstance(v, (list, tuple)) and len(v) == old]
    return {p: shortened(known[p], new) for p in lists} | {depth: new}


def shortened(entries: object, count: int) -> list[object]:
    assert isinstance(entries, (list, tuple))
    return list(entries[:count])


def resize_depth(
    config: "PretrainedConfig", depth: Path | None, old: int, new: int, full: "PretrainedConfig | None" = None
) -> "PretrainedConfig":
    if depth is None or old == new:
        return config
    return rebuild(config, resized(config, depth, old, new, full)) or config


def explicit(config: "PretrainedConfig", architecture: str) -> "PretrainedConfig":
    """The configuration with every unset size written out: `n_inner`, `head_dim`, where a class derives them.

    A field counts as a size if some value for it changes a shape; its value is the one that changes none.
    """
    base = skeleton(config, architecture)
    assert base is not None
    data = {"head_dim": None, **config.to_dict()}
    for path in [path for path, value in fields(data) if value is None]:
        if not influences(config, architecture, path, base.shapes):
            continue
        sizes = sorted({size for shape in base.shapes.values() for size in shape} | quotients(config))
        same = (rebuild(config, {path: size}) for size in sizes)
        found = next((c for c in same if c is not None and shapes_of(c, architecture) == base.shapes), None)
        config = found or config
    return config


def quotients(config: "PretrainedConfig") -> set[int]:
    """Every whole quotient of two sizes in the configuration: a head size is one."""
    numbers = {v for _, v in fields(config.to_dict()) if isinstance(v, int) and not isinstance(v, bool) and v > 1}
    return {a // b for a in numbers for b in numbers if a > b and a % b == 0}


def influences(config: "PretrainedConfig", architecture: str, path: Path, base: Shapes) -> bool:
    """Say whether an odd value for a field changes a shape."""
    shapes = shapes_of(rebuild(config, {path: 6}), architecture)
    return shapes is not None and shapes != base


def search(config: "PretrainedConfig", architecture: str, target: Shapes) -> Iterator[Assignment]:
    """Assignments of configuration values under which the class has the target shapes, most promising first."""
    start: Assignment = frozenset()
    base = shapes_of(config, architecture) or {}
    queue = [(mismatch(base, target), 0, 0, start, config, base)]
    seen, tried = {start}, 0
    slow: set[Path] = set()  # fields that a constructor counts up to: another value can take it minutes
    began = time.monotonic()
    while queue and time.monotonic() < began + LONGEST:
        wrong, size, _, assignment, reached, shapes = heapq.heappop(queue)
        if wrong == 0:
            yield assignment
            continue
        taken = {path for path, _ in assignment}
        for option in candidates(reached, shapes, target):
            following = assignment | {option}
            if option[0] in taken | slow or following in seen or tried >= BUDGET:
                continue
            seen.add(following)
            tried += 1
            tried_at = time.monotonic()
            candidate = rebuild(config, following)
            found = shapes_of(candidate, architecture)
            if time.monotonic() > tried_at + SLOW:
                slow.add(option[0])
            if candidate is None or found is None:
                # What a class refuses it may take with one more change: kept behind everything valid.
                heapq.heappush(queue, (wrong + 1000, size + 1, tried, following, reached, shapes))
            elif found != shapes and mismatch(found, target) <= wrong:
                heapq.heappush(queue, (mismatch(found, target), size + 1, tried, following, candidate, found))


def candidates(config: "PretrainedConfig", shapes: Shapes, target: Shapes) -> list[tuple[Path, int]]:
    """Values that may explain the sizes that still differ: those equal to an old size, then those of the same ratio."""
    exact, scaled = [], []
    for path, value in whole_numbers(config):
        for old, new in differing_sizes(shapes, target):
            if value == old:
                exact.append((path, new))
            elif old % value == 0:
                scaled += [(path, part) for part in parts(value, old, new)]
    return list(dict.fromkeys([*exact, *scaled]))


def whole_numbers(config: "PretrainedConfig") -> Iterator[tuple[Path, int]]:
    """The positive integers of a configuration by path."""
    for path, value in fields(config.to_dict()):
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            yield path, value


def parts(value: int, old: int, new: int) -> list[int]:
    """Smaller values that `value` may have become when a product with it went from `old` to `new`."""
    if value * new % old == 0:
        return [value * new // old]
    return [smaller for smaller in range(value - 1, 0, -1) if new % smaller == 0] if value <= 256 else []


def differing_sizes(shapes: Shapes, target: Shapes) -> list[tuple[int, int]]:
    """Every pair of a present and a wanted size of some dimension, the frequent ones first."""
    pairs: Counter[tuple[int, int]] = Counter()
    for name, shape in target.items():
        pairs.update((old, new) for old, new in zip(shapes.get(name, ()), shape, strict=False) if old != new and old)
    return [pair for pair, _ in pairs.most_common()]


def mismatch(shapes: Shapes, target: Shapes) -> int:
    """The number of dimensions in which the shapes differ from the target."""
    return sum(
        sum(a != b for a, b in itertools.zip_longest(shape, shapes.get(name, ()))) for name, shape in target.items()
    )
