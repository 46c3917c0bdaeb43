"""Holding: one evaluation as long as nothing changed, never a stale value, gradients as without.

The reference is a twin with `caching(model, False)`, which evaluates at every read.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import computed
import surgery
from computed import tensorlike
from computed.chain import ConstraintLink
from tests.computed.identity import Counting

SPECS = ("spectral", "orthogonal", "positive", "weight_norm", "lora(2)", "symmetric | spectral(bound=0.5)")


def pair(spec: object, size: int = 6) -> tuple[nn.Module, nn.Module]:
    """A model that holds, and its uncached twin."""
    model = nn.Sequential(nn.Linear(size, size), nn.Tanh(), nn.Linear(size, size))
    surgery.apply_constraints(model, {"*.weight": spec})
    return model, computed.caching(copy.deepcopy(model), False)


def assert_same_gradients(model: nn.Module, twin: nn.Module) -> None:
    """To 8 eps of the raw's dtype, relative to the largest entry."""
    for (name, raw), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (raw.grad is None) == (other.grad is None), name
        if raw.grad is not None and other.grad is not None:
            allowed = 8 * torch.finfo(raw.dtype).eps * max(1.0, float(other.grad.abs().max()))
            assert float((raw.grad - other.grad).abs().max()) <= allowed, name


def counted() -> tuple[nn.Module, Counting]:
    """A Linear with a counting constraint."""
    layer = surgery.constrain(nn.Linear(4, 4), weight=Counting())
    link = layer.weight.links[0]
    assert isinstance(link, ConstraintLink)
    assert isinstance(link.module, Counting)
    layer.weight.peek()
    link.module.evaluations.clear()
    return layer, link.module


def backward_twice(model: nn.Module, x: Tensor) -> None:
    first, second = model(x).sum(), model(2 * x).square().sum()
    first.backward()
    second.backward()


def retained(model: nn.Module, x: Tensor) -> None:
    loss = model(x).square().sum()
    loss.backward(retain_graph=True)
    loss.backward()
    model(x).sum().backward()


def penalty(model: nn.Module, x: Tensor) -> None:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    gradient.square().sum().backward()


def second_order(model: nn.Module, x: Tensor) -> None:
    raws = [raw for raw in model.parameters() if raw.requires_grad]
    gradients = torch.autograd.grad(model(x).square().sum(), raws, create_graph=True, allow_unused=True)
    sum(g.square().sum() for g in gradients if g is not None).backward()


def reentrant(model: nn.Module, x: Tensor) -> None:
    checkpoint(model, x.clone().requires_grad_(), use_reentrant=True).square().sum().backward()


def not_reentrant(model: nn.Module, x: Tensor) -> None:
    checkpoint(model, x, use_reentrant=False).square().sum().backward()


def accumulated(model: nn.Module, x: Tensor) -> None:
    for part in x.chunk(4):
        model(part).square().sum().backward()


def unrolled(model: nn.Module, x: Tensor) -> None:
    for _ in range(5):
        x = model(x)
    x.square().sum().backward()


def offloaded(model: nn.Module, x: Tensor) -> None:
    with torch.autograd.graph.save_on_cpu():
        loss = model(x).square().sum()
    loss.backward()


