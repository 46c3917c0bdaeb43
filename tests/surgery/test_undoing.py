"""Undo puts back exactly what was there: bits, objects, order, flags, gradients, hooks."""

from __future__ import annotations

import copy
import io
import pickle
import re
import weakref
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.parameter import ComputedParameter
from tests.surgery.models import MODELS, SPECS, Block, Listed, Recurrent, ResNet, TiedLM
from tests.surgery.picture import bits, differences, picture

EVERY_MODEL = [pytest.param(*case, id=name) for name, case in MODELS.items()]
Build = Callable[[], nn.Module]
Rules = dict[str, object]


def with_gradients(model: nn.Module, inputs: Tensor) -> nn.Module:
    """``model`` with gradients, one frozen parameter, an attribute on a parameter and a hook on a module."""
    model(inputs).sum().backward()
    first, *_, last = model.parameters()
    last.requires_grad_(False)
    first.note = "an attribute of a Parameter"
    model.register_forward_hook(lambda module, args, output: None)
    next(model.children()).register_forward_pre_hook(lambda module, args: None)
    return model


def trained(model: nn.Module, inputs: Tensor, steps: int = 2) -> None:
    """Train with Adam, an evaluation in between."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()(inputs).square().sum().backward()
        optimizer.step()
        model.eval()(inputs)


def used_by_nothing(model: nn.Module, inputs: Tensor) -> None:
    """Do nothing."""


def cast_and_back(model: nn.Module, inputs: Tensor) -> None:
    """Through float16, as some export scripts do."""
    model.half()
    model.float()


def loaded(model: nn.Module, inputs: Tensor) -> None:
    """Load other weights."""
    model.load_state_dict({key: value * 1.5 for key, value in model.state_dict().items()})


def assigned(model: nn.Module, inputs: Tensor) -> None:
    """Load other weights by assignment, which replaces the raws."""
    constrained = tuple(f"{name}." for name in surgery.computed_parameters(model))
    state = {key: value.clone() for key, value in model.state_dict().items() if key.startswith(constrained)}
    model.load_state_dict(state, strict=False, assign=True)


def rewritten(model: nn.Module, inputs: Tensor) -> None:
    """Initialise anew."""
    with torch.no_grad():
        for weight in surgery.computed_parameters(model).values():
            nn.init.normal_(weight)


def frozen(model: nn.Module, inputs: Tensor) -> None:
    """Freeze everything, and leave gradients behind."""
    model(inputs).sum().backward()
    model.requires_grad_(False)


USES = (used_by_nothing, trained, cast_and_back, loaded, assigned, rewritten, frozen)


def sites_only(before: dict[str, object], after: dict[str, object], names: list[str]) -> list[str]:
    """The differences at the places that surgery touched, and everything that is not the numbers of others."""
    found = []
    for place in differences(before, after):
        module, _, what = place.partition(": ")
        attribute, _, about = what.partition(" ")
        name = attribute if module == "(root)" else f"{module}.{attribute}"
        theirs = about != "" and name not in names  # something about a tensor that is no site
        if not theirs and place != "random state" and what != "training":
            found.append(place)
    return found


@pytest.mark.parametrize(("build", "inputs", "rules"), EVERY_MODEL)
def test_undo_leaves_no_trace(build: Build, inputs: Callable[[], Tensor], rules: Rules):
    model = with_gradients(build(), inputs())
    before = picture(model)
    state = {key: bits(value) for key, value in model.state_dict().items()}
    applied = surgery.apply_constraints(model, rules)
    assert applied is model
    assert surgery.computed_parameters(model)
    assert surgery.undo(model) is model
    assert differences(before, picture(model)) == []
    after = {key: bits(value) for key, value in model.state_dict().items()}
    assert list(after.items()) == list(state.items())


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
@pytest.mark.parametrize(("build", "inputs", "rules"), EVERY_MODEL)
def test_undo_is_exact_at_its_sites_whatever_happened_since(
    build: Build, inputs: Callable[[], Tensor], rules: Rules, use: Callable[[nn.Module, Tensor], None]
):
    model = build()
    batch = inputs()
    names = [alias for row in surgery.plan(model, rules).sites for alias in row.site.names]
    with_gradients(model, batch)
    before = picture(model)
    keys = list(model.state_dict())
    surgery.apply_constraints(model, rules)
    use(model, batch)
    surgery.undo(model)
    assert sites_only(before, picture(model), names) == []
    assert list(model.state_dict()) == keys
    assert model(batch).isfinite().all()


def test_the_comparison_above_can_fail():
    model = Listed()
    before = picture(model)
    with torch.no_grad():
        model.scale[0] += 1
    assert differences(before, picture(model)) == ["(root): scale bits"]
    assert sites_only(before, picture(model), ["scale"]) == ["(root): scale bits"]
    assert sites_only(before, picture(model), []) == []
    model.weights[0].grad = torch.zeros(3, 3)
    model.first.forward = model.first.forward
    model._buffers["passing"] = model._buffers.pop("passing").clone()
    model.last.register_forward_hook(lambda module, args, output: None)
    model._modules = {name: model._modules[name] for name in sorted(model._modules)}
    assert set(differences(before, picture(model))) == {
        "(root): scale bits",
        "(root): passing id",
        "(root): children",
        "(root): mapping of children",
        "first: attributes",
        "last: _forward_hooks",
        "weights: 0 gradient",
        "weights: 0 id of the gradient",
        "first: forward",
    }


@pytest.mark.parametrize("spec", [*SPECS, "symmetric", "frozen"])
def test_undo_is_exact_for_every_constraint(spec: str):
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 4, 3))
    surgery.constrain(model[1], bias="positive")
    batch = torch.randn(2, 4)
    before = picture(model[0])
    surgery.apply_constraints(model, {"0.weight": spec})
    parameters = [parameter for parameter in model[0].parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    model[0](batch).square().sum().backward()
    optimizer.step()
    surgery.undo(model)
    model[0].bias.grad = None
    after = picture(model[0])
    assert [place for place in differences(before, after) if "bias" not in place and place != "random state"] == []
    assert isinstance(model[1].bias, ComputedParameter)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_model_computes_with_its_own_weights_again(kind: type[nn.RNNBase]):
    model, batch = Recurrent(kind), torch.randn(2, 5, 3)
    expected = model(batch)
    surgery.apply_constraints(model, {"rnn.weight_*": "spectral(bound=0.1)"})
    assert not torch.equal(model(batch), expected)
    surgery.undo(model)
    assert torch.equal(model(batch), expected)
    names = model.rnn._flat_weights_names
    assert list(map(id, model.rnn._flat_weights)) == [id(getattr(model.rnn, name)) for name in names]
    model.rnn.flatten_parameters()
    model(batch).sum().backward()
    assert model.rnn.weight_hh_l1_reverse.grad is not None
    assert torch.equal(copy.deepcopy(model)(batch), expected)


def test_changes_are_taken_back_last_one_first_and_the_third_undo_is_an_error():
    model = ResNet()
    first = picture(model)
    surgery.apply_constraints(model, {"stem.weight": "spectral"})
    second = picture(model)
    surgery.apply_constraints(model, {"*.conv1.weight": "orthogonal", "head.*": "frozen"})
    surgery.undo(model)
    assert differences(second, picture(model)) == []
    surgery.undo(model)
    assert differences(first, picture(model)) == []
    with pytest.raises(surgery.UndoError, match=r"nothing to undo on this ResNet: no apply is left to take back here"):
        surgery.undo(model)


@pytest.mark.parametrize("existing", ["chain", "replace"])
@pytest.mark.parametrize("first", ["symmetric", "lora(2)", "spectral(bound=0.5)", "weight_norm"])
def test_a_second_constraint_on_a_site_is_taken_back_to_the_first(existing: str, first: str):
    model, batch = nn.Linear(4, 4), torch.randn(2, 4)
    plain = picture(model)
    surgery.apply_constraints(model, {"weight": first})
    model.eval()
    constrained, expected = picture(model), model(batch)
    surgery.apply_constraints(model, {"weight": "orthogonal"}, existing=existing)
    assert surgery.check(model).ok
    surgery.undo(model)
    assert differences(constrained, picture(model)) == []
    assert torch.equal(model(batch), expected)
    surgery.undo(model.train())
    assert differences(plain, picture(model)) == []


def test_a_trained_second_constraint_is_taken_back_with_its_training():
    model, batch = nn.Linear(4, 4), torch.randn(2, 4)
    surgery.apply_constraints(model, {"weight": "spectral(bound=0.5)"})
    trained(model, batch)
    expected = model.eval()(batch)
    raw = model.weight.raws["raw"]
    surgery.apply_constraints(model, {"weight": "orthogonal"}, existing="replace")
    assert model.weight.raws["raw"] is raw
    optimizer = torch.optim.SGD([raw], lr=0.1)
    model.train()(batch).sum().backward()
    optimizer.step()
    bias = model.bias.detach().clone()
    surgery.undo(model)
    assert torch.equal(model.bias, bias)
    assert model.weight.raws["raw"] is raw
    assert model.weight.spec == "spectral(bound=0.5)"
    assert torch.equal(model.eval()(batch), expected)


def written(model: nn.Linear) -> None:
    """A value that is not projected yet."""
    with torch.no_grad():
        model.weight.copy_(torch.randn(4, 4))


def written_and_read(model: nn.Linear) -> None:
    """A value that is projected: of an orthogonal weight, the state too."""
    written(model)
    model(torch.randn(2, 4))


def unfrozen_and_trained(model: nn.Linear) -> None:
    """Steps of an optimizer, which commit state."""
    model.weight.requires_grad_(True)
    trained(model, torch.randn(2, 4))


def assigned_from_others(model: nn.Linear) -> None:
    """Raws and state are other objects."""
    other = surgery.apply_constraints(nn.Linear(4, 4), {"weight": model.weight.spec})
    state = {key: value for key, value in other.state_dict().items() if key != "bias"}
    model.load_state_dict(state, strict=False, assign=True)


@pytest.mark.parametrize("use", [written, written_and_read, unfrozen_and_trained, assigned_from_others, cast_and_back])
@pytest.mark.parametrize("spec", ["orthogonal", "spectral(bound=0.5)", "weight_norm", "lora(2)", "symmetric"])
def test_a_freeze_of_a_constrained_weight_is_taken_back_with_all_that_followed(spec: str, use: Callable[..., None]):
    model, batch = surgery.apply_constraints(nn.Linear(4, 4), {"weight": spec}), torch.randn(2, 4)
    unfrozen_and_trained(model)
    value = bits(model.eval().weight.detach())
    before = picture(model.train())
    surgery.apply_constraints(model, {"weight": "frozen"})
    use(*(model, batch) if use is cast_and_back else (model,))
    surgery.undo(model)
    changed = [place for place in differences(before, picture(model.train())) if "weight" in place]
    assert changed == []
    assert bits(model.eval().weight.detach()) == value


def test_what_waits_to_be_projected_survives_a_freeze_and_its_undo():
    model = nn.Linear(4, 4)
    half = model.weight.detach() / 2
    surgery.constrain(model, weight="symmetric")
    surgery.apply_constraints(model, {"weight": "frozen"})
    surgery.undo(model)
    assert torch.equal(model.weight, half + half.T)


def test_an_undo_takes_back_what_the_plan_did():
    model = TiedLM()
    before = picture(model)
    undo = surgery.plan(model, {"head.weight": "orthogonal", "mix.*": "frozen"}).apply()
    assert undo.sites == 4
    assert undo() is model
    assert differences(before, picture(model)) == []
    with pytest.raises(surgery.UndoError, match=r"this change of the TiedLM is not the last one, or was taken back"):
        undo()


def test_an_undo_that_is_not_the_last_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    first = surgery.plan(model, {"0.weight": "spectral"}).apply()
    surgery.plan(model, {"1.weight": "spectral"}).apply()
    with pytest.raises(
        surgery.UndoError, match=re.escape("is not the last one, or was taken back already; surgery.undo(")
    ):
        first()
    assert len(surgery.computed_parameters(model)) == 2


@pytest.mark.parametrize("patterns", [None, "0.weight"])
def test_undo_after_a_bake_is_an_error_that_says_so(patterns: str | None):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    surgery.apply_constraints(model, {"*.weight": "spectral(bound=0.1)"})
    surgery.bake(model, patterns)
    before = picture(model)
    with pytest.raises(
        surgery.UndoError, match=r"^0\.weight no longer holds what the last apply left there \(it was baked"
    ):
        surgery.undo(model)
    assert differences(before, picture(model)) == []


def test_a_bake_frees_what_undo_kept():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    kept = surgery.plan(model, {"0.weight": "spectral"}).apply().record
    other = surgery.plan(model, {"1.weight": "spectral"}).apply().record
    bits_of_it = weakref.ref(kept.tensors[0].bits)
    surgery.bake(model, "0.weight")
    assert (kept.tensors, kept.places, bits_of_it()) == ([], [], None)
    assert other.tensors
    surgery.undo(model)
    with pytest.raises(surgery.UndoError, match=r"^0\.weight no longer holds what the last apply left there"):
        surgery.undo(model)


def test_undo_of_a_freeze_after_a_bake_is_an_error_too():
    model = nn.Linear(3, 3)
    surgery.apply_constraints(model, {"weight": "spectral"})
    surgery.apply_constraints(model, {"weight": "frozen"})
    surgery.bake(model)
    for _ in range(2):
        with pytest.raises(surgery.UndoError, match=r"weight no longer holds what the last apply left there"):
            surgery.undo(model)


def test_what_was_applied_after_a_bake_can_be_taken_back():
    model = nn.Linear(3, 3)
    surgery.bake(surgery.apply_constraints(model, {"weight": "symmetric"}))
    before = picture(model)
    surgery.apply_constraints(model, {"weight": "orthogonal"})
    surgery.undo(model)
    assert differences(before, picture(model)) == []


def test_a_replaced_parameter_is_not_overwritten():
    model = nn.Linear(3, 3)
    surgery.apply_constraints(model, {"weight": "frozen"})
    model.weight = nn.Parameter(torch.ones(3, 3))
    with pytest.raises(surgery.UndoError, match=r"weight no longer holds .* \(it was baked or replaced since\)"):
        surgery.undo(model)
    assert torch.equal(model.weight, torch.ones(3, 3))


def copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("twin", [copied, pickled, saved])
def test_copies_do_not_carry_what_can_be_taken_back(twin: Callable[[nn.Module], nn.Module]):
    model = ResNet()
    surgery.apply_constraints(model, {"*.conv1.weight": "spectral", "stem.weight": "lora(2)"})
    trained(model, torch.randn(2, 3, 6, 6), 1)
    size, other = len(pickle.dumps(model)), twin(model)
    assert list(surgery.computed_parameters(other)) == list(surgery.computed_parameters(model))
    with pytest.raises(surgery.UndoError, match=r"copies and loaded models have none"):
        surgery.undo(other)
    surgery.apply_constraints(other, {"head.weight": "spectral"})
    surgery.undo(other)
    surgery.undo(model)
    assert isinstance(other.stem.weight, ComputedParameter)
    assert len(pickle.dumps(model)) < size


def test_nothing_is_kept_where_nobody_wants_to_undo():
    model = ResNet()
    before = picture(model)
    surgery.apply_constraints(model, {"*.conv1.weight": "spectral"}, keep_undo=False)
    surgery.plan(model, {"stem.weight": "spectral"}).apply(keep_undo=False)
    with pytest.raises(surgery.UndoError, match=r"keep_undo=False keeps none"):
        surgery.undo(model)
    assert [place for place in differences(before, picture(model)) if place.startswith("(root)")] == []


def test_a_plan_that_changes_nothing_leaves_nothing_to_undo():
    model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": "spectral"})
    surgery.apply_constraints(model, {"weight": "spectral"})
    surgery.undo(model)
    with pytest.raises(surgery.UndoError, match=r"nothing to undo on this Linear"):
        surgery.undo(model)


def test_undo_is_asked_of_the_module_that_was_given():
    model = ResNet()
    surgery.apply_constraints(model, {"head.weight": "spectral"})
    for other in (model.head, nn.Linear(2, 2)):
        with pytest.raises(surgery.UndoError, match=r"an apply is undone on the module it was called with"):
            surgery.undo(other)
    surgery.undo(model)
    surgery.constrain(model.head, weight="spectral")
    surgery.undo(model)  # the change of a module inside is the last one here
    assert type(model.head.weight) is nn.Parameter


def test_an_inner_change_that_an_outer_one_built_on_is_not_taken_back_alone():
    model = nn.Sequential(nn.Linear(3, 3))
    surgery.apply_constraints(model[0], {"weight": "symmetric"})
    surgery.apply_constraints(model, {"0.weight": "spectral"}, existing="chain")
    with pytest.raises(surgery.UndoError, match=r"^weight no longer holds what the last apply left there"):
        surgery.undo(model[0])
    surgery.undo(model)
    surgery.undo(model[0])
    assert type(model[0].weight) is nn.Parameter


def test_what_was_registered_since_survives_in_its_order():
    model = Listed()
    surgery.apply_constraints(model, {"scale": "positive", "shift": "positive", "weights.1": "orthogonal"})
    model.extra = nn.Linear(2, 2)
    model.bias = nn.Parameter(torch.zeros(2))
    model.register_buffer("count", torch.zeros(1))
    model.weights.append(nn.Parameter(torch.eye(3)))
    assert list(model._modules)[-2:] == ["scale", "shift"]
    surgery.undo(model)
    assert list(model._modules) == ["first", "weights", "named", "last", "extra"]
    assert list(model._parameters) == ["scale", "bias"]
    assert list(model._buffers) == ["shift", "passing", "count"]
    assert model._non_persistent_buffers_set == {"passing"}
    assert list(model.weights._parameters) == ["0", "1", "2", "3"]


def test_hooks_on_the_host_stay_and_the_one_for_loading_goes():
    model = nn.Linear(3, 3)
    seen = []
    model.register_load_state_dict_pre_hook(lambda module, state, prefix, *rest: seen.append(sorted(state)))
    before = picture(model)
    surgery.apply_constraints(model, {"weight": "symmetric"})
    assert len(model._load_state_dict_pre_hooks) == 2
    surgery.apply_constraints(model, {"bias": "positive"})
    assert len(model._load_state_dict_pre_hooks) == 2
    surgery.undo(model)
    assert len(model._load_state_dict_pre_hooks) == 2
    surgery.undo(model)
    assert differences(before, picture(model)) == []
    model.load_state_dict(nn.Linear(3, 3).state_dict())
    assert seen == [["bias", "weight"]]


def test_a_batch_norm_that_ran_in_between_keeps_its_statistics():
    block, batch = Block(3), torch.randn(2, 3, 5, 5)
    surgery.apply_constraints(block, {"bn1.weight": "positive", "conv1.weight": "spectral"})
    trained(block, batch)
    statistics = {name: buffer.clone() for name, buffer in block.named_buffers() if "running" in name}
    surgery.undo(block)
    assert {name: bits(buffer) for name, buffer in block.named_buffers() if "running" in name} == {
        name: bits(buffer) for name, buffer in statistics.items()
    }


def test_the_mapping_of_children_is_the_old_one():
    model = ResNet()
    object.__setattr__(model, "_modules", OrderedDict(model._modules))
    mappings = [id(module._modules) for module in model.modules()]
    before = picture(model)
    surgery.apply_constraints(model, {"*": "frozen", "*.conv1.weight": "spectral", "head.*": "positive"})
    surgery.undo(model)
    assert differences(before, picture(model)) == []
    assert [id(module._modules) for module in model.modules()] == mappings
    surgery.bake(surgery.apply_constraints(model, {"*.conv1.weight": "spectral"}))
    assert [id(module._modules) for module in model.modules()] == mappings


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_baked_without_touching_the_original(twin: Callable[[nn.Module], nn.Module]):
    model = surgery.apply_constraints(Listed(), {"scale": "positive", "first.weight": "spectral"})
    other = twin(model)
    surgery.bake(other)
    assert list(other._modules) == ["first", "weights", "named", "last"]
    assert list(surgery.computed_parameters(model)) == ["scale", "first.weight"]
    surgery.undo(model)
    assert list(model._modules) == ["first", "weights", "named", "last"]
    assert model.first is not other.first


def test_a_model_on_meta_is_on_meta_again():
    with torch.device("meta"):
        model = ResNet()
    before = picture(model)
    surgery.apply_constraints(model, {"*.conv1.weight": "spectral", "stem.weight": "lora(2)"})
    surgery.undo(model)
    assert differences(before, picture(model)) == []


def test_the_storage_and_its_views_are_the_old_ones():
    model = nn.Linear(3, 3)
    view = model.weight.data.view(-1)
    surgery.apply_constraints(model, {"weight": "orthogonal"})
    surgery.undo(model)
    view.fill_(2.0)
    assert bool((model.weight == 2).all())


def test_parameters_that_are_parts_of_one_storage_come_back():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector, model.parameters())
    before = picture(model)
    surgery.apply_constraints(model, {"*.weight": "spectral(bound=0.1)"})
    for weight in surgery.computed_parameters(model).values():
        assert torch.linalg.matrix_norm(weight.detach(), 2) <= 0.1001
    surgery.undo(model)
    assert differences(before, picture(model)) == []
    vector.data[0] = 5.0
    assert float(model[0].weight[0, 0].detach()) == 5.0


def test_undo_inside_inference_mode_gives_parameters_that_train():
    model = nn.Linear(3, 3)
    with torch.inference_mode():
        surgery.apply_constraints(model, {"weight": "orthogonal"})
        surgery.undo(model)
    model(torch.randn(2, 3)).sum().backward()
    assert model.weight.grad is not None
