"""Requests: what the options of a compilation mean for pruning, resolved before any work is done."""

from graphprune.budget import Budget, parse_target
from graphprune.errors import UsageError
from graphprune.groups import Groups
from graphprune.ir import Graph
from graphprune.options import CompileOptions
from graphprune.pruning import Request
from graphprune.spec import parse_spec
from graphprune.uniform import allowed_counts


def read_request(options: CompileOptions) -> Request:
    """Resolve plug-ins before any work is done, so that a wrong name costs nothing."""
    if "vocabulary" in options.prune:
        raise UsageError(
            "--prune vocabulary would need the tokenizer's ids changed, which compile does not do; use a plan"
        )
    importance, allocation = parse_spec("importance", options.importance), parse_spec("allocation", options.allocation)
    budget = Budget(1, options.min_units, 0.0, options.round_to, options.uniform)
    return Request(budget, importance, allocation, options.prune, options.steps, options.floor, options.statistics)


def read_budget(options: CompileOptions, source: Graph, groups: Groups) -> Budget:
    target = parse_target(options.target_params, source.parameter_count())
    allowed = allowed_counts(source, groups) if options.uniform else {}
    return Budget(target, options.min_units, 0.0, options.round_to, options.uniform, allowed)
