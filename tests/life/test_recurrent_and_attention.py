"""Recurrent, attention and encoder modules compute with constrained weights what plain twins compute with the values.

The twin is a plain module of torch that holds the computed values. Gradients of raws are its gradients of the weights,
led through the constraint's formula by torch's own autograd. A constraint that counts tells how often it is evaluated.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import computed
import surgery
from tests.computed.identity import Counting

Run = Callable[[nn.Module, Tensor], list[Tensor]]
Raws = dict[str, Tensor]
LENGTHS = torch.tensor([5, 2, 4])


def tangent(raw: Tensor) -> Tensor:
    """Where ``raw`` is orthonormal: itself, moving as the nearest orthonormal matrix moves."""
    tall = raw.T if raw.shape[0] < raw.shape[1] else raw
    base = tall.detach()
    inner = base.T @ (tall - base)
    moved = tall - base @ (inner + inner.T) / 2
    return moved.T if raw.shape[0] < raw.shape[1] else moved


def lengths_and_directions(g: Tensor, v: Tensor) -> Tensor:
    return g.reshape(-1, 1) * v / v.norm(dim=1, keepdim=True)


FORMULAS: dict[str, Callable[[Raws], Tensor]] = {
    "tanh": lambda raws: raws["raw"].tanh(),
    "spectral(norm=0.9)": lambda raws: 0.9 * raws["raw"] / torch.linalg.matrix_norm(raws["raw"], 2),
    "spectral(bound=0.4)": lambda raws: raws["raw"] * (0.4 / torch.linalg.matrix_norm(raws["raw"], 2)).clamp(max=1),
    "orthogonal": lambda raws: tangent(raws["raw"]),
    "weight_norm": lambda raws: lengths_and_directions(raws["g"], raws["v"]),
    "lora(2, alpha=4)": lambda raws: raws["base"].detach() + 2 * raws["B"] @ raws["A"],
}


def constrained_pair(plain: nn.Module, spec: str) -> tuple[nn.Module, nn.Module]:
    """``plain`` with its matrices constrained (for ``tanh`` all it has), and a plain twin with the computed values."""
    twin, model = plain.double(), copy.deepcopy(plain).double()
    matrices = {name: spec for name, tensor in model.named_parameters() if tensor.dim() == 2}
    surgery.apply_constraints(model, {"*": Counting()} if spec == "tanh" else matrices)
    with torch.no_grad():
        for name, weight in surgery.computed_parameters(model).items():
            if spec.startswith("lora"):
                weight.raws["B"].normal_()
            twin.get_parameter(name).copy_(FORMULAS[spec](weight.raws))
    return model, twin


def assert_equal_to_the_twin(model: nn.Module, twin: nn.Module, spec: str, run: Run, x: Tensor) -> None:
    """Outputs, then gradients of all raws and of all that stayed plain."""
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if spec.startswith("spectral") else {"rtol": 1e-11, "atol": 1e-12}
    ours, theirs = run(model, x), run(twin, x)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)
    for outputs in (ours, theirs):
        sum((output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum() for output in outputs).backward()
    computed_ones = surgery.computed_parameters(model)
    for name, weight in computed_ones.items():
        raws = {role: raw.detach().requires_grad_() for role, raw in weight.raws.items()}
        expected = torch.autograd.grad(
            FORMULAS[spec](raws), list(raws.values()), twin.get_parameter(name).grad, allow_unused=True
        )
        for (role, raw), gradient in zip(weight.raws.items(), expected, strict=True):
            assert (raw.grad is None) == (gradient is None), f"{name}.{role}"
            if gradient is not None:
                torch.testing.assert_close(raw.grad, gradient, **tolerance)
    for name, plain in plain_parameters(model, set(computed_ones)):
        torch.testing.assert_close(plain.grad, twin.get_parameter(name).grad, **tolerance)


def plain_parameters(model: nn.Module, names: set[str]) -> Iterator[tuple[str, nn.Parameter]]:
    """Those that are no raws."""
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[0] not in names:
            yield name, parameter


RECURRENT: dict[str, Callable[[], nn.RNNBase]] = {
    "LSTM": lambda: nn.LSTM(4, 5, num_layers=2, bidirectional=True),
    "LSTM proj_size": lambda: nn.LSTM(4, 6, num_layers=2, bidirectional=True, proj_size=3),
    "LSTM batch_first": lambda: nn.LSTM(4, 5, num_layers=2, batch_first=True),
    "GRU": lambda: nn.GRU(4, 5, num_layers=2, bidirectional=True),
    "GRU batch_first, no bias": lambda: nn.GRU(4, 5, num_layers=2, bidirectional=True, batch_first=True, bias=False),
    "RNN": lambda: nn.RNN(4, 5, num_layers=2, bidirectional=True),
    "RNN relu": lambda: nn.RNN(4, 5, num_layers=2, bidirectional=True, nonlinearity="relu", batch_first=True),
}


def tensors(outputs: object) -> list[Tensor]:
    """All tensors of what a recurrent module returns, in order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, PackedSequence):
        return [outputs.data]
    return [tensor for output in outputs for tensor in tensors(output)]


