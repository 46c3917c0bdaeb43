"""Ten networks by the graph route: what they compute, train, save, bake and become, against the tree route.

The truth of the tree route is held elsewhere; that of a baked graph is the trace of the plain model.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import computed
import surgery
from surgery.graph.arguments import call_of
from surgery.graph.module import ConstrainedGraph
from surgery.graph.tracing import modules_to_inline, traced
from tests.conftest import SIZE_VARIABLE
from tests.surgery.graph.networks import NETWORKS, Loop, Network
from tests.surgery.picture import differences, picture

# specs for every matrix of a network, or every parameter
EVERY_MATRIX = ("spectral", "spectral(bound=0.5)", "orthogonal", "weight_norm", "lora(rank=2)")
EVERY_PARAMETER = ("positive", "interval(-2, 2)")
NO_MATRICES = ("cls", "pos", "start")
DTYPES = {"float64": torch.float64, "float32": torch.float32}
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
    # an eps under which gradients of rounding stay small
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, eps=1e-4),
}
SCRIPTED = {"small": ("unet", "vit", "autoencoder"), "full": tuple(NETWORKS)}
COMPILED = {"small": ("resnet", "cell"), "full": tuple(NETWORKS)}
SCRIPT_WARNING = "ignore:The TorchScript type system doesn't support instance-level annotations:UserWarning"
# torch's own pytree asks a deprecated question when it copies a specification
TREESPEC = "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"

# it asks a module for every name, deprecated ones as well, and warns where shapes are compared
JIT_TRACE = (
    "ignore:volatile was removed:UserWarning",
    "ignore:The use of `x.T` on tensors of dimension other than 2:UserWarning",
    r"ignore:Tensor\.(T|H|mT|mH) is deprecated on 0-D tensors:UserWarning",
    "ignore:Converting a tensor to a Python boolean might cause:torch.jit.TracerWarning",
    "ignore:Using len to get tensor shape might cause:torch.jit.TracerWarning",
)

EVERY_NETWORK = pytest.mark.parametrize("name", NETWORKS)
# with batch normalisation, attention, a loop over a cell, ties: the others differ from these in nothing but their size
FEW = ("resnet", "vit", "cell", "autoencoder")
SOME_NETWORKS = pytest.mark.parametrize("name", NETWORKS if os.environ.get(SIZE_VARIABLE) == "full" else FEW)
BOTH_MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@dataclass(frozen=True)
class Case:
    """A plain model, both results, and a batch."""

    plain: nn.Module
    tree: nn.Module
    graph: fx.GraphModule
    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]

    @property
    def batch(self) -> tuple[Tensor, ...]:
        """All inputs, as a graph takes them by position."""
        return (*self.args, *self.kwargs.values())

    def of_tree(self) -> Any:
        torch.manual_seed(1)
        return self.tree(*self.args, **self.kwargs)

    def of_graph(self) -> Any:
        torch.manual_seed(1)
        return self.graph(*self.args, **self.kwargs)


def case_of(name: str, dtype: torch.dtype = torch.float32, rules: dict[str, object] | None = None) -> Case:
    """Both routes from one plain model, whose parameters and raws are nowhere zero or one by their initialisation."""
    network: Network = NETWORKS[name]
    plain = network.make().to(dtype)
    _shake([plain])
    args, kwargs = pytree.tree_map(lambda tensor: _input(tensor, dtype), (network.args(), network.kwargs()))
    chosen = network.rules if rules is None else rules
    tree = surgery.apply_constraints(copy.deepcopy(plain), chosen)
    graph = surgery.apply_constraints(plain, chosen, via="fx", example=(args, kwargs))
    assert isinstance(graph, fx.GraphModule)
    _shake([tree, graph])
    return Case(plain, tree, graph, args, kwargs)


def _input(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype).requires_grad_() if tensor.is_floating_point() else tensor


def _shake(models: list[nn.Module]) -> None:
    """Move what is trained, by the same in all models."""
    with torch.no_grad():
        for raws in zip(*[model.parameters() for model in models], strict=True):
            noise = 0.05 * torch.randn_like(raws[0])
            for raw in raws:
                if raw.requires_grad:
                    raw.add_(noise)


def numbers(result: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def close(found: Any, expected: Any, tolerance: float = TOLERANCES[torch.float32]) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def equal(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def loss_of(result: Any) -> Tensor:
    return torch.stack([(output.square() + output).mean() for output in numbers(result)]).sum()


def gradients(model: nn.Module, batch: tuple[Tensor, ...], result: Any) -> list[Tensor | None]:
    """Of the inputs and of all raws."""
    leaves = [tensor for tensor in (*batch, *model.parameters()) if tensor.requires_grad]
    return list(torch.autograd.grad(loss_of(result), leaves, allow_unused=True))


def train(model: nn.Module, case: Case, optimizer: str) -> None:
    """Five steps, with an evaluation in between."""
    torch.manual_seed(2)
    stepping = OPTIMIZERS[optimizer]([raw for raw in model.parameters() if raw.requires_grad])
    model.train()
    for step in range(5):
        stepping.zero_grad()
        loss_of(model(*case.args, **case.kwargs)).backward()
        stepping.step()
        if step == 2:
            with torch.no_grad():
                model.eval()(*case.args, **case.kwargs)
            model.train()


def recorded(graph: fx.GraphModule) -> list[tuple[object, ...]]:
    """A graph without the names of its nodes."""
    place = {node: f"%{position}" for position, node in enumerate(graph.graph.nodes)}
    return [(node.op, node.target, *fx.node.map_arg((node.args, node.kwargs), place.__getitem__)) for node in place]


def called(graph: fx.GraphModule) -> list[nn.Module]:
    """The module of each node that calls one."""
    return [graph.get_submodule(str(node.target)) for node in graph.graph.nodes if node.op == "call_module"]


def values_called(graph: fx.GraphModule) -> Counter[int]:
    """The number of nodes that call each computed parameter."""
    return Counter(id(module) for module in called(graph) if isinstance(module, computed.ComputedParameter))


def is_adapter(weight: computed.ComputedParameter) -> bool:
    """Whether operations are done by the factors of a weight, which is no value then."""
    return type(weight.constraints[-1]).__name__ == "LoRA"


def same_in_eval(graph: fx.GraphModule, found: Any, expected: Any) -> None:
    """Bit for bit; to rounding where an operation is done by factors."""
    adapted = any(map(is_adapter, surgery.computed_parameters(graph).values()))
    (close if adapted else equal)(found, expected)


# 1: what they compute


@BOTH_MODES
@pytest.mark.parametrize("dtype", DTYPES)
@EVERY_NETWORK
def test_a_graph_computes_and_differentiates_as_the_tree(name: str, dtype: str, training: bool):
    case = case_of(name, DTYPES[dtype])
    tolerance = TOLERANCES[DTYPES[dtype]]
    case.tree.train(training)
    case.graph.train(training)
    expected, found = case.of_tree(), case.of_graph()
    close(found, expected, tolerance)
    close(gradients(case.graph, case.batch, found), gradients(case.tree, case.batch, expected), tolerance)
    close(dict(case.graph.named_buffers()), dict(case.tree.named_buffers()), tolerance)


@SOME_NETWORKS
def test_every_weight_may_be_computed(name: str, size: str):
    """All weights by one spec, which are as many and as different hosts as a network has."""
    specs = [*EVERY_MATRIX, *EVERY_PARAMETER]
    for spec in specs if size == "full" else random.sample(specs, 2):
        everything_computed(name, spec)


def everything_computed(name: str, spec: str) -> None:
    rules: dict[str, object] = {
        key: spec
        for key, tensor in NETWORKS[name].make().named_parameters()
        if spec in EVERY_PARAMETER or (tensor.dim() > 1 and key not in NO_MATRICES)
    }
    case = case_of(name, torch.float64, rules)
    for training in (True, False):
        case.tree.train(training)
        case.graph.train(training)
        expected, found = case.of_tree(), case.of_graph()
        close(found, expected, 1e-10)
        close(gradients(case.graph, case.batch, found), gradients(case.tree, case.batch, expected), 1e-10)
    assert list(case.graph.state_dict()) == list(case.tree.state_dict())


@EVERY_NETWORK
def test_names_stand_in_the_order_of_the_tree(name: str):
    case = case_of(name)
    assert list(case.graph.state_dict()) == list(case.tree.state_dict())
    for kind in ("named_parameters", "named_buffers"):
        for twice in (True, False):
            found = [key for key, _ in getattr(case.graph, kind)(remove_duplicate=twice)]
            assert found == [key for key, _ in getattr(case.tree, kind)(remove_duplicate=twice)]
    assert list(surgery.computed_parameters(case.graph)) == list(surgery.computed_parameters(case.tree))
    trained = [tensor.requires_grad for tensor in case.graph.parameters()]
    assert trained == [tensor.requires_grad for tensor in case.tree.parameters()]


@SOME_NETWORKS
def test_checkpoints_load_both_ways(name: str):
    case = case_of(name)
    train(case.tree, case, "sgd")
    case.graph.load_state_dict(case.tree.state_dict(), strict=True)
    equal(case.graph.state_dict(), case.tree.state_dict())
    close(case.of_graph(), case.of_tree())
    train(case.graph, case, "sgd")
    case.tree.load_state_dict(case.graph.state_dict(), strict=True)
    equal(case.tree.state_dict(), case.graph.state_dict())
    close(case.of_tree(), case.of_graph())


@SOME_NETWORKS
def test_a_plain_checkpoint_is_projected_into_the_graph(name: str):
    case = case_of(name)
    another = NETWORKS[name].make()
    case.tree.load_state_dict(another.state_dict(), strict=True)
    case.graph.load_state_dict(another.state_dict(), strict=True)
    equal(case.graph.state_dict(), case.tree.state_dict())
    close(case.of_graph(), case.of_tree())


# 2: how they train


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@EVERY_NETWORK
def test_five_steps_by_both_routes_end_with_equal_weights(
    name: str, optimizer: str, evidence: Callable[[str, str], None]
):
    """State of the power iteration too, and statistics; something has moved."""
    case = case_of(name)
    before = copy.deepcopy(case.graph.state_dict())
    train(case.tree, case, optimizer)
    train(case.graph, case, optimizer)
    after, expected = case.graph.state_dict(), case.tree.state_dict()
    assert list(after) == list(expected)
    for key in expected:
        torch.testing.assert_close(
            after[key], expected[key], rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )
    moved = [key for key in after if not torch.equal(after[key], before[key])]
    assert [raw for raw, tensor in case.graph.named_parameters() if tensor.grad is not None and raw not in moved] == []
    assert any(key.endswith((".u", ".v")) for key in moved) == any(key.endswith((".u", ".v")) for key in after)
    apart = max(float((after[key].double() - expected[key].double()).abs().max()) for key in expected)
    evidence(
        f"five training steps by graph and by tree, {name}, {optimizer}: largest difference of raws, state, statistics",
        f"{apart:.0e}",
    )


@SOME_NETWORKS
def test_an_optimizer_goes_on_from_the_other_route(name: str):
    """Its state is by position, and positions are the same."""
    case = case_of(name)
    stepping = [OPTIMIZERS["adam"](list(model.parameters())) for model in (case.tree, case.graph)]
    loss_of(case.of_tree()).backward()
    stepping[0].step()
    case.graph.load_state_dict(case.tree.state_dict())
    stepping[1].load_state_dict(copy.deepcopy(stepping[0].state_dict()))
    for optimizer, run in zip(stepping, (case.of_tree, case.of_graph), strict=True):
        optimizer.zero_grad()
        loss_of(run()).backward()
        optimizer.step()
    torch.testing.assert_close(case.graph.state_dict(), case.tree.state_dict(), rtol=1e-4, atol=1e-5)


# 3: how often values are evaluated


@EVERY_NETWORK
def test_each_computed_parameter_is_one_node(name: str):
    """But for those that are not used, and those that are done by their factors."""
    case = case_of(name)
    used = values_called(case.graph)
    assert set(used.values()) == {1}
    weights = surgery.computed_parameters(case.graph)
    others = {key for key, weight in weights.items() if id(weight) not in used}
    assert others <= {key for key, weight in weights.items() if key.startswith("unused.") or is_adapter(weight)}


@SOME_NETWORKS
def test_nothing_that_a_graph_calls_has_a_weight_to_compute(name: str):
    """A host that was left whole would read its weight at every call, and could not be scripted."""
    rules: dict[str, object] = {key: "positive" for key, _ in NETWORKS[name].make().named_parameters()}
    for graph in (case_of(name).graph, case_of(name, rules=rules).graph):
        hosts = [module for module in called(graph) if not isinstance(module, computed.ComputedParameter)]
        values = [type(module).__name__ for module in hosts if surgery.computed_parameters(module)]
        operations = [name for name in values if not name.endswith("Op")]  # these take their values as arguments
        assert operations == []


@pytest.mark.parametrize("times", [1, 2, 100])
def test_a_weight_is_one_node_whatever_its_uses(times: int):
    graph = surgery.apply_constraints(Loop(times), {"*weight": "spectral"}, via="fx", example=torch.randn(3, 4))
    assert isinstance(graph, fx.GraphModule)
    assert sorted(values_called(graph).values()) == [1, 1]
    users = [len(node.users) for node in graph.graph.nodes if str(node.target).endswith("weight")]
    assert users == [times, times]


@pytest.fixture
def evaluations() -> Iterator[tuple[Counter[str], computed.Constraint]]:
    """A constraint, and a count of its evaluations."""
    count: Counter[str] = Counter()

    def counted(raw: Tensor) -> Tensor:
        count["evaluations"] += 1
        return raw.tanh()

    return count, computed.function(counted, inverse=lambda value: value.clamp(-0.99, 0.99).atanh())


@BOTH_MODES
@pytest.mark.parametrize("times", [1, 2, 100])
def test_a_graph_evaluates_once_even_where_nothing_is_held(
    times: int, training: bool, evaluations: tuple[Counter[str], computed.Constraint]
):
    """The tree evaluates at each read then, which shows that something is counted."""
    count, constraint = evaluations
    plain, x = Loop(times), torch.randn(3, 4)
    tree = surgery.apply_constraints(copy.deepcopy(plain), {"weight": constraint})
    graph = surgery.apply_constraints(plain, {"weight": constraint}, via="fx", example=x)
    outputs = []
    for model, expected in ((graph, 1), (tree, times)):
        computed.caching(model.train(training), False)
        count.clear()
        outputs.append(model(x))
        assert count["evaluations"] == expected
        outputs[-1].sum().backward()
        assert count["evaluations"] == expected
    close(*outputs)


@BOTH_MODES
@EVERY_NETWORK
def test_every_network_evaluates_each_value_once(
    name: str, training: bool, evaluations: tuple[Counter[str], computed.Constraint]
):
    count, constraint = evaluations
    case = case_of(name, rules={"*.weight": constraint})
    computed.caching(case.graph.train(training), False)
    count.clear()
    case.of_graph()
    assert count["evaluations"] == len(values_called(case.graph)) > 0


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("cell", ("embedding.weight", "head.weight")),
        ("autoencoder", ("inner.weight", "again.weight")),
    ],
)
def test_a_tie_is_one_node_and_stays_a_tie(name: str, names: tuple[str, str]):
    case = case_of(name)
    for graph in (case.graph, copy.deepcopy(case.graph), pickle.loads(pickle.dumps(case.graph))):
        first, second = [graph.get_submodule(each) for each in names]
        assert first is second
        assert isinstance(first, computed.ComputedParameter)
        assert values_called(graph)[id(first)] == 1
    baked = surgery.bake(case.graph, names[1])
    assert baked.get_parameter(names[0]) is baked.get_parameter(names[1])


# 4: bake


@EVERY_NETWORK
def test_a_baked_graph_is_the_trace_of_the_plain_model(name: str):
    """Node by node: op, target, arguments; keys and their order; bit-equal in eval."""
    case = case_of(name)
    train(case.graph, case, "sgd")
    case.graph.eval()
    expected = case.of_graph()
    before, code = picture(case.graph), case.graph.code
    baked = surgery.bake(case.graph)
    assert differences(before, picture(case.graph)) == []
    assert case.graph.code == code
    assert isinstance(baked, fx.GraphModule)
    assert not surgery.computed_parameters(baked)
    torch.manual_seed(1)
    same_in_eval(case.graph, baked(*case.args, **case.kwargs), expected)
    call = call_of(case.plain, (case.args, case.kwargs))
    plain = traced(copy.deepcopy(case.plain), call, inlined=modules_to_inline(case.tree), lower={})
    assert recorded(baked) == recorded(plain)
    assert list(baked.state_dict()) == list(case.plain.state_dict())
    for kind in ("named_parameters", "named_buffers"):
        wanted = [key for key, _ in getattr(case.plain, kind)()]
        assert [key for key, _ in getattr(baked, kind)()] == wanted
    case.plain.load_state_dict(baked.state_dict(), strict=True)
    close(case.plain.eval()(*case.args, **case.kwargs), expected)


@SOME_NETWORKS
def test_a_graph_is_baked_as_the_tree_is(name: str):
    case = case_of(name)
    baked, expected = surgery.bake(case.graph), surgery.bake(copy.deepcopy(case.tree))
    equal(baked.state_dict(), expected.state_dict())
    trained = [tensor.requires_grad for tensor in baked.parameters()]
    assert trained == [tensor.requires_grad for tensor in expected.parameters()]
    for training in (True, False):
        torch.manual_seed(1)
        found = baked.train(training)(*case.args, **case.kwargs)
        torch.manual_seed(1)
        close(found, expected.train(training)(*case.args, **case.kwargs))


@SOME_NETWORKS
def test_to_bake_twice_is_to_bake_once(name: str):
    case = case_of(name)
    once = surgery.bake(case.graph)
    twice = surgery.bake(once)
    assert twice is not once
    assert (recorded(twice), twice.code) == (recorded(once), once.code)
    equal(twice.state_dict(), once.state_dict())


@SOME_NETWORKS
def test_a_pattern_bakes_a_part(name: str):
    """What it matches reads a Parameter, all else is called as before; part by part is all at once."""
    case = case_of(name)
    case.graph.eval()
    expected, whole = case.of_graph(), surgery.bake(case.graph)
    names = list(surgery.computed_parameters(case.graph))
    for order in (names, names[::-1]):
        part = case.graph
        for number, chosen in enumerate(order, 1):
            values = values_called(part).total()
            target = surgery.computed_parameters(part)[chosen]
            gone = values_called(part)[id(target)]
            part = surgery.bake(part, chosen)
            assert set(surgery.computed_parameters(part)) == set(order[number:])
            assert values_called(part).total() == values - gone
            torch.manual_seed(1)
            same_in_eval(case.graph, part(*case.args, **case.kwargs), expected)
        assert recorded(part) == recorded(whole)
        equal(part.state_dict(), whole.state_dict())


# 5: copies


def _pickled(graph: fx.GraphModule) -> fx.GraphModule:
    return pickle.loads(pickle.dumps(graph))


def _saved(graph: fx.GraphModule) -> fx.GraphModule:
    buffer = io.BytesIO()
    torch.save(graph, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def _copied_again(graph: fx.GraphModule) -> fx.GraphModule:
    return copy.deepcopy(_pickled(copy.deepcopy(graph)))


DUPLICATES: dict[str, Callable[[fx.GraphModule], fx.GraphModule]] = {
    "deepcopy": copy.deepcopy,
    "pickle": _pickled,
    "saved": _saved,
    "copied again": _copied_again,
}


@pytest.mark.parametrize("kind", DUPLICATES)
@SOME_NETWORKS
def test_a_copy_is_equal_and_goes_its_own_way(name: str, kind: str, size: str):
    if size == "small" and kind != "deepcopy" and name not in ("vit", "resnet", "autoencoder"):
        pytest.skip("pickles: three networks are enough, all in full")
    duplicate = DUPLICATES[kind]
    case = case_of(name)
    train(case.graph, case, "sgd")
    again = duplicate(case.graph)
    assert isinstance(again, ConstrainedGraph)
    assert (again.code, recorded(again)) == (case.graph.code, recorded(case.graph))
    equal(again.state_dict(), case.graph.state_dict())
    assert list(again.state_dict()) == list(case.graph.state_dict())
    assert [module.training for module in again.modules()] == [module.training for module in case.graph.modules()]
    assert not storages(again) & storages(case.graph)
    before = copy.deepcopy(case.graph.state_dict())
    train(again, case, "adam")
    equal(case.graph.state_dict(), before)
    train(case.graph, case, "adam")
    equal(again.state_dict(), case.graph.state_dict())
    equal(again.eval()(*case.args, **case.kwargs), case.graph.eval()(*case.args, **case.kwargs))
    equal(surgery.bake(again).state_dict(), surgery.bake(case.graph).state_dict())


def storages(model: nn.Module) -> set[int]:
    """Where the tensors of a model are, those that are mere attributes too."""
    found = [*model.parameters(), *model.buffers()]
    found += [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return {tensor.untyped_storage().data_ptr() for tensor in found}


@BOTH_MODES
@SOME_NETWORKS
def test_the_model_is_untouched_and_shares_nothing(name: str, training: bool):
    """Bits, objects, modes, attributes; also after the graph has trained."""
    network = NETWORKS[name]
    model = network.make().train(training)
    args, kwargs = network.args(), network.kwargs()
    before = picture(model)
    graph = surgery.apply_constraints(model, network.rules, via="fx", example=(args, kwargs))
    assert differences(before, picture(model)) == []
    assert all(module.training is training for module in graph.modules())
    assert not storages(graph) & storages(model)
    assert not {id(module) for module in graph.modules()} & {id(module) for module in model.modules()}
    loss_of(graph(*args, **kwargs)).backward()
    OPTIMIZERS["adam"](list(graph.parameters())).step()
    changed = [place for place in differences(before, picture(model)) if place != "random state"]
    assert changed == []


# 6: what understands graphs only


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@BOTH_MODES
def test_a_compiled_graph_computes_as_the_eager_one(training: bool, size: str):
    for name in COMPILED[size]:
        torch.compiler.reset()
        case = case_of(name)
        eager = copy.deepcopy(case.graph).train(training)
        compiled = torch.compile(case.graph.train(training), backend="aot_eager", fullgraph=True)
        torch.manual_seed(1)
        found = compiled(*case.args, **case.kwargs)
        torch.manual_seed(1)
        expected = eager(*case.args, **case.kwargs)
        close(found, expected)
        close(gradients(case.graph, case.batch, found), gradients(eager, case.batch, expected))
        close(case.graph.state_dict(), eager.state_dict())


FRESH = """
import sys
import torch

