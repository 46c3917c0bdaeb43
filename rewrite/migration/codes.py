"""The codes of what a migration changes, leaves and notes, apart from those of its rules."""

from __future__ import annotations

from rewrite.code import Code, Weight

LEFT = "CS250"
PARTNER = "CS251"
PASSED_ON = "CS252"
UNSAFE = "CS253"
OLD_NAME = "CS230"

OF_ALL_RULES = (
    Code(
        LEFT,
        Weight.LEFT,
        "an old idiom is left",
        "It is one that a migration rewrites, but something about this place is not understood, or has no equal: the "
        "message says what. The text stays as it is.",
    ),
    Code(
        PARTNER,
        Weight.LEFT,
        "an old idiom is left with its partner",
        "A norm is applied in one place and removed, or read by its old attributes, in another. Both are rewritten or "
        "neither is: remove_weight_norm finds no computed parameter, and bake finds no hook. The message names the "
        "place that holds the other back.",
    ),
    Code(
        PASSED_ON,
        Weight.LEFT,
        "a norm is passed on as a value",
        "The function itself is stored in an attribute, returned, or given to a call, so that the places where it is "
        "called cannot all be seen. Write a function of your own that calls constrain, and pass that on.",
    ),
    Code(
        UNSAFE,
        Weight.LEFT,
        "an edit needs --unsafe-fixes",
        "The edit keeps what the model is meant to be, but not every checkpoint that was saved before, or it relies "
        "on something that the given files do not show: the message says what.",
    ),
)
