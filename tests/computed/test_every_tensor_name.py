"""Every public and dunder name of torch.Tensor: answered as a Parameter of the same bits answers, or refused by name.

Nothing here lists the names to test: they are those that this torch has. A name is called with the first arguments that
a Parameter accepts; where it accepts none of them, both must fail in the same words.
"""

from __future__ import annotations

import copy
import itertools
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import surgery
from computed.answers import SHARED_NAMES_THAT_FOLLOW_THE_TENSOR
from computed.errors import ComputedParameterError
from computed.parameter import ComputedParameter
from computed.refused import REFUSED
from tests.computed.identity import Identity

# names of Tensor that every Python object has: how it is made, copied and shown is the Module's own affair
OBJECTS_OWN = set(dir(object)) - {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__format__"}
OBJECTS_OWN |= {"__annotations__", "__dict__", "__module__", "__weakref__", "__setstate__"}
OBJECTS_OWN |= {"__deepcopy__"}  # copy.deepcopy copies the computed parameter, as it copies a Module
PROTOCOL = {"__torch_function__", "__torch_dispatch__"}  # how it takes part, not what it answers

# what differs from a Parameter, for a reason
DIFFERENT = {
    "is_leaf": "the value of a raw that is trained has a history",
    "grad_fn": "the value of a raw that is trained has a history",
    "__hash__": "by identity",
    "__dlpack__": "where gradients are off the value has none, while a Parameter requires them still",
    "__format__": "a number of dimension 0 takes a format as a Tensor does; a Parameter takes none",
}
UNINITIALISED = {"new_empty", "new_empty_strided"}
ADDRESSES = {"data_ptr", "const_data_ptr", "storage", "untyped_storage", "__cuda_array_interface__"}

MATRIX = torch.tensor([[4.0, 0.5, -1.0], [0.5, 3.0, 0.25], [-1.0, 0.25, 2.0]])  # positive definite
VECTOR = torch.tensor([0.25, 0.75, 0.5])
CUBE = torch.arange(18.0).reshape(2, 3, 3) / 20
SCALAR = torch.tensor(1.0)
BASES = {"matrix": MATRIX, "vector": VECTOR, "scalar": SCALAR, "cube": CUBE}
INDEX = torch.tensor([0, 2, 1])
ROW = torch.tensor([[0, 2, 1]])
MASK = torch.tensor([[True, False, True]] * 3)
ARGUMENTS: list[tuple[Any, ...]] = [
    (), (2,), (0,), (MATRIX,), (VECTOR,), (0, 1), (INDEX,), (0, INDEX), (0, 2.0), (0, ROW), (0, ROW.expand(3, 3)),
    (MASK,), (MASK, 1.0), (torch.float64,), (MATRIX, MATRIX), (CUBE, CUBE), (VECTOR, VECTOR), (MATRIX, VECTOR),
    (2, 3), (0, INDEX, 2.0), (0, INDEX, MATRIX), (0, ROW, MATRIX[:1]), (MASK, MATRIX), (CUBE,), ((0, 1),), (1, 0, 2),
    (3, 1), (0, 0, 1), (0, 1.5, 3.0), ("cpu",), (1, 2, 0, 1), (0.5, 1.5), (0.5,), ((2, 2), (1, 1)),
    (MATRIX[:2, :2], (2, 2), (1, 1)), ((INDEX,), MATRIX), ((3, 3), 2.0), (INDEX, VECTOR), (0, ROW, MATRIX[:1], "sum"),
    (0, INDEX, MATRIX, "prod"), (MATRIX[0], 0, 0), ([1, 2],), (-1, (3, 1)), (4, 2, 4, torch.ones(4)), (INDEX, 2),
    ((1, 1),), (MATRIX, INDEX), (0, 2), (2, 0, 1),
]  # fmt: skip
KEYWORDS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "nonzero_static": ("matrix", (), {"size": 4}),
    "stft": ("vector", (2,), {"window": torch.ones(2), "return_complex": True, "center": False}),
    "__array_wrap__": ("matrix", (np.ones((3, 3)),), {}),
    "__dlpack__": ("matrix", (), {}),
    "ormqr": ("matrix", (VECTOR, MATRIX), {}),
    "lu_solve": ("matrix", (MATRIX, torch.tensor([1, 2, 3], dtype=torch.int32)), {}),
    "__format__": ("scalar", (".3f",), {}),
    "__invert__": ("matrix", (), {}),
}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


