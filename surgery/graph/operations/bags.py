"""Embedding bags: the embedding is an argument."""

from torch import Tensor
from torch.nn import functional as F

from surgery.graph.operations.op_module import Names, OpModule


class BagOp(OpModule):
    """The operation of `nn.EmbeddingBag`."""

    mode: str
    norm_type: float
    max_norm: float | None
    scale_grad_by_freq: bool
    sparse: bool
    include_last_offset: bool
    padding_idx: int | None

    def value_names(self) -> Names:
        """The embedding."""
        return {"weight": "weight"}

    def forward(
        self,
        input: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The sum, mean or maximum of each bag."""
        assert weight is not None
        return F.embedding_bag(
            input,
            weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )
