"""The second tracer: what `torch.export` records trains, evaluates, copies and bakes as the tree route does."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import surgery
from computed.parameter import ComputedParameter
from surgery.errors import SurgeryError, TraceRefusedError
from tests.quiet import quiet_transformers
from tests.surgery.graph.sides import observed
from tests.surgery.picture import differences, picture

transformers = pytest.importorskip("transformers", reason="transformers is in the extra 'examples'")
pytestmark = pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level:UserWarning")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
IMAGES = SIZES | {"image_size": 16, "patch_size": 4, "hidden_dropout_prob": 0.1}
TEXT = SIZES | {"vocab_size": 50}
BOTH = {0: Dim.AUTO, 1: Dim.AUTO}
EXACT = {"rtol": 0.0, "atol": 0.0}


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    with quiet_transformers(logging.ERROR):
        yield


class Case(NamedTuple):
    """A published architecture: how it is made, a call of it, and one of other sizes."""

    make: Callable[[], nn.Module]
    given: dict[str, Tensor]
    others: dict[str, Tensor]
    constants: dict[str, object]
    scripts: bool = True


def tokens(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).mul(7).remainder(50).view(shape)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def wav2vec2() -> nn.Module:
    config = transformers.Wav2Vec2Config(
        **SIZES, vocab_size=32, conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, mask_time_prob=0.0, layerdrop=0.0,
    )  # fmt: skip
    return surgery.adopt(transformers.Wav2Vec2Model(config))


CACHE: dict[str, object] = {"use_cache": False}
CASES: dict[str, Case] = {
    "BERT": Case(
        lambda: transformers.BertForMaskedLM(transformers.BertConfig(**TEXT)),
        {"input_ids": tokens(3, 7)}, {"input_ids": tokens(5, 10)}, {},
    ),
    "GPT-2": Case(
        lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2)),
        {"input_ids": tokens(3, 7)}, {"input_ids": tokens(5, 10)}, CACHE,
    ),
    "Llama": Case(
        lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT, num_key_value_heads=2)),
        {"input_ids": tokens(3, 7)}, {"input_ids": tokens(5, 10)}, CACHE, scripts=False,
    ),
    "T5": Case(
        lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
            )
        ),
        {"input_ids": tokens(3, 7), "decoder_input_ids": tokens(3, 4)},
        {"input_ids": tokens(5, 10), "decoder_input_ids": tokens(5, 6)}, CACHE,
    ),
    "ViT": Case(
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**IMAGES)),
        {"pixel_values": noise(3, 3, 16, 16)}, {"pixel_values": noise(5, 3, 16, 16)}, {},
    ),
    "Wav2Vec2": Case(wav2vec2, {"input_values": noise(3, 400)}, {"input_values": noise(5, 600)}, {}),
}  # fmt: skip


class Sides(NamedTuple):
    """One architecture by both routes, and as it was."""

    case: Case
    plain_keys: list[str]
    tree: nn.Module
    graph: nn.Module

    @property
    def call(self) -> dict[str, Any]:
        return {**self.case.given, **self.case.constants, "return_dict": False}


made: dict[str, Sides] = {}


def sides(name: str) -> Sides:
    """Both routes; made once, copied for each test."""
    if name not in made:
        torch.manual_seed(0)
        case = CASES[name]
        model = case.make().eval()
        call = {**case.given, **case.constants, "return_dict": False}
        shapes = {key: {0: Dim.AUTO} if key == "pixel_values" else BOTH for key in case.given}
        before = picture(model)
        options: dict[str, Any] = {"strict": False, "existing": "chain"}
        chosen = {
            key: "spectral(bound=0.5)"
            for key, one in model.named_parameters()
            if one.dim() in (2, 4) and not isinstance(owner(model, key), ComputedParameter)
        }
        graph = surgery.apply_constraints(
            model, chosen, via="export", example=((), call), dynamic_shapes=shapes, **options
        )
        changed = [place for place in differences(before, picture(model)) if place != "random state"]
        assert changed == []
        tree = surgery.apply_constraints(copy.deepcopy(model), chosen, **options)
        made[name] = Sides(case, list(model.state_dict()), tree, graph)
    kept = made[name]
    return kept._replace(tree=copy.deepcopy(kept.tree), graph=copy.deepcopy(kept.graph))


def owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def tensors(output: Any) -> list[Tensor]:
    """Every tensor of an output, which has some and has nothing else."""
    leaves = pytree.tree_leaves(output)
    assert leaves
    assert [leaf for leaf in leaves if not isinstance(leaf, Tensor)] == []
    return leaves


def assert_same(found: Any, expected: Any, **tolerances: float) -> None:
    """Every tensor of two outputs, and the containers that they come in."""
    assert pytree.tree_structure(found) == pytree.tree_structure(expected)
    torch.testing.assert_close(tensors(found), tensors(expected), **tolerances)


def squares(output: Any) -> Tensor:
    """A loss that every tensor of an output is a part of."""
    return torch.stack([one.square().sum() for one in tensors(output)]).sum()


def after_seed(module: nn.Module, x: Tensor) -> Any:
    """What a module gives with the random numbers of one seed."""
    torch.default_generator.manual_seed(1)
    return module(x)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_tree_bit_for_bit(name: str, evidence: Callable[[str, str], None]):
    """On the example and on inputs of other sizes, every tensor of the output has the bits that the tree gives."""
    side = sides(name)
    assert_same(side.graph(**side.case.given), side.tree(**side.call), **EXACT)
    others = {**side.call, **side.case.others}
    assert_same(side.graph(**side.case.others), side.tree(**others), **EXACT)
    count = len(surgery.computed_parameters(side.graph))
    evidence(f"{name} by via='export', eval: outputs against the tree route, weights computed", f"bit-equal, {count}")


@pytest.mark.parametrize("name", CASES)
def test_all_raws_get_the_gradients_of_the_tree(name: str):
    """A loss of the whole output reaches the same raws with the same gradients on both routes."""
    side = sides(name)
    squares(side.graph(**side.case.given)).backward()
    squares(side.tree(**side.call)).backward()
    expected = {key: one.grad for key, one in side.tree.named_parameters()}
    got = {key: one.grad for key, one in side.graph.named_parameters()}
    assert list(got) == list(expected)
    assert [key for key in got if (got[key] is None) != (expected[key] is None)] == []
    for key, gradient in expected.items():
        if gradient is not None:
            scale = max(float(gradient.abs().max()), 1e-6)
            torch.testing.assert_close(
                got[key], gradient, rtol=1e-4, atol=1e-5 * scale, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.parametrize("name", CASES)
def test_state_dicts_have_the_keys_of_the_tree_in_its_order_and_load_both_ways(name: str):
    """A checkpoint of either route is one of the other, and brings its numbers along."""
    side = sides(name)
    assert list(side.graph.state_dict()) == list(side.tree.state_dict())
    assert [key for key, _ in side.graph.named_buffers()][: len(list(side.tree.named_buffers()))] == [
        key for key, _ in side.tree.named_buffers()
    ]
    with torch.no_grad():
        for one in side.tree.parameters():
            one.mul_(1.1)
    side.graph.load_state_dict(side.tree.state_dict())
    assert_same(side.graph(**side.case.given), side.tree(**side.call))
    with torch.no_grad():
        for one in side.graph.parameters():
            one.mul_(0.9)
    side.tree.load_state_dict(side.graph.state_dict())
    assert_same(side.graph(**side.case.given), side.tree(**side.call))


@pytest.mark.parametrize("name", CASES)
def test_every_value_is_one_call_and_a_tie_is_one_value(name: str):
    """Each computed parameter is called at one node, which has users; a tied one stands under all its names."""
    side = sides(name)
    nodes = [node for node in side.graph.graph.nodes if node.op == "call_module"]
    calls = [side.graph.get_submodule(str(node.target)) for node in nodes]
    values = [module for module in calls if isinstance(module, ComputedParameter)]
    assert len(values) == len(set(values))
    assert set(values) == set(surgery.computed_parameters(side.graph).values())
    assert [node for node in nodes if not node.users] == []
    if name in ("BERT", "GPT-2", "T5"):  # the head is tied
        tied = [node for node in nodes if not node.args and len(node.users) > 1]
        assert len(tied) == 1
        names = [key for key, _ in side.graph.named_modules(remove_duplicate=False)]
        value = side.graph.get_submodule(str(tied[0].target))
        standing = [key for key in names if side.graph.get_submodule(key) is value]
        assert len(standing) > 1
        assert standing == [
            key
            for key, module in side.tree.named_modules(remove_duplicate=False)
            if module is side.tree.get_submodule(str(tied[0].target))
        ]


@pytest.mark.parametrize("name", CASES)
def test_a_bake_is_plain_again(name: str):
    """A baked graph has the state dict of the baked tree and of the plain model, and computes what it did before."""
    side = sides(name)
    baked = surgery.bake(side.graph)
    wanted = surgery.bake(copy.deepcopy(side.tree))
    assert surgery.computed_parameters(baked) == {}
    assert list(baked.state_dict()) == list(wanted.state_dict())
    assert [key for key, _ in baked.named_parameters()] == [key for key, _ in wanted.named_parameters()]
    if name != "Wav2Vec2":  # which was adopted: its own keys are those of the parametrization
        assert list(baked.state_dict()) == side.plain_keys
    output = baked(**side.case.given)
    assert_same(output, side.graph(**side.case.given), **EXACT)
    assert_same(output, wanted(**side.call), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("name", CASES)
def test_copies_and_pickles_do_the_same(name: str, way: Callable[[nn.Module], nn.Module]):
    """A copy of a graph, or one that was pickled, gives the same bits and shares no parameter."""
    side = sides(name)
    other = way(side.graph)
    assert_same(other(**side.case.given), side.graph(**side.case.given), **EXACT)
    assert_same(other(**side.case.others), side.graph(**side.case.others), **EXACT)
    assert list(other.state_dict()) == list(side.graph.state_dict())
    assert other.recorded == side.graph.recorded
    mine = {one.data_ptr() for one in other.parameters()}
    assert mine & {one.data_ptr() for one in side.graph.parameters()} == set()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.scripts])
def test_torchscript_takes_five_of_the_six(name: str):
    """A scripted graph computes what the graph does, on inputs of other sizes, too."""
    side = sides(name)
    scripted = torch.jit.script(side.graph)
    assert_same(scripted(**side.case.given), side.graph(**side.case.given))
    assert_same(scripted(**side.case.others), side.graph(**side.case.others))


@pytest.mark.parametrize("name", ["BERT", "T5", "ViT"])
def test_dropout_follows_the_mode(name: str):
    """In training every tensor of the output is disturbed; back in eval all are what they were."""
    side = sides(name)
    graph, given = side.graph, side.case.given
    drops = [module for module in graph.modules() if isinstance(module, nn.Dropout)]
    assert drops
    quiet = tensors(graph(**given))
    loud = tensors(graph.train()(**given))
    assert [torch.equal(one, other) for one, other in zip(loud, quiet, strict=True)] == [False] * len(quiet)
    assert_same(tensors(graph.eval()(**given)), quiet, **EXACT)


# small models of one's own

OWN: dict[str, object] = {"lin.weight": "positive"}


class Net(nn.Module):
    def __init__(self, forward: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.body = forward

    def forward(self, x: Any) -> Any:
        if self.body is not None:
            return self.body(self, x)
        return self.drop(F.relu(self.norm(self.lin(x))))


def rows(count: int = 3) -> Tensor:
    return torch.randn(count, 4)


def export(model: nn.Module, rules: dict[Any, object] = OWN, x: Any = None, **options: Any) -> Any:
    before = picture(model)
    options = {"example": (rows() if x is None else x,), **options}
    try:
        return surgery.apply_constraints(model, rules, via="export", **options)
    finally:
        assert [place for place in differences(before, picture(model)) if place != "random state"] == []


@pytest.mark.parametrize("training", [True, False])
def test_the_result_says_its_mode_and_its_shapes(training: bool):
    """`recorded` and the printed graph tell in which mode and for which shapes the export was made."""
    mode = "training" if training else "eval"
    graph = export(Net().train(training))
    assert graph.recorded == f"exported in {mode}, for inputs of shapes (3, 4), and no others"
    assert graph.recorded in repr(graph)
    graph = export(Net().train(training), dynamic_shapes={"x": {0: Dim.AUTO}})
    assert graph.recorded == f"exported in {mode}, for inputs of shapes (3, 4), other sizes as dynamic_shapes says"
    assert graph.training is training


def test_what_is_exported_in_training_trains_as_the_tree():
    """Outputs, gradients and buffers are those of the tree, call after call."""
    model = Net().train()
    model.drop.p = 0.0
    graph = export(model, dynamic_shapes={"x": {0: Dim.AUTO}})
    tree = surgery.apply_constraints(copy.deepcopy(model), OWN)
    x = rows(6)
    for _ in range(2):
        torch.testing.assert_close(observed(graph, (x,)), observed(tree, (x,)), rtol=1e-5, atol=1e-6)


def test_batch_normalisation_stays_in_the_mode_of_the_export():
    """Exported in eval, it takes its running statistics in training, too, and moves none of them."""
    model = Net().eval()
    model.drop.p = 0.0
    model.norm.running_mean.fill_(0.3)
    graph = export(model)
    tree = surgery.apply_constraints(copy.deepcopy(model), OWN)
    before = {name: buffer.clone() for name, buffer in graph.norm.named_buffers()}
    x = rows()
    torch.testing.assert_close(graph.train()(x), tree.eval()(x))
    assert len(before) == 3
    for name, buffer in graph.norm.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert graph.recorded.startswith("exported in eval, ")


STRUCTURES: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda y: y,
    "tuple of one": lambda y: (y,),
    "nested": lambda y: (y, [y + 1, {"twice": y * 2}]),
    "dict": lambda y: {"a": y, "b": y + 1},
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_graph_returns_what_the_model_returns(structure: str):
    """The containers of an output are kept, and every tensor in them is the tree's."""
    pack = STRUCTURES[structure]
    model, x = Net(lambda self, x: pack(self.lin(x))), rows()
    assert_same(export(model)(x), surgery.apply_constraints(copy.deepcopy(model), OWN)(x))


