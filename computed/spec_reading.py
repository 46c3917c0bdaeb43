"""How a spec's text is read: Python's grammar, but only names, calls, ``|`` and literals are taken."""

import ast
import re
import warnings
from typing import cast

from computed.nearmiss import did_you_mean
from computed.spec_error import SpecError

LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")  # Python's own; it keeps the ends with their lines

Link = tuple[str, tuple[object, ...], tuple[tuple[str, object], ...]]

FORM = "a spec is a name, name(argument=literal), or a chain of these, a | b"
LITERALS = "an argument is a literal: a number, 'text', True, False, None, or a tuple or list of these"
CONSTANTS = {"true": "True", "false": "False", "none": "None", "null": "None", "nil": "None"}


def read_chain(text: str) -> list[Link]:
    """Name, positional and keyword arguments of each call in ``text``, in order; raises `SpecError`."""
    return _Reading(text).chain()


class _Reading:
    """One text being read, so that each error can show it and the place in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.body = text.strip()
        self.indent = len(text) - len(text.lstrip())
        self.lines = LINE_END.split(self.body)

    def chain(self) -> list[Link]:
        if not self.body:
            raise SpecError(f"it is empty; {FORM}; to exempt a parameter write 'none'", self.text)
        links: list[Link] = []
        waiting = [self._tree()]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
                waiting += [node.right, node.left]
            else:
                links.append(self._link(node))
        return links

    def _tree(self) -> ast.expr:
        try:
            with warnings.catch_warnings():
                for category in (SyntaxWarning, DeprecationWarning):  # an invalid escape only warns
                    warnings.simplefilter("error", category)
                tree = ast.parse(self.body, mode="eval").body
        except SyntaxError as error:
            raise self._syntax_error(error) from None
        except ValueError:  # a null character, or half of a surrogate pair
            raise SpecError("it has characters that stand for no text", self.text) from None
        except (RecursionError, MemoryError):
            raise SpecError("it is nested too deeply", self.text) from None
        self._refuse_comment(tree)
        return tree

    def _refuse_comment(self, tree: ast.expr) -> None:
        # Python drops a comment, and with it the rest of a chain, without a word.
        end = self._offset(tree.end_lineno or 1, tree.end_col_offset or 0)
        comment = self.body.find("#", end)
        if comment >= 0:
            raise SpecError("a spec has no comments", self.text, self.indent + comment)

    def _link(self, node: ast.expr) -> Link:
        match node:
            case ast.Name(id=name):
                return name, (), ()
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                positional = tuple(self._literal(argument) for argument in args)
                return name, positional, self._keywords(keywords)
            case ast.Constant(value=None):
                raise self._error(node, "None is no name; to exempt a parameter write 'none'")
            case ast.Constant(value=str()):
                raise self._error(node, f"a name stands without quotes; {FORM}")
            case ast.Attribute() | ast.Call(func=ast.Attribute()):
                raise self._error(node, "a name has no dots; pass a class of your own itself, not its name")
            case ast.BinOp(op=ast.Sub(), left=ast.Name(id=left), right=ast.Name(id=right)):
                raise self._error(node, f"a name has no hyphen{did_you_mean([f'{left}_{right}'])}")
            case _:
                raise self._error(node, f"{self._source(node)!r} is neither a name nor a call of one; {FORM}")

    def _keywords(self, keywords: list[ast.keyword]) -> tuple[tuple[str, object], ...]:
        taken: dict[str, object] = {}
        for item in keywords:
            if item.arg is None:
                raise self._error(item, f"'**' cannot be used; {LITERALS}")
            if item.arg in taken:
                raise self._error(item, f"the argument {item.arg!r} is given twice")
            taken[item.arg] = self._literal(item.value)
        return tuple(taken.items())

    def _literal(self, node: ast.expr) -> object:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str() as value):
                return value
            case ast.UnaryOp(operand=ast.Constant(value=number)) if _is_signed(node.op, number):
                return cast(object, ast.literal_eval(node))
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return tuple(self._literal(item) for item in items)
            case ast.Name(id=name):
                raise self._error(node, f"{name!r} is a name{_meant(name)} {LITERALS}")
            case ast.Starred():
                raise self._error(node, f"'*' cannot be used; {LITERALS}")
            case _:
                raise self._error(node, f"{self._source(node)!r} is not a literal; {LITERALS}")

    def _syntax_error(self, error: SyntaxError) -> SpecError:
        # `offset` counts characters from one and may stand past the end of the text.
        offset = sum(map(len, self.lines[: (error.lineno or 1) - 1])) + (error.offset or 1) - 1
        offset = max(0, min(offset, len(self.body)))
        before, after = self.body[:offset].rstrip(), self.body[offset:].lstrip()
        if not error.msg.startswith("invalid syntax"):
            reason = error.msg
        elif self.body.startswith("|"):
            reason, offset = "nothing stands before the first '|'", 0
        elif after.startswith("|") and before.endswith("|"):
            reason = "nothing stands between '|' and '|'"
        elif self.body.endswith("|"):
            reason, offset = "nothing follows the last '|'", len(self.body)
        else:
            reason = f"this cannot be read; {FORM}"
        return SpecError(reason, self.text, self.indent + offset)

    def _error(self, node: ast.expr | ast.keyword, reason: str) -> SpecError:
        return SpecError(reason, self.text, self.indent + self._offset(node.lineno, node.col_offset))

    def _source(self, node: ast.expr) -> str:
        return ast.get_source_segment(self.body, node) or self.body

    def _offset(self, line: int, column: int) -> int:
        # The tree counts bytes in a line; people count characters.
        whole = sum(map(len, self.lines[: line - 1]))
        return whole + len(self.lines[line - 1].encode()[:column].decode(errors="ignore"))


def _is_signed(sign: ast.unaryop, number: object) -> bool:
    return isinstance(sign, ast.USub | ast.UAdd) and type(number) in (int, float)


def _meant(name: str) -> str:
    constant = CONSTANTS.get(name.lower())
    return did_you_mean([constant] if constant else [repr(name)])
