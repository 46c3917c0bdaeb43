"""Doing a layer without its value: by the op rule of a constraint, or with a raw and its scale."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from computed.constraint import Constraint
from computed.evaluation import last_arguments, last_arguments_traced
from computed.factors import Factors, factors_of
from computed.reading import Reading
from computed.scaled import DIMENSIONS, Layer, Scaled
from computed.settling import LOCK
from computed.tensorlike import resolved
from computed.torch_private import inside_transform, is_fx_tracing, is_jit_tracing


class Ruling(Reading):
    """Layers whose weight this is."""

    def rule(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do ``func`` by the last constraint's op rule, where this stands as its weight and the rule is in force."""
        if not ((len(args) > 1 and args[1] is self) or kwargs.get("weight") is self):
            return NotImplemented
        last = self.links[-1].module
        assert isinstance(last, Constraint)
        if isinstance(last, Scaled):
            return self._scaled(last, func, args, kwargs) if func in DIMENSIONS else NotImplemented
        in_force = self.training or last.factored_in_eval or torch.compiler.is_compiling()
        op_rule = last.op_rule(func) if in_force else None
        if op_rule is None or is_fx_tracing():
            return NotImplemented
        raws = self._last_arguments()
        new_args = [raws if argument is self else resolved(argument) for argument in args]
        new_kwargs = {key: raws if argument is self else resolved(argument) for key, argument in kwargs.items()}
        return op_rule(*new_args, **new_kwargs)

    def _last_arguments(self) -> tuple[Tensor, ...]:
        """What the op rule of the last link takes; the state of links before it is kept, as that of a value is."""
        if torch.compiler.is_compiling():
            return last_arguments_traced(self.links, self.raw_tensors())
        with LOCK:
            self.absorb()
            self._commit_if_moved()
            arguments, states = last_arguments(self.links, self.raw_tensors(), training=self.training)
            self._keep_state(states, None)
            return arguments

    def _scaled(self, last: Any, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do ``func`` with the raw, and scale what is smaller; NotImplemented where the value is better."""
        if not self.training or self.links[-1].module.disabled:
            return NotImplemented
        layer = Layer(func, *args, **kwargs)
        side = layer.side(last.scaled_dim())
        if side == "weight":
            return NotImplemented
        if torch.compiler.is_compiling():
            raws = self.raw_tensors()
            with torch.autocast(raws[0].device.type, enabled=False):
                scale = last.scale_traced(raws)
            return layer.scaled(side, raws[0], scale)
        factors = self._held_factors()
        return NotImplemented if factors is None else layer.scaled(side, factors.weight, factors.scale)

    def _held_factors(self) -> Factors | None:
        """The raw and its scale, held as a value is; None where they cannot be."""
        if inside_transform() or is_jit_tracing() or is_fx_tracing():
            return None
        factors = self._factors
        if factors is not None and self._untouched() and factors.usable():
            return factors
        with LOCK:
            self.absorb()
            if self.waits():
                return None
            factors = self._factors
            if factors is None or not factors.usable():
                self.take_over_data()
                self._commit_if_moved()
                self.__dict__["_factors"] = factors = factors_of(self)
                if factors is not None:
                    self._keep_state([factors.state], factors)
            return factors
