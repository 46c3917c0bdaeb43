"""Rules about operations and predicates on uses: what they hit, what they leave alone, what they say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from surgery.graph.ops import OPERATIONS, operation_named
from surgery.graph.uses import Use
from tests.surgery.graph.networks import ConvNet, Tied
from tests.surgery.graph.sides import graph_of
from tests.surgery.picture import differences, picture

pytestmark = [
    pytest.mark.filterwarnings("ignore:The tensor attributes self.model._flat_weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
]

aten: Any = torch.ops.aten
ROUTES = ("fx", "export")
Forward = Callable[["Author", Tensor], Tensor]
Rules = dict[Any, object]


class Author(nn.Module):
    """A matrix and a vector at the root, used as ``use`` says."""

    def __init__(self, use: Forward) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4))
        self.b = nn.Parameter(torch.randn(4))
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


def rows() -> Tensor:
    return torch.randn(3, 4)


def hit(model: nn.Module, rules: Rules, via: str = "fx", x: Any = None, **options: Any) -> list[str]:
    """The names of the parameters that ``rules`` constrain on a route; the model is the same afterwards.

    ``x`` is the input of the example, or a tuple of several.
    """
    if via == "fx":
        return list(surgery.computed_parameters(graph_of(model, rules, **options)))
    before = picture(model)
    example = x if isinstance(x, tuple) else (rows() if x is None else x,)
    graph = surgery.apply_constraints(model, rules, via=via, example=example, **options)
    after = picture(model)
    changed = [place for place in differences(before, after) if place != "random state"]
    assert changed == []
    return list(surgery.computed_parameters(graph))


def problem(model: nn.Module, rules: Rules, **options: Any) -> str:
    with pytest.raises(surgery.PlanError, match="nothing was changed") as caught:
        graph_of(model, rules, **options)
    return str(caught.value)


FORMS: dict[str, tuple[str, Forward]] = {
    "F.linear": ("F.linear", lambda self, x: F.linear(x, self.w, self.b)),
    "F.linear by names": ("F.linear", lambda self, x: F.linear(input=x, bias=self.b, weight=self.w)),
    "aten.linear": ("F.linear", lambda self, x: aten.linear(x, self.w, self.b)),
    "aten.linear.default": ("F.linear", lambda self, x: aten.linear.default(x, self.w, self.b)),
    "operator": ("torch.matmul", lambda self, x: x @ self.w),
    "operator from the right": ("torch.matmul", lambda self, x: self.w @ x.t()),
    "function": ("torch.matmul", lambda self, x: torch.matmul(x, self.w)),
    "method": ("torch.matmul", lambda self, x: x.matmul(self.w)),
    "method of the weight": ("torch.matmul", lambda self, x: self.w.matmul(x.t())),
    "aten.matmul": ("torch.matmul", lambda self, x: aten.matmul(x, self.w)),
    "mm": ("torch.mm", lambda self, x: x.mm(self.w)),
    "mm of torch": ("torch.mm", lambda self, x: torch.mm(x, self.w)),
    "mv": ("torch.mv", lambda self, x: torch.mv(self.w, x[0])),
    "einsum": ("torch.einsum", lambda self, x: torch.einsum("ij,kj->ik", x, self.w)),
}


@pytest.mark.parametrize("via", ROUTES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_operation_is_that_operation(form: str, via: str):
    """Function, method, operator and ATen form: a rule about the operation finds the weight in each."""
    operation, use = FORMS[form]
    assert hit(Author(use), {f"*@{operation}": "positive"}, via) == ["w"]


NAMES = {
    "F.linear": ["F.linear", "torch.nn.functional.linear", "aten.linear", "aten.linear.default"],
    "F.conv2d": ["F.conv2d", "torch.conv2d", "torch.nn.functional.conv2d", "aten.conv2d", "aten.conv2d.padding"],
    "torch.matmul": [
        "torch.matmul", "operator.matmul", "aten.matmul", "Tensor.matmul", "Tensor.__matmul__", "Tensor.__rmatmul__",
    ],
    "torch.mul": ["torch.mul", "operator.mul", "aten.mul", "aten.mul.Tensor", "Tensor.mul", "Tensor.__rmul__"],
    "torch.lstm": ["torch.lstm", "aten.lstm", "aten.lstm.input"],
    "F.relu": ["F.relu", "torch.relu", "Tensor.relu", "aten.relu"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "alias"), [(name, alias) for name, aliases in NAMES.items() for alias in aliases])
def test_a_rule_may_name_an_operation_by_any_of_its_forms(name: str, alias: str):
    operation = operation_named(alias)
    assert operation is not None
    assert operation.name == name


def test_every_form_in_the_table_belongs_to_one_operation_alone():
    forms = [form for operation in OPERATIONS for form in {*operation.functions, *operation.methods}]
    assert len(forms) == len(set(forms))
    assert [one.name for one in OPERATIONS if operation_named(one.name) is not one] == []


def test_a_rule_may_write_an_alias():
    by_operator = Author(lambda self, x: x @ self.w)
    for name in NAMES["torch.matmul"]:
        assert hit(by_operator, {f"*@{name}": "positive"}) == ["w"], name
    for name in NAMES["F.linear"]:
        assert hit(nn.Linear(4, 4), {f"*@{name}": "positive"}) == ["weight"], name


UNLISTED: dict[str, tuple[str, Forward]] = {
    "function of torch": ("torch.cumsum", lambda self, x: x @ torch.cumsum(self.w, 0)),
    "in a list": ("torch.cat", lambda self, x: torch.cat([x, self.w])),
    "function of F": ("F.normalize", lambda self, x: x @ F.normalize(self.w)),
    "method": ("Tensor.cumsum", lambda self, x: x @ self.w.cumsum(0)),
}


@pytest.mark.parametrize("form", UNLISTED)
def test_operations_beyond_the_table_are_told_by_their_own_name(form: str):
    operation, use = UNLISTED[form]
    assert hit(Author(use), {f"w@{operation}": "positive"}) == ["w"]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "t": lambda w: w.t(),
    "torch.t": torch.t,
    "transpose": lambda w: w.transpose(0, 1),
    "torch.transpose": lambda w: torch.transpose(w, 0, 1),
    "permute": lambda w: w.permute(1, 0),
    "T": lambda w: w.T,
    "mT": lambda w: w.mT,
    "view": lambda w: w.view(4, 4),
    "reshape": lambda w: w.reshape(4, -1),
    "torch.reshape": lambda w: torch.reshape(w, (4, 4)),
    "flatten and view": lambda w: w.flatten().view(4, 4),
    "unsqueeze and squeeze": lambda w: w.unsqueeze(0).squeeze(0),
    "contiguous": lambda w: w.t().contiguous(),
    "expand": lambda w: w.expand(4, 4),
    "float": lambda w: w.float(),
    "to": lambda w: w.to(torch.float32),
    "clone": lambda w: w.clone(),
    "movedim": lambda w: w.movedim(0, 1),
    "double and back": lambda w: w.double().float(),
}


@pytest.mark.parametrize("via", ROUTES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_uses_a_weight_in_another_layout_uses_the_weight(layout: str, via: str):
    move = LAYOUTS[layout]
    assert hit(Author(lambda self, x: x @ move(self.w)), {"*@torch.matmul": "positive"}, via) == ["w"]
    assert hit(Author(lambda self, x: F.linear(x, move(self.w), self.b)), {"*@F.linear": "positive"}, via) == ["w"]


def test_what_changes_numbers_is_a_use_of_its_own():
    model = Author(lambda self, x: F.linear(x, self.w * 2, self.b))
    assert hit(model, {"*@torch.mul": "positive"}) == ["w"]
    assert "torch.mul (input)" in problem(model, {"w@F.linear": "positive"})


HOSTS: list[tuple[nn.Module, str, tuple[int, ...], list[str], list[str]]] = [
    (nn.Linear(4, 4), "F.linear", (2, 4), ["weight"], ["bias"]),
    (nn.Bilinear(4, 4, 2), "F.bilinear", (2, 4), ["weight"], ["bias"]),
    (nn.Conv1d(4, 4, 1), "F.conv1d", (2, 4, 3), ["weight"], ["bias"]),
    (nn.Conv2d(4, 4, 1), "F.conv2d", (2, 4, 3, 3), ["weight"], ["bias"]),
    (nn.Conv2d(4, 4, 3, padding="same"), "F.conv2d", (2, 4, 3, 3), ["weight"], ["bias"]),
    (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "F.conv2d", (2, 4, 3, 3), ["weight"], ["bias"]),
    (nn.Conv3d(4, 4, 1), "F.conv3d", (2, 4, 3, 3, 3), ["weight"], ["bias"]),
    (nn.ConvTranspose1d(4, 4, 1), "F.conv_transpose1d", (2, 4, 3), ["weight"], ["bias"]),
    (nn.ConvTranspose2d(4, 4, 1), "F.conv_transpose2d", (2, 4, 3, 3), ["weight"], ["bias"]),
    (nn.ConvTranspose3d(4, 4, 1), "F.conv_transpose3d", (2, 4, 3, 3, 3), ["weight"], ["bias"]),
    (nn.BatchNorm1d(4), "F.batch_norm", (2, 4), ["weight"], ["bias"]),
    (nn.BatchNorm2d(4), "torch.batch_norm", (2, 4, 3, 3), ["weight"], ["bias"]),
    (nn.InstanceNorm1d(4, affine=True), "F.instance_norm", (2, 4, 3), ["weight"], ["bias"]),
    (nn.LayerNorm(4), "F.layer_norm", (2, 4), ["weight"], ["bias"]),
    (nn.GroupNorm(2, 4), "F.group_norm", (2, 4, 3), ["weight"], ["bias"]),
    (nn.RMSNorm(4), "F.rms_norm", (2, 4), ["weight"], []),
    (nn.PReLU(4), "F.prelu", (2, 4), ["weight"], []),
    (nn.LSTM(4, 3), "torch.lstm", (2, 4), ["weight_ih_l0", "weight_hh_l0"], ["bias_ih_l0", "bias_hh_l0"]),
    (nn.LSTM(4, 3, proj_size=2, bias=False), "aten.lstm", (2, 4),
     ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"], []),
    (nn.GRU(4, 3), "torch.gru", (2, 4), ["weight_ih_l0", "weight_hh_l0"], ["bias_ih_l0", "bias_hh_l0"]),
    (nn.RNN(4, 3), "torch.rnn_tanh", (2, 4), ["weight_ih_l0", "weight_hh_l0"], ["bias_ih_l0", "bias_hh_l0"]),
    (nn.RNN(4, 3, nonlinearity="relu"), "torch.rnn_relu", (2, 4),
     ["weight_ih_l0", "weight_hh_l0"], ["bias_ih_l0", "bias_hh_l0"]),
    (nn.LSTMCell(4, 3), "torch.lstm_cell", (2, 4), ["weight_ih", "weight_hh"], ["bias_ih", "bias_hh"]),
    (nn.GRUCell(4, 3), "torch.gru_cell", (2, 4), ["weight_ih", "weight_hh"], ["bias_ih", "bias_hh"]),
    (nn.RNNCell(4, 3), "torch.rnn_tanh_cell", (2, 4), ["weight_ih", "weight_hh"], ["bias_ih", "bias_hh"]),
    (nn.RNNCell(4, 3, nonlinearity="relu"), "torch.rnn_relu_cell", (2, 4),
     ["weight_ih", "weight_hh"], ["bias_ih", "bias_hh"]),
]  # fmt: skip
TITLES = [f"{type(host).__name__} by {operation} {index}" for index, (host, operation, *_) in enumerate(HOSTS)]


@pytest.mark.parametrize("via", ROUTES)
@pytest.mark.parametrize(("host", "operation", "shape", "weights", "biases"), HOSTS, ids=TITLES)
def test_a_rule_about_an_operation_means_its_weights_and_no_bias(
    host: nn.Module, operation: str, shape: tuple[int, ...], weights: list[str], biases: list[str], via: str
):
    """By its operation alone a rule finds what a module has as its weights; a bias is found by its name."""
    x = tuple(torch.randn(shape) for _ in range(2 if isinstance(host, nn.Bilinear) else 1))
    assert hit(host, {f"*@{operation}": "positive"}, via, x) == weights
    for bias in biases:
        assert hit(host, {f"{bias}@{operation}": "positive"}, via, x) == [bias]


def test_rnn_of_one_kind_is_not_one_of_another():
    model = nn.Sequential(nn.RNN(4, 3))
    assert "torch.rnn_tanh (weight_ih_l0)" in problem(model, {"*@torch.rnn_relu": "positive"})
    assert "torch.rnn_tanh" in problem(model, {"*@torch.lstm": "positive"})
    assert "torch.rnn_relu_cell" in problem(
        nn.RNNCell(4, 3, nonlinearity="relu"), {"*@torch.rnn_tanh_cell": "positive"}
    )


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 4))
        self.bag = nn.EmbeddingBag(5, 4)
        self.embedding = nn.Embedding(5, 4)

    def forward(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self.table) + self.embedding(indices) + self.bag(indices)[:, None]


@pytest.mark.parametrize("via", ROUTES)
def test_an_embedding_is_the_weight_in_either_order_of_the_arguments(via: str):
    x = torch.randint(5, (2, 3))
    assert hit(Words(), {"*@F.embedding": "positive"}, via, x) == ["table", "embedding.weight"]
    assert hit(Words(), {"*@aten.embedding": "positive"}, via, x) == ["table", "embedding.weight"]
    swapped = Author(lambda self, x: torch.embedding(self.w, x))
    assert hit(swapped, {"*@F.embedding": "positive"}, via, torch.randint(4, (2, 3))) == ["w"]


@pytest.mark.parametrize("via", ROUTES)
def test_a_bag_of_embeddings_is_found(via: str):
    assert hit(Words(), {"*@F.embedding_bag": "positive"}, via, torch.randint(5, (2, 3))) == ["bag.weight"]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.heads(x, x, x, need_weights=False)[0]


def test_attention_gives_its_projections_and_no_bias():
    rules: Rules = {"*@F.multi_head_attention_forward": "positive"}
    assert hit(Attention(), rules) == ["heads.in_proj_weight", "heads.out_proj.weight"]
    biases = hit(Attention(), {"*.in_proj_bias@F.multi_head_attention_forward": "positive"})
    assert biases == ["heads.in_proj_bias"]


def by_hand(self: Author, x: Tensor) -> Tensor:
    x = x[:, None]
    heads = F.multi_head_attention_forward(
        x, x, x, 4, 2, self.packed, None, None, None, False, 0.0, self.w, self.b
    )  # fmt: skip
    return heads[0]


def test_attention_by_hand_gives_the_same_weights_as_the_module():
    model = Author(by_hand)
    model.packed = nn.Parameter(torch.randn(12, 4))
    assert hit(model, {"*@F.multi_head_attention_forward": "positive"}) == ["w", "packed"]


@pytest.mark.parametrize("via", ROUTES)
@pytest.mark.parametrize("operation", ["torch.addmm", "aten.addmm"])
def test_what_is_added_to_a_product_is_no_weight_of_it(operation: str, via: str):
    model = Author(lambda self, x: torch.addmm(self.b, x, self.w))  # as GPT-2's Conv1D
    assert hit(model, {f"*@{operation}": "positive"}, via) == ["w"]
    assert hit(model, {f"b@{operation}": "positive"}, via) == ["b"]


@pytest.mark.parametrize("via", ROUTES)
def test_the_operator_may_have_a_number_before_it(via: str):
    model = Author(lambda self, x: (1 - self.w) @ x.t() + 2 * self.b[:, None])
    assert hit(model, {"w@torch.sub": "positive"}, via) == ["w"]


PICTURES = (2, 1, 5, 5)


@pytest.mark.parametrize("via", ROUTES)
def test_later_rules_win_over_earlier_ones_of_either_kind(via: str):
    x = torch.randn(PICTURES)
    assert hit(ConvNet(), {"*@F.conv2d": "spectral", "head.*": None}, via, x) == ["one.weight"]
    assert hit(ConvNet(), {"head.*.weight": "spectral", "*@F.conv2d": None}, via, x) == ["head.out.weight"]
    rules: Rules = {"*.weight": "positive", "*@F.conv2d": "spectral"}
    both = surgery.apply_constraints(ConvNet(), rules, via=via, example=(x,))
    kinds = {name: type(one.constraints[0]).__name__ for name, one in surgery.computed_parameters(both).items()}
    assert kinds == {
        "one.weight": "Spectral",
        "norm.weight": "Positive",
        "head.conv.weight": "Spectral",
        "head.out.weight": "Positive",
    }


def test_a_rule_about_an_operation_may_freeze():
    graph = graph_of(ConvNet(), {"*@F.conv2d": "frozen"})
    frozen = [name for name, one in graph.named_parameters() if not one.requires_grad]
    assert frozen == ["one.weight", "head.conv.weight"]


def test_a_filter_by_class_and_an_operation_go_together():
    assert hit(ConvNet(), {"*@Conv2d.weight@F.conv2d": "spectral"}) == ["one.weight", "head.conv.weight"]
    assert "none is used by F.conv2d" in problem(ConvNet(), {"*@Linear.weight@F.conv2d": "spectral"})


def test_a_rule_that_later_ones_shadow_is_told():
    rules: Rules = {"one.weight@F.conv2d": "spectral", "*@F.conv2d": "positive"}
    assert "shadowed" in problem(ConvNet(), rules)
    assert hit(ConvNet(), rules, strict=False) == ["one.weight", "head.conv.weight"]


def test_a_rule_that_only_matches_by_name_says_what_uses_the_parameters():
    told = problem(ConvNet(), {"head.out.weight@F.conv2d": "spectral"})
    assert "matches 1 parameters by name, but none is used by F.conv2d so; what uses them is F.linear (weight)" in told
    assert "what uses them is nothing" in problem(ConvNet(), {"idle@F.conv2d": "spectral"})
    assert "matches none of" in problem(ConvNet(), {"head.nose.weight@F.conv2d": "spectral"})
    assert hit(ConvNet(), {"idle@F.conv2d": "spectral"}, strict=False) == []


@pytest.mark.parametrize("name", ["F.convv2d", "torch.nothing", "aten.nothing", "Tensor.nothing", "operator.nothing"])
def test_an_operation_that_torch_does_not_have_is_refused_by_name(name: str):
    assert f"torch has no operation {name!r}" in problem(ConvNet(), {f"*@{name}": "spectral"})
    assert f"torch has no operation {name!r}" in problem(ConvNet(), {f"*@{name}": "spectral"}, strict=False)


def test_what_is_no_operation_is_refused_by_name():
    assert "torch has no operation 'torch.float32'" in problem(ConvNet(), {"*@torch.float32": "spectral"})
    assert "torch has no operation 'torch.nn'" in problem(ConvNet(), {"*@torch.nn": "spectral"})


def test_all_problems_come_at_once():
    told = problem(ConvNet(), {"*@F.convv2d": "spectral", "one.weight": "spectrall", "no.weight": "positive"})
    assert "torch has no operation 'F.convv2d'" in told
    assert "spectrall" in told
    assert "no.weight" in told


@pytest.mark.parametrize("via", ROUTES)
@pytest.mark.parametrize("pattern", ["*@F.linear", "*@F.embedding", "one.weight@F.embedding", "table.*@F.linear"])
def test_a_tie_is_hit_by_any_of_its_uses_and_any_of_its_names(pattern: str, via: str):
    """A tied parameter is one computed parameter with one node, which all its uses read."""
    x = torch.randint(6, (2, 3))
    graph = surgery.apply_constraints(Tied(), {pattern: "positive"}, via=via, example=(x,))
    assert list(surgery.computed_parameters(graph)) == ["table.weight"]
    assert graph.one.weight is graph.two.weight is graph.table.weight
    calls = [node for node in graph.graph.nodes if node.op == "call_module" and str(node.target).endswith("weight")]
    assert len(calls) == 1
    assert len(calls[0].users) == 3


def test_a_parameter_with_several_uses_is_meant_where_one_of_them_is():
    model = Author(lambda self, x: F.linear(x @ self.w, self.w.t(), self.b))
    assert hit(model, {"*@F.linear": "positive"}) == ["w"]
    assert hit(model, {"*@torch.matmul": "positive"}) == ["w"]
    twice = Author(lambda self, x: F.linear(x, self.w, self.w[0]) + self.w.sum())
    assert hit(twice, {"*@F.linear": "positive"}) == ["w"]


def test_what_is_constrained_already_is_known_by_its_uses():
    model = surgery.apply_constraints(ConvNet(), {"one.weight": "spectral"})
    chained = graph_of(model, {"*@F.conv2d": "positive"}, existing="chain")
    assert [len(one.constraints) for one in surgery.computed_parameters(chained).values()] == [2, 1]
    assert "one.weight" in problem(model, {"*@F.conv2d": "positive"})


def test_a_rule_about_a_buffer_needs_its_name():
    model = Author(lambda self, x: F.linear(x, self.table))
    model.register_buffer("table", torch.randn(4, 4))
    assert "none is used by F.linear" in problem(model, {"*@F.linear": "positive"})
    assert hit(model, {"table@F.linear": "positive"}) == ["table"]


# predicates


def uses(model: nn.Module, via: str = "fx", x: Any = None) -> list[Use]:
    """Every use that a predicate is asked about."""
    seen: list[Use] = []

    def ask(use: Use) -> bool:
        seen.append(use)
        return False

    hit(model, {ask: "positive"}, via, x, strict=False)
    return seen


def test_a_predicate_is_asked_about_every_use_of_every_parameter():
    seen = [(use.site.name, use.op, use.arg) for use in uses(ConvNet())]
    assert seen == [
        ("one.weight", "F.conv2d", "weight"),
        ("one.bias", "F.conv2d", "bias"),
        ("norm.weight", "F.batch_norm", "weight"),
        ("norm.bias", "F.batch_norm", "bias"),
        ("head.conv.weight", "F.conv2d", "weight"),
        ("head.conv.bias", "F.conv2d", "bias"),
        ("head.out.weight", "F.linear", "weight"),
        ("head.out.bias", "F.linear", "bias"),
    ]


def test_both_routes_ask_the_same():
    x = torch.randn(PICTURES)
    by_route = [{(use.site.name, use.op, use.arg) for use in uses(ConvNet(), via, x)} for via in ROUTES]
    assert by_route[0] == by_route[1]
    by_route = [{(use.op, use.arg) for use in uses(nn.LSTM(4, 3), via, torch.randn(2, 4))} for via in ROUTES]
    assert by_route[0] == by_route[1]


def test_a_use_is_frozen_and_short_to_read():
    use = uses(nn.Linear(4, 4))[0]
    with pytest.raises(AttributeError, match="cannot assign to field 'op'"):
        use.op = "F.conv2d"
    text = repr(use)
    assert "op='F.linear', arg='weight'" in text
    assert "root" not in text


def named(function: Callable[[Use], object], name: str) -> Callable[[Use], object]:
    function.__name__ = name
    return function


def test_a_predicate_chooses_by_operation_argument_and_site():
    assert hit(ConvNet(), {lambda use: use.op == "F.conv2d" and use.arg == "bias": "positive"}) == [
        "one.bias",
        "head.conv.bias",
    ]
    assert hit(ConvNet(), {lambda use: use.site.host_type is nn.Linear: "positive"}) == [
        "head.out.weight",
        "head.out.bias",
    ]
    assert hit(ConvNet(), {lambda use: use.site.name.startswith("one") and len(use.site.shape) > 1: "spectral"}) == [
        "one.weight"
    ]


def test_rules_of_all_kinds_stand_in_one_dictionary():
    rules: Rules = {
        "*.weight": "positive",
        "*@F.conv2d": "spectral",
        (lambda use: use.op == "F.batch_norm"): None,
        "head.conv.*": None,
    }
    assert hit(ConvNet(), rules) == ["one.weight", "head.out.weight"]
    assert hit(ConvNet(), list(rules.items())) == ["one.weight", "head.out.weight"]


FEEDS: list[tuple[object, tuple[type[nn.Module], ...], list[str]]] = [
    (F.batch_norm, (), ["one.weight"]),
    ("F.batch_norm", (), ["one.weight"]),
    (nn.BatchNorm2d, (), ["one.weight"]),
    (F.relu, (), []),
    (F.relu, (nn.BatchNorm2d,), []),
    (F.relu, (nn.BatchNorm2d, nn.Dropout), ["one.weight", "norm.weight"]),
    (torch.relu, (nn.BatchNorm2d, nn.Dropout), ["one.weight", "norm.weight"]),
    (aten.relu, (nn.BatchNorm2d, nn.Dropout), ["one.weight", "norm.weight"]),
    ("F.relu", (nn.BatchNorm2d, nn.Dropout), ["one.weight", "norm.weight"]),
    ("torch.relu", (nn.BatchNorm2d, nn.Dropout), ["one.weight", "norm.weight"]),
    (nn.Dropout, (nn.BatchNorm2d,), ["one.weight", "norm.weight"]),
    (F.dropout, (), ["norm.weight"]),
]


@pytest.mark.parametrize(
    ("op", "through", "expected"),
    FEEDS,
    ids=[
        f"{op if isinstance(op, str) else op.__name__} through {len(through)} {i}"
        for i, (op, through, _) in enumerate(FEEDS)
    ],
)
@pytest.mark.parametrize("via", ROUTES)
def test_feeds_says_where_the_result_goes(
    op: object, through: tuple[type[nn.Module], ...], expected: list[str], via: str
):
    """A function, a class of modules or a name is found on both routes, through the modules that are named alone."""
    rules: Rules = {lambda use: use.arg == "weight" and use.feeds(op, through=through): "positive"}
    assert hit(ConvNet(), rules, via, torch.randn(PICTURES), strict=False) == expected


@pytest.mark.parametrize(("via", "known"), [("fx", "Tensor.mean"), ("export", "aten.mean")])
def test_feeds_knows_an_operation_beyond_the_table_by_its_name_in_the_graph_alone(via: str, known: str):
    """`mean` is called as a method: it is one in a symbolic trace, and an ATen operation in an export."""
    for op in ("Tensor.mean", "aten.mean", "torch.mean"):
        rules: Rules = {lambda use, op=op: use.arg == "weight" and use.feeds(op): "positive"}
        expected = ["head.conv.weight"] if op == known else []
        assert hit(ConvNet(), rules, via, torch.randn(PICTURES), strict=False) == expected, op


class Activated(nn.Module):
    """ReLU as a module, as a function and as a method, behind dropout as a module and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 4), nn.LayerNorm(4))
        self.function = nn.Linear(4, 4)
        self.method = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.dropout(self.function(self.layers(x)), 0.5, self.training))
        return self.method(x).relu()


