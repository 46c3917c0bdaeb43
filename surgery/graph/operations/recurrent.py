"""Recurrent layers: the weights of all layers and directions come as one list."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from surgery.graph.operations.op_module import Names, OpModule

Pair = tuple[Tensor, Tensor]


class RecurrentOp(OpModule):
    """What RNN, LSTM and GRU have in common."""

    mode: str
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    _flat_weights_names: list[str]

    def value_names(self) -> Names:
        """The weights in the order of the kernels."""
        return {"weights": list(self._flat_weights_names)}

    def prepare(self) -> None:
        """Drop the lists of tensors that torch's class keeps beside its registry."""
        for name in ("_flat_weights", "_flat_weight_refs"):
            vars(self).pop(name, None)

    def batched(self, input: Tensor) -> Tensor:
        """The input with a dimension for the batch."""
        if input.dim() != 2 and input.dim() != 3:
            raise ValueError(f"expected 2 or 3 dimensions, got {input.dim()}")
        if input.dim() == 3:
            return input
        return input.unsqueeze(0) if self.batch_first else input.unsqueeze(1)

    def start(self, input: Tensor, batch: int, size: int) -> Tensor:
        """A hidden state of zeros."""
        layers = self.num_layers * (2 if self.bidirectional else 1)
        return torch.zeros(layers, batch, size, dtype=input.dtype, device=input.device)

    def batch_size(self, input: Tensor) -> int:
        """The size of the batch of a batched input."""
        return input.size(0) if self.batch_first else input.size(1)

    def alone(self, output: Tensor) -> Tensor:
        """The output without the dimension of the batch."""
        return output.squeeze(0) if self.batch_first else output.squeeze(1)

    def checked(self, hidden: Tensor, input_dims: int) -> Tensor:
        """A hidden state that was given, with the batch's dimension."""
        if hidden.dim() != input_dims:
            raise RuntimeError(f"expected a hidden state of {input_dims} dimensions, got {hidden.dim()}")
        return hidden.unsqueeze(1) if input_dims == 2 else hidden


class LSTMOp(RecurrentOp):
    """The operation of `nn.LSTM`."""

    def forward(
        self, input: Tensor, hx: Pair | None = None, weights: list[Tensor] | None = None
    ) -> tuple[Tensor, Pair]:
        """Output and last states; a PackedSequence gives one, outside of TorchScript."""
        assert weights is not None
        if isinstance(input, PackedSequence):  # TorchScript knows that a Tensor is none, and compiles on behind it
            return self.packed(input, hx, weights)
        sequence = self.batched(input)
        if hx is None:
            batch = self.batch_size(sequence)
            hidden = self.start(input, batch, self.proj_size if self.proj_size > 0 else self.hidden_size)
            cell = self.start(input, batch, self.hidden_size)
        else:
            hidden, cell = self.checked(hx[0], input.dim()), self.checked(hx[1], input.dim())
        output, hidden, cell = torch.lstm(
            sequence,
            [hidden, cell],
            weights,
            self.bias,
            self.num_layers,
            self.dropout,
            self.training,
            self.bidirectional,
            self.batch_first,
        )
        if input.dim() == 2:
            return self.alone(output), (hidden.squeeze(1), cell.squeeze(1))
        return output, (hidden, cell)

    @torch.jit.unused
    def packed(self, input: PackedSequence, hx: Pair | None, weights: list[Tensor]) -> tuple[PackedSequence, Pair]:
        """The operation on a packed sequence."""
        data, batch_sizes, order, back = input
        if hx is None:
            batch = int(batch_sizes[0])
            hidden = self.start(data, batch, self.proj_size if self.proj_size > 0 else self.hidden_size)
            cell = self.start(data, batch, self.hidden_size)
        else:
            hidden, cell = permuted(hx[0], order), permuted(hx[1], order)
        output, hidden, cell = torch.lstm(
            data,
            batch_sizes,
            [hidden, cell],
            weights,
            self.bias,
            self.num_layers,
            self.dropout,
            self.training,
            self.bidirectional,
        )
        return PackedSequence(output, batch_sizes, order, back), (permuted(hidden, back), permuted(cell, back))


class OneStateOp(RecurrentOp):
    """The operation of `nn.RNN` and `nn.GRU`."""

    def forward(
        self, input: Tensor, hx: Tensor | None = None, weights: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Output and last state; a PackedSequence gives one, outside of TorchScript."""
        assert weights is not None
        if isinstance(input, PackedSequence):  # TorchScript knows that a Tensor is none, and compiles on behind it
            return self.packed(input, hx, weights)
        sequence = self.batched(input)
        if hx is None:
            hidden = self.start(input, self.batch_size(sequence), self.hidden_size)
        else:
            hidden = self.checked(hx, input.dim())
        output, hidden = self.by_mode(sequence, hidden, weights)
        if input.dim() == 2:
            return self.alone(output), hidden.squeeze(1)
        return output, hidden

    def by_mode(self, sequence: Tensor, hidden: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The kernel of the mode; TorchScript takes no table of functions and no unpacked arguments."""
        bias, layers, dropout, both = self.bias, self.num_layers, self.dropout, self.bidirectional
        train, first = self.training, self.batch_first
        if self.mode == "GRU":
            return torch.gru(sequence, hidden, weights, bias, layers, dropout, train, both, first)
        if self.mode == "RNN_TANH":
            return torch.rnn_tanh(sequence, hidden, weights, bias, layers, dropout, train, both, first)
        return torch.rnn_relu(sequence, hidden, weights, bias, layers, dropout, train, both, first)

    @torch.jit.unused
    def packed(self, input: PackedSequence, hx: Tensor | None, weights: list[Tensor]) -> tuple[PackedSequence, Tensor]:
        """The operation on a packed sequence."""
        data, batch_sizes, order, back = input
        hidden = self.start(data, int(batch_sizes[0]), self.hidden_size) if hx is None else permuted(hx, order)
        kernel = {"GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}[self.mode]
        output, hidden = kernel(
            data,
            batch_sizes,
            hidden,
            weights,
            self.bias,
            self.num_layers,
            self.dropout,
            self.training,
            self.bidirectional,
        )
        return PackedSequence(output, batch_sizes, order, back), permuted(hidden, back)


def permuted(hidden: Tensor, order: Tensor | None) -> Tensor:
    """The hidden state in another order of the batch."""
    return hidden if order is None else hidden.index_select(1, order)
