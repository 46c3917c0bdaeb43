"""Branches on sizes and dtypes: taken as on the example, and asserted at each call of the graph."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import surgery
from surgery.graph.decided import decided
from tests.surgery.graph.sides import calls_of_values


class Net(nn.Module):
    """A host, and modules that are kept whole before it."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.conv = nn.Conv2d(4, 5, 1)
        self.channels = 3


class Channels(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.channels:
            raise ValueError("channels")
        return self.conv(self.before(x))


class Held(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.before(x)) if x.shape[2] == x.shape[3] else x


class Remainder(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % 2:
            x = F.pad(x, (0, 1, 0, 1))
        return self.conv(self.before(x))


class Dtype(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        if x.dtype != torch.float32:
            x = x.float()
        return self.conv(x)


class Behind(Net):
    """Asks for a size behind modules that are kept whole, one of which follows statistics and one of which draws."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        height, width = x.shape[-2:]
        if height > 2 and not width <= 2:
            x = x[:, :, :-1]
        return self.conv(x)


class Star(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.before(x)).flatten(2)
        rows = x.shape[:-1]
        return x.reshape(*rows, 1, -1).squeeze(-2)


class Rank(Net):
    def forward(self, x: Tensor) -> Tensor:
        if len(x.shape) == 3:
            x = x[None]
        if x.dim() != 4 or x.ndim < 4 or x.size(0) == 0 or x.numel() < 3:
            raise ValueError("rank")
        return self.conv(self.before(x))


class Counted(Net):
    """A loop over a size, which it fixes."""

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.conv(self.before(x))[:, :, row] for row in range(int(self.before(x).shape[2] / 1.0))]
        return torch.stack(parts, 2)


class Unbound(Net):
    """A loop over the parts of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return sum(part * len(x.unbind(1)) for part in self.conv(self.before(x)).unbind(1))


class Smallest(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.before(x)) * float(min(x.shape[2:]) <= 7)


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*(shape or (2, 3, 7, 7)), dtype=dtype)


def both(kind: type[Net], example: Tensor | None = None) -> tuple[fx.GraphModule, nn.Module]:
    torch.manual_seed(0)
    model, x = kind(), images() if example is None else example
    graph = surgery.apply_constraints(model, {"conv.weight": "spectral"}, via="fx", example=(x,))
    return graph, surgery.apply_constraints(model, {"conv.weight": "spectral"})


# each with inputs for which the branch is the same, and inputs for which it is another
KINDS: list[tuple[type[Net], tuple[Tensor, ...], tuple[Tensor, ...]]] = [
    (Channels, (images(5, 3, 9, 8),), (images(2, 4, 7, 7),)),
    (Held, (images(1, 3, 9, 9),), (images(2, 3, 7, 8),)),
    (Remainder, (images(1, 3, 9, 8),), (images(2, 3, 8, 8),)),
    (Behind, (images(4, 3, 11, 9),), (images(2, 3, 5, 5),)),
    (Star, (images(4, 3, 9, 9),), ()),
    (Rank, (images(4, 3, 9, 9),), (images(3, 7, 7),)),
    (Counted, (images(4, 3, 7, 9),), (images(2, 3, 9, 9),)),
    (Unbound, (images(4, 3, 9, 9),), (images(2, 4, 7, 7),)),
    (Smallest, (images(4, 3, 5, 9),), (images(2, 3, 9, 9),)),
]
IDS = [kind.__name__ for kind, *_ in KINDS]


@pytest.mark.parametrize(("kind", "alike", "others"), KINDS, ids=IDS)
def test_the_graph_is_the_model_where_the_branch_is_the_same(kind, alike, others):
    """In training and in eval, on the example and on other sizes; statistics too."""
    graph, tree = both(kind)
    assert calls_of_values(graph) == ["conv.weight"]
    for x in (images(), *alike):
        for training in (True, False):
            results = []
            for side in (graph, tree):
                torch.manual_seed(1)
                results.append(side.train(training)(x))
            torch.testing.assert_close(*results)
    torch.testing.assert_close(list(graph.state_dict().values()), list(tree.state_dict().values()))


@pytest.mark.parametrize(
    ("kind", "x"),
    [(kind, x) for kind, _, others in KINDS for x in others],
    ids=[kind.__name__ for kind, _, others in KINDS for _ in others],
)
def test_the_graph_raises_where_the_branch_is_another(kind, x):
    """With the statement, and before anything is computed wrongly."""
    graph, _ = both(kind)
    with pytest.raises((ValueError, RuntimeError)) as error:
        graph.eval()(x)
    told = "the model took another branch on the example of its graph: `"
    assert told in str(error.value) or "channels" in str(error.value)


def test_dtypes_are_those_of_a_call_without_autocast():
    """The trace in eval runs under autocast, where a convolution would give bfloat16; the model does not."""
    graph, tree = both(Dtype)
    x = images()
    torch.testing.assert_close(graph.eval()(x), tree.eval()(x))
    with pytest.raises(ValueError, match="another branch"), torch.autocast("cpu", dtype=torch.bfloat16):
        graph(x)


class Table(Net):
    """Looks sizes and dtypes up."""

    def forward(self, x: Tensor) -> Tensor:
        scale = {3: 2.0, 4: 5.0}.get(x.shape[1], 1.0) * {(2, 3, 7, 7): 3.0}.get(x.shape, 1.0)
        scale = scale + (x.dtype in {torch.float16, torch.float64})
        return self.conv(self.before(x.float())) * scale


class Text(Net):
    """Has sizes in texts."""

    def forward(self, x: Tensor) -> Tensor:
        scale = {"n3": 2.0}.get(f"n{x.shape[1]}", 1.0) + ("8" in str(tuple(x.shape))) + len(f"{x.dtype}")
        return self.conv(self.before(x.float())) * scale


class Fraction(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.before(x)) * int(x.shape[2] / 2)


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        (Table, (images(2, 3, 7, 8), images(3, 3, 7, 7), images(2, 3, 7, 7, dtype=torch.float64))),
        (Text, (images(2, 3, 7, 8), images(2, 3, 7, 7, dtype=torch.float64))),
        (Fraction, (images(2, 3, 9, 7),)),
    ],
)
def test_sizes_that_are_looked_up_or_written_are_fixed(kind: type[Net], others: tuple[Tensor, ...]):
    """A dictionary, a set and a text know one size: that of the example."""
    graph, tree = both(kind)
    x = images()
    torch.testing.assert_close(graph.eval()(x), tree.eval()(x))
    for other in others:
        with pytest.raises(ValueError, match="another branch"):
            graph(other)


