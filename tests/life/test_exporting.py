"""Compiled, exported and functional forms of a constrained model compute and train as the eager model does.

Truth is the eager model, and for state the power iteration written out in NumPy, for functions of raws the formulas of
the constraints differentiated by torch.func, for graphs those of plain models.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vjp, vmap
from torch.nn import functional as F
from torch.nn.utils import stateless
from torch.utils.checkpoint import checkpoint

import computed
import surgery
from tests.computed.identity import Counting

BACKENDS = {"small": ("aot_eager",), "full": ("aot_eager", "inductor")}
RULES = {
    "conv.weight": "spectral",
    "mix.weight": "orthogonal",
    "narrow.weight": "lora(2, alpha=4)",
    "gate.weight": "weight_norm",
    "head.weight": "interval(-2, 2) | spectral(bound=0.3)",
}
# torch's own pytree asks a deprecated question when it copies a specification
TREESPEC = "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"


class Net(nn.Module):
    """A convolution with batch normalisation, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.mix = nn.Linear(6, 6)
        self.narrow = nn.Linear(6, 5)
        self.gate = nn.Linear(6, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        x = torch.tanh(self.mix(x))
        return self.head(self.narrow(x) * torch.sigmoid(self.gate(x)))


def constrained_net() -> Net:
    return surgery.apply_constraints(Net(), RULES)


def images() -> Tensor:
    return torch.randn(5, 3, 8, 8)


class CountingBackend:
    """A backend that counts the graphs it is given."""

    def __init__(self, name: str) -> None:
        self.graphs = 0
        self.compile = torch._dynamo.lookup_backend(name)

    def __call__(self, graph: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.graphs += 1
        return self.compile(graph, inputs)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def assert_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, **tolerance, msg=lambda m, n=name: f"{n}: {m}")


def trained(model: nn.Module, run: Callable[..., Tensor], step: Callable[[torch.optim.Optimizer], Any]) -> list[Tensor]:
    """Five steps of Adam on the same batches; an evaluation after the third. Returns outputs."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(5)
    advance, outputs = step(optimizer), []
    for number in range(5):
        x = torch.randn(5, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        outputs.append(run(x))
        outputs[-1].square().mean().backward()
        advance()
        if number == 2:
            model.eval()
            with torch.no_grad():
                outputs.append(run(x))
            model.train()
    model.eval()
    with torch.no_grad():
        outputs.append(run(x))
    return outputs


def test_a_compiled_model_trains_as_the_eager_one(size: str, evidence: Callable[[str, str], None]) -> None:
    """Outputs in both modes, raws, statistics and state after five steps with an evaluation in between; two graphs."""
    for backend in BACKENDS[size]:
        torch.compiler.reset()
        eager = constrained_net()
        model = copy.deepcopy(eager)
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        counter = CountingBackend(backend)
        ours = trained(model, torch.compile(model, fullgraph=True, backend=counter), lambda o: o.step)
        theirs = trained(eager, eager, lambda o: o.step)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert_same_tensors(model.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-5)
        for name in ("conv.weight.constraints.0.u", "head.weight.constraints.1.v"):
            assert float((model.state_dict()[name] - start[name]).abs().max()) > 1e-4, name
        assert counter.graphs == 2
        evidence(f"a CNN of five constraints under torch.compile(fullgraph=True), {backend}: graphs in 7 runs", "2")


def power_step(matrix: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A step in float64, in the order of torch's own spectral_norm: from ``v``."""
    u = matrix @ v
    u /= np.linalg.norm(u)
    v = matrix.T @ u
    return u, v / np.linalg.norm(v)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("chunks", [1, 4])
def test_the_power_iteration_takes_one_step_with_each_optimizer_step(compiled: bool, chunks: int) -> None:
    """Equal to the iteration by hand on the raws that each step found, whatever the number of micro-batches."""
    model = surgery.apply_constraints(nn.Linear(7, 5), {"weight": "spectral"})
    raw, state = model.weight.raws["raw"], model.weight.constraints[0]
    run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    u, v = state.u.double().numpy().copy(), state.v.double().numpy().copy()
    start = u.copy()
    for _ in range(5):
        u, v = power_step(raw.detach().double().numpy(), u, v)
        optimizer.zero_grad()
        for x in torch.randn(8, 7).chunk(chunks):
            (run(x) - 1).square().sum().backward()
        optimizer.step()
        np.testing.assert_allclose(state.u.numpy(), u, atol=2e-6)
        np.testing.assert_allclose(state.v.numpy(), v, atol=2e-6)
    assert np.abs(u - start).max() > 1e-3


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_compiled_optimizer_step_commits_state_as_the_eager_one(kind: type[torch.optim.Optimizer]) -> None:
    def run(compiled: bool) -> dict[str, Tensor]:
        torch.manual_seed(1)
        model = constrained_net()
        optimizer, x = kind(model.parameters(), lr=0.01), images()
        step = torch.compile(optimizer.step, backend="aot_eager") if compiled else optimizer.step
        for _ in range(5):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            step()
        return model.state_dict()

    assert_same_tensors(run(True), run(False), rtol=1e-4, atol=1e-5)


def written_buffers(program: torch.export.ExportedProgram) -> set[str]:
    """The buffers that the program says it changes."""
    mutated = torch.export.graph_signature.OutputKind.BUFFER_MUTATION
    return {str(spec.target) for spec in program.graph_signature.output_specs if spec.kind is mutated}


@pytest.mark.filterwarnings(TREESPEC)
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
def test_a_train_mode_export_lists_pending_state_as_it_lists_the_statistics_of_a_batch_norm(strict: bool) -> None:
    """Not before decompositions, and then all; in eval nothing is written."""
    model, x = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)), images()
    surgery.apply_constraints(model, {"0.weight": "interval(-2, 2) | spectral(bound=0.3)"})
    program = torch.export.export(model, (x,), strict=strict)
    pending = {f"0.weight.constraints.1.pending_{name}" for name in ("u", "v")}
    statistics = {f"1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert written_buffers(program) == set()
    assert written_buffers(program.run_decompositions({})) == pending | statistics
    assert written_buffers(torch.export.export(model.eval(), (x,), strict=strict).run_decompositions({})) == set()


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
def test_an_exported_program_gives_what_the_model_gives(strict: bool) -> None:
    """In both modes; exporting changes no buffer; running a train-mode program takes a step beside the value."""
    model, x = constrained_net(), images()
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for training in (True, False):
        model.train(training)
        twin = copy.deepcopy(model)
        program = torch.export.export(model, (x,), strict=strict)
        assert set(program.state_dict) == set(model.state_dict())
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, state[name]), name
        module = program.module()
        ours, theirs = module(x), twin(x)
        torch.testing.assert_close(ours, theirs)
        if training:
            raw = model.conv.weight.raws["raw"].detach().flatten(1).double().numpy()
            u, v = (state[f"conv.weight.constraints.0.{name}"].double().numpy() for name in ("u", "v"))
            pending = dict(module.named_buffers())["conv.weight.constraints.0.pending_u"]
            np.testing.assert_allclose(pending.numpy(), power_step(raw, u, v)[0], atol=1e-6)
            state = {name: buffer.clone() for name, buffer in twin.named_buffers()}
            model = twin  # a program shares its buffers with the model that it was made from


