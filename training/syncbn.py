"""Batch norm over the images of all processes: PyTorch's own on GPUs, a plain one for gloo on CPUs.

Not here: starting processes (`distributed.py`).

    network = synchronise_batch_norm(network, torch.device("cpu"))
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with each `BatchNorm2d` replaced; parameters and keys stay. For more than one process."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    if isinstance(network, nn.BatchNorm2d):
        return SynchronisedBatchNorm2d.like(network)
    for name, child in network.named_children():
        setattr(network, name, synchronise_batch_norm(child, device))
    return network


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` whose batch, while training, is that of all processes. PyTorch's refuses CPU tensors.

    Statistics are computed in float32 at least, mean first: squares of centred values lose nothing.
    """

    @classmethod
    def like(cls, layer: nn.BatchNorm2d) -> "SynchronisedBatchNorm2d":
        """A layer that shares the other's parameters and running statistics."""
        made = cls(layer.num_features, layer.eps, layer.momentum)
        made.weight, made.bias = layer.weight, layer.bias
        made.running_mean, made.running_var = layer.running_mean, layer.running_var
        made.num_batches_tracked = layer.num_batches_tracked
        return made.train(layer.training)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to the same. The processes' N may differ."""
        if not self.training:
            return super().forward(features)
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        own_count = wide.new_full((1,), wide.numel() // wide.shape[1])
        sums = _sum_over_processes(torch.cat([wide.sum((0, 2, 3)), own_count]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = wide - mean[:, None, None]
        variance = _sum_over_processes(centred.square().sum((0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(features.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked.add_(1)


class _SumOverProcesses(torch.autograd.Function):
    """A sum that every process uses: the gradient of what one put in is the sum of everyone's gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def _sum_over_processes(value: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(value)  # type: ignore[no-untyped-call]
    return total
