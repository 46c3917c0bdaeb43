"""The edits of the source route: a call wrapped, a statement after a parameter, a decorator above a class."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rewrite.classes import Class
from rewrite.insertion import DECORATOR_LINE, STATEMENT_END, STATEMENT_LINE, Insertion
from rewrite.keys import mangled
from rewrite.scopes import Scoped
from rewrite.sites import Kind, Site, registered_buffer

WRAPPER = "constrain"
DECORATOR = "constrained"


@dataclass(frozen=True)
class Edit:
    """One change: what is inserted, and where it is reported; without a code it is part of another one."""

    code: str
    offset: int
    message: str
    insertions: tuple[Insertion, ...]


class NotEditableError(ValueError):
    """A place whose text does not allow the edit."""


def wrapped(site: Site, specs: Mapping[str, str], function: str) -> Edit:
    """``nn.Conv2d(...)`` becomes ``constrain(nn.Conv2d(...), weight="spectral")``."""
    source = site.file.source
    _check_call(site)
    begin, end = source.span(site.node)
    arguments = written_arguments(specs)
    length = end - begin
    return Edit(
        "CS100",
        begin,
        f"{WRAPPER}(..., {arguments})",
        (Insertion(begin, -length, f"{function}("), Insertion(end, length, f", {arguments})")),
    )


def followed(site: Site, spec: str, function: str) -> Edit:
    """After the statement that makes a parameter of an author's own comes ``constrain(self, scale="positive")``."""
    made = _made(site)
    source = site.file.source
    if isinstance(made.name, ast.Constant) and isinstance(made.name.value, str):
        arguments = written_arguments({made.name.value: spec})
    else:
        arguments = f"{{{_text(site.file, made.name)}: {quoted(spec)}}}"
    host = _text(site.file, made.host)
    insertion = _after(site.file, made.statement, f"{function}({host}, {arguments})")
    begin, _ = source.span(site.node)
    return Edit("CS101", begin, f"{WRAPPER}({host}, {arguments})", (insertion,))


def decorated(owner: Class, rules: Sequence[tuple[str, str | None]], reasons: Sequence[str], function: str) -> Edit:
    """``@constrained({...})`` above a class and all its other decorators; ``reasons`` say why not at the calls."""
    source = owner.file.source
    nodes: list[ast.stmt | ast.expr] = [owner.node, *owner.node.decorator_list]
    at, stop = min(source.line_at(source.span(node)[0]) for node in nodes)
    line = source.text[at:stop]
    indent = line[: len(line) - len(line.lstrip(" \t\f"))]
    newline = source.newline_near(at)
    written = ", ".join(f"{quoted(pattern)}: {quoted(spec)}" for pattern, spec in rules)
    # not strict: with some configurations a class may have less than its source says
    text = f"{indent}@{function}({{{written}}}, strict=False){newline}"
    begin, _ = source.span(owner.node)
    message = "; ".join((f"@{DECORATOR}({{{written}}}, strict=False)", *reasons))
    return Edit("CS102", begin, message, (Insertion(at, DECORATOR_LINE, text),))


def written_arguments(specs: Mapping[str, str]) -> str:
    """Keywords where the names are such, a dictionary of the others before them.

    >>> written_arguments({"out_proj.weight": "spectral", "bias": "positive"})
    '{"out_proj.weight": "spectral"}, bias="positive"'
    """
    dotted = {name: spec for name, spec in specs.items() if not name.isidentifier() or keyword.iskeyword(name)}
    parts = [f"{{{', '.join(f'{quoted(name)}: {quoted(spec)}' for name, spec in dotted.items())}}}"] if dotted else []
    parts += [f"{name}={quoted(spec)}" for name, spec in specs.items() if name not in dotted]
    return ", ".join(parts)


@dataclass(frozen=True)
class _Made:
    """Where a parameter comes to its host: by which statement, under which name."""

    host: ast.expr
    name: ast.expr
    statement: ast.stmt