def test_an_example_may_have_one_tensor_twice():
    """Two arguments that are one tensor in the example stay two inputs of the graph."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.lin(a) + b

    x, model = rows(), Two()
    graph = export(model, example=(x, x))
    tree = surgery.apply_constraints(copy.deepcopy(model), OWN)
    a, b = rows(), rows()
    assert_same(graph(a, b), tree(a, b))


def test_without_an_example_it_says_how_to_give_one():
    """The route runs the model, so a call of it is asked for by the name of the argument."""
    with pytest.raises(SurgeryError, match=r"via='export' runs the model: pass example=\(args, kwargs\)"):
        export(Net(), example=None)


def by_data(self: Net, x: Tensor) -> Tensor:
    y = self.lin(x)
    if y.sum() > 0:
        return y
    return -y


def test_a_branch_on_data_is_refused_with_file_and_line():
    """The error names the statement that torch.export does not follow, and the ways out."""
    with pytest.raises(TraceRefusedError, match="cannot be exported") as caught:
        export(Net(by_data))
    message = str(caught.value)
    assert f"{__file__}:{by_data.__code__.co_firstlineno + 2}: `if y.sum() > 0:`" in message
    assert "via='tree'" in message
    assert "the model is untouched" in message


def test_hooks_are_refused_or_ignored():
    """By default hooks are refused, `hooks="ignore"` leaves them out, and other words are no choice."""
    model = Net().eval()
    model.drop.register_forward_pre_hook(lambda *_: None)
    with pytest.raises(TraceRefusedError, match=r"drop \(Dropout\) has forward_pre_hooks"):
        export(model)
    assert list(surgery.computed_parameters(export(model, hooks="ignore"))) == ["lin.weight"]
    assert len(model.drop._forward_pre_hooks) == 1
    with pytest.raises(SurgeryError, match="hooks='keep'; it is one of 'refuse', 'ignore'"):
        export(model, hooks="keep")


@pytest.mark.parametrize(
    "shapes",
    [
        {"x": {0: Dim.AUTO}},
        {"x": {0: Dim("batch", min=2, max=16)}},
        {"x": (Dim.AUTO, Dim.STATIC)},
        ({0: Dim.AUTO},),
        [{0: Dim.DYNAMIC}],
    ],
    ids=["AUTO", "named", "by position", "tuple", "list"],
)
def test_dynamic_shapes_may_have_every_form_of_torch(shapes: Any):
    """By name, by position and by Dim: the graph takes batches of other sizes."""
    model = Net().eval()
    graph = export(model, dynamic_shapes=shapes)
    tree = surgery.apply_constraints(copy.deepcopy(model), OWN)
    for count in (2, 7):
        x = rows(count)
        assert_same(graph(x), tree(x), **EXACT)


@pytest.mark.parametrize(
    ("shapes", "kind", "said"),
    [
        ({"imput": {0: Dim.AUTO}}, SurgeryError, r"^dynamic_shapes: 'imput' is no input of the example; these are x$"),
        ({"x": {1: Dim("columns")}}, TraceRefusedError, r"exported: UserError: Constraints violated \(columns\)"),
        (5, TraceRefusedError, r"exported: TypeError: object of type 'int' has no len\(\)"),
    ],
    ids=["unknown name", "fixed size", "no mapping"],
)
def test_dynamic_shapes_that_do_not_fit_are_refused(shapes: Any, kind: type[SurgeryError], said: str):
    """A misspelt input is told with the right names; of all others torch's own reason is told."""
    with pytest.raises(SurgeryError, match=said) as caught:
        export(Net().eval(), dynamic_shapes=shapes)
    assert type(caught.value) is kind


