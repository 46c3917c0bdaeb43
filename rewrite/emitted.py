"""What a codemod that is written by `rewrite.emitting` consists of, but for its plan; it runs without this package."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import libcst as cst
from libcst.codemod import CodemodCommand, SkipFile

Key = tuple[str, str, str, int]
# the classes and functions around a place, what it is, its text, which of how many equal ones, what is called with what
Place = tuple[str, str, str, int, int, str, str]
# by files: the import that is added, and the places
PLAN: dict[str, tuple[str, list[Place]]] = {}


class Constrain(CodemodCommand):
    """Constrains what a plan says, or leaves the file as it is."""

    DESCRIPTION: str = "Write constraints at the places of a plan."

    def transform_module_impl(self, tree: cst.Module) -> cst.Module:
        """The edited file; SkipFile where nothing is left to do, ValueError where a place is not found."""
        parts = (self.context.filename or "").replace("\\", "/").split("/")
        fitting = [name for name in PLAN if parts[-1 - name.count("/") :] == name.split("/")]
        if not fitting:
            raise SkipFile("the plan has no place in this file")
        return edited(tree, *PLAN[max(fitting, key=len)])


def edited(tree: cst.Module, imported: str, places: Sequence[Place]) -> cst.Module:
    """``tree`` with all edits."""
    edit = Edit(tree, places)
    result = tree.visit(edit)
    if (found := edit.certain()) < len(places):
        raise ValueError(f"{found} of {len(places)} places found: the source moved since the plan was made")
    body = with_import(tree, result.body, imported)
    if not edit.changed and len(body) == len(tree.body):
        raise SkipFile("already constrained")
    return result.with_changes(body=body)


class Edit(cst.CSTTransformer):
    """Finds each place by its text, and edits it unless that is done."""

    def __init__(self, tree: cst.Module, places: Sequence[Place]) -> None:
        super().__init__()
        self.changed = False
        self._found: set[Key] = set()
        self._tree = tree
        self._functions = {function for *_, function, _ in places}
        self._places: dict[Key, tuple[str, str]] = {}
        self._equal: dict[Key, int] = {}
        for scope, kind, text, number, equal, function, arguments in places:
            key = scope, kind, self._planned(kind, text), number
            self._places[key] = function, arguments
            self._equal[key] = equal
        self._scopes = {scope for scope, *_ in self._places}
        self._scope: list[str] = []
        self._counts: dict[tuple[str, str, str], int] = {}
        self._keys: dict[cst.CSTNode, Key] = {}
        self._around: dict[cst.CSTNode, cst.CSTNode] = {}
        self._after: dict[cst.CSTNode, cst.CSTNode] = {}

    def certain(self) -> int:
        """How many places were found, with as many equal ones around them as there were when they were planned."""
        return sum(self._counts[key[:-1]] == self._equal[key] for key in self._found)

    def visit_Module(self, node: cst.Module) -> None:
        self._note_order(node.body)

    def visit_IndentedBlock(self, node: cst.IndentedBlock) -> None:
        self._note_order(node.body)

    def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> None:
        self._note_statements(node.body)

    def visit_SimpleStatementSuite(self, node: cst.SimpleStatementSuite) -> None:
        self._note_statements(node.body)

    def visit_FormattedString(self, node: cst.FormattedString) -> bool:
        return False

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self._scope.append(node.name.value)

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
        self._scope.pop()
        return updated_node

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        self._count(node, "class", f"class {node.name.value}")
        self._scope.append(node.name.value)

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> cst.ClassDef:
        self._scope.pop()
        call = self._asked(original_node)
        if call is None or any(self._code(each.decorator) == call for each in original_node.decorators):
            return updated_node
        self.changed = True
        decorator = cst.Decorator(cst.parse_expression(call))
        return updated_node.with_changes(decorators=[decorator, *updated_node.decorators])

    def visit_Call(self, node: cst.Call) -> None:
        if is_call_of(node, self._functions):
            self._around[node.args[0].value] = node.with_changes(lpar=(), rpar=())
        elif ".".join(self._scope) in self._scopes:
            self._count(node, "call", self._plain(node))

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        call = self._asked(original_node, self._code(original_node.with_changes(lpar=(), rpar=())))
        around = self._around.get(original_node)
        if call is None or (around is not None and self._code(around) == call):
            return updated_node
        self.changed = True
        function, arguments = self._places[self._keys[original_node]]
        empty = cst.ensure_type(cst.parse_expression(f"{function}(_, {arguments})"), cst.Call)
        first = empty.args[0].with_changes(value=updated_node.with_changes(lpar=(), rpar=()))
        return empty.with_changes(args=[first, *empty.args[1:]], lpar=updated_node.lpar, rpar=updated_node.rpar)

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.SimpleStatementLine | cst.FlattenSentinel[cst.BaseStatement]:
        only = original_node.body[0]
        if len(original_node.body) > 1 or isinstance(only.semicolon, cst.Semicolon):
            return updated_node.with_changes(body=self._joined(original_node.body, updated_node.body))
        call = self._asked(only)
        after = self._after.get(original_node)
        if call is None or (after is not None and self._code(after).strip() == call):
            return updated_node
        self.changed = True
        return cst.FlattenSentinel([updated_node, cst.SimpleStatementLine([cst.Expr(cst.parse_expression(call))])])

    def leave_SimpleStatementSuite(
        self, original_node: cst.SimpleStatementSuite, updated_node: cst.SimpleStatementSuite
    ) -> cst.SimpleStatementSuite:
        return updated_node.with_changes(body=self._joined(original_node.body, updated_node.body))

    def _joined(
        self, originals: Sequence[cst.BaseSmallStatement], updated: Sequence[cst.BaseSmallStatement]
    ) -> list[cst.BaseSmallStatement]:
        """The statements of one line, with calls after those that are planned."""
        result: list[cst.BaseSmallStatement] = []
        for index, (original, statement) in enumerate(zip(originals, updated, strict=True)):
            call = self._asked(original)
            done = [self._code(_alone(each)) for each in originals[index + 1 : index + 2]]
            if call is None or done == [call]:
                result.append(statement)
                continue
            self.changed = True
            semicolon = cst.Semicolon(whitespace_after=cst.SimpleWhitespace(" "))
            result.append(statement.with_changes(semicolon=semicolon))
            result.append(cst.Expr(cst.parse_expression(call), semicolon=statement.semicolon))
        return result

    def _asked(self, node: cst.CSTNode, inner: str = "") -> str | None:
        """The call that a place is to have, around ``inner``; None where ``node`` is no place of the plan."""
        key = self._keys.get(node)
        if key not in self._places or key is None:
            return None
        self._found.add(key)
        function, arguments = self._places[key]
        return f"{function}({inner}, {arguments})" if inner else f"{function}({arguments})"

    def _note_order(self, body: Sequence[cst.CSTNode]) -> None:
        self._after.update(pairwise(body))

    def _note_statements(self, body: Sequence[cst.BaseSmallStatement]) -> None:
        if ".".join(self._scope) in self._scopes:
            for each in body:
                if isinstance(each, cst.Assign | cst.AnnAssign | cst.Expr):
                    self._count(each, "statement", self._plain(_alone(each)))

    def _count(self, node: cst.CSTNode, kind: str, text: str) -> None:
        key = ".".join(self._scope), kind, text
        self._keys[node] = *key, self._counts.get(key, 0)
        self._counts[key] = self._counts.get(key, 0) + 1

    def _planned(self, kind: str, text: str) -> str:
        """The text of a place as `_plain` gives it."""
        if kind == "statement":
            return self._plain(cst.ensure_type(cst.parse_statement(text), cst.SimpleStatementLine).body[0])
        return self._plain(cst.parse_expression(f"({text})")) if kind == "call" else text

    def _plain(self, node: cst.CSTNode) -> str:
        """The text of a call or statement without what an earlier run has written into it."""
        if isinstance(node, cst.Call):
            node = node.with_changes(lpar=(), rpar=())
        # LibCST keeps the indentation of a continued line apart
        plain = node.visit(_Unwrapping(self._functions))
        assert isinstance(plain, cst.CSTNode)
        return " ".join(self._code(plain).split())

    def _code(self, node: cst.CSTNode) -> str:
        return self._tree.code_for_node(node)


class _Unwrapping(cst.CSTTransformer):
    """Takes calls of some functions away from their first arguments."""

    def __init__(self, functions: set[str]) -> None:
        super().__init__()
        self._functions = functions

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        return updated_node.args[0].value if is_call_of(updated_node, self._functions) else updated_node


def is_call_of(node: cst.Call, functions: set[str]) -> bool:
    """Whether ``node`` calls one of ``functions`` with something."""
    return isinstance(node.func, cst.Name) and node.func.value in functions and bool(node.args)


def _alone(statement: cst.BaseSmallStatement) -> cst.BaseSmallStatement:
    return statement.with_changes(semicolon=cst.MaybeSentinel.DEFAULT)


def with_import(tree: cst.Module, body: Sequence[cst.BaseStatement], imported: str) -> Sequence[cst.BaseStatement]:
    """``body`` with the import after the leading run of imports, unless it is there."""
    at = 0
    for line in tree.body:
        small = list(line.body) if isinstance(line, cst.SimpleStatementLine) else []
        if at == 0 and small and isinstance(small[0], cst.Expr) and isinstance(small[0].value, cst.SimpleString):
            small, docstring = small[1:], True
        else:
            docstring = False
        if not (small or docstring) or not all(isinstance(each, cst.Import | cst.ImportFrom) for each in small):
            break
        if any(tree.code_for_node(_alone(each)) == imported for each in small):
            return body
        at += 1
    if not imported:
        return body
    new = cst.ensure_type(cst.parse_statement(imported), cst.SimpleStatementLine)
    if at or not isinstance(first := body[0], cst.SimpleStatementLine | cst.BaseCompoundStatement):
        return [*body[:at], new, *body[at:]]
    # comments above the first statement stay above the import
    new = new.with_changes(leading_lines=first.leading_lines)
    return [new, first.with_changes(leading_lines=[]), *body[1:]]