PASSES = (
    backward_twice, retained, penalty, second_order, reentrant, not_reentrant, accumulated, unrolled, offloaded,
)  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("run", PASSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_values_and_gradients_are_those_of_the_twin(
    spec: str, run: Callable[[nn.Module, Tensor], None], training: bool
) -> None:
    """Values bit for bit, gradients to 8 eps."""
    model, twin = pair(spec)
    model.train(training), twin.train(training)
    x = torch.randn(8, 6)
    with torch.no_grad():
        assert torch.equal(model(x), twin(x))
    run(model, x)
    run(twin, x)
    assert_same_gradients(model, twin)


WRITERS: dict[str, Callable[[nn.Parameter], object]] = {
    "add_": lambda raw: raw.add_(0.1),
    "data.add_": lambda raw: raw.data.add_(0.1),
    "data =": lambda raw: setattr(raw, "data", raw.data + 0.1),
    "data[0] =": lambda raw: raw.data.__setitem__(0, 0.5),
    "data.copy_": lambda raw: raw.data.copy_(torch.ones_like(raw)),
    "view": lambda raw: raw.view(-1)[2:5].fill_(0.3),
    "numpy": lambda raw: raw.detach().numpy().__setitem__((0, 0), 0.7),
    "set_": lambda raw: raw.set_(torch.full_like(raw, 0.2)),
    "vector_to_parameters": lambda raw: nn.utils.vector_to_parameters(torch.rand(raw.numel()), [raw]),
    "swap": lambda raw: torch.utils.swap_tensors(raw, nn.Parameter(torch.rand_like(raw))),
    "fused adam": lambda raw: torch._fused_sgd_(
        [raw], [torch.ones_like(raw)], [], weight_decay=0.0, momentum=0.0, lr=0.1, dampening=0.0,
        nesterov=False, maximize=False, is_first_step=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_whoever_writes_a_raw_the_next_read_is_fresh(writer: str, training: bool) -> None:
    """Equal to the constraint applied to the raw as it is now."""
    layer, counting = counted()
    layer.train(training)
    layer(torch.randn(2, 4))
    if writer == "swap":
        # a graph that lives keeps the tensor, and torch refuses to swap it
        layer.weight.forget()
    with torch.no_grad():
        WRITERS[writer](layer.weight.raws["raw"])
    evaluations = len(counting.evaluations)
    with torch.no_grad():
        assert torch.equal(layer.weight + 0, layer.weight.raws["raw"].tanh())
    assert len(counting.evaluations) == evaluations + 1


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda raws: torch.optim.SGD(raws, 0.1, momentum=0.9),
    "SGD fused": lambda raws: torch.optim.SGD(raws, 0.1, fused=True),
    "SGD foreach": lambda raws: torch.optim.SGD(raws, 0.1, foreach=True),
    "Adam": lambda raws: torch.optim.Adam(raws, 0.01),
    "AdamW fused": lambda raws: torch.optim.AdamW(raws, 0.01, fused=True),
    "AdamW foreach": lambda raws: torch.optim.AdamW(raws, 0.01, foreach=True),
    "Adagrad": lambda raws: torch.optim.Adagrad(raws, 0.01),
    "RMSprop": lambda raws: torch.optim.RMSprop(raws, 0.01),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_that_of_the_twin(spec: str, name: str) -> None:
    """Raws and state after steps of accumulation, with evaluations in between."""
    model, twin = pair(spec)
    x = torch.randn(8, 6)
    for one in (model, twin):
        optimizer = OPTIMIZERS[name](list(one.parameters()))
        for step in range(4):
            optimizer.zero_grad()
            accumulated(one, x)
            optimizer.step()
            if step == 1:
                with torch.no_grad():
                    one.eval()(x)
                one.train()
    for (key, value), other in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=2e-4, atol=2e-5, msg=key)


def test_lbfgs_evaluates_fresh_inside_its_step() -> None:
    """An optimizer that moves raws between closures."""
    layer, counting = counted()
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=5)
    x = torch.randn(8, 4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        expected = F.linear(x, layer.weight.raws["raw"].detach().tanh(), layer.bias)
        loss = layer(x)
        assert torch.equal(loss.detach(), expected.detach())
        loss = loss.square().sum()
        loss.backward()
        return loss

    first = closure().item()
    optimizer.step(closure)
    assert closure().item() < first
    assert len(counting.evaluations) > 2


def test_one_evaluation_however_often_it_is_read() -> None:
    """Reads, forwards, micro-batches, no_grad reads: one a step in train mode, one altogether in eval."""
    layer, counting = counted()
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for step in range(1, 4):
        for _ in range(3):
            (layer(torch.randn(2, 4)).sum() + layer.weight.sum()).backward()
        with torch.no_grad():
            layer(torch.randn(2, 4))
        assert len(counting.evaluations) == step
        optimizer.step()
        optimizer.zero_grad()
    layer.eval()
    with torch.no_grad():
        for _ in range(5):
            layer(torch.randn(2, 4))
    assert len(counting.evaluations) == 4


@pytest.mark.parametrize("spec", ["spectral", "orthogonal", "symmetric | spectral(bound=0.5)"])
def test_reading_is_pure(spec: str) -> None:
    """Printing, state dicts, copies, checks and ten reads leave every buffer as it was."""
    model, _ = pair(spec)
    x = torch.randn(4, 6)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(x).square().sum().backward()
    optimizer.step()
    before = {name: value.clone() for name, value in model.named_buffers() if "settled" not in name}
    repr(model), str(model[0].weight), model.state_dict(), copy.deepcopy(model), surgery.check(model)
    for _ in range(10):
        model(x)
    for name, value in model.named_buffers():
        if "settled" not in name:
            assert torch.equal(value, before[name]), name


def test_state_is_committed_once_a_step() -> None:
    """Whatever the number of micro-batches: the state is that of one power step a step."""
    torch.manual_seed(0)
    whole, parts = nn.Linear(6, 6), nn.Linear(6, 6)
    parts.load_state_dict(whole.state_dict())
    for layer in (whole, parts):
        surgery.constrain(layer, weight="spectral")
    x = torch.randn(8, 6)
    for layer, chunks in ((whole, 1), (parts, 4)):
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            for part in x.chunk(chunks):
                layer(part).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(dict(whole.named_buffers()), dict(parts.named_buffers()), rtol=1e-4, atol=1e-5)


def test_without_a_torch_optimizer_a_moved_raw_commits() -> None:
    """The loop of old tutorials: the state follows as it does with SGD."""
    by_hand, by_sgd = nn.Linear(6, 6), nn.Linear(6, 6)
    by_sgd.load_state_dict(by_hand.state_dict())
    for layer in (by_hand, by_sgd):
        surgery.constrain(layer, weight="spectral")
    optimizer = torch.optim.SGD(by_sgd.parameters(), 0.1)
    x = torch.randn(8, 6)
    for _ in range(4):
        for layer in (by_hand, by_sgd):
            layer.zero_grad()
            layer(x).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            for raw in by_hand.parameters():
                raw.data -= 0.1 * raw.grad
    by_hand(x), by_sgd(x)
    torch.testing.assert_close(dict(by_hand.named_buffers()), dict(by_sgd.named_buffers()), rtol=1e-4, atol=1e-5)


def test_settings_and_flags_end_a_hold() -> None:
    """A bound that is set, a requires_grad that is flipped."""
    layer = surgery.constrain(nn.Linear(6, 6), weight="interval(-0.1, 0.1)")
    assert float(layer.weight.detach().abs().max()) <= 0.1
    layer.weight.constraints[0].high = 0.05
    layer.weight.constraints[0].low = -0.05
    assert float(layer.weight.detach().abs().max()) <= 0.05
    layer.weight.requires_grad_(False)
    assert not layer.weight.sum().requires_grad
    layer.weight.requires_grad = True
    assert layer.weight.sum().requires_grad


class Drawn(nn.Module):
    """A module inside a constraint that is no constraint itself, with a setting."""

    scale = 1.0


class Layered(Counting):
    """``scale * tanh(raw)``; the scale is set on a module inside, ``shift`` only later."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Drawn()
        self.inner.scale = 1.0

    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw) * self.inner.scale + vars(self).get("shift", 0.0)


def test_what_is_set_elsewhere_leaves_a_hold() -> None:
    """A schedule on one model, or a model that is being built, evaluates nothing of another."""
    layer, counting = counted()
    layer.weight.value()
    other = surgery.constrain(nn.Linear(4, 4), weight="interval(-1, 1)")
    other.weight.constraints[0].high = 0.5
    other.eval()
    layer.weight.value()
    assert len(counting.evaluations) == 1
    counting.unused = 1
    layer.weight.value()
    assert len(counting.evaluations) == 2


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_module_inside_a_constraint_and_a_later_attribute_are_settings(training: bool) -> None:
    layer = surgery.constrain(nn.Linear(4, 4), weight=Layered()).train(training)
    once = layer.weight.detach()
    layer.weight.constraints[0].inner.scale = 2.0
    assert torch.equal(layer.weight.detach(), 2 * once)
    layer.weight.constraints[0].shift = 1.0
    assert torch.equal(layer.weight.detach(), 2 * once + 1)


class ByMode(Counting):
    """``raw`` in training, ``tanh(raw)`` in eval."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw if self.training else super().forward(raw)


def test_the_mode_of_a_constraint_alone_is_a_setting() -> None:
    """However it is switched, and back: the two values of the two modes stay held beside one another."""
    layer = surgery.constrain(nn.Linear(4, 4), weight=ByMode())
    raw, constraint = layer.weight.raws["raw"], layer.weight.constraints[0]
    assert torch.equal(layer.weight, raw)
    constraint.eval()
    assert torch.equal(layer.weight, raw.tanh())
    constraint.train()
    assert torch.equal(layer.weight, raw)
    layer.eval().weight.value()
    constraint.evaluations.clear()
    for _ in range(3):
        assert torch.equal(layer.train().weight, raw)
        assert torch.equal(layer.eval().weight, raw.tanh())
    assert len(constraint.evaluations) == 0


def test_a_flag_matters_where_gradients_are_taken() -> None:
    """A frozen raw's value is read without gradients as before; with gradients it is evaluated anew."""
    layer, counting = counted()
    layer.weight.value()
    layer.weight.raws["raw"].requires_grad_(False)
    with torch.no_grad():
        layer.weight.value()
    assert len(counting.evaluations) == 1
    assert not layer.weight.value().requires_grad
    layer.weight.raws["raw"].requires_grad_(True)
    layer.weight.sum().backward()
    assert layer.weight.raws["raw"].grad is not None


def test_transforms_of_raws_never_meet_a_held_value() -> None:
    """grad, vmap, jvp, functional_call and forward-mode AD see tensors of their own level."""
    layer = surgery.constrain(nn.Linear(4, 4), weight=Counting())
    x = torch.randn(3, 4)
    layer(x)
    raws = dict(layer.named_parameters())
    moved = {name: raw.detach() + 0.1 for name, raw in raws.items()}
    out = torch.func.functional_call(layer, moved, (x,))
    expected = F.linear(x, moved["weight.raw"].tanh(), moved["bias"])
    assert torch.equal(out, expected)
    gradient = torch.func.grad(lambda p: torch.func.functional_call(layer, p, (x,)).sum())(moved)
    torch.testing.assert_close(gradient["bias"], torch.full((4,), 3.0))
    rows = torch.func.vmap(layer)(x)
    assert torch.equal(rows, layer(x))
    _, tangent = torch.func.jvp(lambda p: torch.func.functional_call(layer, p, (x,)).sum(), (moved,), (moved,))
    assert torch.isfinite(tangent)
    assert torch.equal(layer(x), F.linear(x, raws["weight.raw"].tanh(), raws["bias"]))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_inference_mode_and_autocast_do_not_spoil_the_value(training: bool) -> None:
    """A value that was first read there trains afterwards, in full precision."""
    layer, twin = pair("spectral")
    layer.train(training), twin.train(training)
    x = torch.randn(2, 6)
    with torch.inference_mode():
        inside = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x).float().sum().backward()
    layer.zero_grad()
    assert torch.equal(inside, twin(x).detach())
    layer(x).sum().backward()
    twin(x).sum().backward()
    assert_same_gradients(layer, twin)


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str]] = {
    "conv": (lambda: nn.Conv2d(2, 2, 3, padding=1), lambda: torch.randn(1, 2, 4, 4), "unit_norm"),
    "transposed": (lambda: nn.ConvTranspose1d(2, 2, 3), lambda: torch.randn(1, 2, 4), "unit_norm"),
    "embedding": (lambda: nn.Embedding(4, 3), lambda: torch.tensor([1, 2]), "unit_norm"),
    "layer norm": (lambda: nn.LayerNorm(3), lambda: torch.randn(2, 3), "positive"),
    "group norm": (lambda: nn.GroupNorm(2, 4), lambda: torch.randn(2, 4), "positive"),
    "batch norm": (lambda: nn.BatchNorm1d(3), lambda: torch.randn(2, 3), "positive"),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_no_layer_pays_for_a_walk_over_containers(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strides and shapes are tuples of numbers; torch's general walk over three of them costs 20 us."""
    make, draw, spec = LAYERS[layer]
    host, inputs = surgery.constrain(make(), weight=spec), draw()
    walked: list[object] = []
    walk = tensorlike.tree_map
    monkeypatch.setattr(tensorlike, "tree_map", lambda function, tree: walked.append(tree) or walk(function, tree))
    host(inputs)
    assert walked == []
    torch.stack([host.weight, host.weight.detach()])
    assert len(walked) == 1


def test_threads_evaluate_once_and_agree() -> None:
    """Eight threads read at once."""
    layer, counting = counted()
    layer.eval()
    x, found = torch.randn(2, 4), []

    def read() -> None:
        with torch.no_grad():
            found.append(layer(x))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(one, found[0]) for one in found)
    assert len(found) == 8
    assert len(counting.evaluations) == 1


def test_invalidate_is_for_what_nothing_can_see() -> None:
    """An alias by DLPack, made before the hold and written after it; without the call the old value stays."""
    layer, _ = counted()
    alias = torch.from_dlpack(layer.weight.raws["raw"].detach())
    with torch.no_grad():
        before = layer.weight.value().clone()
    alias.fill_(0.25)
    assert torch.equal(layer.weight.detach(), before)
    computed.invalidate(layer)
    assert torch.allclose(layer.weight.detach(), torch.full((4, 4), 0.25).tanh())


def test_a_leaf_that_is_not_the_parameters_own_gets_its_gradient() -> None:
    """A foreign module with a Parameter of its own, and one that closes over a Parameter."""
    outer = nn.Parameter(torch.tensor(2.0))
    layer = surgery.constrain(nn.Linear(3, 3), weight=computed.function(lambda raw: raw * outer, lambda value: value))
    layer(torch.ones(1, 3)).sum().backward()
    assert outer.grad is not None
    expected = float(layer.weight.raws["raw"].detach().sum())
    assert float(outer.grad) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("enabled", [True, False], ids=["held", "unheld"])
def test_a_value_has_the_strides_of_its_raw(training: bool, enabled: bool) -> None:
    """Along dimensions of size one as well: torch reads the memory format of results from them."""
    raw = nn.Parameter(torch.randn(1, 2, 3, 6).contiguous(memory_format=torch.channels_last))
    weight = computed.ComputedParameter.from_value(raw, Counting()).train(training)
    host = nn.Module()
    host.weight = weight
    computed.caching(host, enabled)
    assert weight.value().stride() == raw.stride() == (36, 1, 12, 2)
    assert torch.empty_like(weight.value()).stride() == torch.empty_like(raw).stride()


class Offset(Counting):
    """``tanh(raw) + offset``, with the offset in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.ones(()))

    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw) + self.offset


@pytest.mark.parametrize("gradients", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_buffer_that_is_written_with_its_own_bits_ends_no_hold(training: bool, gradients: bool) -> None:
    """DistributedDataParallel sends all buffers before each forward; other bits, or another buffer, do end it."""
    layer = surgery.constrain(nn.Linear(4, 4), weight=Offset()).train(training)
    constraint, raw = layer.weight.constraints[0], layer.weight.raws["raw"]
    with torch.set_grad_enabled(gradients):
        layer.weight.value()
        constraint.evaluations.clear()
        for _ in range(3):
            with torch.no_grad():
                constraint.offset.copy_(constraint.offset.clone())
            assert torch.equal(layer.weight, raw.tanh() + 1)
        assert constraint.evaluations == []
        with torch.no_grad():
            constraint.offset.add_(1)
        assert torch.equal(layer.weight, raw.tanh() + 2)
        constraint.offset = torch.full((), 2.0)
        assert torch.equal(layer.weight, raw.tanh() + 2)
        with torch.no_grad():
            constraint.offset.copy_(constraint.offset.clone())
            raw.zero_()
        assert torch.equal(layer.weight, torch.full((4, 4), 2.0))


@pytest.mark.parametrize("spec", SPECS)
def test_second_derivatives_after_a_buffer_was_watched_anew(spec: str) -> None:
    """The graph of the value is the one that it had."""
    model, twin = pair(spec)
    model(torch.ones(2, 6))
    for each in (model, twin):
        with torch.no_grad():
            for buffer in each.buffers():
                buffer.copy_(buffer.clone())
        second_order(each, torch.linspace(-1, 1, 12).view(2, 6))
    assert_same_gradients(model, twin)


TRANSFORMS = {
    "grad": lambda model, x: torch.func.grad(lambda z: model(z).square().sum())(x),
    "grad of each": lambda model, x: torch.func.vmap(torch.func.grad(lambda z: model(z).square().sum()))(
        x.expand(3, -1)
    ),
    "jvp": lambda model, x: torch.func.jvp(model, (x,), (x.flip(0),))[1],
    "vjp": lambda model, x: torch.func.vjp(model, x)[1](model(x))[0],
    "hessian": lambda model, x: torch.func.hessian(lambda z: model(z).square().sum())(x),
    "make_fx": lambda model, x: make_fx(lambda z: model(z))(x)(x),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("spec", ["spectral", "orthogonal", "positive"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_of_inputs_reads_what_is_held(name: str, spec: str, training: bool) -> None:
    layer = surgery.apply_constraints(nn.Linear(5, 5).double(), {"weight": spec}).train(training)
    model = nn.Sequential(layer, nn.Tanh())
    x = torch.randn(5, dtype=torch.float64)
    model(x).sum().backward()
    plain = copy.deepcopy(nn.Sequential(nn.Linear(5, 5), nn.Tanh()).double())
    with torch.no_grad():
        plain[0].weight.copy_(layer.weight.value())
        plain[0].bias.copy_(layer.bias)
    found, expected = (TRANSFORMS[name](one, x) for one in (model, plain))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    if found.requires_grad:
        layer.zero_grad()
        found.square().sum().backward()
        assert layer.weight.raws["raw"].grad.abs().sum() > 0