def _made(site: Site) -> _Made:
    """``self.scale = nn.Parameter(x)``, or a registering call."""
    node: ast.AST = site.node
    parent = site.file.parents.get(node)
    while isinstance(parent, ast.Attribute):  # nn.Parameter(x).to(device)
        node = site.file.parents[parent]
        parent = site.file.parents.get(node)
    buffer = registered_buffer(site.node)
    if buffer is not None and isinstance(parent, ast.Expr):
        return _Made(buffer[0], buffer[1], parent)
    match site.node, parent:
        case _, ast.Assign(targets=[ast.Attribute(value=host, attr=attribute)]):
            return _Made(host, _attribute(site.file, parent, attribute), parent)
        case _, ast.AnnAssign(target=ast.Attribute(value=host, attr=attribute)):
            return _Made(host, _attribute(site.file, parent, attribute), parent)
        case _, ast.Assign(targets=[ast.Name(id=local)]):
            return _made_by_local(site, parent, local)
        case _, ast.Call() as call if isinstance(statement := site.file.parents.get(call), ast.Expr):
            return _registered(call, node, statement)
    raise NotEditableError("the parameter is not simply assigned to an attribute")


def _registered(call: ast.Call, node: ast.AST, statement: ast.Expr) -> _Made:
    match call:
        case ast.Call(func=ast.Attribute(value=host, attr="register_parameter"), args=[name, value]) if value is node:
            return _Made(host, name, statement)
        case ast.Call(func=ast.Name(id="setattr"), args=[host, name, value]) if value is node:
            return _Made(host, name, statement)
    raise NotEditableError("the parameter is given to a call")


def _made_by_local(site: Site, statement: ast.Assign, local: str) -> _Made:
    """``scale = nn.Parameter(x)``, and then ``self.scale = scale``, once."""
    reads = site.file.reads(site.file.scope_of(statement), local)
    stored = [parent for read in reads if isinstance(parent := site.file.parents.get(read), ast.Assign)]
    if len(reads) != len(stored):
        raise NotEditableError("the parameter is used under a local name")
    match stored:
        case [ast.Assign(targets=[ast.Attribute(value=host, attr=attribute)])]:
            return _Made(host, _attribute(site.file, stored[0], attribute), stored[0])
    raise NotEditableError("the parameter is not simply assigned to an attribute")


def _attribute(file: Scoped, node: ast.AST, name: str) -> ast.Constant:
    return ast.Constant(mangled(name, file.class_around(node)))


def _after(file: Scoped, statement: ast.stmt, call: str) -> Insertion:
    """``call`` as a statement after another: on a line of its own where that has one."""
    source = file.source
    begin, end = source.span(statement)
    first, _ = source.line_at(begin)
    _, stop = source.line_at(end)
    indent, rest = source.text[first:begin], source.text[end:stop].strip()
    if indent.strip() or (rest and not rest.startswith("#")):
        return Insertion(end, STATEMENT_END, f"; {call}")
    newline = source.newline_near(end)
    if source.text[end:stop].endswith(("\n", "\r")):
        return Insertion(stop, STATEMENT_LINE, f"{indent}{call}{newline}")
    return Insertion(stop, STATEMENT_LINE, f"{newline}{indent}{call}")


def _text(file: Scoped, node: ast.expr) -> str:
    begin, end = file.source.span(node)
    return file.source.text[begin:end]


def name_of(site: Site) -> str | None:
    """The name of an author's own parameter: its text, or the text of the expression that computes it."""
    try:
        name = _made(site).name
    except NotEditableError:
        return None
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else ast.unparse(name)


def why_not_editable(site: Site) -> str | None:
    """Why the text at a site does not allow its edit; None where it does."""
    try:
        if site.kind is Kind.PARAMETER:
            _made(site)
        else:
            _check_call(site)
    except NotEditableError as error:
        return str(error)
    return None


def _check_call(site: Site) -> None:
    if site.file.climb(site.node, ast.JoinedStr) is not None:
        raise NotEditableError("the call stands in an f-string")


def quoted(text: str | None) -> str:
    """A literal in double quotes, as formatters write it."""
    if text is None:
        return "None"
    return repr(text) if '"' in text or not text.isprintable() or "\\" in text else f'"{text}"'
