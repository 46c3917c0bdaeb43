"""What is said where a model cannot be traced or is asked for wrongly: the place, the reason, and the ways out."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import surgery
from surgery.errors import PlanError, SurgeryError, TraceRefusedError
from tests.quiet import quiet
from tests.surgery.graph.sides import RULES, Net, agree, graph_of, refused, rows
from tests.surgery.picture import differences, picture

NESTED = {"a.0.lin.weight": "positive"}


class OverLines(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.lin(x)
        # fmt: off
        if (
            y.sum() > 0
        ):
            return y
        # fmt: on
        return x


class InALambda(Net):
    def forward(self, x: Tensor) -> Tensor:
        return (lambda y: y if y.sum() > 0 else -y)(self.lin(x))


class Length(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * len(x)


class Rows(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.lin(r) for r in x])


class Loop(Net):
    def forward(self, x: Tensor) -> Tensor:
        total = self.lin(x)
        for r in x:
            total = total + r
        return total


class Starred(Net):
    def forward(self, x: Tensor) -> Tensor:
        b, *rest = x.shape
        return self.lin(x).reshape(b, *rest)


class Range(Net):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(x.shape[0]):
            x = self.lin(x)
        return x


class Whole(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * int(x.sum())


class Item(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.lin(x)
        y[0] = 0
        return y


class Asserting(Net):
    def forward(self, x: Tensor) -> Tensor:
        assert x.sum() < 1e9, "too large"
        return self.lin(x)


class Conditional(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) if x.shape[0] > 1 else x


class While(Net):
    def forward(self, x: Tensor) -> Tensor:
        while x.abs().max() > 1:
            x = self.lin(x) / 2
        return x


class OfTheWeight(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * float(self.lin.weight.sum())


class InTorch(Net):
    def build(self) -> None:
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm.forward(self.lin(x))


KINDS = [
    (OverLines, "if ( y.sum() > 0 ):", "control flow"),
    (InALambda, "return (lambda y: y if y.sum() > 0 else -y)(self.lin(x))", "control flow"),
    (Length, "return self.lin(x) * len(x)", "len() is one of each call"),
    (Rows, "return torch.stack([self.lin(r) for r in x])", "cannot be iterated"),
    (Loop, "for r in x:", "cannot be iterated"),
    (Starred, "b, *rest = x.shape", "cannot be iterated"),
    (Range, "for _ in range(x.shape[0]):", "cannot be interpreted as an integer"),
    (Whole, "return self.lin(x) * int(x.sum())", "a number in Python is one of each call"),
    (Item, "y[0] = 0", "item assignment"),
    (Asserting, 'assert x.sum() < 1e9, "too large"', "control flow"),
    (Conditional, "return self.lin(x) if x.shape[0] > 1 else x", "control flow"),
    (While, "while x.abs().max() > 1:", "control flow"),
    (OfTheWeight, "return self.lin(x) * float(self.lin.weight.sum())", "a number in Python is one of each call"),
    (InTorch, "return self.norm.forward(self.lin(x))", "in torch: nn/modules/batchnorm.py:"),
]


@pytest.mark.parametrize(("author", "statement", "reason"), KINDS, ids=[author.__name__ for author, *_ in KINDS])
def test_a_trace_that_fails_names_the_place_the_reason_and_the_ways_out(author: type[Net], statement: str, reason: str):
    message = refused(Outer(author()), statement, reason, NESTED)
    assert message.startswith("Outer cannot be traced: ")
    assert f"module 'a.0' ({author.__name__})" in message
    assert f" in {author.__name__}.forward" in message
    for way in ("the model is untouched", "via='tree'", "lower={Type: function}", "a rule that exempts"):
        assert way in message


class Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.a = nn.Sequential(inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)


@pytest.mark.parametrize(
    ("author", "statement", "reason"), KINDS[:3], ids=[author.__name__ for author, *_ in KINDS[:3]]
)
def test_the_cause_is_kept(author: type[Net], statement: str, reason: str):
    with pytest.raises(TraceRefusedError, match="cannot be traced") as caught:
        graph_of(author())
    cause = caught.value.__cause__
    assert isinstance(cause, Exception)
    assert not isinstance(cause, TraceRefusedError)
    assert reason in str(cause)


def test_code_without_a_source_is_named_by_file_line_and_function():
    space: dict[str, Any] = {"Net": Net}
    exec(
        "class Made(Net):\n    def forward(self, x):\n        y = self.lin(x)\n        return y if y.sum() else x",
        space,
    )
    with pytest.raises(TraceRefusedError, match=r"<string>:4: in forward|<string>:4: in Made.forward") as caught:
        graph_of(Outer(space["Made"]()), NESTED)
    assert "module 'a.0' (Made)" in str(caught.value)
    assert __file__ not in str(caught.value)


def test_a_module_that_is_not_registered_is_named():
    class Hidden(Net):
        def build(self) -> None:
            self.more = [nn.Linear(4, 4)]

        def forward(self, x: Tensor) -> Tensor:
            return self.more[0](self.lin(x))

    refused(Hidden(), "return self.more[0](self.lin(x))", "not ")


WRONG = [
    ({"via": "fxx"}, r"via='fxx': the route is 'tree'.*'fx'"),
    ({"via": "fx", "hooks": "x"}, r"hooks='x'; it is one of 'refuse', 'ignore'"),
    ({"via": "fx", "example": 3}, r"example=int; it is \(args, kwargs\)"),
    ({"via": "fx", "example": [torch.ones(3, 4)]}, r"example=list; it is \(args, kwargs\)"),
    ({"via": "fx", "example": (torch.ones(3, 4), torch.ones(3, 4))}, r"example: Plain\.forward: too many"),
    ({"via": "fx", "example": ((torch.ones(3, 4),), {"oops": 1})}, r"example: Plain\.forward: .*'oops'"),
    ({"via": "fx", "example": ()}, r"example: Plain\.forward: missing .*'x'"),
    ({"via": "fx", "optimizer": torch.optim.SGD([nn.Parameter(torch.ones(1))])}, "make a new optimizer"),
    ({"example": torch.ones(3, 4)}, "example=.*via='fx'"),
    ({"hooks": "ignore"}, "hooks=.*via='fx'"),
    ({"lower": {Net: lambda net, x: x}}, "lower=.*via='fx'"),
    ({"via": "fx", "lower": {nn.LSTM: lambda lstm, x: x}}, "lower.*LSTM"),
]


class Plain(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x)


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[",".join(options) for options, _ in WRONG])
def test_wrong_arguments_are_refused_and_the_model_is_untouched(options: dict[str, Any], message: str):
    model = Plain()
    before = picture(model)
    with pytest.raises(SurgeryError, match=message):
        surgery.apply_constraints(model, RULES, **options)
    assert differences(before, picture(model)) == []


def test_a_plan_with_problems_is_refused_before_anything_is_traced():
    with pytest.raises(PlanError, match="2 problems, nothing was changed") as caught:
        graph_of(Length(), {"lin.wieght": "positive", "lin.bias": "spectral"})
    assert len(caught.value.problems) == 2


def test_an_example_that_the_model_itself_refuses_is_named():
    class Normed(Net):
        def build(self) -> None:
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.lin(x))

    with pytest.raises(SurgeryError, match=r"(?s)Normed.*example.*training.*more than 1 value per channel"):
        graph_of(Normed(), example=torch.randn(1, 4))


def test_an_example_may_come_out_of_another_network():
    graph_of(Plain(), example=Plain()(rows()))


def test_a_model_that_cannot_be_copied_is_refused_with_what_to_do():
    model = nn.Sequential(quiet(nn.utils.weight_norm)(nn.Linear(4, 4)), Plain())
    model(rows())
    with pytest.raises(
        SurgeryError, match=r"Sequential cannot be copied .*surgery\.adopt\(model\), or remove_weight_n"
    ):
        graph_of(model, {"1.lin.weight": "positive"})


def by_two(net: nn.Module, x: Tensor) -> Tensor:
    return net.lin(x) * 2


def branching(y: Tensor) -> Tensor:
    return y if y.sum() > 0 else y * 3


fx.wrap("branching")


class Wrapping(Net):
    def forward(self, x: Tensor) -> Tensor:
        return branching(self.lin(x))


def test_a_function_that_is_wrapped_is_one_call():
    graph = agree(Wrapping(), rows(), example=rows())
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"][-1] is branching


@pytest.mark.parametrize("root", [False, True], ids=["nested", "root"])
def test_a_function_stands_in_for_a_forward(root: bool):
    model = OverLines() if root else Outer(OverLines())
    rules = RULES if root else NESTED
    graph = graph_of(model, rules, lower={OverLines: by_two})
    tree = surgery.apply_constraints(copy.deepcopy(model), rules)
    lin = tree.lin if root else tree.a[0].lin
    x = rows()
    torch.testing.assert_close(graph(x), lin(x) * 2)


def test_a_function_that_is_wrong_is_found_by_the_example():
    with pytest.raises(TraceRefusedError, match="the graph is not the model"):
        graph_of(Outer(Plain()), NESTED, lower={Plain: by_two}, example=rows())


def test_a_function_that_fails_is_named():
    def failing(net: nn.Module, x: Tensor) -> Tensor:
        return net.lin(x) if x.sum() > 0 else x

    statement = "return net.lin(x) if x.sum() > 0 else x"
    message = refused(Outer(OverLines()), statement, "control flow", NESTED, lower={OverLines: failing})
    assert "module 'a.0' (OverLines)" in message


def test_a_function_stands_in_for_a_host_that_would_become_an_op_module():
    def halved(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
        return x * norm.weight / 2

    model, x = nn.Sequential(nn.BatchNorm1d(4)), rows()
    graph = graph_of(model, {"0.weight": "positive"}, lower={nn.BatchNorm1d: halved})
    torch.testing.assert_close(graph(x), x / 2)


class Optional(Net):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: Any = 2.0) -> Tensor:
        y = self.lin(x) * scale
        return y if mask is None else y.masked_fill(mask > 0, 0.0)


GIVEN: list[tuple[object, list[str]]] = [
    (None, ["x"]),
    (rows(), ["x"]),
    ((rows(),), ["x"]),
    ((rows(), rows()), ["x", "mask"]),
    (((rows(),), {"mask": rows()}), ["x", "mask"]),
    (([rows()], {"scale": torch.tensor(3.0)}), ["x", "scale"]),
    (((), {"scale": torch.tensor(3.0), "x": rows()}), ["x", "scale"]),
    (((rows(), None), {"scale": 3.0}), ["x"]),
]


@pytest.mark.parametrize(("example", "names"), GIVEN)
def test_an_example_says_which_arguments_a_graph_takes(example: object, names: list[str]):
    graph = graph_of(Optional(), example=example)
    assert [node.target for node in graph.graph.nodes if node.op == "placeholder"] == names
    with pytest.raises(TypeError, match="argument"):
        graph(rows(), rows(), rows(), rows())


@pytest.mark.parametrize("kwargs", [{}, {"mask": torch.ones(3, 4)}, {"scale": 5.0}, {"scale": torch.tensor(3.0)}])
def test_a_graph_does_with_its_arguments_what_the_model_does(kwargs: dict[str, Any]):
    model, x = Optional(), rows()
    graph = graph_of(model, example=((x,), kwargs))
    tree = surgery.apply_constraints(copy.deepcopy(model), RULES)
    given = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
    torch.testing.assert_close(graph(x, **given), tree(x, **kwargs))


class Several(Net):
    def forward(self, *xs: Tensor, **named: Tensor) -> Tensor:
        return self.lin(sum(xs)) * named.get("factor", torch.ones(()))


def test_collected_arguments_are_as_many_as_the_example_has():
    model, x = Several(), rows()
    graph = graph_of(model, example=((x, x, x), {"factor": torch.tensor(2.0)}))
    tree = surgery.apply_constraints(copy.deepcopy(model), RULES)
    assert len([node for node in graph.graph.nodes if node.op == "placeholder"]) == 4
    torch.testing.assert_close(graph(x, x, x, torch.tensor(3.0)), tree(x, x, x, factor=torch.tensor(3.0)))


def test_collected_arguments_need_an_example():
    with pytest.raises(SurgeryError, match=r"(?s)\*xs.*example"):
        graph_of(Several())


def test_a_statement_in_a_message_is_on_one_line_and_without_comments():
    class Commented(Net):
        def forward(self, x: Tensor) -> Tensor:
            if (
                self.lin(x).sum() > 0  # not
                and x is not None  # "these"
            ):
                return x
            return -x

    with pytest.raises(TraceRefusedError, match=re.escape("`if ( self.lin(x).sum() > 0 and x is not None ):`")):
        graph_of(Commented())