def test_an_exported_program_trains_its_raws() -> None:
    """Gradients of the exported module are those of the model."""
    model, x = constrained_net().eval(), images()
    module = torch.export.export(model, (x,)).module()
    for one in (model, module):
        one(x).square().sum().backward()
    expected = dict(model.named_parameters())
    for name, raw in module.named_parameters():
        torch.testing.assert_close(raw.grad, expected[name].grad, msg=lambda m, n=name: f"{n}: {m}")


def nodes(program: torch.export.ExportedProgram) -> list[tuple[str, ...]]:
    return [(n.op, n.name, str(n.target), str(n.args), str(n.kwargs)) for n in program.graph.nodes]


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_baked_model_exports_to_the_graph_of_the_plain_model(training: bool, strict: bool) -> None:
    """Node by node, inputs and outputs too; compiled, it is the same graph as well."""
    plain, model, x = Net(), surgery.bake(constrained_net()), images()
    plain.load_state_dict(model.state_dict())
    programs = [torch.export.export(one.train(training), (x,), strict=strict) for one in (model, plain)]
    assert nodes(programs[0]) == nodes(programs[1])
    assert str(programs[0].graph_signature) == str(programs[1].graph_signature)
    assert list(programs[0].state_dict) == list(programs[1].state_dict)
    assert torch.equal(programs[0].module()(x), programs[1].module()(x))


