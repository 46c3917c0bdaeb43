"""Switches on the holds of a model: turn holding off, or forget what is held."""

from torch import nn

from computed.parameter import ComputedParameter


def caching(model: nn.Module, enabled: bool) -> nn.Module:
    """Hold the values of all computed parameters in ``model``, or evaluate them at each read.

    A hold costs one copy of each constrained weight. Values, gradients and state are the same either way.

    Returns the model.

    Example:
        >>> import torch
        >>> model = torch.nn.Module()
        >>> model.weight = ComputedParameter.from_value(torch.eye(2), "symmetric")
        >>> caching(model, False).weight.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    for parameter in _all(model):
        parameter.caching = enabled
        parameter.forget()
    return model


def invalidate(model: nn.Module) -> nn.Module:
    """Forget every held value of ``model``: they are evaluated at the next read.

    Needed only for writes that nothing can see: through a NumPy or DLPack alias of a raw that was made before its
    value was held.

    Returns the model.

    Example:
        >>> import torch
        >>> model = torch.nn.Module()
        >>> model.weight = ComputedParameter.from_value(torch.eye(2), "symmetric")
        >>> invalidate(model).weight.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    for parameter in _all(model):
        parameter.forget()
    return model


def _all(model: nn.Module) -> list[ComputedParameter]:
    return [module for module in model.modules() if isinstance(module, ComputedParameter)]