class Call(NamedTuple):
    """A call that a Parameter answers, or the last one that it does not."""

    base: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


NAMES = [name for name in dir(Tensor) if is_public(name) and name not in OBJECTS_OWN | PROTOCOL]
ANSWERED = [name for name in NAMES if name not in REFUSED]
METHODS = [name for name in ANSWERED if callable(getattr(Tensor, name, None))]
ATTRIBUTES = [name for name in ANSWERED if name not in METHODS]


def parameter(base: str) -> nn.Parameter:
    return nn.Parameter(BASES[base].clone())


def computed(base: str) -> ComputedParameter:
    return ComputedParameter.from_value(parameter(base), Identity)


def call_for(name: str) -> Call:
    """The first call that a Parameter answers."""
    if name in KEYWORDS:
        return Call(*KEYWORDS[name])
    with torch.no_grad():
        for base, args in itertools.product(BASES, ARGUMENTS):
            call = Call(base, args, {})
            found = outcome(parameter(base), name, call)
            if found is not NotImplemented and not isinstance(found, Exception):
                return call
    return Call("matrix", (MATRIX,) if name.startswith("__") else (), {})


def first_call(name: str) -> tuple[nn.Parameter, str, Call]:
    call = call_for(name)
    return parameter(call.base), name, call


def outcome(subject: Any, name: str, call: Call) -> Any:
    """What the call gives: a result, or the error that it raises."""
    args, kwargs = copy.deepcopy((call.args, call.kwargs))
    torch.default_generator.manual_seed(0)
    try:
        result = getattr(subject, name)(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, AssertionError, BufferError) as error:
        return error
    return list(result) if isinstance(result, Iterator) else result


def same(found: Any, expected: Any, *, bits: bool = True) -> None:
    """Equal, where a Parameter that a method returns as it is stands for its value."""
    if isinstance(expected, Exception):
        assert isinstance(found, (type(expected), AttributeError)), found
        assert without_kind(str(found)) == without_kind(str(expected))
        return
    found_leaves, found_tree = pytree.tree_flatten(found)
    expected_leaves, expected_tree = pytree.tree_flatten(expected)
    assert found_tree == expected_tree
    for one, other in zip(found_leaves, expected_leaves, strict=True):
        one = one.value() if isinstance(one, ComputedParameter) else one
        if isinstance(other, Tensor):
            assert isinstance(one, Tensor)
            assert (one.shape, one.dtype, one.layout) == (other.shape, other.dtype, other.layout)
            if bits and other.layout is torch.strided:
                torch.testing.assert_close(one.detach(), other.detach(), rtol=0, atol=0, equal_nan=True)
        elif isinstance(other, np.ndarray):
            np.testing.assert_array_equal(one, other)
        else:
            assert type(one) is type(other)
            assert str(one) == str(other) if callable(other) else one == other or one != one


def without_kind(message: str) -> str:
    """An error's first line, without what calls a Parameter a Parameter."""
    return re.sub(r"Parameter|Tensor", "", message.split("\n")[0]).replace("torch.nn.parameter.", "torch.")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_answers_as_that_of_a_parameter(name: str):
    call = call_for(name)
    plain, ours = parameter(call.base), computed(call.base)
    with torch.no_grad():
        expected, found = outcome(plain, name, call), outcome(ours, name, call)
    if name in ADDRESSES:
        assert type(found) is type(expected)
        return
    if name in DIFFERENT:
        assert str(found) != str(expected)
        return
    same(found, expected, bits=name not in UNINITIALISED)
    # a method that writes has written the same, and no other has written anything
    same(ours.value(), plain)
    assert (found is ours) is (expected is plain and writes(name))


def writes(name: str) -> bool:
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or (name.startswith("__i") and name not in ("__iter__", "__int__", "__index__", "__invert__"))


