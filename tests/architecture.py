"""What a source file may import and touch: each check takes a file's text and says what is wrong with it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = ("computed", "surgery", "rewrite")  # each may import those before it
IMPORTERS = ("import_module", "__import__")


def sources(*packages: str) -> list[Path]:
    """All source files of the packages."""
    return sorted(file for package in packages for file in Path(ROOT, package).rglob("*.py"))


def module_name(file: Path) -> str:
    """The dotted name of a source file."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def packages() -> frozenset[str]:
    """Every dotted name that is a package, and so a facade."""
    return frozenset(module_name(file) for file in sources(*LAYERS) if file.name == "__init__.py")


def imports(tree: ast.Module) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Line, module and names taken from it, of every import, wherever it stands; also by a literal name."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name, ()) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                yield node.lineno, "." * level + (module or ""), tuple(alias.name for alias in names)
            case ast.Call(func=called, args=[ast.Constant(value=str(module)), *_]):
                if ast.unparse(called).split(".")[-1] in IMPORTERS:
                    yield node.lineno, module, ()


def wrong_directions(module: str, source: str) -> list[str]:
    """Imports of a package that stands after the module's own, and relative ones."""
    layer = LAYERS.index(module.split(".")[0])
    later = LAYERS[layer + 1 :]
    return [
        f"{module}:{line}: imports {imported or '.'}"
        for line, imported, _ in imports(ast.parse(source))
        if imported.split(".")[0] in later or imported.startswith(".")
    ]


def facades_imported(module: str, source: str, facades: Collection[str]) -> list[str]:
    """Names taken from an ``__init__``, instead of from the module where they are written."""
    found = []
    for line, imported, names in imports(ast.parse(source)):
        taken = [name for name in names if f"{imported}.{name}" not in facades]
        if imported in facades and (taken or not names):
            found.append(f"{module}:{line}: imports the facade {imported}")
    return found


def private_torch_names(module: str, source: str) -> list[str]:
    """Names of torch that begin with one underscore: imported, or reached from what was imported."""
    tree = ast.parse(source)
    found = [
        f"{module}:{line}: imports {'.'.join((imported, *names))}"
        for line, imported, names in imports(tree)
        if imported.split(".")[0] == "torch" and any(map(is_private, (*imported.split("."), *names)))
    ]
    roots = _bound_to_torch(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, value=value) if is_private(name) and _root(value) in roots:
                found.append(f"{module}:{node.lineno}: {ast.unparse(node)}")
            case ast.Call(func=ast.Name(id="getattr"), args=[value, ast.Constant(value=str(name)), *_]):
                if is_private(name) and _root(value) in roots:
                    found.append(f"{module}:{node.lineno}: {ast.unparse(node)}")
    return found


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__")


def _bound_to_torch(tree: ast.Module) -> set[str]:
    bound = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                aliases = [alias for alias in names if alias.name.split(".")[0] == "torch"]
                bound |= {alias.asname or "torch" for alias in aliases}
            case ast.ImportFrom(module=str(module), names=names, level=0) if module.split(".")[0] == "torch":
                bound |= {alias.asname or alias.name for alias in names}
    return bound


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def modules_loaded(code: str, *, path: Path = ROOT) -> set[str]:
    """The names of all modules that a fresh interpreter has loaded after ``code``."""
    return set(run_python(f"{code}\nimport sys\nprint(*sys.modules)", path=path).split())


def run_python(code: str, *, path: Path = ROOT) -> str:
    """What a fresh interpreter prints that runs ``code`` in the folder ``path``."""
    ran = subprocess.run([sys.executable, "-c", code], cwd=path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# Asks for each public name of a package twice, before and after all its modules are loaded: a name that one
# of them has as well is that module from its second access on.
ASK_TWICE = """
import importlib, pkgutil, types
package = importlib.import_module({package!r})
def ask():
    for name in package.__all__:
        first, second = getattr(package, name), getattr(package, name)
        before = seen.setdefault(name, first)
        if isinstance(first, types.ModuleType) or not first is second is before:
            print(name)
seen = {{}}
ask()
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
ask()
"""


def unsteady_names(package: str, *, path: Path = ROOT) -> list[str]:
    """The public names of a package that a module hides, or that change from one access to the next."""
    return sorted(set(run_python(ASK_TWICE.format(package=package), path=path).split()))
