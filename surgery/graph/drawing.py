"""A graph as a picture: operations in the order of data, computed parameters highlighted."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from torch import fx, nn

from computed.parameter import ComputedParameter
from computed.site import class_of
from surgery.errors import SurgeryError
from surgery.graph.factored import RULE, FactoredOp

STYLE = (
    'node [shape=box, style="rounded,filled", fillcolor=white, fontname="Helvetica", fontsize=11, margin="0.12,0.06"]'
)
COMPUTED = 'fillcolor="#ffe3a3", color="#b07d00", style=filled'
INPUT = 'shape=ellipse, fillcolor="#e8eef7"'


def draw(graph: nn.Module, path: str | Path) -> Path:
    """Draw a graph into a file, ``.svg``, ``.png``, ``.pdf`` or ``.dot``; changes nothing, returns the path.

    From top to bottom: inputs, operations with the names of their modules, outputs; at their side, in yellow, the
    computed parameters with constraint and shape. Plain parameters and buffers are left out.

    Args:
        graph: a GraphModule, such as ``apply_constraints(model, rules, via="fx")`` gives.
        path: the file; its suffix says what it will be. ``.dot`` is the source of the others and needs no package.

    Errors: SurgeryError where there is no graph, or pygraphviz is not installed.

    Example:
        >>> import tempfile, torch
        >>> from surgery.constraining import apply_constraints
        >>> graph = apply_constraints(torch.nn.Linear(3, 2), {"weight": "spectral"}, via="fx")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print("spectral(norm=1.0)" in draw(graph, f"{folder}/graph.dot").read_text())
        True
    """
    if not isinstance(graph, fx.GraphModule):
        raise SurgeryError(f"draw: {type(graph).__name__} has no graph; make one with apply_constraints(..., via='fx')")
    target, source = Path(path), dot_source(graph)
    if target.suffix == ".dot":
        target.write_text(source)
        return target
    try:
        drawer = import_module("pygraphviz")  # an extra, and the only place that needs it
    except ImportError as error:
        cure = "pip install computed-surgery[graph], or write a .dot file"
        raise SurgeryError(f"draw: pygraphviz, which draws a {target.suffix}, is not installed: {cure}") from error
    drawer.AGraph(string=source).draw(str(target), prog="dot")
    return target


def dot_source(graph: fx.GraphModule) -> str:
    """The picture in the language of Graphviz."""
    lines = [f"digraph {_quoted(type(graph).__name__)} {{", "rankdir=TB; nodesep=0.25; ranksep=0.3", STYLE]
    for node in graph.graph.nodes:
        if _is_drawn(node):
            lines.append(f"{_quoted(node.name)} [{_attributes(node, graph)}]")
            lines += [f"{_quoted(source.name)} -> {_quoted(node.name)}" for source in _drawn_inputs(node)]
    return "\n".join([*lines, "}"]) + "\n"


def _is_drawn(node: fx.Node) -> bool:
    """Whether a node is more than a read of a plain tensor, or of a raw that is detached."""
    if node.op == "call_method" and node.target == "detach":
        return any(map(_is_drawn, node.all_input_nodes))
    return node.op != "get_attr"


def _drawn_inputs(node: fx.Node) -> list[fx.Node]:
    return [source for source in node.all_input_nodes if _is_drawn(source)]


def _attributes(node: fx.Node, graph: fx.GraphModule) -> str:
    if node.op in ("placeholder", "output"):
        return f"label={_quoted(str(node.target))}, {INPUT}"
    module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
    path = str(node.target)
    if isinstance(module, ComputedParameter):
        return f"label={_label(module.spec, path, str(tuple(module.shape)))}, {COMPUTED}"
    if module is None:
        name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))
        return f"label={_label(name, *_settings(node))}"
    owner = path.removesuffix(f".{RULE}")
    holder = graph.get_submodule(owner)
    if isinstance(holder, FactoredOp):
        host = owner.rpartition(".")[0]
        weight = f"{host}.{holder.weight}" if host else holder.weight
        parameter = graph.get_submodule(weight)
        assert isinstance(parameter, ComputedParameter)
        name = holder.operation.removeprefix("F.")
        return f"label={_label(f'{name} by {parameter.spec}', weight, str(tuple(parameter.shape)))}, {COMPUTED}"
    return f"label={_label(class_of(module).__name__, path)}"


def _settings(node: fx.Node) -> Iterator[str]:
    """The plain parameters that an operation reads, by the module that has them."""
    owners = {str(source.target).rpartition(".")[0] for source in node.all_input_nodes if not _is_drawn(source)}
    yield from sorted(owner for owner in owners if owner)


def _label(*lines: str) -> str:
    return _quoted("\\n".join(lines))


def _quoted(text: str) -> str:
    escaped = text.replace('"', r"\"")
    return f'"{escaped}"'