@pytest.mark.parametrize("name", [name for name in METHODS if writes(name) and name not in ("requires_grad_",)])
def test_a_method_that_writes_raises_in_grad_mode_as_on_a_leaf(name: str):
    call = call_for(name)
    ours = computed(call.base)
    with torch.no_grad():
        possible = outcome(parameter(call.base), name, call)
    if not isinstance(possible, Exception):
        with pytest.raises(RuntimeError, match=r"leaf Variable that requires grad.*write under torch.no_grad"):
            getattr(ours, name)(*call.args, **call.kwargs)
    assert torch.equal(ours.raws["raw"], BASES[call.base])


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_is_that_of_a_parameter(name: str, base: str):
    plain, ours = parameter(base), computed(base)
    with torch.no_grad():
        expected, found = attribute(plain, name), attribute(ours, name)
    if name not in DIFFERENT:
        same(found, expected)
        return
    with torch.enable_grad():
        assert attribute(ours, name) != attribute(plain, name)


def attribute(subject: Any, name: str) -> Any:
    try:
        return getattr(subject, name)
    except (RuntimeError, TypeError, AttributeError) as error:  # a TypeError since torch 2.15
        return error


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why_and_changes_nothing(name: str):
    ours = computed("matrix")
    assert name in dir(Tensor)
    message = re.escape(f"has no {name}: {REFUSED[name]}")
    with torch.no_grad(), pytest.raises(ComputedParameterError, match=message):
        getattr(ours, name)()
    assert torch.equal(ours, MATRIX)


def test_no_name_is_missing_and_none_is_listed_in_vain(evidence: Callable[[str, str], None]):
    missing = [name for name in NAMES if name not in dir(ComputedParameter) and name != "__delitem__"]
    assert missing == []
    assert set(REFUSED) | set(DIFFERENT) | set(KEYWORDS) | UNINITIALISED | ADDRESSES <= set(NAMES)
    assert len(NAMES) > 660
    # compared by what they give; the others need integers, complex numbers, sparse tensors or another device
    with torch.no_grad():
        failing = [name for name in METHODS if isinstance(outcome(*first_call(name)), Exception)]
    assert len(failing) < 75
    evidence(
        "names of torch.Tensor, public and dunder, that a computed parameter answers as a Parameter does",
        f"{len(ANSWERED)} of {len(NAMES)}; {len(REFUSED)} are refused by name, {len(DIFFERENT)} differ for a reason",
    )


def test_names_that_a_module_has_as_well_follow_the_tensor():
    shared = {name for name in set(dir(Tensor)) & set(dir(nn.Module)) if not name.startswith("_")}
    assert shared == SHARED_NAMES_THAT_FOLLOW_THE_TENSOR
    methods = set(dir(nn.Module)) - set(dir(object)) - shared - {"forward", "train"}
    taken = {name for name in methods if not name.startswith("_") and owner(name) is not nn.Module}
    assert taken == {"named_modules"}  # who lists parameters finds them projected


def owner(name: str) -> type:
    return next(cls for cls in ComputedParameter.__mro__ if name in vars(cls))


