"""Every operation that torch tests itself with, with computed parameters where it takes float tensors.

The reference is the operation on the value: results and gradients must be the same, bit for bit, as function, as
method, and in place. A computed parameter is no Tensor, so ``torch.Tensor.add(w, 1)``, the unbound method, is a
TypeError of Python's own; ``w.add(1)`` and ``torch.add(w, 1)`` are what is tested.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from types import MethodDescriptorType, WrapperDescriptorType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils import _pytree as pytree

from computed.errors import ComputedParameterError
from computed.parameter import ComputedParameter
from computed.refused import REFUSED
from tests.computed.identity import Identity

# some operations warn of themselves: beta state, deprecated, slow
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

# operations that are not run at all
NOT_RUN = {
    "jiterator_unary": "compiles a CUDA kernel",
    "jiterator_binary": "compiles a CUDA kernel",
    "jiterator_4inputs_with_extra_args": "compiles a CUDA kernel",
    "jiterator_binary_return_by_ref": "compiles a CUDA kernel",
    "jiterator_2inputs_2outputs": "compiles a CUDA kernel",
}
# what is in the memory that these hand out, nobody says
UNINITIALISED = ("empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided", "resize_", "resize_as_")
# torch's list calls the unbound method where it calls these as functions
UNBOUND = (
    "bernoulli",
    "cauchy",
    "exponential",
    "geometric",
    "item",
    "log_normal",
    "multinomial",
    "normal.in_place",
    "uniform",
)
DESCRIPTORS = (MethodDescriptorType, WrapperDescriptorType)
# up to a phase of the eigenvectors only: no gradient of a sum of them
WITHOUT_GRADIENT = ("linalg.eig",)
# LAPACK's gelsy gives other last bits from call to call, for plain tensors too
NOT_REPRODUCIBLE = ("linalg.lstsq",)


def title(op: OpInfo) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


def sample_inputs(op: OpInfo, dtype: torch.dtype) -> Iterator[SampleInput]:
    """Inputs with a tensor of ``dtype``, itself or in a list, as first argument."""
    torch.default_generator.manual_seed(0)
    # without the tracking of op.sample_inputs, which takes longer than the operations do
    for sample in op.sample_inputs_func(op, "cpu", dtype, requires_grad=False):
        if first_tensor(sample.input, dtype):
            yield sample


def first_tensor(argument: Any, dtype: torch.dtype) -> bool:
    first = argument[0] if isinstance(argument, list | tuple) and argument else argument
    return isinstance(first, Tensor) and first.dtype == dtype and first.layout == torch.strided


def float_samples() -> Iterator[tuple[OpInfo, SampleInput]]:
    """Each operation that takes a float tensor first, with one sample."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for op in op_db:
            if title(op) not in NOT_RUN and torch.float32 in op.dtypes:
                yield from ((op, sample) for sample in itertools.islice(sample_inputs(op, torch.float32), 1))


ONE_EACH = {title(op): (op, sample) for op, sample in float_samples()}
OPERATIONS = [op for op, _ in ONE_EACH.values()]


def run_with(op: OpInfo, size: str) -> Iterator[tuple[SampleInput, torch.dtype]]:
    if size == "small":
        yield ONE_EACH[title(op)][1], torch.float32
        return
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        if dtype in op.dtypes:
            yield from ((sample, dtype) for sample in sample_inputs(op, dtype))


def computed(argument: Any, dtype: torch.dtype) -> Any:
    """``argument`` with a computed parameter of its own for each tensor of ``dtype``."""

    def replaced(leaf: Any) -> Any:
        return ComputedParameter.from_value(nn.Parameter(leaf.clone()), Identity) if is_ours(leaf, dtype) else leaf

    return pytree.tree_map(replaced, argument)


def plain(argument: Any, dtype: torch.dtype) -> Any:
    """``argument`` with a Parameter of its own for each tensor of ``dtype``."""
    return pytree.tree_map(lambda leaf: nn.Parameter(leaf.clone()) if is_ours(leaf, dtype) else leaf, argument)


