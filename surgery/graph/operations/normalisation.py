"""Batch and instance normalisation: weight, bias and the running statistics are arguments."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.graph.operations.op_module import Names, OpModule

BATCH_DIMS: dict[type[nn.Module], tuple[int, int]] = {
    nn.BatchNorm1d: (2, 3),
    nn.BatchNorm2d: (4, 4),
    nn.BatchNorm3d: (5, 5),
}
INSTANCE_DIMS: dict[type[nn.Module], int] = {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4, nn.InstanceNorm3d: 5}


class NormalisingOp(OpModule):
    """What both have in common."""

    eps: float
    momentum: float | None
    num_features: int
    track_running_stats: bool

    def value_names(self) -> Names:
        """Weight, bias, and the buffers that training writes to."""
        names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return {name: name for name in names}


class BatchStatisticsOp(NormalisingOp):
    """Batch normalisation of an input with ``least`` to ``most`` dimensions."""

    least: int
    most: int

    def prepare(self) -> None:
        """Know the dimensions that the class before took."""
        vars(self)["least"], vars(self)["most"] = BATCH_DIMS[self.stands_for]

    def forward(
        self,
        input: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        num_batches_tracked: Tensor | None = None,
    ) -> Tensor:
        """Normalise by the statistics of the batch in training, and where there are no others."""
        if input.dim() < self.least or input.dim() > self.most:
            raise ValueError(f"expected {self.least} to {self.most} dimensions, got {input.dim()}")
        momentum = self.momentum
        factor = 0.0 if momentum is None else momentum
        if self.training and self.track_running_stats and num_batches_tracked is not None:
            num_batches_tracked.add_(1)
            if momentum is None:
                factor = 1.0 / float(num_batches_tracked)  # the cumulative average
        by_batch = self.training or (running_mean is None and running_var is None)
        keeps = not self.training or self.track_running_stats
        mean = running_mean if keeps else None
        var = running_var if keeps else None
        return F.batch_norm(input, mean, var, weight, bias, by_batch, factor, self.eps)


class InstanceStatisticsOp(NormalisingOp):
    """Instance normalisation of a batch with ``dims`` dimensions, or of one element of it."""

    dims: int
    affine: bool

    def prepare(self) -> None:
        """Know the dimensions that the class before took."""
        vars(self)["dims"] = INSTANCE_DIMS[self.stands_for]

    def forward(
        self,
        input: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        num_batches_tracked: Tensor | None = None,
    ) -> Tensor:
        """Normalise each channel of each element."""
        alone = input.dim() == self.dims - 1
        if input.dim() != self.dims and not alone:
            raise ValueError(f"expected {self.dims - 1} or {self.dims} dimensions, got {input.dim()}")
        batch = input.unsqueeze(0) if alone else input
        if self.affine and batch.size(1) != self.num_features:
            raise ValueError(f"expected {self.num_features} channels, got {batch.size(1)}")
        momentum = self.momentum
        factor = 0.0 if momentum is None else momentum
        by_input = self.training or not self.track_running_stats
        normed = F.instance_norm(batch, running_mean, running_var, weight, bias, by_input, factor, self.eps)
        return torch.squeeze(normed, 0) if alone else normed
