"""What a user must call instead, where the library of a model would save and load it wrongly once it is constrained."""

from torch import nn

OWNER = ("transformers.modeling_utils", "PreTrainedModel")


def saving_advice(model: nn.Module) -> str | None:
    """How to save a model of transformers; None for others.

    Its ``save_pretrained`` writes raws under their own names, and ``from_pretrained`` of the plain class initialises
    each weight anew that it misses, with no more than a line in its log.
    """
    name = next((name for name, module in model.named_modules() if is_pretrained(type(module))), None)
    if name is None:
        return None
    owner = type(model.get_submodule(name)).__name__
    return (
        f"{owner}.from_pretrained initialises constrained weights anew: save with "
        "save_pretrained(folder, state_dict=surgery.state_dict(model, format='plain')), or bake first; "
        "surgery.save_checkpoint keeps the constraints"
    )


def is_pretrained(cls: type[nn.Module]) -> bool:
    """Whether ``cls`` is a model of transformers, which is not imported for that."""
    return any((base.__module__, base.__name__) == OWNER for base in cls.__mro__)