def test_arguments_of_other_routes_are_refused():
    """What only the other route takes, or no route that makes a graph, is an error that says why."""
    with pytest.raises(SurgeryError, match=r"^lower= is for via='fx'"):
        export(Net(), lower={})
    with pytest.raises(SurgeryError, match=r"^dynamic_shapes= is for via='export'"):
        surgery.apply_constraints(Net(), OWN, via="fx", dynamic_shapes={"x": {0: Dim.AUTO}})
    with pytest.raises(SurgeryError, match="optimizer= follows a change in place"):
        export(Net(), optimizer=torch.optim.SGD(Net().parameters()))


def test_rules_about_operations_and_uses_go_by_this_route():
    """Rules that only a graph can see are asked about the exported operations."""
    graph = export(Net().eval(), {"*@F.linear": "spectral", (lambda use: use.op == "F.batch_norm"): "positive"})
    assert list(surgery.computed_parameters(graph)) == ["lin.weight", "norm.weight", "norm.bias"]


def test_an_adapter_stays_factored():
    """The op rule stands in the place of the operation, and a bake brings the plain graph back."""
    model = Net().eval()
    graph = export(model, {"lin.weight": "lora(rank=2)"}, dynamic_shapes={"x": {0: Dim.AUTO}})
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    assert "lin.weight" not in calls
    assert "lin.weight_linear.rule" in calls
    nn.init.normal_(graph.lin.weight.B)
    tree = surgery.apply_constraints(copy.deepcopy(model), {"lin.weight": "lora(rank=2)"})
    tree.load_state_dict(graph.state_dict())
    x = rows(5)
    assert_same(graph(x), tree(x))
    baked = surgery.bake(pickle.loads(pickle.dumps(graph)))
    assert list(baked.state_dict()) == list(model.state_dict())
    plain = export(model, {})
    assert [(node.op, str(node.target)) for node in baked.graph.nodes] == [
        (node.op, str(node.target)) for node in plain.graph.nodes
    ]