@pytest.mark.parametrize("kind", [Table, Text])
def test_without_an_example_no_size_is_looked_up(kind: type[Net]):
    with pytest.raises(surgery.TraceRefusedError, match=r"looks a size up, or writes it into a text.*pass example="):
        surgery.apply_constraints(kind(), {"conv.weight": "spectral"}, via="fx")


class Makes(Net):
    """Sizes go into functions of torch, which leave them free."""

    def forward(self, x: Tensor) -> Tensor:
        b, n = x.size(0), x.shape[2]
        x = self.conv(self.before(x))
        grid = torch.zeros((b, 1, 1, 1)) + torch.full((b, 1, 1, 1), 2.0) + torch.arange(4.0).repeat(b, 1).sum()
        return x + grid + torch.ones(1, 1, 1, 1).expand((b, 1, 1, 1)) + torch.eye(n).sum()


def test_sizes_in_calls_of_torch_stay_free():
    """They are no numbers of Python."""
    graph, tree = both(Makes)
    for x in (images(), images(5, 3, 9, 8)):
        torch.testing.assert_close(graph.eval()(x), tree.eval()(x))


class Wrong(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        return self.conv(y) if y.shape[1] > 2 else y


def test_what_raises_on_the_example_is_told():
    """As it is, and not as a branch."""
    with pytest.raises(surgery.TraceRefusedError, match=r"raises on the example: RuntimeError: .*channels"):
        both(Wrong, images(2, 5, 7, 7))


class Numbers(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.before(x)) if x.sum() > 0 else x


class Mixed(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.before(x)) if x.argmax() != x.shape[2] else x


class MadeOfSizes(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.before(x)) if torch.arange(x.shape[1]).sum() > 0 else x


class Length(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.before(x)) * len(x)


class Whole(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.before(x)) * int(x.sum())


class Truth(Net):
    """A shape is true where it is not empty: nobody means that."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.before(x)) if x.shape else x


@pytest.mark.parametrize("kind", [Numbers, Mixed, MadeOfSizes, Length, Whole, Truth])
def test_what_depends_on_numbers_is_refused(kind: type[Net]):
    with pytest.raises(surgery.TraceRefusedError, match=r"test_deciding\.py:\d+: `return self\.conv"):
        both(kind)


@pytest.mark.parametrize("kind", [kind for kind, *_ in KINDS], ids=IDS)
def test_without_an_example_nothing_is_decided(kind: type[Net]):
    with pytest.raises(surgery.TraceRefusedError, match="via='export' with an example"):
        surgery.apply_constraints(kind(), {"conv.weight": "spectral"}, via="fx")


def test_asking_leaves_model_and_random_numbers_alone():
    """Statistics of the model and of the graph, the global generator, and modes."""
    model, x = Behind(), images()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    graph = surgery.apply_constraints(model, {"conv.weight": "positive"}, via="fx", example=(x,))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert all(torch.equal(one, before[key]) for key, one in model.state_dict().items())
    assert int(graph.get_submodule("before.1").num_batches_tracked) == 0


def scripted(graph: nn.Module) -> nn.Module:
    return torch.jit.script(graph)


def pickled(graph: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(graph))


def cleaned(graph: fx.GraphModule) -> nn.Module:
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def compiled(graph: nn.Module) -> nn.Module:
    return torch.compile(graph, backend="aot_eager", fullgraph=True)


def traced_again(graph: nn.Module) -> nn.Module:
    return fx.symbolic_trace(surgery.bake(graph))


def traced_by_jit(graph: nn.Module) -> nn.Module:
    return torch.jit.trace(graph, images())


@pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level:UserWarning")
@pytest.mark.filterwarnings("ignore:The use of .x.T. on tensors:UserWarning")  # jit.trace asks for all attributes
@pytest.mark.filterwarnings("ignore:volatile was removed:UserWarning")
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean:torch.jit.TracerWarning")
@pytest.mark.filterwarnings(
    "ignore:.torch.jit.(script|script_method|save|load|trace|trace_method). is:DeprecationWarning"
)
@pytest.mark.parametrize(
    "way", [scripted, pickled, copy.deepcopy, cleaned, compiled, surgery.bake, traced_again, traced_by_jit]
)
@pytest.mark.parametrize("kind", [Channels, Remainder, Behind, Star, Rank])
def test_assertions_go_where_the_graph_goes(kind: type[Net], way: Callable[[nn.Module], nn.Module]):
    """Equal outputs, and the error still."""
    graph, tree = both(kind)
    x = images()
    made = way(graph.eval())
    torch.testing.assert_close(made(x), tree.eval()(x))
    others = () if way is traced_by_jit else {one: wrong for one, _, wrong in KINDS}[kind]  # it records no branch
    for wrong in others:
        with pytest.raises(Exception, match=r"another branch|channels|expected"):
            made(wrong)


def test_a_bake_keeps_the_assertions():
    """Node by node the graph, but for the call of the weight."""
    graph, _ = both(Remainder)
    baked = surgery.bake(graph)
    kept = [(node.name, node.target) for node in graph.graph.nodes if node.name != "conv_weight"]
    assert [(node.name, node.target) for node in baked.graph.nodes if node.name != "conv_weight"] == kept
    assert sum(node.target is decided for node in baked.graph.nodes) == 1


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_exports_hold_the_branch(dynamic: bool):
    """An export of the graph has the sizes that the branch allows."""
    graph, tree = both(Held if dynamic else Channels)
    x = images(2, 3, 7, 7)
    shapes = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},) if dynamic else None
    program = torch.export.export(graph.eval(), (x,), dynamic_shapes=shapes)
    for one in (x, images(3, 3, 9, 9)) if dynamic else (x,):
        torch.testing.assert_close(program.module()(one), tree.eval()(one))
