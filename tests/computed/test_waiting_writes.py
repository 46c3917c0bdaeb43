"""A write that waits to be projected, met by what cannot project it: transforms, traces, swapped raws, other modes.

Each test writes in place, reads in a way of its own, and expects what a plain parameter with that value would give.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parameters_to_vector
from torch.utils.flop_counter import FlopCounterMode

import computed
import surgery
from computed.constraint import Preimage
from computed.constraints.conversions import function
from computed.parameter import ComputedParameter
from tests.computed.identity import Identity

X = torch.ones(2, 3)
TWOS = torch.full((3, 3), 2.0)
SPECS = ("symmetric", "positive", "spectral(bound=100.0)")


def written(spec: object, write: Callable[[ComputedParameter], object]) -> nn.Linear:
    """A layer that has been read, and then written."""
    host = surgery.apply_constraints(nn.Linear(3, 3, bias=False), {"weight": spec})
    host(X)
    with torch.no_grad():
        write(host.weight)
    return host


def in_place(weight: ComputedParameter) -> None:
    weight.fill_(2.0)


def through_a_view(weight: ComputedParameter) -> None:
    weight.view(-1).fill_(2.0)


def by_data(weight: ComputedParameter) -> None:
    weight.data = TWOS.clone()


def by_vmap(host: nn.Module) -> Tensor:
    return vmap(host)(X)


def by_grad(host: nn.Module) -> Tensor:
    # the gradient of the sum is the sum of the columns
    return vmap(grad(lambda x: host(x).sum()))(X)


def by_forward_mode(host: nn.Module) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(host(forward_ad.make_dual(X * 0, X))).tangent


def by_a_dispatch_mode(host: nn.Module) -> Tensor:
    with FlopCounterMode(display=False):
        return host(X)


def by_compiling(host: nn.Module) -> Tensor:
    return torch.compile(host, backend="eager", fullgraph=True)(X)


def by_export(host: nn.Module) -> Tensor:
    return torch.export.export(host, (X,)).module()(X)


def by_strict_export(host: nn.Module) -> Tensor:
    return torch.export.export(host, (X,), strict=True).module()(X)


def by_trace(host: nn.Module) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for every name, deprecated ones as well
        traced = torch.jit.trace(host, X)
    return traced(X)


def in_inference_mode(host: nn.Module) -> Tensor:
    with torch.inference_mode():
        return host(X)


READS = (
    by_vmap,
    by_grad,
    by_forward_mode,
    by_a_dispatch_mode,
    by_compiling,
    by_export,
    by_strict_export,
    by_trace,
    in_inference_mode,
)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("write", [in_place, through_a_view, by_data], ids=lambda f: f.__name__)
@pytest.mark.parametrize("read", READS, ids=lambda f: f.__name__)
def test_whoever_reads_first_sees_what_was_written(
    read: Callable[[nn.Module], Tensor], write: Callable[[ComputedParameter], None], spec: str
):
    host = written(spec, write)
    torch.testing.assert_close(read(host), torch.full((2, 3), 6.0))
    torch.testing.assert_close(host.weight.detach(), TWOS)


def waiting() -> nn.Linear:
    """A layer whose first projection waits for its first use."""
    host = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        host.weight.fill_(2.0)
    return surgery.constrain(host, weight="positive")


@pytest.mark.parametrize(
    "read", [read for read in READS if read not in (by_export, by_strict_export)], ids=lambda f: f.__name__
)
def test_a_projection_that_waits_is_done_before(read: Callable[[nn.Module], Tensor]):
    torch.testing.assert_close(read(waiting()), torch.full((2, 3), 6.0))


@pytest.mark.parametrize("read", [by_export, by_strict_export], ids=lambda f: f.__name__)
def test_what_cannot_project_says_so(read: Callable[[nn.Module], Tensor]):
    host = waiting()
    with pytest.raises(RuntimeError, match=r"read it once before, or call computed\.invalidate"):
        read(host)
    torch.testing.assert_close(read(computed.invalidate(host)), torch.full((2, 3), 6.0))


def test_swapped_raws_leave_a_projection_waiting():
    host, given = waiting(), torch.zeros(3, 3)
    for _ in range(2):
        found = functional_call(host, {"weight.raw": given}, (X,))
        torch.testing.assert_close(found, torch.full((2, 3), 3 * math.log(2)))
    assert torch.equal(given, torch.zeros(3, 3))
    torch.testing.assert_close(host.weight.detach(), TWOS)


def test_a_projection_that_fails_loses_nothing():
    class Fragile(Identity):
        broken = False

        def right_inverse(self, value: Tensor) -> Preimage:
            if self.broken:
                raise ArithmeticError("no convergence")
            return super().right_inverse(value)

    for write in (in_place, through_a_view, by_data):
        host = written(Fragile, lambda w: w.fill_(1.0))
        host(X)
        with torch.no_grad():
            write(host.weight)
        host.weight.constraints[0].broken = True
        for _ in range(2):
            with pytest.raises(ArithmeticError, match="no convergence"):
                host(X)
        host.weight.constraints[0].broken = False
        assert torch.equal(host.weight.detach(), TWOS)


@pytest.mark.parametrize("write", [in_place, through_a_view, by_data], ids=lambda f: f.__name__)
def test_raws_that_are_swapped_in_are_not_written(write: Callable[[ComputedParameter], None]):
    host = written("symmetric", write)
    given = torch.eye(3)
    found = functional_call(host, {"weight.raw": given}, (X,))
    assert torch.equal(found, X)
    assert torch.equal(given, torch.eye(3))
    assert torch.equal(host.weight.detach(), TWOS)
    assert torch.equal(host(X), X @ TWOS)


@pytest.mark.parametrize("write", [in_place, through_a_view, by_data], ids=lambda f: f.__name__)
def test_who_lists_the_parameters_finds_it_projected(write: Callable[[ComputedParameter], None]):
    for listed in (
        lambda host: parameters_to_vector(host.parameters()).view(3, 3),
        lambda host: dict(host.named_parameters())["weight.raw"],
        lambda host: next(host.weight.parameters()),
        lambda host: host.get_submodule("weight").get_parameter("raw"),
    ):
        host = written(Identity, write)
        assert torch.equal(listed(host), TWOS)


def test_a_raw_that_is_written_afterwards_wins():
    host = written(Identity, in_place)
    with torch.no_grad():
        for raw in host.parameters():
            raw.fill_(5.0)
    assert torch.equal(host.weight.detach(), torch.full((3, 3), 5.0))


def test_processes_that_synchronise_their_parameters_agree():
    """What DistributedDataParallel does when it is made: the first process's parameters are copied to the others."""
    first, second = written("symmetric", in_place), written("symmetric", lambda w: w.fill_(7.0))
    with torch.no_grad():
        for mine, theirs in zip(first.parameters(), second.parameters(), strict=True):
            theirs.copy_(mine)
    assert torch.equal(second.weight.detach(), TWOS)