@pytest.mark.parametrize("via", ROUTES)
def test_feeds_knows_an_operation_as_module_function_and_method(via: str):
    through = (nn.Dropout,)
    for op in (F.relu, "F.relu"):
        rules: Rules = {lambda use, op=op: use.arg == "weight" and use.feeds(op, through=through): "positive"}
        assert hit(Activated(), rules, via) == ["layers.0.weight", "function.weight", "method.weight"]


@pytest.mark.parametrize("via", ROUTES)
@pytest.mark.parametrize(("kind", "expected"), [(nn.LayerNorm, ["layers.3.weight"]), (nn.Linear, ["layers.4.weight"])])
def test_feeds_knows_a_module_that_has_weights_itself(kind: type[nn.Module], expected: list[str], via: str):
    rules: Rules = {lambda use: use.arg == "weight" and use.feeds(kind): "positive"}
    assert hit(Activated(), rules, via, strict=False) == expected


def test_a_predicate_that_nothing_fulfils_says_what_there_is():
    told = problem(ConvNet(), {named(lambda use: False, "hopeless"): "positive"})
    assert "rule hopeless: 'positive'" in told
    assert "of none of its uses it is true" in told
    assert "F.conv2d (weight)" in told


def test_a_predicate_may_answer_with_anything():
    assert hit(nn.Linear(4, 4), {lambda use: re.search("wei", use.arg): "positive"}) == ["weight"]
    with pytest.raises(surgery.PlanError, match="of none of its uses"):
        graph_of(nn.Linear(4, 4), {lambda use: None: "positive"})