def is_ours(leaf: Any, dtype: torch.dtype) -> bool:
    return isinstance(leaf, Tensor) and leaf.dtype == dtype and leaf.layout == torch.strided


def called(function: Callable[..., Any], first: Any, sample: SampleInput) -> Any:
    torch.default_generator.manual_seed(1)
    return function(first, *sample.args, **sample.kwargs)


def method(name: str) -> Callable[..., Any]:
    return lambda first, *args, **kwargs: getattr(first, name)(*args, **kwargs)


def bound(variant: Callable[..., Any]) -> Callable[..., Any]:
    return method(variant.__name__) if isinstance(variant, DESCRIPTORS) else variant


def forms(op: OpInfo) -> list[Callable[..., Any]]:
    """The ways to call the operation that leave its argument alone."""
    if title(op) in UNBOUND:
        return [method(op.name)] if callable(getattr(Tensor, op.name, None)) else []
    function = [bound(op.op)]
    variants = [variant for variant in (op.method_variant, op.operator_variant) if variant is not None]
    return function + [bound(variant) for variant in variants if not is_in_place(variant.__name__)]


def is_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def same(op: OpInfo, found: Any, expected: Any) -> None:
    found_leaves, found_tree = pytree.tree_flatten(found)
    expected_leaves, expected_tree = pytree.tree_flatten(expected)
    assert found_tree == expected_tree
    for one, other in zip(found_leaves, expected_leaves, strict=True):
        if isinstance(one, Tensor):
            assert isinstance(other, Tensor)
            same_tensor(one, other, bits=op.name not in UNINITIALISED + NOT_REPRODUCIBLE)
        else:
            assert type(one) is type(other)
            assert one == other or (one != one and other != other)


def same_tensor(found: Tensor, expected: Tensor, *, bits: bool) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert found.requires_grad == expected.requires_grad
    assert found.layout == expected.layout
    if bits:
        torch.testing.assert_close(found.detach(), expected.detach(), rtol=0, atol=0, equal_nan=True)


def gradients(outputs: Any, leaves: list[Tensor]) -> list[Tensor | None]:
    trained = [out for out in pytree.tree_leaves(outputs) if isinstance(out, Tensor) and out.requires_grad]
    trained = [out for out in trained if out.layout == torch.strided and (out.is_floating_point() or out.is_complex())]
    if not trained:
        return []
    torch.default_generator.manual_seed(2)
    return list(torch.autograd.grad(trained, leaves, [torch.randn_like(out) for out in trained], allow_unused=True))


def leaves_of(*arguments: Any) -> list[Tensor]:
    """The parameters in ``arguments``: themselves, or the raws they are computed from."""
    leaves = pytree.tree_leaves(arguments)
    return [
        leaf.raws["raw"] if isinstance(leaf, ComputedParameter) else leaf
        for leaf in leaves
        if isinstance(leaf, nn.Parameter | ComputedParameter)
    ]


def attempted(call: Callable[[], Any]) -> Any:
    """What a call of plain torch gives, or the error that it raises: not every form takes all arguments."""
    try:
        return call()
    except (RuntimeError, TypeError) as error:
        return error


def renormalises(sample: SampleInput) -> bool:
    """Whether an embedding would write to its weight."""
    return sample.kwargs.get("max_norm") is not None


