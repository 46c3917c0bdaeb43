"""Every code that the source route reports: what it means, whether it asks something of the reader."""

from __future__ import annotations

from rewrite.code import Code, Weight
from rewrite.migration.rules import MIGRATION_CODES

_ALL = (
    Code(
        "CS100",
        Weight.EDIT,
        "a constructor call is constrained",
        "All parameters of this name that the call makes are matched by the rule, wherever the call's result stands. "
        "The call is wrapped: constrain(nn.Conv2d(...), weight='spectral').",
    ),
    Code(
        "CS101",
        Weight.EDIT,
        "an author's own parameter is constrained",
        "The parameter is matched by the rule in every instance of its class. After the statement that makes it comes "
        "another: constrain(self, scale='positive'). Uses of the parameter stay as they are.",
    ),
    Code(
        "CS102",
        Weight.EDIT,
        "a class is constrained as a whole",
        "The rule matches only some of the parameters that one call makes, or parameters that cannot be told from the "
        "source. @constrained({...}) above the root class applies it when __init__ has returned, exactly as "
        "apply_constraints does, to instances of exactly this class.",
    ),
    Code(
        "CS110",
        Weight.LEFT,
        "a rule cannot be decided from the source",
        "The names that the parameter can have are known in part, and the rule matches some of them. Name the root "
        "class with --root, or write a rule that asks for less: a type (*@Conv2d.weight), or the last names alone "
        "(*.conv1.weight).",
    ),
    Code(
        "CS111",
        Weight.LEFT,
        "a value may hold parameters that a rule matches",
        "What is stored here comes from a call that cannot be resolved in the given files. If it is a module, the rule "
        "may match parameters of it. Give the files that define it, or name the root class with --root.",
    ),
    Code(
        "CS112",
        Weight.LEFT,
        "a rule reaches a tie",
        "The parameter is assigned to a second name, and a constraint written at one side would be lost or raise when "
        "that happens. Name the root class with --root: @constrained sees the tie as it stands when __init__ is done.",
    ),
    Code(
        "CS113",
        Weight.LEFT,
        "a parameter may be missing",
        "Whether the call makes the parameter depends on a value that the source does not tell, such as bias=flag; "
        "constrain(...) would raise where it is missing. Name the root class with --root.",
    ),
    Code(
        "CS114",
        Weight.LEFT,
        "a place cannot be edited",
        "The rule matches here, and the text does not allow the edit: the call stands in an f-string, or a parameter "
        "is made in an expression that is not simply assigned.",
    ),
    Code(
        "CS115",
        Weight.LEFT,
        "torch computes this parameter already",
        "The call is wrapped by a norm or parametrization of torch, which replaces the parameter. Migrate it first "
        "(--migrate), or exempt it.",
    ),
    Code(
        "CS116",
        Weight.LEFT,
        "a place is constrained already, otherwise",
        "constrain(...) or @constrained(...) stands here with another spec. Remove it, or change it by hand.",
    ),
    Code(
        "CS117",
        Weight.LEFT,
        "a rule matches nothing",
        "No parameter that the given files make can have a name that the rule matches.",
    ),
    Code(
        "CS118",
        Weight.LEFT,
        "a rule of a live plan cannot be written into the given files",
        "What makes the parameters, or the class of the model, stands in a file that is not edited (an installed "
        "package, or outside the given folder), or comes into the model when its constructor has returned. The message "
        "says what to write into your own file instead.",
    ),
    Code(
        "CS119",
        Weight.LEFT,
        "a class copies states by their keys while it is made",
        "state_dict and load_state_dict in a constructor meet keys that a constraint at the call has changed. Name the "
        "root class with --root: @constrained applies when the constructor is done.",
    ),
    Code(
        "CS120",
        Weight.NOTE,
        "a root class was found",
        "Exactly one class of the given files is built by no other and passed on nowhere: names begin at its "
        "instances. Name it, or another, with --root.",
    ),
    Code(
        "CS121",
        Weight.NOTE,
        "a subclass of a constrained class stays as it is",
        "@constrained applies to instances of exactly the class that it decorates. Decorate the subclass too, if its "
        "instances are to be constrained.",
    ),
    Code(
        "CS122",
        Weight.NOTE,
        "from_pretrained of this class would lose constrained weights",
        "A plain checkpoint has the weights under names that the constrained class does not have; transformers "
        "initialises these anew, with no more than a line in its log. Load into the original class and call "
        "surgery.apply_constraints, or save and load checkpoints of the constrained class.",
    ),
    Code(
        "CS123",
        Weight.NOTE,
        "a constrained class is built by others too",
        "The edit was decided for the root class; other classes that build the same one are constrained with it.",
    ),
    Code(
        "CS124",
        Weight.NOTE,
        "a value from elsewhere may hold parameters that a rule matches",
        "No root is named, so that each call is decided by itself, and what is built by code that is not in this file "
        "is decided where that code stands. Rewrite those files too, or name the root class with --root: then all that "
        "is reached must be known, or the rule is written above the class.",
    ),
    Code(
        "CS125",
        Weight.NOTE,
        "a weight is initialised in steps",
        "Its initialisation reads what it wrote before, and what is constrained at its call is projected at each such "
        "read. The values at the start are inside, and differ from those of apply_constraints on the finished model. "
        "With --root the rule is written above the class, where it is projected once.",
    ),
    Code(
        "CS130",
        Weight.FAILED,
        "a file cannot be read as Python",
        "It has a syntax error, or is not encoded as it says. It is left as it is.",
    ),
    Code(
        "CS131",
        Weight.FAILED,
        "an edit was refused",
        "The rewritten text could not be read, or a second run would have changed it again. The file is left as it "
        "is. This is an error of the program: please report it with the file.",
    ),
    Code(
        "CS132", Weight.LEFT, "a notebook is not read", "Notebooks are not supported: rewrite the modules they import."
    ),
    Code(
        "CS133",
        Weight.NOTE,
        "a file was skipped",
        "It says '# computed-surgery: skip-file', or '@generated' in its first lines.",
    ),
)
CODES = {code.name: code for code in (*_ALL, *MIGRATION_CODES)}