def test_an_error_in_a_predicate_is_its_own_and_tells_the_use():
    def reads_what_is_not_there(use: Use) -> bool:
        raise ZeroDivisionError(f"at {use.arg}")

    with pytest.raises(ZeroDivisionError, match="at weight") as caught:
        graph_of(nn.Linear(4, 4), {reads_what_is_not_there: "positive"})
    told = " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "reads_what_is_not_there" in told
    assert "F.linear" in told


@pytest.mark.parametrize("route", [surgery.apply_constraints, surgery.plan])
def test_the_tree_refuses_rules_that_need_a_graph_by_name(route: Callable[..., Any]):
    def chosen(use: Use) -> bool:
        raise AssertionError("a tree asks nobody")

    model = ConvNet()
    for rules, subject in (({"*@F.conv2d": "spectral"}, "'*@F.conv2d'"), ({chosen: "spectral"}, "chosen")):
        before = picture(model)
        if route is surgery.plan:
            told = "\n".join(surgery.plan(model, rules).problems)
        else:
            with pytest.raises(surgery.PlanError, match="only a graph knows") as caught:
                route(model, rules)
            told = str(caught.value)
        assert f"rule {subject}: 'spectral'" in told
        assert "via='fx'" in told
        assert differences(before, picture(model)) == []


@pytest.mark.parametrize("call", ["constrain", "constrained"])
def test_the_other_ways_to_constrain_refuse_operations(call: str):
    rules: Rules = {"*@F.linear": "spectral"}
    if call == "constrain":
        with pytest.raises(surgery.SurgeryError, match=r"'\*@F.linear' is a pattern"):
            surgery.constrain(nn.Linear(4, 4), rules)
    else:
        with pytest.raises(surgery.PlanError, match=r"F\.linear is an operation, which only a graph knows"):
            surgery.constrained(rules)(type("Host", (nn.Linear,), {}))(4, 4)


@pytest.mark.parametrize("via", ROUTES)
def test_values_and_outputs_are_those_of_rules_by_name(via: str):
    model, x = ConvNet().eval(), torch.randn(PICTURES)
    graphs = [
        surgery.apply_constraints(model, rules, via=via, example=(x,))
        for rules in ({"*@F.conv2d": "spectral"}, {"*@Conv2d.weight": "spectral"})
    ]
    assert list(graphs[0].state_dict()) == list(graphs[1].state_dict())
    for one, other in zip(graphs[0].state_dict().values(), graphs[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert graphs[0].code == graphs[1].code