DROPS: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "dropout": lambda y, training: F.dropout(y, 0.5, training),
    "in place": lambda y, training: F.dropout(y, 0.5, training, inplace=True),
    "alpha_dropout": lambda y, training: F.alpha_dropout(y, 0.5, training),
    "dropout1d": lambda y, training: F.dropout1d(y[None], 0.5, training)[0],
    "dropout2d": lambda y, training: F.dropout2d(y[None, ..., None], 0.5, training)[0, ..., 0],
    "feature_alpha_dropout": lambda y, training: F.feature_alpha_dropout(y[None, ..., None], 0.5, training)[0, ..., 0],
}


@pytest.mark.parametrize("kind", DROPS)
@pytest.mark.parametrize("training", [True, False], ids=["made in training", "made in eval"])
def test_every_dropout_follows_the_mode(kind: str, training: bool):
    """After one seed a graph drops in either mode what the tree drops, whatever the mode of the export."""
    drop = DROPS[kind]
    model = Net(lambda self, x: drop(self.lin(x), self.training)).train(training)
    graph, tree, x = export(model), surgery.apply_constraints(copy.deepcopy(model), OWN), rows(8)
    quiet = after_seed(graph.eval(), x)
    loud = after_seed(graph.train(), x)
    assert_same(quiet, after_seed(tree.eval(), x), **EXACT)
    assert_same(loud, after_seed(tree.train(), x), **EXACT)
    assert not torch.equal(loud, quiet)


def test_what_always_drops_does_so_in_both_modes():
    """Dropout that an author has switched on for good is no dropout of the mode."""
    graph = export(Net(lambda self, x: F.dropout(self.lin(x), 0.5)).eval())
    x = rows()
    for training in (True, False):
        graph.train(training)
        assert not torch.equal(graph(x), graph(x))
