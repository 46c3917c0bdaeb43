"""Calls that cannot be resolved: which of them may make a module or a parameter, by their names."""

from __future__ import annotations

import ast
import re

import rewrite.known_calls as known
from rewrite.scopes import Scoped

# nothing of these packages that is called makes a module
NO_MODULES = frozenset(
    {
        *("builtins", "math", "numpy", "logging", "warnings", "os", "sys", "re", "json", "copy", "functools", "random"),
        *("itertools", "collections", "dataclasses", "typing", "pathlib", "time", "inspect", "enum", "abc", "einops"),
        *("operator", "contextlib", "scipy", "string", "types"),
    }
)
# built-in functions that give what they find
ANYTHING = frozenset(f"builtins.{name}" for name in ("eval", "getattr", "next", "__import__", "map"))
# calls of torch that do
MODULES_OF_TORCH = ("torch.hub.", "torch.jit.", "torch.load", "torch.nn.")
NO_MODULES_OF_TORCH = ("torch.nn.functional.", "torch.nn.init.", "torch.nn.utils.rnn.", "torch.nn.attention.")
BUILDERS = frozenset({"from_config", "_from_config"})
ENDS_OF_OTHERS = ("Config", "config", "Output", "Cache", "Error", "_size", "_dim", "_dims", "_mask", "_ratio")
BEGINS_OF_OTHERS = ("is_", "has_", "compute_", "_compute_", "_init", "make_divisible", "logger")
# methods of numbers, texts, tensors, collections and configurations
SETTINGS = re.compile(r"config|cfg|args|opts|hparams")
METHODS_OF_OTHERS = frozenset(
    {
        *("item", "tolist", "split", "join", "strip", "lower", "upper", "format", "replace", "startswith", "endswith"),
        *("count", "index", "sum", "mean", "max", "min", "prod", "numel", "size", "dim", "view", "reshape", "repeat"),
        *("expand", "expand_as", "permute", "transpose", "flatten", "unsqueeze", "squeeze", "cumsum", "contiguous"),
        *("detach", "clone", "numpy", "long", "bool", "int", "new_zeros", "new_ones", "uniform_", "normal_", "fill_"),
        *("zero_", "mul_", "add_", "sub_", "div_", "round", "abs", "exp", "log", "sqrt", "pow", "chunk", "stack"),
        *("append", "extend", "insert", "update", "setdefault", "add", "sort", "group", "match", "to_dict"),
        *("register_buffer", "register_parameter", "add_module", "register_module", "register_forward_hook"),
        *("register_forward_pre_hook", "register_load_state_dict_pre_hook", "_register_load_state_dict_pre_hook"),
        *("parameters", "named_parameters", "state_dict", "load_state_dict", "pop", "get", "keys", "__init__"),
    }
)


def may_make_modules(file: Scoped, call: ast.Call, full_name: str | None) -> bool:
    """Whether the result of ``call`` may be a module or a parameter. Only where modules are made it is asked."""
    if isinstance(file.parents.get(call), ast.Expr | ast.Compare) or not _where_modules_are_made(file, call):
        return False
    if full_name is None:
        return _of_unclear_function(file, call.func)
    if full_name in ANYTHING:
        return not (call.args and SETTINGS.search(ast.unparse(call.args[0])))
    if full_name.split(".")[0] in NO_MODULES or full_name in known.PASSING:
        return False
    if full_name.startswith("torch."):
        return full_name.startswith(MODULES_OF_TORCH) and not full_name.startswith(NO_MODULES_OF_TORCH)
    return _may_be_called_so(full_name.rpartition(".")[2])


def _may_be_called_so(name: str) -> bool:
    of_others = name.endswith(ENDS_OF_OTHERS) or name.startswith(BEGINS_OF_OTHERS) or name in METHODS_OF_OTHERS
    return name in BUILDERS or not of_others


def _of_unclear_function(file: Scoped, function: ast.expr) -> bool:
    """Of an object that is not known, or a variable: it is taken for what its name says."""
    match function:
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            return _may_be_called_so(name) and not _is_method(file, name)
        case ast.Attribute(value=ast.Call(func=ast.Name(id="super"))):
            return False
        case ast.Attribute(attr=name):
            passes_on = (known.RETURNS_ITSELF, known.ELEMENTS, known.PAIRS, known.ONE_ELEMENT)
            return _may_be_called_so(name) and not any(name in names for names in passes_on)
        case ast.Name(id=name):
            return _may_be_called_so(name)
    return True


def _is_method(file: Scoped, name: str) -> bool:
    """Whether a class of the file has a method of this name: what it returns is followed."""
    return any(
        isinstance(bound, ast.FunctionDef | ast.AsyncFunctionDef)
        for each in file.classes
        for bound in file.scope_made_by(each).bound.get(name, ())
    )


def _where_modules_are_made(file: Scoped, call: ast.Call) -> bool:
    function = file.function_of(call)
    return function is None or function in file.making
