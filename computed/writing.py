"""Writes to a computed parameter: they act on the value and are projected once, at the next access."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from computed.constraint import IteratedConstraint
from computed.errors import ComputedParameterError
from computed.evaluation import full_precision, invert, start_from_raws
from computed.pending import Written
from computed.settling import LOCK, Settling
from computed.torch_private import CAN_WATCH, address_of, inside_transform, outside_transforms
from computed.watching import UnwatchableError, same_bits, snapshot


class Writing(Settling):
    """Takes writes of any kind; a right inverse turns the value that results into raws."""

    @contextlib.contextmanager
    def writing(self, operation: str) -> Iterator[Tensor]:
        """`write_target`, for one write: who reads meanwhile waits for its end, and projects no half of it."""
        with LOCK:
            yield self.write_target(operation)

    def write_target(self, operation: str) -> Tensor:
        """The value's own tensor, watched: what is written to it is projected at the next access."""
        if torch.compiler.is_compiling():
            raise ComputedParameterError(f"{self.called()}: {operation} cannot be compiled; write outside of it")
        if torch.is_grad_enabled() and self.requires_grad:
            raise RuntimeError(
                f"{self.called()}: a leaf Variable that requires grad is being used in an in-place operation "
                f"({operation}); write under torch.no_grad()"
            )
        with LOCK, torch.no_grad():
            if self._written is not None:
                return self._written.value
            # a value that was written already takes the next write as well: it is projected when it is finished
            held, lent = self._holds[self.training], self._still_lent()
            if held is not None and (held.sources.unchanged() or not held.untouched()):
                held.doubt()
                return held.plain
            if lent is not None:
                return lent
            value = self.value()
            if self._lent is not None and value is self._lent.kept:
                return value
            if self._holds[self.training] is None:
                value = value.detach().clone()
                self._await(Written(value, value.clone()))
        return value

    def absorb(self) -> None:
        """Project what was written to the value since it was evaluated, once."""
        if self._untouched():
            return
        if inside_transform():
            with outside_transforms():
                self._absorb()
        else:
            self._absorb()

    def _absorb(self) -> None:
        with LOCK:
            written = self._written
            if written is not None and self._stands_on(raw for raw, _ in written.raws):
                if written.is_overtaken():
                    self._take_raws()
                    return
                if written.before is None or not same_bits(written.value, written.before):
                    self.assign(written.value)
                    return
                self.__dict__["_written"] = None
            new = self._written_in_place()
            if new is not None:
                self.assign(new)

    def _untouched(self) -> bool:
        """Whether nothing can have been written: nothing waits, nothing is lent, and no value that is held moved."""
        if self._written is not None or self._lent is not None:
            return False
        first, second = self._holds
        return (first is None or address_of(first.plain) == first.address) and (
            second is None or address_of(second.plain) == second.address
        )

    def waits(self) -> bool:
        """Whether a write is still not projected: other raws stand there for a while (`functional_call`)."""
        if self._untouched():
            return False
        return self._written is not None or self._written_in_place(anywhere=True) is not None

    def _written_in_place(self, *, anywhere: bool = False) -> Tensor | None:
        """A value that was lent or held and is not what it was."""
        lent = self._lent
        if lent is not None and (anywhere or self._stands_on(lent.sources.raws)):
            value = lent.written()
            if value is not None:
                return value
        for held in self._holds:
            if held is not None and not held.untouched() and (anywhere or self._stands_on(held.sources.raws)):
                return held.plain
        return None

    def _still_lent(self) -> Tensor | None:
        """The value that was lent last, where it is still true."""
        lent = self._lent
        if lent is None or not lent.is_true or self._draws() or not lent.sources.unchanged():
            return None
        return lent.kept

    def _stands_on(self, raws: Iterable[Tensor]) -> bool:
        """Whether the raws that a value was computed from are those that stand there now, as far as it is known."""
        known = tuple(raws)
        return not known or all(one is other for one, other in zip(known, self.raw_tensors(), strict=True))

    def write_later(self, value: Tensor, *, initial: bool = True) -> None:
        """Make ``value`` the value; it is projected at the next access, unless a load or another write comes first.

        The ``initial`` value of a parameter that was just made may wait longer: to list parameters is no access to it.
        """
        written = Written(value, None, initial)
        if CAN_WATCH:
            with contextlib.suppress(UnwatchableError):
                raws = tuple((raw, snapshot(raw)) for raw in self.raw_tensors())
                written = Written(value, None, initial, snapshot(value), raws)
        self._await(written)

    def drop_waiting(self) -> None:
        """Drop what was written and not projected yet: all raws and state are about to be loaded."""
        self.__dict__["_written"] = None

    def _await(self, written: Written) -> None:
        """Keep what was written until the next access; nothing is held beside it, so that a read needs not ask."""
        self.__dict__["_written"] = written
        self.let_go()

    def _take_raws(self) -> None:
        """The raws were written and stay as they are; iterated state is what their right inverse gives."""
        with torch.no_grad(), full_precision(self.device):
            start_from_raws(self.links, self.raw_tensors())
        self.reset()

    def assign(self, value: Tensor) -> None:
        """Make ``value``, or the admissible value nearest to it, the value now.

        Errors: ValueError where the shape differs; what the right inverse raises. Nothing is half written.
        """
        if value.shape != self.shape:
            self._forget_everything()  # a value that was resized is none
            raise ValueError(
                f"{self.called()}: cannot write a value of shape {tuple(value.shape)}; the value is what it was before"
            )
        preimages = invert(self.links, value)
        found = [raw for i, preimage in enumerate(preimages) for raw in preimage.raws[1 if i else 0 :]]
        if any(new.shape != raw.tensor.shape for raw, new in zip(self.raw_slots(), found, strict=True)):
            self._forget_everything()
            raise ValueError(
                f"{self.called()}: cannot be written: its modules change the shape and have no right inverse from a "
                f"value to raws; the value is what it was before. Write its raws"
            )
        self.let_go()  # snapshots of the raws, whose memory would be copied at the first write
        with torch.no_grad(), full_precision(self.device):
            for raw, new in zip(self.raw_slots(), found, strict=True):
                raw.tensor.copy_(new)
            for link, preimage in zip(self.links, preimages, strict=True):
                if isinstance(link.module, IteratedConstraint):
                    link.module.commit(preimage.state)
                    link.module.settle(preimage.state)
        self._forget_everything()  # not reset(): raws that a wrapper has put here for a while are not ours

    @property
    def data(self) -> Tensor:
        """The value without gradients; what is written to it, in any grad mode, is projected at the next access."""
        with torch.no_grad():
            target = self.write_target("data")
        lent = self._lent
        return lent.without_gradients() if lent is not None and target is lent.kept else target.detach()

    @data.setter
    def data(self, new: Tensor) -> None:
        if new.shape != self.shape:
            raise ValueError(
                f"{self.called()}: cannot set data of shape {tuple(new.shape)}; "
                f"the shape of a constrained weight is fixed; surgery.undo(model) or surgery.bake(model) first"
            )
        self.absorb()
        self.write_later(new.detach().to(device=self.device, dtype=self.dtype), initial=False)
