"""Recurrent cells: one step, with the weights as arguments."""

import torch
from torch import Tensor

from surgery.graph.operations.op_module import Names, OpModule

Pair = tuple[Tensor, Tensor]


class CellOp(OpModule):
    """What the three cells have in common."""

    hidden_size: int

    def value_names(self) -> Names:
        """The weights and biases of input and state."""
        return {name: name for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}

    def batched(self, tensor: Tensor) -> Tensor:
        """An input or a state with a dimension for the batch."""
        if tensor.dim() != 1 and tensor.dim() != 2:
            raise ValueError(f"expected 1 or 2 dimensions, got {tensor.dim()}")
        return tensor.unsqueeze(0) if tensor.dim() == 1 else tensor

    def start(self, batch: Tensor) -> Tensor:
        """A state of zeros."""
        return torch.zeros(batch.size(0), self.hidden_size, dtype=batch.dtype, device=batch.device)


class RNNCellOp(CellOp):
    """The operation of `nn.RNNCell`."""

    nonlinearity: str

    def forward(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        weight_ih: Tensor | None = None,
        weight_hh: Tensor | None = None,
        bias_ih: Tensor | None = None,
        bias_hh: Tensor | None = None,
    ) -> Tensor:
        """The next state."""
        assert weight_ih is not None
        assert weight_hh is not None
        batch = self.batched(input)
        state = self.start(batch) if hx is None else self.batched(hx)
        if self.nonlinearity == "tanh":
            after = torch.rnn_tanh_cell(batch, state, weight_ih, weight_hh, bias_ih, bias_hh)
        else:
            after = torch.rnn_relu_cell(batch, state, weight_ih, weight_hh, bias_ih, bias_hh)
        return after.squeeze(0) if input.dim() == 1 else after


class GRUCellOp(CellOp):
    """The operation of `nn.GRUCell`."""

    def forward(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        weight_ih: Tensor | None = None,
        weight_hh: Tensor | None = None,
        bias_ih: Tensor | None = None,
        bias_hh: Tensor | None = None,
    ) -> Tensor:
        """The next state."""
        assert weight_ih is not None
        assert weight_hh is not None
        batch = self.batched(input)
        state = self.start(batch) if hx is None else self.batched(hx)
        after = torch.gru_cell(batch, state, weight_ih, weight_hh, bias_ih, bias_hh)
        return after.squeeze(0) if input.dim() == 1 else after


class LSTMCellOp(CellOp):
    """The operation of `nn.LSTMCell`."""

    def forward(
        self,
        input: Tensor,
        hx: Pair | None = None,
        weight_ih: Tensor | None = None,
        weight_hh: Tensor | None = None,
        bias_ih: Tensor | None = None,
        bias_hh: Tensor | None = None,
    ) -> Pair:
        """The next state and cell."""
        assert weight_ih is not None
        assert weight_hh is not None
        batch = self.batched(input)
        if hx is None:
            state, cell = self.start(batch), self.start(batch)
        else:
            state, cell = self.batched(hx[0]), self.batched(hx[1])
        after, kept = torch.lstm_cell(batch, [state, cell], weight_ih, weight_hh, bias_ih, bias_hh)
        if input.dim() == 1:
            return after.squeeze(0), kept.squeeze(0)
        return after, kept