@pytest.mark.parametrize("spec", SPECS)
def test_inference_mode_writes_as_well(spec: str):
    host = surgery.apply_constraints(nn.Linear(3, 3, bias=False), {"weight": spec})
    with torch.inference_mode():
        host.weight.fill_(2.0)
        torch.testing.assert_close(host.weight.sum().item(), 18.0)
        host.eval()
        torch.testing.assert_close(host(X), torch.full((2, 3), 6.0))
        host.train()
    # nothing of inference mode is left in what trains
    host(X).sum().backward()
    assert host.weight.raws["raw"].grad is not None
    torch.optim.SGD(host.parameters(), 0.1).step()
    host(X).sum().backward()
    assert not any(tensor.is_inference() for tensor in (*host.parameters(), *host.buffers()))
    assert all(tensor.grad_fn is None for tensor in host.buffers())


def test_a_trace_computes_the_value_from_the_raws():
    host = surgery.apply_constraints(nn.Linear(3, 3), {"weight": "positive"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for every name, deprecated ones as well
        traced = torch.jit.trace(host, X)
    assert [name for name, _ in traced.named_parameters()] == ["bias", "weight.raw"]
    with torch.no_grad():
        host.weight.raws["raw"].mul_(2.0)
    torch.testing.assert_close(traced(X), host(X))


def test_data_takes_a_parameter():
    host = surgery.apply_constraints(nn.Linear(3, 3), {"weight": "symmetric"})
    host.weight.data = nn.Parameter(TWOS)
    assert torch.equal(host.weight.detach(), TWOS)
    assert list(dict(host.named_parameters())) == ["bias", "weight.raw"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_process_reads_though_another_thread_was_evaluating():
    started, finish = threading.Event(), threading.Event()

    class Slow(Identity):
        def forward(self, raw: Tensor) -> Tensor:
            if threading.current_thread() is not threading.main_thread():
                started.set()
                finish.wait(10)
            return raw

    host = surgery.apply_constraints(nn.Linear(3, 3), {"weight": Identity})
    busy = surgery.apply_constraints(nn.Linear(3, 3), {"weight": Slow})
    computed.caching(host, False)
    computed.invalidate(busy)
    evaluating = threading.Thread(target=busy, args=(X,))
    evaluating.start()
    assert started.wait(10)
    threading.Timer(0.2, finish.set).start()
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # a child that waits for a thread which it does not have is ended
        host(X)
        os._exit(0)
    evaluating.join()
    _, status = os.waitpid(child, 0)
    assert status == 0


@pytest.mark.parametrize("caching", [True, False], ids=["held", "not held"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_write_that_changes_no_bit_disturbs_nothing(training: bool, caching: bool):
    host = surgery.apply_constraints(nn.Linear(3, 3), {"weight": function(torch.tanh, torch.atanh)}).train(training)
    computed.caching(host, caching)
    before = host.weight.detach().clone()
    for _ in range(3):
        host.weight.sum().backward()
        with torch.no_grad():
            host.weight.clamp_(-1.0, 1.0)
            host.weight.data.mul_(1.0)
        host.weight.sum().backward()
        assert torch.equal(host.weight.detach(), before)
    slope = 6 * (1 - before**2)
    torch.testing.assert_close(host.weight.raws["raw"].grad, slope)