MOVES: dict[str, Callable[[Any], Any]] = {
    "float": lambda w: w.float(),
    "double": lambda w: w.double(),
    "half": lambda w: w.half(),
    "bfloat16": lambda w: w.bfloat16(),
    "cpu": lambda w: w.cpu(),
    "to, dtype": lambda w: w.to(torch.float64),
    "to, device": lambda w: w.to("cpu"),
    "to, other": lambda w: w.to(torch.ones(1, dtype=torch.float16)),
    "to, copy": lambda w: w.to("cpu", copy=True),
    "type": lambda w: w.type(torch.float64),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_move_gives_a_tensor_and_changes_nothing_in_the_model(move: str):
    host = nn.Linear(3, 3)
    with torch.no_grad():
        host.weight.copy_(MATRIX)
    expected = MOVES[move](host.weight)
    raw = host.weight
    surgery.apply_constraints(host, {"weight": Identity})
    found = MOVES[move](host.weight)
    assert type(found) is Tensor
    same(found, expected)
    assert host.weight.raws["raw"] is raw
    assert (raw.dtype, host.weight.dtype) == (torch.float32, torch.float32)
    assert torch.equal(raw, MATRIX)
    assert host.weight.type() == "torch.FloatTensor"
    # gradients flow through it
    found.double().sum().backward()
    assert torch.equal(raw.grad, torch.ones(3, 3))
    # a move of the module reaches the raw
    host.double()
    assert host.weight.raws["raw"].dtype == host.weight.dtype == host.weight.value().dtype == torch.float64


SYNTAX: dict[str, Callable[[Any], Any]] = {
    "//": lambda w: w // 0.3,
    "%": lambda w: w % 0.3,
    "**": lambda w: w**2,
    "reflected //": lambda w: 7 // w,
    "reflected %": lambda w: 7 % w,
    "reflected **": lambda w: 2**w,
    "reflected -": lambda w: 1 - w,
    "reflected /": lambda w: 1 / w,
    "reflected @": lambda w: MATRIX @ w,
    "@ itself": lambda w: w @ w,
    "pow": lambda w: pow(w, 2),
    "abs": abs,
    "neg": operator.neg,
    "len": len,
    "iter": lambda w: list(iter(w)),
    "unpacking": lambda w: (*w,),
    "reversed": reversed,
    "in": lambda w: 3.0 in w,
    "not in": lambda w: 5.0 in w,
    "==": lambda w: w == MATRIX,
    "!=": lambda w: w != 3.0,
    "== None": lambda w: w == None,  # noqa: E711 - the operator is what is tested
    "chained comparison": lambda w: (w[1, 1] > 1) & (w[1, 1] <= 3),
    "index": lambda w: w[1],
    "two indices": lambda w: w[1, 2],
    "slice": lambda w: w[:, 1:],
    "ellipsis and None": lambda w: w[..., None],
    "index by tensor": lambda w: w[INDEX],
    "index by mask": lambda w: w[w > 0],
    "index by list": lambda w: w[[0, 2]],
    "float": lambda w: float(w[0, 0]),
    "int": lambda w: int(w[0, 0]),
    "bool": lambda w: bool(w[0, 0]),
    "complex": lambda w: complex(w[0, 0]),
    "format": lambda w: f"{w[0, 0]:.2f}",
    "sum": sum,
    "numpy": lambda w: np.asarray(w),
    "numpy, dtype": lambda w: np.array(w, dtype=np.float64),
    "numpy function": lambda w: np.stack([w, w]),
    "numpy number *": lambda w: np.float32(2) * w,
    "* numpy array": lambda w: w * np.ones((3, 3), dtype=np.float32),
    "tolist": lambda w: w.tolist(),
    "sorted": lambda w: sorted(w[0]),
}


@pytest.mark.parametrize("syntax", SYNTAX)
def test_python_s_syntax(syntax: str):
    with torch.no_grad():
        same(SYNTAX[syntax](computed("matrix")), SYNTAX[syntax](parameter("matrix")))


NUMBERS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "int": int,
    "bool": bool,
    "complex": complex,
    "format": lambda w: f"{w:.3f}",
    "plain format": lambda w: f"{w:8}",
    "item": lambda w: w.item(),
    "range": lambda w: torch.arange(w + 2),
    "index": lambda w: [5, 6, 7][w.int()],
}


@pytest.mark.parametrize("number", NUMBERS)
def test_one_number_is_a_number(number: str):
    with torch.no_grad():
        same(NUMBERS[number](computed("scalar")), NUMBERS[number](SCALAR))


@pytest.mark.parametrize("refused", [int, float, complex, bool, operator.index])
def test_several_numbers_are_no_number(refused: Callable[[Any], Any]):
    for base in ("matrix", "vector"):
        with pytest.raises((RuntimeError, TypeError, ValueError)) as expected:
            refused(parameter(base))
        with pytest.raises(type(expected.value), match=re.escape(str(expected.value).split("\n")[0])):
            refused(computed(base))