def test_a_saved_program_is_loaded_without_us(tmp_path: Any) -> None:
    """`torch.export.save` keeps raws and the way from them to values."""
    model, x = constrained_net().eval(), images()
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "model.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(x), model(x))


class Two(nn.Module):
    """Two matrices and a nonlinearity."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def spectral_then(second: object) -> Two:
    return surgery.apply_constraints(Two().double(), {"first.weight": "spectral(norm=0.9)", "second.weight": second})


def by_formula(raws: dict[str, Tensor], x: Tensor) -> Tensor:
    """What `spectral_then("weight_norm")` computes, or with a tanh, written out."""
    w = raws["first.weight.raw"]
    first = 0.9 * w / torch.linalg.matrix_norm(w, 2)
    if "second.weight.raw" in raws:
        second = raws["second.weight.raw"].tanh()
    else:
        g, v = raws["second.weight.g"], raws["second.weight.v"]
        second = g.reshape(-1, 1) * v / v.norm(dim=1, keepdim=True)
    return F.linear(torch.tanh(F.linear(x, first, raws["first.bias"])), second, raws["second.bias"])


def raws_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: raw.detach().clone() for name, raw in model.named_parameters()}


@pytest.mark.parametrize("warm", [False, True], ids=["never read", "held"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_functions_of_raws_have_the_derivatives_of_the_formulas(training: bool, warm: bool) -> None:
    """functional_call, grad, vjp, jvp, and per-sample gradients by vmap; nothing of the model moves."""
    model, x = spectral_then("weight_norm").train(training), torch.randn(5, 4, dtype=torch.float64)
    if warm:
        model(x)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    raws = raws_of(model)
    tangents = {name: torch.randn_like(raw) for name, raw in raws.items()}

    def ours(raws: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, raws, (x,))

    close = {"rtol": 1e-5, "atol": 1e-7}
    torch.testing.assert_close(ours(raws, x), by_formula(raws, x), **close)
    gradients = [grad(lambda r, f=f: f(r, x).square().sum())(raws) for f in (ours, by_formula)]
    assert_same_tensors(*gradients, **close)
    forward = [jvp(lambda r, f=f: f(r, x), (raws,), (tangents,)) for f in (ours, by_formula)]
    for one, other in zip(*forward, strict=True):
        torch.testing.assert_close(one, other, **close)
    cotangent = torch.randn(5, 3, dtype=torch.float64)
    backward = [vjp(lambda r, f=f: f(r, x), raws)[1](cotangent)[0] for f in (ours, by_formula)]
    assert_same_tensors(*backward, **close)
    samples = [
        vmap(grad(lambda r, row, f=f: f(r, row[None]).square().sum()), in_dims=(None, 0))(raws, x)
        for f in (ours, by_formula)
    ]
    assert_same_tensors(*samples, **close)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_raws_that_are_far_away_are_computed_from_and_not_kept() -> None:
    """functional_call with other raws in eval: their values, and afterwards the model's own."""
    model, x = spectral_then("weight_norm").eval(), torch.randn(5, 4, dtype=torch.float64)
    own = model(x)
    other = {name: raw + torch.randn_like(raw) for name, raw in raws_of(model).items()}
    torch.testing.assert_close(functional_call(model, other, (x,)), by_formula(other, x), rtol=1e-3, atol=1e-4)
    assert torch.equal(model(x), own)


