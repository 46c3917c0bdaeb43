"""What rules about operations and uses are about: the model is traced once with all that they may mean inlined."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from torch import fx, nn

from surgery.finding import Found, find
from surgery.graph.arguments import Call
from surgery.graph.lowering import FORWARDS, Lowering, put_operation_under
from surgery.graph.ops import OPERATIONS, Operation, operation_named
from surgery.graph.tracer import SurgeryTracer
from surgery.graph.tracing import recorded
from surgery.graph.uses import Use, uses_of
from surgery.rules.ruleset import Rule, RuleSet

LISTED = 3


Uses = list[tuple[Found, tuple[Use, ...]]]


def resolved(ruleset: RuleSet, ask: Callable[[list[Rule]], Uses]) -> tuple[RuleSet, tuple[str, ...]]:
    """The rules with the names that they are about, and one text for each operation that nobody knows.

    ``ask`` gives the uses of all that some rules may mean. A parameter with several uses is meant where any of them is.
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
    uses = ask([rule for rule in ruleset.rules if rule.needs_graph])
    return RuleSet(tuple(_resolved(rule, uses) if rule.needs_graph else rule for rule in ruleset.rules)), ()


def uses_by_trace(rules: list[Rule], model: nn.Module, call: Call, lower: Mapping[type[nn.Module], Lowering]) -> Uses:
    """The uses of every parameter that one of ``rules`` may mean, by a trace of a copy with their hosts inlined."""
    root = copy.deepcopy(model)
    meant = _meant(rules, root)
    inlined = {prefix for one in meant for name in one.site.names for prefix in _prefixes(name)}
    forwards = {**FORWARDS, **lower}
    if type(root) not in forwards:
        put_operation_under(root)
    graph = recorded(SurgeryTracer(inlined, call, forwards), root, training=root.training)
    return [(one, tuple(uses_in(graph, one, root))) for one in meant]


def uses_in_export(rules: list[Rule], model: nn.Module, exported: fx.GraphModule) -> Uses:
    """The same by the graph of an export, which has everything inlined."""
    return [(one, tuple(uses_in(exported.graph, one, exported))) for one in _meant(rules, model)]


def uses_in(graph: fx.Graph, found: Found, root: nn.Module) -> Iterator[Use]:
    """The uses of one parameter in a graph."""
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module") and node.target in found.site.names:
            yield from uses_of(found.site, node, root)


def _meant(rules: list[Rule], root: nn.Module) -> list[Found]:
    return [one for one in find(root) if any(_may_mean(rule, one) for rule in rules)]


def _may_mean(rule: Rule, found: Found) -> bool:
    site = found.site
    if site.buffer and not rule.pattern.names_leaf:
        return False
    pairs = zip(site.names, site.host_types, strict=True)
    return any(rule.pattern.matches(name, types) for name, types in pairs)


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[:length]) for length in range(len(parts) + 1)]


def _resolved(rule: Rule, uses: Uses) -> Rule:
    operation = None if rule.pattern.operation is None else operation_named(rule.pattern.operation)
    mine = [(found, some) for found, some in uses if _may_mean(rule, found)]
    hit = [found for found, some in mine if any(_is_met(rule, operation, use) for use in some)]
    names = frozenset(name for found in hit for name in found.site.names)
    return replace(rule, names=names, unmet="" if names or not mine else _unmet(operation, mine))


def _is_met(rule: Rule, operation: Operation | None, use: Use) -> bool:
    if rule.predicate is not None:
        try:
            return bool(rule.predicate(use))
        except Exception as error:
            error.add_note(f"rule {rule}, asked about {use!r}")
            raise
    assert operation is not None
    return _is_op(operation, use.op) and (rule.pattern.names_leaf or operation.is_meant(use.arg))


def _is_op(operation: Operation, name: str) -> bool:
    """Whether a use's operation is the one of a rule; what is in no table is told by its last name, as ATen has it."""
    if operation in OPERATIONS:
        return name == operation.name
    return name.rpartition(".")[2] == operation.name.rpartition(".")[2]


def _unmet(operation: Operation | None, mine: Uses) -> str:
    count = Counter(f"{use.op} ({use.arg})" for _, some in mine for use in some)
    seen = ", ".join(text for text, _ in count.most_common(LISTED)) or "nothing"
    if operation is None:
        return f"matches {len(mine)} parameters by name, but of none of its uses it is true; what uses them is {seen}"
    others = any(_is_op(operation, use.op) for _, some in mine for use in some)
    cure = "; to mean an argument that is no weight, write the last name out, '*.bias@F.linear'" if others else ""
    used = f"none is used by {operation.name} so; what uses them is {seen}"
    return f"matches {len(mine)} parameters by name, but {used}{cure}"
