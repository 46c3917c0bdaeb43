"""Layers of which input or output is scaled in the place of a large weight: the value's outputs and gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import computed
import surgery
from computed import scaled
from computed.parameter import ComputedParameter
from computed.scaled import Layer, scaled_side

Make = Callable[[], tuple[nn.Module, Tensor]]
# hosts and inputs; the weights are small, and count as large here
HOSTS: dict[str, Make] = {
    "linear, output": lambda: (nn.Linear(12, 6), torch.randn(3, 12)),
    "linear, input": lambda: (nn.Linear(6, 12), torch.randn(3, 6)),
    "linear, one row": lambda: (nn.Linear(6, 12, bias=False), torch.randn(6)),
    "linear, batches": lambda: (nn.Linear(12, 6), torch.randn(2, 2, 12)),
    "conv1d": lambda: (nn.Conv1d(8, 6, 3, padding=1), torch.randn(1, 8, 5)),
    "conv2d, input": lambda: (nn.Conv2d(6, 8, 3, padding=1), torch.randn(2, 6, 3, 3)),
    "conv2d, stride": lambda: (nn.Conv2d(8, 8, 3, 2, 1), torch.randn(2, 8, 5, 5)),
    "conv2d, no bias": lambda: (nn.Conv2d(8, 6, 3, padding="same", bias=False), torch.randn(2, 8, 3, 3)),
    "conv2d, groups": lambda: (nn.Conv2d(8, 6, 3, padding=1, groups=2), torch.randn(1, 8, 3, 3)),
    "conv2d, no batch": lambda: (nn.Conv2d(8, 6, 3, padding=1), torch.randn(8, 3, 3)),
    "conv2d, reflected": lambda: (nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"), torch.randn(1, 8, 3, 3)),
    "conv2d, channels last": lambda: (
        nn.Conv2d(8, 6, 3, padding=1).to(memory_format=torch.channels_last),
        torch.randn(2, 8, 3, 3).to(memory_format=torch.channels_last),
    ),
    "conv3d": lambda: (nn.Conv3d(4, 6, 3, padding=1), torch.randn(1, 4, 3, 3, 3)),
    "transposed 1d": lambda: (nn.ConvTranspose1d(8, 6, 3), torch.randn(1, 8, 3)),
    "transposed 2d": lambda: (nn.ConvTranspose2d(8, 6, 3, 2, 1, 1), torch.randn(1, 8, 2, 2)),
    "transposed 3d": lambda: (nn.ConvTranspose3d(6, 4, 3), torch.randn(1, 6, 1, 1, 1)),
}
SPECS = (
    "spectral",
    "spectral(bound=0.4)",
    "spectral(norm=3.0, n_power_iterations=2)",
    "operator_norm(bound=0.5)",
    "weight_norm",
    "weight_norm(dim=1)",
    "weight_norm(dim=None)",
)
KINDS = ("spectral", "weight_norm")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of any size count as large."""
    monkeypatch.setattr(scaled, "WORTH", 1)


def constrained(make: Make, spec: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, Tensor]:
    """A host, its twin that always makes the value, and an input."""
    torch.manual_seed(0)
    host, x = make()
    surgery.constrain(host.to(dtype), weight=spec)
    if "weight_norm" in spec:
        with torch.no_grad():
            host.weight.raws["g"].mul_(1.5)  # no scale is one
    twin = copy.deepcopy(host)
    scaled.make_values(twin.weight)
    assert host.weight.ruled
    return host, twin, x.to(dtype)


def first_raw(host: nn.Module) -> nn.Parameter:
    return next(iter(host.weight.raws.values()))


def losses(host: nn.Module, x: Tensor) -> list[Tensor | None]:
    """Outputs of two forwards, and the gradients of both."""
    x = x.detach().clone().requires_grad_()
    host.zero_grad()
    first, second = host(x), host(x * 0.5)
    (first.square().sum() + second.sin().sum()).backward()
    return [first.detach(), second.detach(), x.grad, *[raw.grad for raw in host.parameters()]]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", HOSTS)
