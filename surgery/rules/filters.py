"""What follows an ``@``: the class of a parameter's host, or the operation that uses the parameter."""

import re
from collections.abc import Sequence

from surgery.rules.automaton import Automaton
from surgery.rules.errors import PatternError
from surgery.rules.lexing import Kind, Token
from surgery.rules.words import spellings, type_word

OPERATION_BEGINS = ("F.", "torch.", "operator.", "aten.", "Tensor.")
OPERATION = re.compile(r"(?:(?:F|operator|Tensor)\.[^\W\d]\w*)|(?:(?:torch|aten)(?:\.[^\W\d]\w*)+)")
CLASS_OF_TORCH = re.compile(r"torch\.nn\.(?:modules\.\w+\.)?([A-Z]\w*)")
COMMON_LEAVES = ("weight", "bias")


def split_operation(text: str, tokens: Sequence[Token]) -> tuple[Sequence[Token], str | None]:
    """The tokens before an operation, and its name; None where there is no operation."""
    for index, token in enumerate(tokens):
        operation = text[token.at + 1 :]
        if token.kind is Kind.AT and operation.startswith(OPERATION_BEGINS):
            if index == 0:
                raise PatternError(f"no name stands before '@'; write '*{text}'", text)
            if found := CLASS_OF_TORCH.match(operation):
                cure = f"write '@{found[1]}' without its module"
                raise PatternError(f"{found[0]} is a class, and a type is one identifier; {cure}", text, token.at + 1)
            if not OPERATION.fullmatch(operation):
                cure = "one name such as F.linear or torch.matmul, at the end of the pattern"
                raise PatternError(f"{operation!r} is no operation; write {cure}", text, token.at + 1)
            return tokens[:index], operation
    return tokens, None


def split_type(text: str, tokens: Sequence[Token]) -> tuple[Sequence[Token], Automaton | None]:
    """The tokens of the name, and what takes the class of the host; None where any class will do."""
    marks = [index for index, token in enumerate(tokens) if token.kind is Kind.AT]
    if not marks:
        return tokens, None
    begin = marks[0]
    at = tokens[begin].at
    if begin == 0 or tokens[begin - 1].kind is Kind.DOT:
        raise PatternError(f"no name stands before '@'; write '{text[:at]}*{text[at:]}'", text, at)
    if len(marks) > 1:
        raise PatternError("a second '@'; write one type, before the last name", text, tokens[marks[1]].at)
    dots = [index for index in range(begin, len(tokens)) if tokens[index].kind is Kind.DOT]
    if not dots:
        raise PatternError(f"no name follows the type; write {_with_leaf(text, at)}", text, at)
    end = dots[0]
    if len(dots) > 1 or tokens[end].depth:
        reason = "a type is one identifier directly before the last name"
        raise PatternError(f"{reason}; write for example '*@Linear.weight'", text, at)
    return [*tokens[:begin], *tokens[end:]], _type(text, tokens[begin + 1 : end], at)


def _type(text: str, tokens: Sequence[Token], at: int) -> Automaton:
    for token in tokens:
        char = text[token.at]
        if char == "[" or (token.kind is Kind.TEXT and not f"_{char}".isidentifier()):
            reason = f"{char!r} cannot stand in a type"
            raise PatternError(f"{reason}; write an identifier, with ?, * or braces", text, token.at)
    spelled = spellings(text, tokens)
    if not all(spelled):
        raise PatternError("a type is empty; write for example '*@Linear.weight'", text, at)
    return Automaton(map(type_word, spelled))


def _with_leaf(text: str, at: int) -> str:
    host, _, leaf = text[:at].rpartition(".")
    if leaf in COMMON_LEAVES:  # the type was written after the parameter
        return repr(f"{host or '*'}{text[at:]}.{leaf}")
    return repr(f"{text}.weight")
