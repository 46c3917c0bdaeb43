"""Every module that torch tests itself with, with every one of its float parameters computed.

Plain and computed module run on the same inputs with the same random state. Through an identity nothing may differ,
not by a bit; through real constraints the plain module holds the computed values, and the gradients of the raws are
those that a constraint written out by hand gives.
"""

from __future__ import annotations

import copy
import inspect
import random
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing._internal.common_modules import FunctionInput, ModuleInfo, ModuleInput, module_db
from torch.utils import _pytree as pytree

import surgery
from computed.constraints.conversions import function
from computed.parameter import ComputedParameter
from tests.computed.identity import Identity

# torch says so of some of its own inputs
pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    pytest.mark.filterwarnings("ignore:linear_cross_entropy. ``options`` ignored:UserWarning"),
]

# options with which a module's parameter cannot be computed
REFUSED: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "a max_norm renormalises the weight in place at each forward": (nn.Embedding, {"max_norm": 1.0}),
    "a max_norm renormalises the weights of a bag as well": (nn.EmbeddingBag, {"max_norm": 1.0}),
    "sparse gradients do not reach a raw": (nn.Embedding, {"sparse": True}),
    "sparse gradients of a bag do not reach a raw": (nn.EmbeddingBag, {"sparse": True}),
}
FUSED = {
    "nn.Embedding": "a max_norm renormalises the weight in place at each forward; sparse gradients reach no raw",
    "nn.EmbeddingBag": "a max_norm renormalises the weight in place at each forward; sparse gradients reach no raw",
}
TINY = torch.finfo(torch.float32).tiny


def inverse_tanh(value: Tensor) -> Tensor:
    return value.clamp(-0.999, 0.999).atanh()


# a spec, and the same constraint written out by hand
BY_HAND: dict[str, tuple[object, Callable[[Tensor], Tensor]]] = {
    "tanh": (function(torch.tanh, inverse=inverse_tanh), torch.tanh),
    "positive": ("positive", lambda raw: TINY + functional.softplus(raw, threshold=40.0)),
    "interval": ("interval(-3, 3)", lambda raw: by_interval(raw, -3.0, 3.0)),
}


def by_interval(raw: Tensor, low: float, high: float) -> Tensor:
    """Strictly inside, so between the neighbours of the bounds, from the end that is nearer."""
    lowest, highest = (torch.nextafter(torch.tensor(a), torch.tensor(b)).item() for a, b in ((low, 0), (high, 0)))
    width = highest - lowest
    return torch.where(raw < 0, lowest + width * torch.sigmoid(raw), highest - width * torch.sigmoid(-raw))


class InLists(nn.Module):
    """Parameters in the two containers that hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = nn.ParameterList([torch.randn(3), torch.randn(3, 3)])
        self.named = nn.ParameterDict({"scale": torch.randn(3), "shift": nn.Parameter(torch.randn(3))})

    def forward(self, x: Tensor) -> Tensor:
        shifted = (x + self.listed[0]) @ self.listed[1] * self.named["scale"] + self.named["shift"]
        return shifted + sum(parameter.sum() for parameter in (*self.listed, *self.named.values()))


def by_example(cls: type[nn.Module], *examples: tuple[FunctionInput, FunctionInput]) -> ModuleInfo:
    """A module that torch's list does not have: its constructor's arguments and those of its forward."""
    inputs = [ModuleInput(constructor, forward) for constructor, forward in examples]
    return ModuleInfo(cls, module_inputs_func=lambda *unused, **also_unused: inputs)


def layers_among(cls: type) -> list[type]:
    """The classes of torch's layers that ``cls`` inherits from, itself included."""
    return [base for base in cls.__mro__ if base.__module__.startswith("torch.nn.modules") and base is not nn.Module]


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True)