folder, *names = sys.argv[1:]
for name in names:
    module = torch.jit.load(f"{folder}/{name}.pt")
    with torch.no_grad():
        outputs = module(*torch.load(f"{folder}/{name}.batch"))
    torch.save(outputs, f"{folder}/{name}.outputs")
ours = {name.partition(".")[0] for name in sys.modules} & {"surgery", "computed", "rewrite", "tests"}
assert not ours, ours
"""


@pytest.mark.filterwarnings(SCRIPT_WARNING)
def test_a_scripted_graph_runs_where_nothing_of_ours_is_imported(tmp_path: Path, size: str):
    expected = {}
    for name in SCRIPTED[size]:
        case = case_of(name)
        torch.jit.script(case.graph.eval()).save(tmp_path / f"{name}.pt")
        torch.save(tuple(tensor.detach() for tensor in case.batch), tmp_path / f"{name}.batch")
        expected[name] = case.of_graph()
    command = [sys.executable, "-W", "ignore", "-c", FRESH, str(tmp_path), *expected]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, outputs in expected.items():
        close(torch.load(tmp_path / f"{name}.outputs"), outputs)


@pytest.mark.filterwarnings(SCRIPT_WARNING)
def test_a_scripted_graph_trains_as_the_eager_one(size: str):
    """One forward in training: gradients, statistics; state of the power iteration is committed by the forward."""
    for name in SCRIPTED[size]:
        case = case_of(name)
        case.graph.train()
        scripted = torch.jit.script(copy.deepcopy(case.graph))
        torch.manual_seed(1)
        found = scripted(*case.args, **case.kwargs)
        expected = case.of_graph()
        close(found, expected)
        assert [key for key, _ in scripted.named_parameters()] == [key for key, _ in case.graph.named_parameters()]
        close(gradients(scripted, case.batch, found), gradients(case.graph, case.batch, expected))


@BOTH_MODES
@SOME_NETWORKS
def test_an_interpreter_runs_the_graph(name: str, training: bool):
    case = case_of(name)
    case.graph.train(training)
    expected = copy.deepcopy(case.graph)
    torch.manual_seed(1)
    found = fx.Interpreter(case.graph).run(*case.batch)
    torch.manual_seed(1)
    equal(found, expected(*case.args, **case.kwargs))
    equal(dict(case.graph.named_buffers()), dict(expected.named_buffers()))


@pytest.mark.filterwarnings(TREESPEC)
@SOME_NETWORKS
def test_an_exported_graph_computes_as_the_graph(name: str):
    case = case_of(name)
    case.graph.eval()
    program = torch.export.export(case.graph, case.args, case.kwargs, strict=False)
    close(program.module()(*case.args, **case.kwargs), case.of_graph())
    assert set(program.state_dict) == set(case.graph.state_dict())


@pytest.mark.filterwarnings(*JIT_TRACE)
@SOME_NETWORKS
def test_a_trace_by_jit_computes_as_the_graph(name: str):
    case = case_of(name)
    case.graph.eval()
    batch = tuple(tensor.detach() for tensor in case.batch)
    module = torch.jit.trace(case.graph, batch, strict=False)
    close(module(*batch), case.of_graph())


@pytest.mark.filterwarnings(*JIT_TRACE)
@SOME_NETWORKS
def test_a_trace_by_jit_is_saved(name: str):
    """A function of Python in it could not be."""
    case = case_of(name)
    case.graph.eval()
    batch = tuple(tensor.detach() for tensor in case.batch)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(case.graph, batch, strict=False), file)
    file.seek(0)
    close(torch.jit.load(file)(*batch), case.of_graph())


@EVERY_NETWORK
def test_plans_of_a_tree_and_of_its_graph_agree_site_by_site(name: str):
    """On a plain model and on a constrained one; a graph has the sites of its model, with their hosts."""
    network = NETWORKS[name]
    model, example = network.make(), (network.args(), network.kwargs())
    empty = surgery.apply_constraints(model, {}, via="fx", example=example)
    assert surgery.plan(empty, network.rules) == surgery.plan(model, network.rules)
    assert surgery.plan(model, network.rules, via="fx", example=example) == surgery.plan(model, network.rules)
    graph = surgery.apply_constraints(model, network.rules, via="fx", example=example)
    tree = surgery.apply_constraints(copy.deepcopy(model), network.rules)
    plans = surgery.plan(tree, network.rules), surgery.plan(graph, network.rules)
    assert plans[0] == plans[1]
    assert plans[0].sites


def test_a_graph_is_constrained_further_by_tracing_it_anew():
    network = NETWORKS["resnet"]
    example = (network.args(), network.kwargs())
    graph = surgery.apply_constraints(network.make(), {"stem.weight": "orthogonal"}, via="fx", example=example)
    with pytest.raises(surgery.SurgeryError, match=r"the model is a graph.*pass via='fx', which traces it anew"):
        surgery.apply_constraints(graph, {"head.weight": "spectral"})
    further = surgery.apply_constraints(graph, {"head.weight": "spectral"}, via="fx", example=example)
    assert list(surgery.computed_parameters(further)) == ["stem.weight", "head.weight"]
    assert list(surgery.computed_parameters(graph)) == ["stem.weight"]
    stems = [each.eval().get_submodule("stem.weight") for each in (graph, further)]
    assert torch.equal(*(stem() for stem in stems))
