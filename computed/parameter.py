"""ComputedParameter: the Module that stands where a Parameter stood and is used as a tensor."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from computed.chain import GeneratorLink
from computed.constraint import Constraint
from computed.errors import ComputedParameterError
from computed.found import Found
from computed.frame import stamps
from computed.living import living
from computed.ruling import Ruling
from computed.scaled import is_ruled
from computed.watching import own_storage

# transformers sets this on every child module, then reads it from the tensor and skips the tensor's initialisation.
MODULE_MARKS = frozenset(("_is_hf_initialized",))

TRANSIENT = ("_before_load", "_factors", "_found", "_holds", "_lent", "_pending_state", "_team", "_written")


class ComputedParameter(Ruling):
    """A parameter that is computed: ``value = c_n(... c_1(*raws))``.

    A Module that is registered under the name of the Parameter it replaces and used as a tensor wherever that was. It
    has the shape, dtype and device of the Parameter; its raws are ordinary Parameters.

    ``ComputedParameter(module)`` takes any Module whose ``forward()`` needs no inputs and returns a tensor;
    `from_value` starts from a tensor and a constraint.

    Errors: a write with gradients on raises as a leaf does; names in `computed.refused.REFUSED` raise
    ComputedParameterError.

    Reference: Thomas Viehmann, "Computed Parameters", lernapparat.de/computed-parameters, 2020.

    Example:
        >>> import torch
        >>> weight = ComputedParameter.from_value(torch.tensor([[3.0, 1.0], [0.0, 2.0]]), "symmetric")
        >>> weight
        ComputedParameter(Symmetric(), shape=(2, 2), raw=float32[2, 2])
        >>> (weight @ torch.tensor([1.0, 0.0])).tolist()
        [3.0, 0.5]
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        with torch.no_grad():
            value = module()
        if not isinstance(value, Tensor):
            raise ComputedParameterError(
                f"ComputedParameter(module): {type(module).__name__}.forward() returned {type(value).__name__}, "
                f"expected a tensor; for a constraint of a given tensor use ComputedParameter.from_value(tensor, spec)"
            )
        like = nn.Parameter(value, requires_grad=any(raw.requires_grad for raw in module.parameters()))
        self._set_up_frame([module], (GeneratorLink(module),), like, name="")
        self.reset()

    @classmethod
    def from_value(cls, value: Tensor, spec: object) -> "ComputedParameter":
        """A computed parameter whose value is ``value``, or the admissible value nearest to it.

        Args:
            value: a float tensor of any shape the constraint takes. A Parameter becomes the raw itself where the
                constraint has one raw of the same shape, and passes on ``requires_grad``; a plain tensor is copied.
            spec: a name, a spec string, a chain ``"a | b"``, a constraint class or module, a torch parametrization,
                a `torch.distributions` Transform, `computed.function(f)`, a function of a Site, or a list of these, a
                chain.

        Errors:
            ConstraintRefusedError: the constraint cannot take a tensor of this shape or dtype.

        Example:
            >>> import torch
            >>> w = ComputedParameter.from_value(torch.eye(2), "spectral(bound=0.5)")
            >>> w.tolist()
            [[0.5, 0.0], [0.0, 0.5]]
        """
        # preparing builds on this class
        from computed.preparing import parameter_from_value

        return parameter_from_value(value, spec)

    def train(self, mode: bool = True) -> "ComputedParameter":
        """Switch the mode; iterated state is brought to convergence for eval."""
        if mode is not self.training:
            self.absorb()
        super().train(mode)
        self.__dict__["ruled"] = is_ruled(self.links, self._shape, training=mode)
        if not mode:
            self.settle()
        return self

    def __prepare_scriptable__(self) -> "ComputedParameter":
        """Refuse to be compiled by torch.jit.script, which knows no `__torch_function__`."""
        raise ComputedParameterError(
            f"{self.called()}: torch.jit.script cannot compile a model with computed parameters; "
            f"make it plain first: surgery.bake(model)"
        )

    def _apply(self, fn: Any, recurse: bool = True) -> "ComputedParameter":
        self.absorb()
        was_meta = self.is_meta
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.__dict__["_dtype"] = fn(torch.empty(0, dtype=self._dtype, device=self.device)).dtype
        self.reset()
        if was_meta and self.links[0].roles and not self.is_meta and not self.is_sharded():
            # to_empty: whatever is in the memory, the first write counts, also one of the very bits that are there
            self.write_later(torch.empty(self.shape, dtype=self.dtype, device=self.device))
        return self

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Walk on; ``model.parameters()`` comes here, and what was written must stand in the raws that it lists.

        An initial value may wait: models are listed, and then loaded.
        """
        if not torch.compiler.is_compiling() and not (self._written is not None and self._written.initial):
            self.absorb()
        yield from super().named_modules(*args, **kwargs)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.absorb()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        self.__dict__["_before_load"] = stamps(self)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles carry: everything but holds, which belong to this very object."""
        self.absorb()
        return {key: value for key, value in self.__dict__.items() if key not in TRANSIENT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a copied or unpickled state."""
        import computed.placement  # noqa: F401 - a process that only unpickles needs the hooks as well

        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__["_found"] = Found()
        self.__dict__["_team"] = ()
        for raw in self.raw_slots():
            own_storage(raw.tensor)
        self.reset()
        living.add(self)

    def __getattr__(self, name: str) -> Any:
        """Registered tensors and modules; marks that belong to tensors are answered by the first raw."""
        if name in MODULE_MARKS:
            first = self.first_raw()
            if first is not None and name in vars(first):
                return vars(first)[name]
        elif name in self.__dict__.get("_parameters", ()):
            self.absorb()
        answer = getattr(type(self), name, None)
        if isinstance(answer, property):
            # it has raised an AttributeError, and Python came here; a Module would not know the reason
            return answer.__get__(self)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set as a Module does; marks that a walk over modules leaves are not the tensor's, and are ignored."""
        if name == "data" and isinstance(value, Tensor):
            # a Module would register a Parameter under this name
            value = value.detach()
        if name not in MODULE_MARKS:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        """Constraint, shape and raws in one line; ``str`` shows the numbers."""
        chain = " | ".join(
            repr(module) if isinstance(module, Constraint) else type(module).__name__ for module in self.constraints
        )
        raws = "".join(f", {raw.name}={_summary(raw.tensor)}" for raw in self.raw_slots())
        return f"ComputedParameter({chain}, shape={tuple(self.shape)}{raws})"


def _summary(raw: Tensor) -> str:
    dims = ", ".join(str(size) for size in raw.shape)
    return f"{str(raw.dtype).removeprefix('torch.')}[{dims}]"