NOT_RUN = {
    "SyncBatchNorm": "needs several processes, each with a GPU",
    "ParameterList": "in a module of its own, above",
    "ParameterDict": "in a module of its own, above",
    "RNNBase": "abstract",
    "RNNCellBase": "abstract",
}
INDICES = torch.tensor([[1, 2, 4], [4, 3, 0]])
NOT_IN_TORCHS_LIST = [
    by_example(InLists, (FunctionInput(), FunctionInput(drawn(4, 3)))),
    by_example(
        nn.EmbeddingBag,
        *[(FunctionInput(6, 3, mode=mode), FunctionInput(INDICES)) for mode in ("sum", "mean", "max")],
    ),
    by_example(
        nn.AdaptiveLogSoftmaxWithLoss,
        (FunctionInput(8, 12, [3, 6], 2.0, True), FunctionInput(drawn(5, 8), torch.tensor([0, 2, 5, 11, 7]))),
    ),
    by_example(nn.LazyLinear, (FunctionInput(4), FunctionInput(drawn(2, 3)))),
    *[
        by_example(cls, (FunctionInput(affine=True), FunctionInput(drawn(2, 3, *[4] * dims))))
        for name in ("Batch", "Instance")
        for dims, cls in enumerate((getattr(nn, f"Lazy{name}Norm{dims}d") for dims in (1, 2, 3)), start=1)
    ],
    by_example(
        nn.TransformerDecoder,
        (FunctionInput(nn.TransformerDecoderLayer(4, 2, 8), 2), FunctionInput(drawn(3, 2, 4), drawn(5, 2, 4))),
    ),
]


def made(info: ModuleInfo, sample: ModuleInput) -> nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "enable_nested_tensor is True", UserWarning)  # it would not be used
        torch.default_generator.manual_seed(0)
        module: nn.Module = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
    return module


def all_samples(info: ModuleInfo, *, training: bool) -> list[ModuleInput]:
    found: list[ModuleInput] = info.module_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=True, training=training
    )
    return found


WITH_PARAMETERS = [
    info
    for info in [*module_db, *NOT_IN_TORCHS_LIST]
    if any(list(made(info, sample).parameters()) for sample in all_samples(info, training=True))
]


@pytest.fixture(autouse=True)  # that path is off while a weight is computed, and rounds otherwise
def _no_fused_transformers() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def samples(info: ModuleInfo, size: str, *, training: bool) -> list[ModuleInput]:
    """The inputs that torch has for the module: all, or three that are drawn by its name."""
    found = [each for each in all_samples(info, training=training) if list(made(info, each).parameters())]
    chance = random.Random(zlib.crc32(info.name.encode()) + training)
    return found if size == "full" else chance.sample(found, min(3, len(found)))


def built(info: ModuleInfo, sample: ModuleInput, *, training: bool) -> nn.Module:
    module = made(info, sample)
    if any(nn.parameter.is_lazy(parameter) for parameter in module.parameters()):
        run(module, sample)
    return module.train(training)


def run(module: nn.Module, sample: ModuleInput) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs, and the inputs that gradients can reach, all of this run's own."""
    given = sample.forward_input
    args, kwargs = pytree.tree_map(own_leaf, (given.args, given.kwargs))
    torch.default_generator.manual_seed(1)
    outputs = module(*args, **kwargs)
    return tensors_of(outputs), [leaf for leaf in tensors_of((args, kwargs)) if leaf.requires_grad]


def own_leaf(argument: Any) -> Any:
    if not isinstance(argument, Tensor):
        return argument
    return argument.detach().clone().requires_grad_(argument.requires_grad)


