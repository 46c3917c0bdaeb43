"""Which hosts are not inlined as they are written: those whose own forward branches on its input."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from surgery.graph.names import fresh_name
from surgery.graph.operations.attention import HeadsOp
from surgery.graph.operations.bags import BagOp
from surgery.graph.operations.cells import GRUCellOp, LSTMCellOp, RNNCellOp
from surgery.graph.operations.normalisation import BatchStatisticsOp, InstanceStatisticsOp
from surgery.graph.operations.op_module import OpModule, operation_of
from surgery.graph.operations.recurrent import LSTMOp, OneStateOp
from surgery.graph.operations.transformers import decoder, decoder_layer, encoder, encoder_layer, transformer

Lowering = Callable[..., Any]

# hosts that become op modules, by their very class: a subclass may do something else
OPERATIONS: Mapping[type[nn.Module], type[OpModule]] = {
    nn.BatchNorm1d: BatchStatisticsOp,
    nn.BatchNorm2d: BatchStatisticsOp,
    nn.BatchNorm3d: BatchStatisticsOp,
    nn.InstanceNorm1d: InstanceStatisticsOp,
    nn.InstanceNorm2d: InstanceStatisticsOp,
    nn.InstanceNorm3d: InstanceStatisticsOp,
    nn.LSTM: LSTMOp,
    nn.GRU: OneStateOp,
    nn.RNN: OneStateOp,
    nn.LSTMCell: LSTMCellOp,
    nn.GRUCell: GRUCellOp,
    nn.RNNCell: RNNCellOp,
    nn.MultiheadAttention: HeadsOp,
    nn.EmbeddingBag: BagOp,
}

# modules that are traced by another function than their forward, called with the module and its arguments
FORWARDS: Mapping[type[nn.Module], Lowering] = {
    nn.TransformerEncoderLayer: encoder_layer,
    nn.TransformerEncoder: encoder,
    nn.TransformerDecoderLayer: decoder_layer,
    nn.TransformerDecoder: decoder,
    nn.Transformer: transformer,
}


def put_operation_under(root: nn.Module) -> None:
    """Where the root itself is a host that becomes an op module: that is a module below it, a graph takes its place."""
    operation = OPERATIONS.get(type(root))
    if operation is not None and operation_under(root) is None:
        root.add_module(fresh_name(root, "operation"), operation_of(root, operation))


def operation_under(root: nn.Module) -> tuple[str, OpModule] | None:
    """The op module that does what the root did, and its name."""
    for name, child in root._modules.items():
        if isinstance(child, OpModule) and child.stands_for is type(root):
            return name, child
    return None
