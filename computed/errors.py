"""The errors of `computed`: each says who, what it got and what to do."""


class ComputedParameterError(RuntimeError):
    """A computed parameter was asked for something that it cannot do."""


class ConstraintDefinitionError(TypeError):
    """A constraint class is written in a way that would be misread elsewhere."""


class ConstraintRefusedError(ValueError):
    """A constraint cannot take the parameter it was asked to."""


class ReplacedParameterError(RuntimeError):
    """An assignment or a deletion would silently drop a constraint."""