def tensors_of(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def run_backward(outputs: list[Tensor]) -> None:
    trained = [output for output in outputs if output.requires_grad]
    torch.default_generator.manual_seed(2)
    if trained:
        torch.autograd.backward(trained, [torch.randn_like(output) for output in trained])


def same(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def constrained(module: nn.Module, spec: object) -> nn.Module:
    """A copy with every parameter computed."""
    made = surgery.apply_constraints(copy.deepcopy(module), {"*": spec})
    raws = {id(raw) for parameter in surgery.computed_parameters(made).values() for raw in parameter.parameters()}
    assert raws == {id(parameter) for parameter in made.parameters()}
    assert list(surgery.computed_parameters(made)) == [name for name, _ in module.named_parameters()]
    return made


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("info", WITH_PARAMETERS, ids=lambda info: info.name)
def test_an_identity_changes_no_bit(info: ModuleInfo, training: bool, size: str):
    for sample in samples(info, size, training=training):
        plain = built(info, sample, training=training)
        computed = constrained(plain, Identity)
        expected, expected_inputs = run(plain, sample)
        found, found_inputs = run(computed, sample)
        same(found, expected)
        run_backward(expected)
        run_backward(found)
        same([leaf.grad for leaf in found_inputs], [leaf.grad for leaf in expected_inputs])
        raws = [parameter.raws["raw"] for parameter in surgery.computed_parameters(computed).values()]
        same([raw.grad for raw in raws], [parameter.grad for parameter in plain.parameters()])
        same(list(computed.buffers()), list(plain.buffers()))


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("info", WITH_PARAMETERS, ids=lambda info: info.name)
def test_a_constraint_gives_the_values_and_gradients_of_one_written_out_by_hand(info: ModuleInfo, name: str, size: str):
    spec, by_hand = BY_HAND[name]
    for sample in samples(info, size, training=True)[: None if size == "full" else 1]:
        plain = built(info, sample, training=True)
        computed = constrained(plain, spec)
        raws = [parameter.raws["raw"] for parameter in surgery.computed_parameters(computed).values()]
        references = [by_hand(raw.detach().clone().requires_grad_()) for raw in raws]
        with torch.no_grad():
            for parameter, reference in zip(plain.parameters(), references, strict=True):
                parameter.copy_(reference)
        expected, expected_inputs = run(plain, sample)
        found, found_inputs = run(computed, sample)
        same(found, expected)
        run_backward(expected)
        run_backward(found)
        same([leaf.grad for leaf in found_inputs], [leaf.grad for leaf in expected_inputs])
        for raw, parameter in zip(raws, plain.parameters(), strict=True):
            leaf = raw.detach().clone().requires_grad_()
            wanted = parameter.grad
            if wanted is not None:
                (wanted,) = torch.autograd.grad(by_hand(leaf), leaf, wanted)
            same([raw.grad], [wanted])


@pytest.mark.parametrize("reason", REFUSED)
def test_what_a_module_does_to_its_own_weight_is_refused_by_name(reason: str):
    cls, option = REFUSED[reason]
    (name,) = option
    module = cls(6, 3, **option)
    with pytest.raises(surgery.PlanError, match=rf"weight[^\n]*{cls.__name__}\({name}="):
        surgery.apply_constraints(module, {"*": Identity})
    assert list(module.state_dict()) == ["weight"]
    setattr(module, name, None if name == "max_norm" else False)
    assert torch.equal(constrained(module, Identity)(INDICES), module(INDICES))


def test_every_module_of_torch_that_has_parameters_is_covered(size: str, evidence: Callable[[str, str], None]):
    covered = {info.module_cls for info in WITH_PARAMETERS}
    own_parameters = {
        cls
        for cls in vars(nn).values()
        if inspect.isclass(cls) and any("Parameter(" in inspect.getsource(base) for base in layers_among(cls))
    }
    assert nn.Linear in own_parameters
    assert {cls.__name__ for cls in own_parameters - covered} == set(NOT_RUN)
    count = sum(len(samples(info, size, training=mode)) for info in WITH_PARAMETERS for mode in (True, False))
    evidence(
        "modules of torch that give the same bits, forward and backward, with every parameter computed by an identity",
        f"{len(covered)} of {len(covered)}, with {count:,} inputs of torch's own tests",
    )


def test_the_comparison_sees_one_bit():
    plain = nn.Linear(3, 2)
    computed = constrained(plain, Identity)
    with torch.no_grad():
        computed.weight.raw.view(torch.int32)[0, 0] += 1
    x = torch.ones(1, 3)
    assert isinstance(computed.weight, ComputedParameter)
    with pytest.raises(AssertionError, match="not equal"):
        same([computed.weight.detach()], [plain.weight.detach()])
    assert not torch.equal(computed(x * 1e7), plain(x * 1e7))
