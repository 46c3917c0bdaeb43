"""Initialisers that search a model by class name or attribute do to a constrained model what they do to a plain one.

The forms are those of pytorch/examples dcgan, junyanz/pytorch-CycleGAN-and-pix2pix and transformers; written anew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import init

import surgery
from tests.computed.identity import Identity


def dcgan(module: nn.Module) -> None:
    """By class name, through ``.data``, as the DCGAN example does."""
    name = type(module).__name__
    if name.find("Conv") != -1:
        init.normal_(module.weight.data, 0.0, 0.02)
    elif name.find("BatchNorm") != -1:
        init.normal_(module.weight.data, 1.0, 0.02)
        init.constant_(module.bias.data, 0)


def dcgan_methods(module: nn.Module) -> None:
    """The older DCGAN form: methods of ``.data``."""
    name = type(module).__name__
    if name.find("Conv") != -1:
        module.weight.data.normal_(0.0, 0.02)
    elif name.find("BatchNorm") != -1:
        module.weight.data.normal_(1.0, 0.02)
        module.bias.data.fill_(0)


def cyclegan(module: nn.Module) -> None:
    """By class name and attribute, with a bias that may be None."""
    name = type(module).__name__
    if hasattr(module, "weight") and (name.find("Conv") != -1 or name.find("Linear") != -1):
        init.xavier_normal_(module.weight.data, gain=0.02)
        if hasattr(module, "bias") and module.bias is not None:
            init.constant_(module.bias.data, 0.0)
    elif name.find("BatchNorm2d") != -1:
        init.normal_(module.weight.data, 1.0, 0.02)
        init.constant_(module.bias.data, 0.0)


def kaiming(module: nn.Module) -> None:
    """By type, on the parameter itself, as torchvision's ResNet does."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def transformers_like(module: nn.Module) -> None:
    """By type, with the mark that transformers leaves on modules and reads from tensors."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and not marked(module.weight):
        with torch.no_grad():
            module.weight.normal_(mean=0.0, std=0.02)
            if module.bias is not None:
                module.bias.zero_()
    module._is_hf_initialized = True


def marked(tensor: Tensor) -> bool:
    """Whether transformers would skip the initialisation of this tensor."""
    return bool(getattr(tensor, "_is_hf_initialized", False))


INITIALISERS = (dcgan, dcgan_methods, cyclegan, kaiming, transformers_like)


def network() -> nn.Module:
    """Convolutions both ways, a norm, a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 5)
    )


@pytest.mark.parametrize("initialise", INITIALISERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("spec", [Identity, "spectral(bound=0.05)", "interval(-0.01, 0.01)"], ids=str)
def test_an_initialiser_writes_what_it_writes_to_a_plain_model(
    initialise: Callable[[nn.Module], None], spec: object
) -> None:
    """Same random numbers taken, and the value is the admissible one nearest to what the plain model was given."""
    plain = network()
    model = copy.deepcopy(plain)
    surgery.apply_constraints(model, {"*@{Conv2d,ConvTranspose2d,Linear}.weight": spec})
    states: list[Tensor] = []
    with torch.no_grad():
        for module in (plain, model):
            torch.manual_seed(7)
            module.apply(initialise)
            states.append(torch.get_rng_state())
    assert torch.equal(*states)
    expected = surgery.apply_constraints(copy.deepcopy(plain), {"*@{Conv2d,ConvTranspose2d,Linear}.weight": spec})
    for name, weight in surgery.computed_parameters(model).items():
        want = surgery.computed_parameters(expected)[name]
        assert torch.equal(weight.baked_value(), want.baked_value()), name
    rest, wanted = dict(model.named_parameters()), dict(plain.named_parameters())
    for name in rest.keys() & wanted.keys():
        assert torch.equal(rest[name], wanted[name]), name


def test_the_mark_of_transformers_does_not_hide_a_weight() -> None:
    """Marking every module, computed parameters among them, leaves the tensor unmarked."""
    model = surgery.apply_constraints(network(), {"*@Linear.weight": "spectral"})
    for module in model.modules():
        module._is_hf_initialized = True
    assert not marked(model[5].weight)
    model[5].weight.raws["raw"]._is_hf_initialized = True
    assert marked(model[5].weight)


@pytest.mark.parametrize("order", ["initialised, then constrained", "constrained, then initialised"])
@pytest.mark.parametrize("spec", ["spectral", "orthogonal", "weight_norm", "lora(2)", "positive"])
def test_the_order_of_initialising_and_constraining_does_not_matter(order: str, spec: str) -> None:
    """Bit for bit, random raws of adapters included."""
    torch.manual_seed(3)
    model = nn.Linear(6, 4)
    if order.startswith("constrained"):
        surgery.constrain(model, weight=spec)
    torch.manual_seed(4)
    with torch.no_grad():
        init.trunc_normal_(model.weight, std=0.3)
        init.zeros_(model.bias)
    if order.startswith("initialised"):
        surgery.apply_constraints(model, {"weight": spec})
    reference = nn.Linear(6, 4)
    torch.manual_seed(4)
    with torch.no_grad():
        init.trunc_normal_(reference.weight, std=0.3)
    surgery.apply_constraints(reference, {"weight": spec})
    expected = dict(reference.weight.raws)
    for role, raw in model.weight.raws.items():
        assert torch.equal(raw, expected[role]), role


def test_transformers_initialises_a_constrained_model_as_a_plain_one() -> None:
    """The library's own `_init_weights` on a small Bert."""
    transformers = pytest.importorskip("transformers", reason="transformers is in the extra 'examples'")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    plain, model = transformers.BertModel(config), transformers.BertModel(config)
    surgery.apply_constraints(model, {"encoder.*@Linear.weight": Identity})
    for one in (plain, model):
        torch.manual_seed(5)
        with torch.no_grad():
            for module in one.modules():
                one._init_weights(module)
    expected = dict(plain.named_parameters())
    for name, weight in surgery.computed_parameters(model).items():
        assert torch.equal(weight.baked_value(), expected[name]), name
