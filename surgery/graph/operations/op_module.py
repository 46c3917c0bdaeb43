"""What an op module is: the host's own object, whose class does the operation with values as arguments."""

from collections.abc import Mapping

from torch import Tensor, nn

Names = Mapping[str, str | list[str] | dict[str, str]]

# stock tracers keep modules of torch.nn whole: https://pytorch.org/docs/stable/fx.html#torch.fx.Tracer.is_leaf_module
AS_OF_TORCH = {"__module__": "torch.nn.op_module"}


class OpModule(nn.Module):
    """A host that takes its tensors as arguments; scriptable.

    It is the host itself with another class: settings, ``training``, tensors, children and their order stay.
    ``stands_for`` is the class that it had.
    """

    stands_for: type[nn.Module]

    def value_names(self) -> Names:
        """The arguments that are values: keyword -> the attribute that it stands under, or several."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Drop what only the class before needed."""


def become(host: nn.Module, operation: type[OpModule]) -> None:
    """Give ``host`` the class ``operation``; it remembers what it was."""
    vars(host).update(stands_for=type(host), **AS_OF_TORCH)
    host.__class__ = operation
    assert isinstance(host, OpModule)
    host.prepare()


def operation_of(host: nn.Module, operation: type[OpModule]) -> OpModule:
    """An op module with the settings of ``host`` and without tensors: for a root, whose place a graph takes."""
    made = settings_of(host, operation)
    vars(made).update(stands_for=type(host), **AS_OF_TORCH)
    made.prepare()
    return made


def settings_of(host: nn.Module, operation: type[OpModule]) -> OpModule:
    """A module of class ``operation`` that has the settings of ``host`` and its mode, no tensors and no modules."""
    made = operation.__new__(operation)
    nn.Module.__init__(made)
    own = vars(made).keys()
    others = {name: value for name, value in vars(host).items() if name not in own and not is_registered(value)}
    vars(made).update(others)
    made.training = host.training
    return made


def is_registered(value: object) -> bool:
    """Whether a value of a module's own dictionary is a tensor or a module."""
    return isinstance(value, Tensor | nn.Module)