def test_more_than_a_tensor_has():
    w = computed("matrix")
    quotient, remainder = divmod(w, 0.3)
    assert torch.equal(quotient, MATRIX // 0.3)
    assert torch.equal(remainder, MATRIX % 0.3)
    quotient, remainder = divmod(7, w)
    assert torch.equal(quotient, 7 // MATRIX)
    assert torch.equal(remainder, 7 % MATRIX)
    assert torch.equal(round(w), torch.round(MATRIX))
    assert torch.equal(round(w, 1), torch.round(MATRIX, decimals=1))


def test_identity_decides_where_modules_are_compared_and_hashed():
    w, other = computed("matrix"), computed("matrix")
    assert (w == w) is True
    assert (w == other) is False
    assert (w != other) is True
    assert (w == nn.Linear(1, 1)) is False
    assert hash(w) == hash(w)
    assert len({w, other, w}) == 2
    assert {w: 1}[w] == 1
    assert [other, w].index(w) == 1
    assert bool(torch.all(w == MATRIX))
    assert bool(torch.all(MATRIX == w))  # noqa: SIM300 - the reflected operator is what is tested


@pytest.mark.parametrize("sign", [operator.lt, operator.le, operator.gt, operator.ge])
def test_order_between_computed_parameters_is_that_of_their_values(sign: Callable[[Any, Any], Any]):
    w, other = computed("matrix"), ComputedParameter.from_value(MATRIX.T + 0.1, Identity)
    assert torch.equal(sign(w, other), sign(MATRIX, MATRIX.T + 0.1))
    assert torch.equal(sign(1.0, other), sign(1.0, MATRIX.T + 0.1))


class Bystander:
    """Something that knows how to be on the right of any operator."""

    def __radd__(self, other: object) -> str:
        return f"added to {type(other).__name__}"


def test_an_operand_that_answers_for_itself_is_asked():
    assert computed("matrix") + Bystander() == "added to Tensor"
    with pytest.raises(TypeError, match="unsupported operand"):
        computed("matrix") + "text"


CONSTRUCTORS: dict[str, tuple[Callable[[Any], object], str]] = {
    "torch.tensor": (torch.tensor, "Can't export tensors that require gradient, use tensor.detach"),
    "torch.as_tensor": (torch.as_tensor, "Can't export tensors that require gradient, use tensor.detach"),
    "torch.asarray": (torch.asarray, "Can't export tensors that require gradient, use tensor.detach"),
    "torch.from_dlpack": (torch.from_dlpack, "Can't export tensors that require gradient, use tensor.detach"),
    "nn.Parameter": (nn.Parameter, "Creating a Parameter from an instance of type ComputedParameter"),
    "torch.Tensor": (torch.Tensor, "ComputedParameter"),
    "torch.FloatTensor": (torch.FloatTensor, "ComputedParameter"),
    "np.asarray": (np.asarray, "Can't call numpy.* on Tensor that requires grad. Use tensor.detach"),
}


@pytest.mark.parametrize("constructor", CONSTRUCTORS)
def test_constructors_that_do_not_ask_fail_and_say_why(constructor: str):
    build, message = CONSTRUCTORS[constructor]
    with pytest.raises((BufferError, RuntimeError, TypeError), match=message):
        build(computed("matrix"))


@pytest.mark.parametrize("copying", [torch.tensor, np.array])
def test_without_gradients_a_constructor_that_copies_gives_the_numbers(copying: Callable[[Any], Any]):
    w = computed("matrix")
    with torch.no_grad():
        copied = copying(w)
    assert np.array_equal(np.asarray(copied), MATRIX.numpy())
    copied[0] = 7
    assert torch.equal(w, MATRIX)


@pytest.mark.parametrize("attribute", ["shape", "dtype", "device", "ndim", "requires_grad", "is_meta", "is_cuda"])
def test_metadata_is_known_without_the_value(attribute: str):
    class Unreadable(Identity):
        def forward(self, raw: Tensor) -> Tensor:
            raise AssertionError("evaluated")

    w = computed("matrix")
    w.constraints[0].__class__ = Unreadable
    assert getattr(w, attribute) == getattr(parameter("matrix"), attribute)
    assert (w.size(), w.size(-1), w.dim(), w.numel()) == (MATRIX.shape, 3, 2, 9)
    assert w.is_floating_point()
    assert isinstance(repr(w), str)
    with pytest.raises(AssertionError, match="evaluated"):
        w.sum()


@pytest.mark.parametrize("name", ["shape", "dtype", "device", "T", "real", "is_cuda"])
def test_what_a_tensor_does_not_let_one_set_cannot_be_set(name: str):
    w = computed("matrix")
    with pytest.raises(AttributeError, match=rf"{name}|no setter"):
        setattr(w, name, MATRIX)
    assert torch.equal(w, MATRIX)


def test_a_gradient_is_that_of_the_raws():
    w = computed("matrix")
    w.grad = None
    with pytest.raises(ComputedParameterError, match=r"gradients accumulate in the raws; set those of w\.raws"):
        w.grad = torch.ones(3, 3)
    w.sum().backward()
    assert w.grad is None
    assert torch.equal(w.raws["raw"].grad, torch.ones(3, 3))


def test_it_is_no_tensor_and_says_so():
    w = computed("matrix")
    assert not isinstance(w, Tensor)
    assert not isinstance(w, nn.Parameter)
    assert not torch.is_tensor(w)
    assert w.__class__ is ComputedParameter
