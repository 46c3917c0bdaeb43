"""The state of iterated constraints: pending beside a value, committed by a step, settled for eval."""

import os
import sys
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from computed.constraint import IteratedConstraint, State
from computed.errors import ComputedParameterError
from computed.evaluation import evaluate, full_precision, has_state
from computed.factors import Factors
from computed.held import Held
from computed.metadata import Metadata
from computed.pending import PendingState
from computed.together import IteratedTogether
from computed.watching import Bits, bits_of

# One lock for all: an evaluation may read other computed parameters, and two locks could wait for each other.
LOCK = threading.RLock()
# a child process has one thread only: nobody would release what another thread held when it was forked
if sys.platform != "win32":
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)


class Settling(Metadata):
    """Evaluation, and what becomes of the state that belongs to a value."""

    def evaluated(self, *, training: bool) -> Tensor:
        """A value evaluated just now, in the given mode; writes nothing and holds nothing."""
        return self._evaluate(training=training)[0]

    def _evaluate(self, *, training: bool) -> tuple[Tensor, list[State]]:
        if self.is_sharded():
            raise ComputedParameterError(
                f"{self.called()}: its raws are sharded, and the value needs all of them; call unshard() of the FSDP "
                f"module that owns it before, and reshard() afterwards, on every rank"
            )
        with full_precision(self.device):
            return evaluate(self.links, self.raw_tensors(), self.dtype, training=training)

    def _keep_state(self, states: Sequence[State], held: Held | Factors | None) -> None:
        if not any(states):
            return
        if self.training:
            self.__dict__["_pending_state"] = PendingState(states, held or self._bits())
        else:
            self._keep_settled(states)

    def _bits(self) -> Bits | None:
        """The bits of the raws, where these may be watched."""
        return bits_of(self.raw_tensors()) if self.owns_raws() else None

    def _keep_settled(self, states: Sequence[State]) -> None:
        for link, state in zip(self.links, states, strict=True):
            if isinstance(link.module, IteratedConstraint) and state:
                link.module.settle(state)

    def _commit_if_moved(self) -> None:
        pending = self._pending_state
        if pending is not None and pending.raws is not None and pending.raws.moved():
            self.commit()

    def commit(self) -> None:
        """Commit the state that is pending: the raws are about to move, or have."""
        pending = self._pending_state
        self.__dict__["_pending_state"] = None
        if pending is not None:
            for link, state in zip(self.links, pending.states, strict=True):
                link.commit(state)
            return
        for link in self.links:
            if isinstance(link.module, IteratedConstraint) and self.training:
                link.module.commit(link.module.state("pending_"))

    def before_step(self, buffers: list[Tensor], new: list[Tensor]) -> None:
        """An optimizer is about to move the raws: project what was written, let go of the snapshots, and commit.

        What one that is evaluated with others commits is left to the caller, who writes all at once: ``new`` to
        ``buffers``.
        """
        self.absorb()
        pending = self._pending_state
        module = self.links[0].module
        if pending is not None and len(self.links) == 1 and isinstance(module, IteratedTogether):
            if pending.states[0]:
                module.add_commit(pending.states[0], buffers, new)
            self.__dict__["_pending_state"] = None
        else:
            self.commit()
        for held in (*self._holds, self._factors):
            if held is not None:
                held.let_go()
        self.let_go()

    def settle(self) -> None:
        """Bring iterated state to convergence for eval, where there is any."""
        if not has_state(self.links) or self.device.type == "meta" or torch.compiler.is_compiling():
            return
        if self.is_sharded():
            return  # the next forward has the whole raws, and settles
        with LOCK, torch.no_grad():
            held = self._holds[False]
            if held is None or not held.usable():
                self.absorb()
                self._keep_settled(self._evaluate(training=False)[1])

    def forget(self) -> None:
        """Let go of what is held; the next read evaluates."""
        with LOCK:
            self.absorb()
            self._commit_if_moved()
            self.let_go()
            if self._lent is not None:
                self._lent.is_true = False
