"""The axis rules: one file for each family of operators, looked up by operator name."""

from collections.abc import Mapping

from graphprune import registry
from graphprune.axes.inference import Rule
from graphprune.axes.rules import attention, contraction, elementwise, indexing, recurrence, reduction, shape
from graphprune.errors import RegistryError

_FAMILIES = (elementwise, shape, contraction, attention, recurrence, reduction, indexing)
BUILT_IN: Mapping[str, Rule] = {name: rule for family in _FAMILIES for name, rule in family.RULES.items()}


def all_rules() -> Mapping[str, Rule]:
    """The built-in rules and those of installed distributions (entry points `graphprune.axis_rules`).

    Each entry point names a mapping from operator to `Rule`. Raises RegistryError for two rules for one operator.
    """
    rules = dict(BUILT_IN)
    for plugin in registry.names("axis_rules"):
        for name, rule in registry.load("axis_rules", plugin).items():
            if name in rules:
                raise RegistryError(f"axis_rules {plugin!r} gives a second rule for {name}; remove one of the two")
            rules[name] = rule
    return rules
