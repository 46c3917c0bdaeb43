"""What torch's parametrizations, norm hooks and pruning masks hold is taken over bit for bit, and given back."""

import copy
import io
import logging
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import surgery
from computed import ComputedParameter

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*:FutureWarning")
X = torch.linspace(-1, 1, 48).reshape(2, 3, 8)


class Halved(nn.Module):
    """A user's own parametrization, with a parameter and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("shift", torch.tensor(0.25))

    def forward(self, raw):
        return self.gain * raw + self.shift

    def right_inverse(self, value):
        return (value - self.shift) / self.gain


class Sum(nn.Module):
    """A user's own parametrization of two tensors."""

    def forward(self, a, b):
        return a + b.sin()

    def right_inverse(self, value):
        return value - 0.5, torch.full_like(value, 0.5).asin()


def own(layer):
    parametrize.register_parametrization(layer, "weight", Sum())
    parametrize.register_parametrization(layer, "weight", Halved())
    if isinstance(layer, nn.Linear):
        parametrize.register_parametrization(layer, "bias", Halved())


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.3)
    prune.random_unstructured(layer, "weight", 0.2)


HELD = {
    "weight norm": parametrizations.weight_norm,
    "weight norm, whole": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "users' own": own,
    "weight norm hook": nn.utils.weight_norm,
    "weight norm hook, dim 1": lambda layer: nn.utils.weight_norm(layer, dim=1),
    "weight norm hook, whole": lambda layer: nn.utils.weight_norm(layer, dim=None),
    "spectral norm hook": nn.utils.spectral_norm,
    "spectral norm hook, two steps": lambda layer: nn.utils.spectral_norm(layer, n_power_iterations=2),
    "pruned": pruned,
}


@pytest.fixture(params=HELD)
def make(request):
    def model(seed=0):
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.ConvTranspose1d(4, 4, 3), nn.Flatten(), nn.Linear(32, 5))
        for i in (0, 2, 4):
            HELD[request.param](made[i])
        made(X)
        return made

    return model


def standing(model):
    tensors = [*model.named_parameters(), *model.named_buffers()]
    hooks = [
        (name, list(registry))
        for name, module in model.named_modules()
        for registry in (
            module._forward_pre_hooks,
            module._state_dict_hooks,
            module._load_state_dict_pre_hooks,
        )
    ]
    return [(name, id(one), one.requires_grad) for name, one in tensors], hooks, list(map(type, model.modules()))


def test_values_in_eval_and_the_next_step_are_those_of_the_holder(make):
    model, twin = make(), make()
    want = twin.eval()(X)
    assert surgery.adopt(model) is model
    assert [type(layer) for layer in model] == [nn.Conv1d, nn.ReLU, nn.ConvTranspose1d, nn.Flatten, nn.Linear]
    assert torch.equal(model.eval()(X), want)
    model.train(), twin.train()
    assert torch.equal(model(X), twin(X))


def test_gradients_are_those_of_the_holder_and_the_optimizer_goes_on(make):
    model, twin = make(), make()
    ours = torch.optim.Adam(model.parameters(), lr=0.05)
    theirs = torch.optim.Adam(twin.parameters(), lr=0.05)
    surgery.adopt(model)
    for _ in range(3):
        for each, optimizer in ((model, ours), (twin, theirs)):
            optimizer.zero_grad()
            each(X).square().sum().backward()
            optimizer.step()
    assert torch.equal(model.eval()(X), twin.eval()(X))