def dense(model: nn.Module, x: Tensor) -> list[Tensor]:
    return tensors(model(x))


def packed(model: nn.Module, x: Tensor) -> list[Tensor]:
    sequence = pack_padded_sequence(x, LENGTHS, batch_first=model.batch_first, enforce_sorted=False)
    return tensors(model(sequence))


def continued(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The state of the first call goes into the second."""
    first, state = model(x)
    return tensors((first, model(x, state)))


def flattened(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.flatten_parameters()
    return tensors(model(x))


def sequences(model: nn.Module) -> Tensor:
    """Three sequences of five steps."""
    return torch.randn(3, 5, 4, dtype=torch.float64) if model.batch_first else torch.randn(5, 3, 4, dtype=torch.float64)


@pytest.mark.parametrize("spec", FORMULAS)
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_modules_equal_their_twins(kind: str, spec: str) -> None:
    """Dense, packed, continued from a state, flattened; outputs, states and gradients."""
    for run in (dense, packed, continued, flattened):
        model, twin = constrained_pair(RECURRENT[kind](), spec)
        assert_equal_to_the_twin(model, twin, spec, run, sequences(model))


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("run", [dense, packed, continued, flattened], ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_outputs_are_those_of_the_values_bit_for_bit(kind: str, run: Run) -> None:
    """In both modes, float32, with what the computed parameters themselves say their values are.

    Without gradients torch takes other kernels for weights that do not require them: equal to rounding.
    """
    twin = RECURRENT[kind]()
    model = surgery.apply_constraints(copy.deepcopy(twin), {"*": Counting()})
    with torch.no_grad():
        for name, weight in surgery.computed_parameters(model).items():
            twin.get_parameter(name).copy_(weight)
    x = sequences(model).float()
    for training in (True, False):
        model.train(training), twin.train(training)
        assert all(map(torch.equal, run(model, x), run(twin, x)))
        with torch.no_grad():
            for one, other in zip(run(model, x), run(twin, x), strict=True):
                torch.testing.assert_close(one, other)


def test_dropout_between_layers_draws_the_same_numbers() -> None:
    twin = nn.LSTM(4, 5, num_layers=3, dropout=0.5)
    model = surgery.apply_constraints(copy.deepcopy(twin), {"weight_*": "interval(-5, 5)"})
    with torch.no_grad():
        for name, weight in surgery.computed_parameters(model).items():
            twin.get_parameter(name).copy_(weight)
    x, results = torch.randn(5, 3, 4), []
    for one in (model, twin):
        torch.manual_seed(3)
        results.append([*tensors(one(x)), torch.get_rng_state()])
    assert all(map(torch.equal, *results))


def test_padding_of_packed_sequences_stays_zero() -> None:
    """What packs and unpacks around a constrained module gives zeros behind each end, as around a plain one."""
    model = surgery.apply_constraints(nn.GRU(4, 5, batch_first=True), {"weight_*": "orthogonal"})
    output, _ = model(pack_padded_sequence(torch.randn(3, 5, 4), LENGTHS, batch_first=True, enforce_sorted=False))
    padded, lengths = pad_packed_sequence(output, batch_first=True)
    assert lengths.tolist() == LENGTHS.tolist()
    assert all(bool((row[length:] == 0).all()) for row, length in zip(padded, lengths, strict=True))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_flat_list_follows_casts_copies_loads_and_undo(kind: type[nn.RNNBase]) -> None:
    """A recurrent module keeps its weights in a list that no registry knows of: it never shows an old one."""
    plain = kind(4, 5, num_layers=2)
    model = surgery.apply_constraints(copy.deepcopy(plain), {"weight_*": "spectral(bound=0.5)"})
    x = torch.randn(5, 3, 4)
    before = model.eval()(x)[0]

    copied = copy.deepcopy(model)
    with torch.no_grad():
        for weight in surgery.computed_parameters(copied).values():
            weight.zero_()
    assert not torch.equal(copied(x)[0], before)
    assert torch.equal(model(x)[0], before)

    copied.load_state_dict(model.state_dict())
    assert torch.equal(copied(x)[0], before)
    copied.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(copied(x)[0], before)

    torch.testing.assert_close(copied.double()(x.double())[0].float(), before)
    for host in (model, copied):
        assert [id(weight) for weight in host._flat_weights] == [
            id(getattr(host, name)) for name in host._flat_weights_names
        ]
    surgery.undo(model)
    assert torch.equal(model(x)[0], plain.eval()(x)[0])
    assert all(type(weight) is nn.Parameter for weight in model._flat_weights)


def counts(model: nn.Module) -> set[int]:
    """How often each constraint was evaluated since the last time this was asked."""
    found = set()
    for weight in surgery.computed_parameters(model).values():
        counting = weight.constraints[0]
        found.add(len(counting.evaluations))
        counting.evaluations.clear()
    return found


def counted(model: nn.Module) -> nn.Module:
    """``model`` with everything counted, from zero."""
    surgery.apply_constraints(model, {"*": Counting()})
    counts(model)
    return model


STACKS: dict[str, tuple[Callable[[], nn.Module], Run, tuple[int, ...]]] = {
    "LSTM": (lambda: nn.LSTM(4, 5, num_layers=2, bidirectional=True), dense, (5, 3, 4)),
    "packed GRU": (lambda: nn.GRU(4, 5, num_layers=2, batch_first=True), packed, (3, 5, 4)),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), lambda m, x: [m(x, x, x)[0]], (3, 5, 8)),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
        ),
        lambda m, x: [m(x)],
        (3, 5, 8),
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_each_weight_is_evaluated_once_a_forward_even_where_nothing_is_held(name: str) -> None:
    """Each of these modules reads a weight once; with holding, a forward more costs no evaluation at all."""
    build, run, shape = STACKS[name]
    model = counted(build())
    computed.caching(model, False)
    for _ in range(2):
        counts(model)
        run(model, torch.randn(shape))
        assert counts(model) == {1}
    computed.caching(model, True)
    run(model, torch.randn(shape))
    counts(model)
    run(model, torch.randn(shape))
    assert counts(model) == {0}


@pytest.mark.parametrize("name", STACKS)
def test_each_weight_is_evaluated_once_an_optimizer_step_over_micro_batches(name: str) -> None:
    build, run, shape = STACKS[name]
    model = counted(build())
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(3):
        for _ in range(4):
            sum(output.square().sum() for output in run(model, torch.randn(shape))).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert counts(model) <= {0, 1}
    model.eval()
    with torch.no_grad():
        for _ in range(4):
            run(model, torch.randn(shape))
    assert counts(model) == {1}


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell_that_is_unrolled_is_evaluated_once(
    kind: type[nn.RNNCellBase], size: str, evidence: Callable[[str, str], None]
) -> None:
    """A hundred steps, forward and backward; values and gradients equal those of the plain cell."""
    steps = 100 if size == "small" else 1000
    twin = kind(4, 5).double()
    model = counted(copy.deepcopy(twin))
    with torch.no_grad():
        for name, weight in surgery.computed_parameters(model).items():
            twin.get_parameter(name).copy_(weight.raws["raw"].tanh())
    inputs, results = torch.randn(steps, 3, 4, dtype=torch.float64), []
    for cell in (model, twin):
        state = None
        for x in inputs:
            state = cell(x, state)
        output = state[0] if isinstance(state, tuple) else state
        output.square().sum().backward()
        results.append(output)
    assert counts(model) == {1}
    assert torch.equal(*results)
    for name, weight in surgery.computed_parameters(model).items():
        raw = weight.raws["raw"]
        expected = twin.get_parameter(name).grad * (1 - raw.detach().tanh() ** 2)
        torch.testing.assert_close(raw.grad, expected, rtol=1e-10, atol=1e-14)
    if kind is nn.LSTMCell:
        evidence(f"evaluations of a weight of an LSTMCell that is unrolled {steps} steps, forward and backward", "1")


ATTENTIONS: dict[str, Callable[[], nn.MultiheadAttention]] = {
    "packed": lambda: nn.MultiheadAttention(8, 2, batch_first=True),
    "no bias": lambda: nn.MultiheadAttention(8, 2, bias=False),
    "own dimensions": lambda: nn.MultiheadAttention(8, 2, kdim=8, vdim=6, batch_first=True),
    "bias of keys and values": lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True),
}
PADDED = torch.tensor([[False, False, False], [False, False, True], [False, True, True]])


def attend(model: nn.MultiheadAttention, x: Tensor) -> list[Tensor]:
    """With a mask and weights, with padding and without weights."""
    value = x[..., :6] if model.vdim == 6 else x
    causal = torch.ones(3, 3, dtype=torch.bool).triu(1)
    masked = model(x, x, value, attn_mask=causal, average_attn_weights=False)
    return [*masked, model(x, x, value, key_padding_mask=PADDED, need_weights=False)[0]]


@pytest.mark.parametrize("spec", FORMULAS)
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_equals_its_twin(kind: str, spec: str) -> None:
    model, twin = constrained_pair(ATTENTIONS[kind](), spec)
    assert_equal_to_the_twin(model, twin, spec, attend, torch.randn(3, 3, 8, dtype=torch.float64))


def encoder_layer(**options: object) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options)


ENCODERS: dict[str, Callable[[], nn.Module]] = {
    "layer": encoder_layer,
    "layer, norm first, gelu": lambda: encoder_layer(norm_first=True, activation="gelu"),
    "encoder": lambda: nn.TransformerEncoder(encoder_layer(), 2, norm=nn.LayerNorm(8)),
    "encoder, nothing nested": lambda: nn.TransformerEncoder(encoder_layer(), 2, enable_nested_tensor=False),
}


def encode(model: nn.Module, x: Tensor) -> list[Tensor]:
    return [model(x), model(x, src_key_padding_mask=PADDED)]


@pytest.mark.parametrize("spec", FORMULAS)
@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_equal_their_twins(kind: str, spec: str) -> None:
    """In train mode, with padding and without."""
    model, twin = constrained_pair(ENCODERS[kind](), spec)
    assert_equal_to_the_twin(model, twin, spec, encode, torch.randn(3, 3, 8, dtype=torch.float64))


@pytest.fixture
def _no_fast_path() -> Iterator[None]:
    """torch's own switch for the fused inference path."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    yield
    torch.backends.mha.set_fastpath_enabled(enabled)


@pytest.mark.usefixtures("_no_fast_path")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize("kind", ENCODERS)
def test_the_fused_inference_path_is_off_while_constrained_and_back_after_a_bake(kind: str) -> None:
    """Constrained: the plain module without the path. Baked: bit for bit the plain module with it."""
    twin = ENCODERS[kind]().eval()
    model = copy.deepcopy(twin)
    surgery.apply_constraints(model, {"*.{in_proj_weight,weight}": Counting()})
    with torch.no_grad():
        for name, weight in surgery.computed_parameters(model).items():
            twin.get_parameter(name).copy_(weight)
    x = torch.randn(3, 3, 8)
    with torch.no_grad():
        fused = encode(twin, x)
        torch.backends.mha.set_fastpath_enabled(False)
        unfused = encode(twin, x)
        torch.backends.mha.set_fastpath_enabled(True)
        ours = encode(model, x)
        for one, other in zip(ours, unfused, strict=True):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(ours[0], fused[0])
        torch.testing.assert_close(ours[1][~PADDED], fused[1][~PADDED])
        surgery.bake(model)
        assert all(map(torch.equal, encode(model, x), fused))
    if kind == "encoder":
        assert bool((fused[1][PADDED] == fused[1][PADDED][0]).all())
        assert not torch.allclose(ours[1][PADDED], fused[1][PADDED])


def first_error(run: Callable[[], object]) -> tuple[type[BaseException], str]:
    """What the compiler says; not which module it was, whose children are listed."""
    with pytest.raises(torch._dynamo.exc.Unsupported, match="RNN, GRU, or LSTM") as caught:
        run()
    return caught.type, str(caught.value).split("Developer debug context")[0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_compiling_a_whole_recurrent_module_is_refused_as_torch_refuses_the_plain_one(kind: type[nn.RNNBase]) -> None:
    """``fullgraph=True``: same error, same words. Without it both run, and give what they give eagerly."""
    torch.compiler.reset()
    plain = kind(4, 5, num_layers=2)
    model = surgery.apply_constraints(copy.deepcopy(plain), {"weight_*": "spectral(bound=0.5)"})
    x = torch.randn(5, 3, 4)
    errors = [first_error(lambda m=m: torch.compile(m, fullgraph=True, backend="eager")(x)) for m in (plain, model)]
    assert errors[0] == errors[1]
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = torch.compile(model, backend="eager")(x)[0]
    torch.testing.assert_close(output, model(x)[0], rtol=1e-6, atol=1e-7)  # a step of many is summed in another order
    output.sum().backward()
    assert all(raw.grad is not None for raw in model.parameters())
    torch.compiler.reset()
