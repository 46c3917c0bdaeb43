"""The operations that take weights, each under one name: functions, methods, operators and ATen forms are aliases."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from surgery.graph.operations.attention import HeadsOp
from surgery.graph.operations.bags import BagOp
from surgery.graph.operations.cells import GRUCellOp, LSTMCellOp, RNNCellOp
from surgery.graph.operations.normalisation import BatchStatisticsOp, InstanceStatisticsOp
from surgery.graph.operations.recurrent import LSTMOp, OneStateOp

aten: Any = torch.ops.aten
PACKET, OVERLOAD = type(aten.relu), type(aten.relu.default)


@dataclass(frozen=True)
class Operation:
    """One operation: its name, the names of its arguments in order, and the forms that it occurs in.

    Functions are told by the function (of ATen by the packet of overloads), methods of tensors by name, modules by
    class. ``orders`` are the arguments of forms that have them in another order.
    """

    name: str
    arguments: str
    functions: tuple[Any, ...] = ()
    methods: tuple[str, ...] = ()
    modules: tuple[type[nn.Module], ...] = ()
    orders: Mapping[Any, str] = field(default_factory=dict)

    def argument(self, form: Any, position: int) -> str:
        """The name of the argument at ``position`` of one of its forms."""
        names = self.orders.get(form, self.arguments).split()
        return names[position] if position < len(names) else str(position)

    def is_meant(self, argument: str) -> bool:
        """Whether a rule about the operation is about this argument: the weight, where it has one, and no bias."""
        return "weight" in argument or ("weight" not in self.arguments and argument != "bias")


CONVOLUTION = "input weight bias stride padding dilation groups"
TRANSPOSED = "input weight bias stride padding output_padding groups dilation"
SLICES = "input normalized_shape weight bias eps"
STATISTICS = "input running_mean running_var weight bias"
STATISTICS_OF_TORCH = "input weight bias running_mean running_var"
CELL = "input hx weight_ih weight_hh bias_ih bias_hh"


def _signed(name: str, sign: str) -> Operation:
    functions = [getattr(torch, name), getattr(operator, sign), getattr(aten, name)]
    functions += [aten.rsub] if name == "sub" else []
    return Operation(f"torch.{name}", "input other", tuple(functions), (name, f"__{sign}__", f"__r{sign}__"))


OPERATIONS: tuple[Operation, ...] = (
    Operation("F.linear", "input weight bias", (F.linear, aten.linear), modules=(nn.Linear,)),
    Operation("F.bilinear", "input1 input2 weight bias", (F.bilinear, aten.bilinear), modules=(nn.Bilinear,)),
    Operation("F.conv1d", CONVOLUTION, (F.conv1d, aten.conv1d), modules=(nn.Conv1d,)),
    Operation("F.conv2d", CONVOLUTION, (F.conv2d, aten.conv2d), modules=(nn.Conv2d,)),
    Operation("F.conv3d", CONVOLUTION, (F.conv3d, aten.conv3d), modules=(nn.Conv3d,)),
    Operation("F.conv_transpose1d", TRANSPOSED, (F.conv_transpose1d, aten.conv_transpose1d), (), (nn.ConvTranspose1d,)),
    Operation("F.conv_transpose2d", TRANSPOSED, (F.conv_transpose2d, aten.conv_transpose2d), (), (nn.ConvTranspose2d,)),
    Operation("F.conv_transpose3d", TRANSPOSED, (F.conv_transpose3d, aten.conv_transpose3d), (), (nn.ConvTranspose3d,)),
    Operation(
        "F.embedding",
        "input weight",
        (F.embedding, torch.embedding, aten.embedding),
        modules=(nn.Embedding,),
        orders={torch.embedding: "weight input", aten.embedding: "weight input"},
    ),
    Operation(
        "F.embedding_bag",
        "input weight",
        (F.embedding_bag, torch.embedding_bag, aten.embedding_bag),
        modules=(BagOp, nn.EmbeddingBag),
        orders={torch.embedding_bag: "weight input", aten.embedding_bag: "weight input"},
    ),
    Operation("F.layer_norm", SLICES, (F.layer_norm, torch.layer_norm, aten.layer_norm), (), (nn.LayerNorm,)),
    Operation("F.rms_norm", SLICES, (F.rms_norm, torch.rms_norm, aten.rms_norm), (), (nn.RMSNorm,)),
    Operation(
        "F.group_norm",
        "input num_groups weight bias",
        (F.group_norm, torch.group_norm, aten.group_norm),
        modules=(nn.GroupNorm,),
    ),
    Operation(
        "F.batch_norm",
        STATISTICS,
        (F.batch_norm, torch.batch_norm, aten.batch_norm),
        modules=(BatchStatisticsOp, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
        orders={torch.batch_norm: STATISTICS_OF_TORCH, aten.batch_norm: STATISTICS_OF_TORCH},
    ),
    Operation(
        "F.instance_norm",
        STATISTICS,
        (F.instance_norm, torch.instance_norm, aten.instance_norm),
        modules=(InstanceStatisticsOp, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        orders={torch.instance_norm: STATISTICS_OF_TORCH, aten.instance_norm: STATISTICS_OF_TORCH},
    ),
    Operation("F.prelu", "input weight", (F.prelu, torch.prelu, aten.prelu), (), (nn.PReLU,)),
    Operation(
        "F.multi_head_attention_forward",
        "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn "
        "dropout_p out_proj_weight out_proj_bias",
        (F.multi_head_attention_forward,),
        modules=(HeadsOp,),
    ),
    Operation("torch.lstm", "input hx weights", (torch.lstm, aten.lstm), modules=(LSTMOp,)),
    Operation("torch.gru", "input hx weights", (torch.gru, aten.gru), modules=(OneStateOp,)),
    Operation("torch.rnn_tanh", "input hx weights", (torch.rnn_tanh, aten.rnn_tanh), modules=(OneStateOp,)),
    Operation("torch.rnn_relu", "input hx weights", (torch.rnn_relu, aten.rnn_relu), modules=(OneStateOp,)),
    Operation("torch.lstm_cell", CELL, (torch.lstm_cell, aten.lstm_cell), modules=(LSTMCellOp,)),
    Operation("torch.gru_cell", CELL, (torch.gru_cell, aten.gru_cell), modules=(GRUCellOp,)),
    Operation("torch.rnn_tanh_cell", CELL, (torch.rnn_tanh_cell, aten.rnn_tanh_cell), modules=(RNNCellOp,)),
    Operation("torch.rnn_relu_cell", CELL, (torch.rnn_relu_cell, aten.rnn_relu_cell), modules=(RNNCellOp,)),
    Operation(
        "torch.matmul",
        "input other",
        (torch.matmul, operator.matmul, aten.matmul),
        ("matmul", "__matmul__", "__rmatmul__"),
    ),
    Operation("torch.mm", "input mat2", (torch.mm, aten.mm), ("mm",)),
    Operation("torch.bmm", "input mat2", (torch.bmm, aten.bmm), ("bmm",)),
    Operation("torch.mv", "input vec", (torch.mv, aten.mv), ("mv",)),
    Operation("torch.addmm", "bias mat1 mat2", (torch.addmm, aten.addmm), ("addmm",)),
    Operation("torch.baddbmm", "bias batch1 batch2", (torch.baddbmm, aten.baddbmm), ("baddbmm",)),
    Operation("torch.einsum", "equation operands", (torch.einsum, aten.einsum)),
    _signed("mul", "mul"),
    _signed("add", "add"),
    _signed("sub", "sub"),
    _signed("div", "truediv"),
    Operation("F.relu", "input", (F.relu, torch.relu, aten.relu), ("relu",), (nn.ReLU,)),
    Operation("F.leaky_relu", "input", (F.leaky_relu, aten.leaky_relu), (), (nn.LeakyReLU,)),
    Operation("F.gelu", "input", (F.gelu, aten.gelu), (), (nn.GELU,)),
    Operation("F.silu", "input", (F.silu, aten.silu), (), (nn.SiLU,)),
    Operation("F.softmax", "input dim", (F.softmax, torch.softmax, aten.softmax), ("softmax",), (nn.Softmax,)),
    Operation("torch.sigmoid", "input", (torch.sigmoid, F.sigmoid, aten.sigmoid), ("sigmoid",), (nn.Sigmoid,)),
    Operation("torch.tanh", "input", (torch.tanh, F.tanh, aten.tanh), ("tanh",), (nn.Tanh,)),
    Operation("F.dropout", "input", (F.dropout, torch.dropout, aten.dropout), (), (nn.Dropout,)),
)

# these move or copy numbers and change none: who uses their result uses the weight
_MOVING = (
    *("t", "transpose", "permute", "reshape", "unsqueeze", "squeeze", "flatten", "view", "view_as", "reshape_as"),
    *(
        "contiguous",
        "expand",
        "expand_as",
        "movedim",
        "moveaxis",
        "swapaxes",
        "swapdims",
        "unflatten",
        "detach",
        "clone",
    ),
    *("to", "type_as", "float", "double", "half", "bfloat16", "_to_copy", "numpy_T", "mT", "alias"),
)
LAYOUT_METHODS = frozenset(_MOVING)
LAYOUT_FUNCTIONS = frozenset(getattr(space, name, None) for space in (torch, aten) for name in _MOVING) - {
    torch.float,
    torch.double,
    torch.half,
    torch.bfloat16,
    None,
}
LAYOUT_ATTRIBUTES = frozenset(("T", "mT", "data"))

SPACES: Mapping[str, Any] = {"F": F, "torch": torch, "operator": operator, "aten": aten, "Tensor": torch.Tensor}


def operation_named(name: str) -> Operation | None:
    """The operation that a rule calls ``name``, by any of its forms; None where torch has nothing of that name.

    >>> operation_named("operator.matmul").name, operation_named("torch.conv2d").name
    ('torch.matmul', 'F.conv2d')
    """
    for operation in OPERATIONS:
        if name == operation.name:
            return operation
    space, *path = name.split(".")
    found: Any = SPACES[space]
    for part in path:
        found = getattr(found, part, None)
    if found is None or not callable(found):
        return None
    if space == "Tensor":
        return by_method(path[-1]) or Operation(name, "input", methods=(path[-1],))
    return by_function(found) or Operation(name, "", (packet(found),))


def by_function(function: Callable[..., Any]) -> Operation | None:
    """The operation that ``function`` is a form of, or None."""
    form = packet(function)
    return next((one for one in OPERATIONS if any(form is each for each in one.functions)), None)


def by_method(name: str) -> Operation | None:
    """The operation that the method ``name`` of a tensor is a form of, or None."""
    return next((one for one in OPERATIONS if name in one.methods), None)


def only_moves(node: fx.Node) -> bool:
    """Whether a node gives the numbers of its first argument, in another layout or dtype."""
    if node.op == "call_method":
        return node.target in LAYOUT_METHODS
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in LAYOUT_ATTRIBUTES
    return packet(node.target) in LAYOUT_FUNCTIONS


def packet(function: Any) -> Any:
    """All overloads of an ATen form as one object; any other function itself."""
    return function.overloadpacket if isinstance(function, OVERLOAD) else function