def test_a_read_in_train_mode_writes_nothing(make):
    model = surgery.adopt(make()).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for _ in range(3):
        model[0].weight.sum(), model(X), repr(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_undo_gives_back_every_object_hook_type_and_bit(make):
    model = make()
    before, keys = standing(model), list(model.state_dict())
    bits = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    want = model.eval()(X)
    model.train()
    optimizer = torch.optim.SGD([one for name, one in model.named_parameters() if "weight" in name], lr=0.1)
    surgery.adopt(model)
    model(X).square().sum().backward()
    optimizer.step()
    model.double()(X.double()), model.float()
    assert surgery.undo(model) is model
    assert standing(model) == before
    assert list(model.state_dict()) == keys
    assert all(torch.equal(tensor, bits[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(model.eval()(X), want)


def test_it_can_be_copied_pickled_and_baked(make):
    model = surgery.adopt(make()).eval()
    want = model(X)
    assert torch.equal(copy.deepcopy(model)(X), want)
    assert torch.equal(pickle.loads(pickle.dumps(model))(X), want)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    assert torch.equal(torch.load(saved, weights_only=False)(X), want)
    baked = surgery.bake(model)
    assert torch.equal(baked(X), want)
    assert list(baked.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]
    assert all(type(one) is nn.Parameter for one in baked.parameters())


def test_what_was_saved_before_loads_strictly_and_bit_for_bit(make):
    model, other = make(), make(seed=1)
    for _ in range(2):
        other.train()(X)
    want = other.eval()(X)
    surgery.adopt(model).eval()(X)
    model.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(model(X), want)
    surgery.undo(model).load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(model(X), want)


@pytest.mark.parametrize(
    ("held", "format"),
    [
        ("weight norm", "parametrizations"),
        ("spectral norm", "parametrizations"),
        ("orthogonal", "parametrizations"),
        ("users' own", "parametrizations"),
        ("weight norm hook", "weight_norm"),
        ("spectral norm hook", "spectral_norm"),
    ],
)
def test_its_old_state_dict_can_still_be_written(held, format):
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 4, 3))
    for layer in model:
        HELD[held](layer)
    before = model.state_dict()
    written = surgery.state_dict(surgery.adopt(model), format=format)
    assert list(written) == list(before)
    assert written._metadata == before._metadata
    assert all(torch.equal(written[key], before[key]) for key in before)


def test_a_mask_is_written_in_no_format_of_norms():
    model = nn.Linear(4, 4)
    pruned(model)
    surgery.adopt(model)
    for format in ("weight_norm", "spectral_norm", "parametrizations"):
        with pytest.raises(surgery.SurgeryError, match="weight: it is n"):
            surgery.state_dict(model, format=format)


def test_pruned_entries_stay_zero_when_trained_and_when_written():
    model = nn.Linear(4, 4)
    pruned(model)
    zero = model.weight == 0
    assert zero.any()
    surgery.adopt(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert bool((model.weight[zero] == 0).all())
    nn.init.ones_(model.weight)
    assert torch.equal(model.weight, (~zero).float())


@pytest.mark.parametrize("hook", [nn.utils.weight_norm, parametrizations.weight_norm, nn.utils.spectral_norm])
def test_a_recurrent_layer_keeps_its_order_and_its_gradients(hook):
    def make():
        torch.manual_seed(0)
        lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
        for name in ("weight_hh_l0", "weight_ih_l1_reverse"):
            hook(lstm, name)
        lstm(X.transpose(1, 2))
        return lstm

    model, twin = make(), make()
    raws = dict(model.named_parameters())
    order = list(nn.LSTM(3, 4, num_layers=2, bidirectional=True).state_dict())
    surgery.adopt(model)
    inputs = X.transpose(1, 2)
    assert torch.equal(model.eval()(inputs)[0], twin.eval()(inputs)[0])
    model.train(), twin.train()
    model(inputs)[0].square().sum().backward()
    twin(inputs)[0].square().sum().backward()
    assert all(torch.equal(raws[name].grad, one.grad) for name, one in twin.named_parameters())
    want = model.eval()(inputs)[0]
    assert list(surgery.bake(model).state_dict()) == order
    assert torch.equal(model(inputs)[0], want)


def test_a_weight_of_attention_is_adopted():
    torch.manual_seed(0)
    model = nn.MultiheadAttention(4, 2, batch_first=True)
    parametrizations.orthogonal(model, "in_proj_weight")
    parametrizations.spectral_norm(model.out_proj)
    inputs = X[:, :, :4]
    want = model.eval()(inputs, inputs, inputs)[0]
    surgery.adopt(model)
    assert torch.equal(model(inputs, inputs, inputs)[0], want)
    assert next(iter(surgery.bake(model).state_dict())) == "in_proj_weight"


def test_copies_of_a_parametrized_model_stay_parametrized():
    model = parametrizations.orthogonal(nn.Linear(4, 4))
    other = copy.deepcopy(model)
    want = other.weight
    surgery.adopt(model)
    assert parametrize.is_parametrized(other, "weight")
    assert torch.equal(other.weight, want)
    assert type(model) is nn.Linear


def test_patterns_choose_and_one_module_is_adopted_whole():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    for layer in model:
        own(layer)
    surgery.adopt(model, "1.weight")
    assert list(surgery.computed_parameters(model)) == ["1.weight", "1.bias"]
    surgery.adopt(model, ["0.*", "2.bias"])
    assert len(surgery.computed_parameters(model)) == 6
    with pytest.raises(surgery.SurgeryError, match=r"adopt: no held weight matches '0\.weight'; this Sequential has 0"):
        surgery.adopt(model, "0.weight")


def test_a_hook_and_a_plain_weight_beside_it_are_independent():
    model = nn.utils.weight_norm(nn.utils.spectral_norm(nn.Bilinear(3, 3, 4)), "bias")
    inputs = X[:, 0, :3]
    want = model.eval()(inputs, inputs)
    surgery.adopt(model, "bias")
    assert list(surgery.computed_parameters(model)) == ["bias"]
    assert torch.equal(model(inputs, inputs), want)
    surgery.adopt(model)
    assert torch.equal(model(inputs, inputs), want)
    surgery.undo(model)
    assert list(surgery.computed_parameters(model)) == ["bias"]
    surgery.undo(model)
    assert torch.equal(model(inputs, inputs), want)
    assert sorted(name for name, _ in model.named_parameters()) == ["bias_g", "bias_v", "weight_orig"]


def test_nothing_to_adopt_is_said(caplog):
    caplog.set_level(logging.INFO, "surgery")
    model = nn.Linear(2, 2)
    surgery.adopt(model)
    assert caplog.messages == ["nothing to adopt"]
    with pytest.raises(surgery.UndoError):
        surgery.undo(model)
    parametrizations.weight_norm(model)
    surgery.adopt(model)
    assert caplog.messages[1:] == ["adopted 1: 1 from torch.nn.utils.parametrize (_WeightNorm)"]


def test_what_cannot_be_taken_over_is_named_and_nothing_changes():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    nn.utils.weight_norm(nn.utils.weight_norm(model[0]), "weight_v")
    parametrize.register_parametrization(model[1], "weight", AsDouble(), unsafe=True)
    nn.utils.weight_norm(model[2])
    before = standing(model)
    with pytest.raises(surgery.SurgeryError) as caught:
        surgery.adopt(model)
    lines = str(caught.value).splitlines()
    assert lines[0] == "adopt: nothing was changed:"
    assert any(line.startswith("0.weight: torch.nn.utils.weight_norm holds it, and something else") for line in lines)
    assert any("1.weight" in line and "float32 to float64" in line for line in lines)
    assert standing(model) == before


class AsDouble(nn.Module):
    def forward(self, raw):
        return raw.double()


class Transposed(nn.Module):
    def forward(self, raw):
        return raw.t()


def test_a_map_that_changes_the_shape_is_taken_over():
    model = nn.Linear(4, 3)
    parametrize.register_parametrization(model, "weight", Transposed(), unsafe=True)
    assert model.weight.shape == (4, 3)
    surgery.adopt(model)
    assert model.weight.shape == (4, 3)
    assert model.weight.raws["raw"].shape == (3, 4)


@pytest.mark.parametrize("held", ["weight norm", "weight norm hook", "spectral norm hook", "pruned"])
@pytest.mark.parametrize("spec", ["spectral", "frozen"])
def test_a_rule_never_matches_what_a_holder_keeps(held, spec):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    HELD[held](model[0])
    with pytest.raises(surgery.PlanError) as caught:
        surgery.apply_constraints(model, {"*weight*": spec})
    assert "0.weight" in caught.value.problems[0]
    assert "is held by torch.nn.utils" in caught.value.problems[0]
    assert "surgery.adopt(model, '0.weight')" in caught.value.problems[0]
    assert len(caught.value.problems) == 1
    surgery.apply_constraints(surgery.adopt(model), {"*weight*": spec}, existing="replace")
    names = {name for name, weight in surgery.computed_parameters(model).items() if weight.spec.startswith("spectral")}
    assert names == ({"0.weight", "1.weight"} if spec == "spectral" else set())


def test_exempt_rules_leave_it_alone():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    surgery.apply_constraints(model, {"*.weight": "spectral", "0.*": "none"})
    assert list(surgery.computed_parameters(model)) == ["1.weight"]


def test_an_adopted_weight_can_be_chained():
    model = nn.utils.weight_norm(nn.Linear(4, 4))
    value = model.weight.detach()
    surgery.apply_constraints(surgery.adopt(model), {"weight": "spectral(bound=0.5)"}, existing="chain")
    weight = surgery.computed_parameters(model)["weight"]
    assert weight.spec == "StoredLengths | spectral(bound=0.5)"
    expected = value * min(1.0, 0.5 / float(torch.linalg.matrix_norm(value, 2)))
    assert torch.allclose(model.weight, expected, atol=1e-5)


def test_a_fault_in_the_midst_of_it_gives_everything_back(monkeypatch):
    model = nn.Sequential(*[parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(3)])
    before = standing(model)
    count = iter(range(10))

    def failing(host, name, parameter):
        if next(count) == 1:
            raise RuntimeError("injected")
        original(host, name, parameter)

    from surgery import adopting

    original = adopting.place
    monkeypatch.setattr(adopting, "place", failing)
    with pytest.raises(RuntimeError, match="injected"):
        surgery.adopt(model)
    assert standing(model) == before
    assert not any(isinstance(module, ComputedParameter) for module in model.modules())


def test_hooks_that_others_register_meanwhile_stay():
    model = nn.utils.spectral_norm(nn.Linear(4, 4))
    surgery.adopt(model)
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(1))
    model.extra = nn.Linear(2, 2)
    surgery.undo(model)
    model(torch.ones(1, 4))
    assert seen == [1]
    assert "extra.weight" in model.state_dict()


def test_one_graph_for_many_blocks_that_were_parametrized():
    from torch._dynamo.testing import CompileCounter

    blocks = nn.ModuleList(parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(12))
    surgery.adopt(blocks)
    counter = CompileCounter()
    torch._dynamo.reset()

    @torch.compile(backend=counter, fullgraph=True)
    def run(block, x):
        return block(x)

    for block in blocks:
        run(block, torch.ones(2, 4))
    assert counter.frame_count == 1