@pytest.mark.parametrize(
    ("compiled", "training"), [(False, True), (False, False), (True, True)], ids=["train", "eval", "compiled train"]
)
def test_an_ensemble_of_stacked_models_is_its_members(compiled: bool, training: bool) -> None:
    """vmap over stack_module_state of three constrained models, outputs and gradients."""
    models = [spectral_then(computed.function(torch.tanh, torch.atanh)).train(training) for _ in range(3)]
    parameters, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")
    x = torch.randn(5, 4, dtype=torch.float64)

    def one(raws: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(skeleton, (raws, buffers), (x,))

    ensemble = vmap(one, in_dims=(0, 0, None))
    if compiled:
        ensemble = torch.compile(ensemble, fullgraph=True, backend="aot_eager")
    outputs = ensemble(parameters, buffers, x)
    torch.testing.assert_close(outputs, torch.stack([model(x) for model in models]))
    torch.testing.assert_close(
        outputs, torch.stack([by_formula(raws_of(model), x) for model in models]), rtol=1e-5, atol=1e-7
    )
    slopes = vmap(grad(lambda raws, buffers, x: one(raws, buffers, x).square().sum()), in_dims=(0, 0, None))
    if compiled:
        slopes = torch.compile(slopes, fullgraph=True, backend="aot_eager")
    stacked = slopes({name: raw.detach() for name, raw in parameters.items()}, buffers, x)
    for index, model in enumerate(models):
        model(x).square().sum().backward()
        for name, raw in model.named_parameters():
            torch.testing.assert_close(stacked[name][index], raw.grad, msg=lambda m, n=name: f"{n}: {m}")


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: raw.grad.clone() for name, raw in model.named_parameters() if raw.grad is not None}
    model.zero_grad()
    return found


CHECKPOINTS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "reentrant": lambda model, x: checkpoint(model, x.clone().requires_grad_(), use_reentrant=True),
    "not reentrant": lambda model, x: checkpoint(model, x, use_reentrant=False),
    "compiled inside": lambda model, x: checkpoint(
        torch.compile(model, fullgraph=True, backend="aot_eager"), x, use_reentrant=False
    ),
    "compiled outside": lambda model, x: torch.compile(
        lambda x: checkpoint(model, x, use_reentrant=False), fullgraph=True, backend="aot_eager"
    )(x),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_give_the_gradients_and_state_of_an_ordinary_pass(kind: str) -> None:
    model = spectral_then("weight_norm")
    twin, x = copy.deepcopy(model), torch.randn(5, 4, dtype=torch.float64)
    optimizers = [torch.optim.SGD(one.parameters(), 0.1) for one in (model, twin)]
    for _ in range(3):
        CHECKPOINTS[kind](model, x).square().sum().backward()
        twin(x).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        assert_same_tensors(gradients(model), gradients(twin))
    assert_same_tensors(model.state_dict(), twin.state_dict())


@pytest.mark.parametrize("kind", ["reentrant", "not reentrant"])
def test_a_checkpoint_evaluates_nothing_twice(kind: str) -> None:
    model = surgery.apply_constraints(Two(), {"*.weight": Counting()})
    for weight in surgery.computed_parameters(model).values():
        weight.constraints[0].evaluations.clear()
    for _ in range(2):
        CHECKPOINTS[kind](model, torch.randn(5, 4)).sum().backward()
    assert [len(w.constraints[0].evaluations) for w in surgery.computed_parameters(model).values()] == [1, 1]


def test_the_older_stateless_call_takes_raws_too() -> None:
    model, x = spectral_then("weight_norm"), torch.randn(5, 4, dtype=torch.float64)
    moved = {name: raw * 1.5 for name, raw in raws_of(model).items()}
    own = model(x)
    with pytest.warns(FutureWarning, match=r"torch\.nn\.utils\.stateless\.functional_call.*is deprecated"):
        outputs = stateless.functional_call(model, moved, (x,))
    torch.testing.assert_close(outputs, by_formula(moved, x), rtol=1e-5, atol=1e-7)
    assert torch.equal(model(x), own)
