"""What trains beside adapters, as PEFT can say it: all biases, those of adapted layers, or modules as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from computed.parameter import ComputedParameter
from surgery.finding import find, hosts


@dataclass(frozen=True)
class Trained:
    """``modules_to_save`` and ``bias`` of a configuration, the tensors that belong to them, and what fits neither."""

    modules: list[str] = field(default_factory=list)
    bias: str = "none"
    tensors: dict[str, Tensor] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def trained_beside(model: nn.Module, adapted: Sequence[str]) -> Trained:
    """What of the plain parameters of ``model`` trains beside the adapters of the layers ``adapted``."""
    plain = {
        name: found.subject
        for found in find(model)
        if isinstance(found.subject, nn.Parameter) and not found.site.buffer
        for name in found.site.names
    }
    trained = {name for name, parameter in plain.items() if parameter.requires_grad}
    kinds = {
        "none": set[str](),
        "all": {name for name in plain if name.rpartition(".")[2] == "bias"},
        "lora_only": {f"{name}.bias" for name in adapted} & set(plain),
    }
    modules: list[str] = []
    rest = set(trained)
    if trained not in kinds.values():
        modules = _whole(model, trained)
        rest = {name for name in trained if not any(name.startswith(f"{one}.") for one in modules)}
    covered = {name for name in plain if any(name.startswith(f"{one}.") for one in modules)}
    bias = next((kind for kind, names in kinds.items() if names - covered == rest), None)
    problems = [] if bias is not None else [_leftover(sorted(rest))]
    problems += _also_meant(model, modules)
    return Trained(modules, bias or "none", _tensors(model, modules, rest, adapted), problems)


def _leftover(names: list[str]) -> str:
    more = ", ..." if len(names) > 5 else ""
    return (
        f"{', '.join(names[:5])}{more}: {'train' if len(names) > 1 else 'trains'} beside the adapters, and PEFT keeps "
        f"whole modules, all biases, or those of adapted layers; freeze it, or let its whole module train"
    )


def _whole(model: nn.Module, trained: set[str]) -> list[str]:
    """The outermost modules of which every parameter trains and none is computed."""
    found: list[str] = []
    for host, prefix in hosts(model):
        names = [name for name, _ in host.named_parameters(prefix.removesuffix("."), remove_duplicate=False)]
        plain = not any(isinstance(module, ComputedParameter) for module in host.modules())
        inside = any(prefix.startswith(f"{one}.") for one in found)
        listed = isinstance(host, nn.ModuleList | nn.ModuleDict)  # PEFT cannot wrap what is not called
        if prefix and names and plain and not inside and not listed and set(names) <= trained:
            found.append(prefix.removesuffix("."))
    return found


def _also_meant(model: nn.Module, modules: Sequence[str]) -> list[str]:
    """Modules that PEFT would take for those, since it looks at the ends of names."""
    return [
        f"{name}: its name ends like {one}, which trains as a whole, and PEFT would keep it too; rename one of them"
        for name, _ in model.named_modules()
        for one in modules
        if name != one and name.endswith(one)
    ]


def _tensors(model: nn.Module, modules: Sequence[str], rest: set[str], adapted: Sequence[str]) -> dict[str, Tensor]:
    """The tensors that train, under the keys of PEFT: an adapted layer stands inside of PEFT's."""
    found: dict[str, Tensor] = {}
    own: dict[str, Tensor] = model.state_dict()
    for key, tensor in own.items():
        owner, _, name = key.rpartition(".")
        if key in rest:
            found[f"{owner}.base_layer.{name}" if owner in adapted else key] = tensor
        elif any(key.startswith(f"{one}.") for one in modules):
            found[key] = tensor
    return found