def test_outputs_and_gradients_are_those_of_the_value(name: str, spec: str) -> None:
    if "reflected" in name and "operator" in spec:
        pytest.skip("the operator norm is that of zero or circular padding")
    host, twin, x = constrained(HOSTS[name], spec, torch.float64)
    for found, expected in zip(losses(host, x), losses(twin, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert host.weight._holds[True] is None  # no value was made
    assert host.weight._factors is not None
    assert torch.equal(host.weight.value(), twin.weight.value())


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("spec", KINDS)
@pytest.mark.parametrize("name", ["linear, output", "linear, input", "conv2d, stride", "conv2d, channels last"])
def test_training_is_that_of_the_value(name: str, spec: str) -> None:
    host, twin, x = constrained(HOSTS[name], spec, torch.float64)
    for one in (host, twin):
        optimizer = torch.optim.AdamW(one.parameters(), 0.05)
        for _ in range(5):
            optimizer.zero_grad()
            (one(x).square().sum() + one(x).sum()).backward()
            optimizer.step()
    for (key, found), expected in zip(host.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10, msg=key)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", ["linear, output", "linear, input", "conv2d, stride", "transposed 2d"])
@pytest.mark.parametrize("spec", ["spectral", "operator_norm", "weight_norm", "weight_norm(dim=1)"])
def test_derivatives_of_the_second_order(name: str, spec: str) -> None:
    host, _, x = constrained(HOSTS[name], spec, torch.float64)
    raw = next(iter(host.weight.raws.values()))

    def output(moved: Tensor, given: Tensor) -> Tensor:
        raw.data = moved.detach().clone()
        raw.requires_grad_()
        host.weight.forget()
        # the vectors are constants of the derivative, so that differences must not move them
        made = host(given)
        (slope,) = torch.autograd.grad(made.sum(), raw, create_graph=True)
        return slope

    slope = output(raw.detach(), x)
    (twice,) = torch.autograd.grad(slope.square().sum(), raw)
    scaled.make_values(host.weight)
    slope_of_value = output(raw.detach(), x)
    (twice_of_value,) = torch.autograd.grad(slope_of_value.square().sum(), raw)
    torch.testing.assert_close(slope, slope_of_value, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(twice, twice_of_value, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("always")
def test_evaluated_once_a_step_and_committed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    host, _, x = constrained(HOSTS["linear, output"], "spectral", torch.float32)
    module = host.weight.constraints[0]
    calls: list[int] = []
    whole = type(module).stepped
    monkeypatch.setattr(type(module), "stepped", lambda self, raw: (calls.append(1), whole(self, raw))[1])
    optimizer = torch.optim.SGD(host.parameters(), 0.1)
    for turn in range(1, 4):
        for _ in range(3):
            host(x).sum().backward()
        with torch.no_grad():
            host(x)
        assert len(calls) == turn
        u = module.u.clone()
        optimizer.step()
        assert not torch.equal(u, module.u)


@pytest.mark.usefixtures("always")
def test_eval_uses_the_held_value() -> None:
    host, _, x = constrained(HOSTS["linear, output"], "spectral", torch.float32)
    host.eval()
    with torch.no_grad():
        expected = F.linear(x, host.weight.value(), host.bias)
        assert torch.equal(host(x), expected)
        assert torch.equal(surgery.bake(copy.deepcopy(host))(x), expected)


@pytest.mark.usefixtures("always")
def test_writes_loads_and_settings_are_seen() -> None:
    host, _, x = constrained(HOSTS["linear, output"], "spectral(bound=0.5)", torch.float64)
    host(x)
    new = torch.randn(6, 12, dtype=torch.float64)
    with torch.no_grad():
        host.weight.copy_(new)
    value = new * min(1.0, 0.5 / float(torch.linalg.matrix_norm(new, 2)))
    torch.testing.assert_close(host(x), F.linear(x, value, host.bias), rtol=1e-6, atol=1e-8)
    surgery.configure(host, "weight", bound=0.25)
    torch.testing.assert_close(host(x), F.linear(x, value / 2, host.bias), rtol=1e-6, atol=1e-8)
    with torch.no_grad():
        host.weight.raws["raw"].mul_(1e-3)  # under its bound
    torch.testing.assert_close(host(x), F.linear(x, host.weight.raws["raw"], host.bias), rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("always")
def test_two_forwards_a_step_between_and_two_backwards() -> None:
    """The first graph knows the raw as it was."""
    host, twin, x = constrained(HOSTS["linear, output"], "spectral", torch.float64)
    for one in (host, twin):
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        early = one(x).square().sum()
        one(x).sum().backward()
        optimizer.step()
        one.zero_grad()
        early.backward()
    torch.testing.assert_close(first_raw(host).grad, first_raw(twin).grad, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("retain", [True, False])
def test_what_reads_its_raws_again_says_that_they_are_gone(retain: bool) -> None:
    """After a backward that retains no graph, and a step."""
    host, twin, x = constrained(HOSTS["linear, output"], "weight_norm", torch.float64)
    optimizer = torch.optim.SGD(host.parameters(), 0.1)
    early = host(x).square().sum()
    twin(x).square().sum().backward()
    host(x).sum().backward(retain_graph=retain)
    optimizer.step()
    host.zero_grad()
    if retain:
        early.backward()
        found, expected = ([raw.grad for raw in one.parameters()] for one in (host, twin))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    else:
        with pytest.raises(RuntimeError, match=r"^weight: .* has freed its graph"):
            early.backward()


@pytest.mark.usefixtures("always")
def test_a_loss_that_lives_on_copies_no_raw() -> None:
    host, _, x = constrained(HOSTS["linear, output"], "weight_norm", torch.float64)
    optimizer = torch.optim.SGD(host.parameters(), 0.1)
    loss = host(x).square().sum()
    loss.backward()
    before = [raw.const_data_ptr() for raw in host.parameters()]
    optimizer.step()
    assert [raw.const_data_ptr() for raw in host.parameters()] == before
    assert loss.isfinite()


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("frozen", ["v", "g"])
def test_one_of_two_raws_may_be_frozen(frozen: str) -> None:
    host, twin, x = constrained(HOSTS["conv2d, stride"], "weight_norm", torch.float64)
    for one in (host, twin):
        one.weight.raws[frozen].requires_grad_(False)
    for found, expected in zip(losses(host, x), losses(twin, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert host.weight.raws[frozen].grad is None
    assert host.weight._factors is not None


@pytest.mark.usefixtures("always")
def test_slices_of_zeros_scale_nothing() -> None:
    host, twin, x = constrained(HOSTS["conv2d, stride"], "weight_norm", torch.float64)
    for one in (host, twin):
        with torch.no_grad():
            one.weight.raws["v"][1] = 0.0
    for found, expected in zip(losses(host, x), losses(twin, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("spec", KINDS)
def test_flags_are_followed(frozen: bool, spec: str) -> None:
    host, _, x = constrained(HOSTS["linear, output"], spec, torch.float32)
    host(x)
    host.weight.requires_grad_(not frozen)
    host(x).sum().backward()
    assert (first_raw(host).grad is None) is frozen


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("spec", KINDS)
def test_autocast_casts_the_operation_and_not_the_scale(spec: str) -> None:
    host, twin, x = constrained(HOSTS["linear, output"], spec, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = host(x), twin(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", KINDS)
def test_half_precision(dtype: torch.dtype, spec: str) -> None:
    host, twin, x = constrained(HOSTS["linear, output"], spec, dtype)
    # weight norm adds two gradients of which each is rounded: 1.25 times the error of the value's, on average
    tolerance = 3e-2 if spec == "spectral" else 8e-2
    for found, expected in zip(losses(host, x), losses(twin, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=3e-2)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", ["linear, output", "conv2d, input"])
@pytest.mark.parametrize("spec", KINDS)
def test_compiled_it_is_the_same(name: str, spec: str) -> None:
    host, twin, x = constrained(HOSTS[name], spec, torch.float32)
    made = torch.compile(host, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(made(x), twin(x), rtol=1e-5, atol=1e-6)
    found, expected = losses(made, x), losses(twin, x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("spec", KINDS)
def test_transforms_and_foreign_raws_use_the_value(spec: str) -> None:
    host, twin, x = constrained(HOSTS["linear, output"], spec, torch.float64)
    raws = {name: raw.detach() * 2 for name, raw in host.named_parameters()}
    found, expected = (torch.func.functional_call(one, raws, (x,)) for one in (host, twin))
    torch.testing.assert_close(found, expected)
    slopes = [
        torch.func.grad(lambda p, one=one: torch.func.functional_call(one, p, (x,)).sum())(raws) for one in (host, twin)
    ]
    for name in raws:
        torch.testing.assert_close(slopes[0][name], slopes[1][name])


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("spec", KINDS)
def test_without_caching_it_is_the_value(spec: str) -> None:
    host, _, x = constrained(HOSTS["linear, output"], spec, torch.float64)
    expected = host(x)
    computed.caching(host, False)
    torch.testing.assert_close(host(x), expected)


def test_the_side_is_chosen_by_size() -> None:
    assert scaled_side((64, 64, 3, 3), 10, 10) == "weight"  # too small to matter
    assert scaled_side((512, 512, 3, 3), 1000, 2000) == "input"
    assert scaled_side((512, 512, 3, 3), 2000, 1000) == "output"
    assert scaled_side((512, 512, 3, 3), 1 << 22, 1 << 22) == "weight"
    assert not surgery.constrain(nn.Linear(64, 64), weight="spectral").weight.ruled
    assert surgery.constrain(nn.Linear(512, 512), weight="spectral").weight.ruled


@pytest.mark.parametrize("name", HOSTS)
def test_the_size_of_an_output_is_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the padding: within a factor of 4 for these small ones, and exact for those of the input's size."""
    monkeypatch.setattr(scaled, "WORTH", 1)
    host, x = HOSTS[name]()
    surgery.constrain(host, weight="spectral")
    seen: list[Layer] = []
    monkeypatch.setattr(Layer, "side", lambda self, dim: seen.append(self) or "weight")
    made, told = host(x).numel(), seen[0].entries_made()
    assert told == made or 0.25 < told / made < 4


def test_a_large_layer_makes_no_value() -> None:
    layer = surgery.constrain(nn.Linear(512, 512), weight="spectral")
    layer(torch.randn(4, 512)).sum().backward()
    assert isinstance(layer.weight, ComputedParameter)
    assert layer.weight._holds == [None, None]
    assert layer.weight.raws["raw"].grad is not None


WRONG: dict[str, Callable[[nn.Module], object]] = {
    "no tensor": lambda conv: F.conv2d("x", conv.weight),  # type: ignore[arg-type] # wrong on purpose
    "too few dimensions": lambda conv: F.conv2d(torch.randn(8), conv.weight),
    "too few to see": lambda conv: F.conv2d(torch.randn(8, 3), conv.weight),
    "other channels": lambda conv: F.conv2d(torch.randn(1, 5, 3, 3), conv.weight),
    "a stride for three": lambda conv: F.conv2d(torch.randn(1, 8, 3, 3), conv.weight, None, (1, 1, 1)),
    "a bias of one": lambda conv: F.conv2d(torch.randn(1, 8, 3, 3), conv.weight, torch.randn(1)),
    "a bias of another dtype": lambda conv: F.conv2d(torch.randn(1, 8, 3, 3), conv.weight, torch.randn(6).double()),
    "another dtype": lambda conv: F.conv2d(torch.randn(1, 8, 3, 3).double(), conv.weight),
}


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_by_the_operation(what: str) -> None:
    host, twin, _ = constrained(HOSTS["conv2d, no bias"], "spectral", torch.float32)
    errors = []
    for one in (host, twin):
        with pytest.raises((RuntimeError, TypeError, ValueError)) as caught:
            WRONG[what](one)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("shape", [(0, 8, 3, 3), (2, 8, 0, 3)])
def test_nothing_in_gives_nothing(shape: tuple[int, ...]) -> None:
    host, twin, _ = constrained(HOSTS["conv2d, no bias"], "spectral", torch.float32)
    x = torch.randn(shape)
    try:
        expected = twin(x)
    except RuntimeError as error:
        with pytest.raises(type(error)):
            host(x)
    else:
        assert torch.equal(host(x), expected)
        host(x).sum().backward()


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("spec", KINDS)
def test_what_is_done_again_by_a_checkpoint_is_the_same(use_reentrant: bool, spec: str) -> None:
    host, twin, x = constrained(HOSTS["linear, output"], spec, torch.float64)
    for one in (host, twin):
        given = x.clone().requires_grad_()
        checkpoint(one, given, use_reentrant=use_reentrant).square().sum().backward()
    torch.testing.assert_close(first_raw(host).grad, first_raw(twin).grad, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("always")
def test_a_computed_bias_stands_beside() -> None:
    torch.manual_seed(0)
    host = surgery.apply_constraints(nn.Linear(12, 6).double(), {"weight": "spectral", "bias": "positive"})
    x = torch.randn(3, 12, dtype=torch.float64)
    torch.testing.assert_close(host(x), F.linear(x, host.weight.value(), host.bias.value()))
    host(x).sum().backward()
    assert all(raw.grad is not None for raw in host.parameters())