@pytest.mark.parametrize("op", OPERATIONS, ids=title)
def test_a_computed_parameter_is_taken_for_its_value(op: OpInfo, size: str):
    compared = 0
    for (sample, dtype), form in itertools.product(run_with(op, size), forms(op)):
        with torch.set_grad_enabled(op.supports_autograd):
            first, reference = computed(sample.input, dtype), plain(sample.input, dtype)
            expected = attempted(lambda: called(form, reference, sample))  # noqa: B023 - called at once
            if isinstance(expected, Exception) or renormalises(sample):
                kind = type(expected) if isinstance(expected, Exception) else RuntimeError
                with pytest.raises(kind, match="max_norm" if renormalises(sample) else ""):
                    called(form, first, sample)
                continue
            found = called(form, first, sample)
            same(op, found, expected)
            compared += 1
            if sample.kwargs.get("sparse") and dtype is torch.bfloat16:
                with pytest.raises(RuntimeError, match="Sparse"):
                    gradients(found, leaves_of(first))
            elif op.supports_autograd and op.name not in UNINITIALISED + WITHOUT_GRADIENT + NOT_REPRODUCIBLE:
                same_gradients(found, expected, first, reference)
    assert compared or not forms(op)


def same_gradients(found: Any, expected: Any, first: Any, reference: Any) -> None:
    """The gradients of the raws are those of the plain parameters; where torch has none, it says so of both.

    A sparse gradient cannot be cast, and so reaches no raw of a short dtype: plans refuse a host that has them.
    """
    theirs = attempted(lambda: gradients(expected, leaves_of(reference)))
    if isinstance(theirs, Exception):
        with pytest.raises(type(theirs), match=r"not implemented|derivative"):
            gradients(found, leaves_of(first))
        return
    torch.testing.assert_close(gradients(found, leaves_of(first)), theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("op", OPERATIONS, ids=title)
def test_wherever_it_stands_among_the_arguments(op: OpInfo, size: str):
    for (sample, dtype), form in itertools.product(run_with(op, size), forms(op)[:1]):
        if renormalises(sample):
            continue
        args, kwargs = computed((sample.args, sample.kwargs), dtype)
        plain_args, plain_kwargs = plain((sample.args, sample.kwargs), dtype)
        with torch.no_grad():
            expected = called(form, sample.input, SampleInput(sample.input, args=plain_args, kwargs=plain_kwargs))
            found = called(form, sample.input, SampleInput(sample.input, args=args, kwargs=kwargs))
            same(op, found, expected)


IN_PLACE = [op for op in OPERATIONS if op.inplace_variant is not None]


@pytest.mark.parametrize("op", IN_PLACE, ids=title)
def test_in_place_it_is_written_and_in_grad_mode_refused(op: OpInfo, size: str):
    form = bound(op.inplace_variant)
    name = getattr(op.inplace_variant, "__name__", "")
    for sample, _ in run_with(op, size):
        written = ComputedParameter.from_value(nn.Parameter(sample.input.clone()), Identity)
        if name in REFUSED:
            with torch.no_grad(), pytest.raises(ComputedParameterError, match=name):
                called(form, written, sample)
            return
        with torch.no_grad():
            reference = sample.input.clone()
            try:
                called(form, reference, sample)
            except RuntimeError as error:
                # the operation cannot be done in place with these arguments
                with pytest.raises(type(error)):
                    called(form, written, sample)
                continue
            if reference.shape != sample.input.shape:
                # some operations resize what they write to; the shape of a constrained weight is fixed
                before = written.detach().clone()
                with pytest.raises(RuntimeError):
                    called(form, written, sample)
                with pytest.raises(ValueError, match="cannot write a value of shape"):
                    written.value()
                assert torch.equal(written, before)
                continue
            assert called(form, written, sample) is written
        same_tensor(written.detach(), reference, bits=op.name not in UNINITIALISED)
        same_tensor(written.raws["raw"].detach(), reference, bits=op.name not in UNINITIALISED)
        with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
            called(form, written, sample)


def test_how_many_operations_there_are(evidence: Callable[[str, str], None]):
    assert len(OPERATIONS) > 620
    assert set(NOT_RUN) <= {title(op) for op in op_db}
    calls = sum(len(forms(op)) for op in OPERATIONS)
    evidence(
        "operations of torch's own test list that take a computed parameter for its value, bit for bit",
        f"{len(OPERATIONS)} that take a float tensor first, in {calls} forms, and {len(IN_PLACE)} in place; "
        f"{len(NOT_RUN)} need a GPU",
    )
