"""Calls that cannot be resolved: which may make a module, by their names and by what is done with the result."""

from __future__ import annotations

import ast

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
# calls of torch that do
MODULES_OF_TORCH = ("torch.hub.", "torch.jit.", "torch.load", "torch.nn.", "torch.compile")
NO_MODULES_OF_TORCH = ("torch.nn.functional.", "torch.nn.init.", "torch.nn.utils.rnn.", "torch.nn.attention.")
ENDS_OF_OTHERS = ("Config", "Output", "Cache", "Error", "_", "_size", "_dim", "_dims", "_mask", "_bias_mask")
BEGINS_OF_OTHERS = ("is_", "has_", "get_", "compute_", "_get_", "_compute_", "_init", "make_divisible", "logger")


def may_make_modules(file: Scoped, call: ast.Call, full_name: str | None) -> bool:
    """Whether the result of ``call`` may be a module that is kept. Only where modules are made it is asked."""
    if not _is_kept(file, call) or not _where_modules_are_made(file, call):
        return False
    if full_name is None:
        return _of_unclear_function(file, call.func)
    if full_name.split(".")[0] in NO_MODULES or full_name in known.PASSING:
        return False
    if full_name.startswith("torch."):
        return full_name.startswith(MODULES_OF_TORCH) and not full_name.startswith(NO_MODULES_OF_TORCH)
    return _may_be_called_so(full_name.rpartition(".")[2])


def _may_be_called_so(name: str) -> bool:
    return not (name.endswith(ENDS_OF_OTHERS) or name.startswith(BEGINS_OF_OTHERS))


def _of_unclear_function(file: Scoped, function: ast.expr) -> bool:
    """A method of an object that is not known is taken for what its name says; any other callable may make modules."""
    match function:
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            return _may_be_called_so(name) and not _is_method(file, name)
        case ast.Attribute(attr=name):
            return name in ("from_config", "from_pretrained", "_from_config", "build", "create", "create_model")
        case ast.Name(id=name):
            return _may_be_called_so(name)
    return True


def _is_method(file: Scoped, name: str) -> bool:
    """Whether a class of the file has a method of this name: what it returns is followed."""
    return any(name in file.scope_made_by(each).bound for each in file.classes)


def _is_kept(file: Scoped, call: ast.Call) -> bool:
    """Whether the call stands where a module would be stored: an attribute, a list of modules, an argument of one."""
    parent = file.parents.get(call)
    while isinstance(parent, ast.IfExp | ast.BoolOp | ast.ListComp | ast.List | ast.Tuple | ast.Starred | ast.keyword):
        parent = file.parents.get(parent)
    match parent:
        case ast.Assign(targets=targets):
            return all(isinstance(each, ast.Attribute | ast.Name | ast.Subscript) for each in targets)
        case ast.AnnAssign():
            return True
        case ast.Call(func=ast.Attribute(attr=name)):
            return name in ("append", "insert", "extend", "add_module", "ModuleList", "Sequential", "ModuleDict")
        case ast.Call(func=ast.Name(id=name)):
            return name in ("setattr", "ModuleList", "Sequential", "ModuleDict", "OrderedDict")
    return False


def _where_modules_are_made(file: Scoped, call: ast.Call) -> bool:
    function = file.function_of(call)
    return function is not None and function in file.making
