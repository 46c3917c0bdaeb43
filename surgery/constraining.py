"""Applying constraints: to a whole model by rules, to one module by names, to a class by decoration."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from torch import nn
from torch.optim import Optimizer

from surgery.errors import PlanError, SurgeryError
from surgery.optimizers import Optimizers, listed
from surgery.planned import apply_rows
from surgery.planning import Draft, Options, Rules, draft
from surgery.routes import check_arguments, check_route

if TYPE_CHECKING:
    from surgery.graph.module import ConstrainedGraph

logger = logging.getLogger("surgery")

Module = TypeVar("Module", bound=nn.Module)
NOT_IN_A_NAME = frozenset("*?[]{}@:")


@overload
def apply_constraints(
    model: Module,
    rules: Rules,
    *,
    via: Literal["tree"] = "tree",
    optimizer: Optimizers = None,
    strict: bool = True,
    existing: str = "error",
    tie: str = "share",
    keep_undo: bool = True,
    unsafe: bool = False,
) -> Module: ...


@overload
def apply_constraints(
    model: nn.Module,
    rules: Rules,
    *,
    via: Literal["fx", "export"],
    strict: bool = True,
    existing: str = "error",
    tie: str = "share",
    unsafe: bool = False,
    example: object = None,
    dynamic_shapes: object = None,
    hooks: str = "refuse",
    lower: "Mapping[type[nn.Module], Callable[..., Any]] | None" = None,
) -> "ConstrainedGraph": ...


@overload
def apply_constraints(
    model: nn.Module,
    rules: Rules,
    *,
    via: str,
    optimizer: Optimizers = None,
    strict: bool = True,
    existing: str = "error",
    tie: str = "share",
    keep_undo: bool = True,
    unsafe: bool = False,
    example: object = None,
    dynamic_shapes: object = None,
    hooks: str = "refuse",
    lower: "Mapping[type[nn.Module], Callable[..., Any]] | None" = None,
) -> nn.Module: ...


def apply_constraints(
    model: nn.Module,
    rules: Rules,
    *,
    via: str = "tree",
    optimizer: Optimizers = None,
    strict: bool = True,
    existing: str = "error",
    tie: str = "share",
    keep_undo: bool = True,
    unsafe: bool = False,
    example: object = None,
    dynamic_shapes: object = None,
    hooks: str = "refuse",
    lower: "Mapping[type[nn.Module], Callable[..., Any]] | None" = None,
) -> nn.Module:
    """Constrain the parameters that ``rules`` match; in place, returns the model; or in a new graph.

    Each pretrained weight is projected to the admissible value nearest to it where one is known, never thrown away.
    ``type(module)``, names, hooks, ties and Parameter objects stay as they are. All or nothing: an error leaves the
    model untouched. `undo` takes it back, `bake` makes it plain. A log line says how a model of transformers is saved.

    Args:
        model: any module, usually a pretrained one.
        rules: pattern -> spec; later rules win. A pattern is a dotted name with ``*``, ``?``, ``{a,b}``, ``[...]``,
            ``@Type`` (``"*.conv*.weight"``, ``"*@Conv2d.weight"``) or ``re:`` and a regular expression. A spec is a
            name, ``"spectral(bound=2.0)"``, a chain ``"a | b"``, a class or Module, a Transform, a function of a
            `Site`; ``None`` or ``"none"`` exempts, ``"frozen"`` only sets ``requires_grad=False``.
        via: "tree", or "fx": a copy of the model is constrained and traced, and returned as a GraphModule in which
            every computed parameter is a call of its module; the model is untouched. "export" records it by
            `torch.export` in the mode that it is in. See docs/graphs.md.
        optimizer: a torch optimizer, or several, that follow: new raws take the place and the options of the
            Parameters they replace, with empty state; reused ones keep theirs. `undo` and `bake` reverse it. Without
            it, the next step of an optimizer that holds a replaced Parameter raises StaleOptimizerError.
        strict: False turns "matched nothing" and "shadowed by later rules" into notes of the plan.
        existing: what to do at a site that another spec constrains already: "error", "chain" or "replace".
        tie: "share" (one computed parameter in all places), "error" or "split".
        keep_undo: False keeps nothing for `undo`, which saves a copy of the weights.
        unsafe: True lets modules and functions change the shape of a weight; its host must be able to use that.
        example: for a graph: (args, kwargs) of a call. It says which arguments the graph takes; all others are
            constants in it. The graph is compared with the model on it, in training and in eval.
        dynamic_shapes: for an export: as of `torch.export.export`; without it, its shapes are those of the example.
        hooks: for a graph: "ignore" drops hooks of modules that the graph does not call, "refuse" names them.
        lower: for a graph: class -> a function of module and arguments that is traced in the place of its forward.

    Errors: PlanError with all problems at once: rules that match nothing (with near misses) or are shadowed, unknown
    names, wrong arguments, parameters that their constraint or host cannot take. TraceRefusedError, with file, line and
    statement: what cannot be traced, or would be silently wrong in a graph.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        >>> apply_constraints(model, {"*@Conv2d.weight": "spectral(norm=1.0)"})[0].weight
        ComputedParameter(Spectral(norm=1.0, dim=0), shape=(4, 3, 3, 3), raw=float32[4, 3, 3, 3])
    """
    check_route(via)
    options = Options(strict, existing, tie, measures=False, unsafe=unsafe)
    given = {"example": example, "dynamic_shapes": dynamic_shapes, "lower": lower}
    check_arguments(model, via, {**given, "optimizer": optimizer, "hooks": None if hooks == "refuse" else hooks})
    if via != "tree":
        from surgery.graph.applying import export_of, graph_of  # loaded for a graph only
    if via == "fx":
        return graph_of(model, rules, options, example=example, hooks=hooks, lower=lower)
    if via == "export":
        shapes = dynamic_shapes
        return export_of(model, rules, options, example=example, dynamic_shapes=shapes, hooks=hooks)
    made = _apply(model, rules, options, keep_undo=keep_undo, optimizers=listed(optimizer))
    for advice in made.advice:
        logger.warning(advice)
    return model


def constrain(module: Module, constraints: Mapping[str, object] = MappingProxyType({}), /, **by_name: object) -> Module:
    """Constrain single parameters of ``module``, by name; in place, returns the module.

    Chains where there is a constraint already. The projection waits for the first use, so a weight that is initialised
    or loaded afterwards is projected once.

    Args:
        module: the module that has the parameters, itself or below.
        constraints: dotted name -> spec, for names with dots.
        **by_name: name -> spec.

    Errors: SurgeryError for a pattern in the place of a name, PlanError with all problems at once.

    Example:
        >>> import torch
        >>> layer = constrain(torch.nn.Linear(3, 3), weight="symmetric")
        >>> bool((layer.weight == layer.weight.T).all())
        True
    """
    rules = {**constraints, **by_name}
    globs = [name for name in rules if NOT_IN_A_NAME & set(name)]
    if globs:
        raise SurgeryError(
            f"constrain: {', '.join(map(repr, globs))} is a pattern, and constrain takes names; "
            f"use apply_constraints(module, {{{globs[0]!r}: ...}})"
        )
    _apply(module, rules, Options(existing="chain", project=False, measures=False), keep_undo=True)
    return module


def constrained(rules: Rules, **options: Any) -> Callable[[type[Module]], type[Module]]:
    """Class decorator: constrain each instance by ``rules`` after its ``__init__`` has returned.

    Instances of exactly that class, not of subclasses (decorate those themselves). The projection waits for the first
    use, so weights that are loaded afterwards are projected once.

    Args:
        rules: as in `apply_constraints`.
        **options: ``strict``, ``existing``, ``tie`` and ``unsafe`` of `apply_constraints`.

    Returns the class itself.

    Example:
        >>> import torch
        >>> @constrained({"weight": "positive"})
        ... class Mixing(torch.nn.Linear):
        ...     pass
        >>> bool((Mixing(3, 2).weight > 0).all())
        True
    """
    settled = Options(project=False, measures=False, **options)
    fixed = dict(rules.items()) if isinstance(rules, Mapping) else list(rules)

    def decorate(cls: type[Module]) -> type[Module]:
        original = cls.__init__

        @functools.wraps(original)
        def __init__(self: nn.Module, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it replaces __init__
            original(self, *args, **kwargs)
            if type(self) is cls:
                _apply(self, fixed, settled, keep_undo=True)

        cls.__init__ = __init__  # type: ignore[method-assign]
        return cls

    return decorate


def _apply(
    model: nn.Module, rules: Rules, options: Options, *, keep_undo: bool, optimizers: Sequence[Optimizer] = ()
) -> Draft:
    made = draft(model, rules, options)
    if made.problems:
        raise PlanError(made.problems)
    apply_rows(model, made.rows, optimizers=optimizers, keep_undo=keep_undo)
    return made
