"""What rules about operations and uses are about: the model is traced once with all that they may mean inlined."""

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, fx, nn

from surgery.errors import TraceRefusedError
from surgery.finding import Found, find
from surgery.graph.arguments import Call
from surgery.graph.lowering import FORWARDS, Lowering
from surgery.graph.ops import Operation, operation_named
from surgery.graph.tracer import SurgeryTracer, put_operation_under
from surgery.graph.tracing import failure
from surgery.graph.uses import Use, uses_of
from surgery.rules.ruleset import Rule, RuleSet

LISTED = 3


def resolved(
    ruleset: RuleSet, model: nn.Module, call: Call, lower: Mapping[type[nn.Module], Lowering]
) -> tuple[RuleSet, tuple[str, ...]]:
    """The rules with the names that they are about, and one text for each operation that nobody knows.

    A parameter with several uses is meant where any of them is.
    """
    if not any(rule.needs_graph for rule in ruleset.rules):
        return ruleset, ()
    unknown = tuple(
        f"rule {rule}: torch has no operation {rule.pattern.operation!r}"
        for rule in ruleset.rules
        if rule.pattern.operation is not None and operation_named(rule.pattern.operation) is None
    )
    if unknown:
        return ruleset, unknown
    uses = uses_by_site([rule for rule in ruleset.rules if rule.needs_graph], model, call, lower)
    return RuleSet(tuple(_resolved(rule, uses) if rule.needs_graph else rule for rule in ruleset.rules)), ()


def uses_by_site(
    rules: list[Rule], model: nn.Module, call: Call, lower: Mapping[type[nn.Module], Lowering]
) -> list[tuple[Found, tuple[Use, ...]]]:
    """The uses of every parameter that one of ``rules`` may mean, by a trace of a copy."""
    root = copy.deepcopy(model)
    meant = [one for one in find(root) if any(_may_mean(rule, one) for rule in rules)]
    inlined = {prefix for one in meant for name in one.site.names for prefix in _prefixes(name)}
    forwards = {**FORWARDS, **lower}
    if type(root) not in forwards:
        put_operation_under(root)
    tracer = SurgeryTracer(inlined, call, forwards)
    try:
        graph = tracer.record(root)
    except TraceRefusedError:
        raise
    except Exception as error:
        raise TraceRefusedError(failure(error, root)) from error
    return [(one, tuple(_uses(one, graph, root))) for one in meant]


def _uses(found: Found, graph: fx.Graph, root: nn.Module) -> list[Use]:
    reads = "get_attr" if isinstance(found.subject, Tensor) else "call_module"
    nodes = [node for node in graph.nodes if node.op == reads and node.target in found.site.names]
    return [use for node in nodes for use in uses_of(found.site, node, root)]


def _may_mean(rule: Rule, found: Found) -> bool:
    site = found.site
    if site.buffer and not rule.pattern.names_leaf:
        return False
    pairs = zip(site.names, site.host_types, strict=True)
    return any(rule.pattern.matches(name, types) for name, types in pairs)


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[:length]) for length in range(len(parts) + 1)]


def _resolved(rule: Rule, uses: list[tuple[Found, tuple[Use, ...]]]) -> Rule:
    operation = None if rule.pattern.operation is None else operation_named(rule.pattern.operation)
    mine = [(found, some) for found, some in uses if _may_mean(rule, found)]
    hit = [found for found, some in mine if any(_is_met(rule, operation, use) for use in some)]
    names = frozenset(name for found in hit for name in found.site.names)
    return replace(rule, names=names, unmet="" if names or not mine else _unmet(operation, mine))


def _is_met(rule: Rule, operation: Operation | None, use: Use) -> bool:
    if rule.predicate is not None:
        return bool(rule.predicate(use))
    assert operation is not None
    return use.op == operation.name and (rule.pattern.names_leaf or operation.is_meant(use.arg))


def _unmet(operation: Operation | None, mine: list[tuple[Found, tuple[Use, ...]]]) -> str:
    count = Counter(f"{use.op} ({use.arg})" for _, some in mine for use in some)
    seen = ", ".join(text for text, _ in count.most_common(LISTED)) or "nothing"
    what = "of none of its uses it is true" if operation is None else f"none is used by {operation.name} so"
    return f"matches {len(mine)} parameters by name, but {what}; what uses them is {seen}"
