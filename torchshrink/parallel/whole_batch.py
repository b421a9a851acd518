"""Let the processes that share a batch compute what depends on all of it: BatchNorm's statistics and ranges.

PyTorch's SyncBatchNorm does the former, for modules on GPUs only; this also works on processors, and for the BatchNorms
in an exported graph, and leaves the model as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.overrides import TorchFunctionMode

from torchshrink.parallel import group

_OPERATORS = (torch.batch_norm, torch.ops.aten.batch_norm.default)  # they take the same arguments
_is_shared = False


@contextmanager
def whole_batch() -> Iterator[None]:
    """Compute a forward pass on a share of a batch as one on the whole of it. All processes must do the same."""
    global _is_shared
    if group.count() == 1:
        yield
        return
    _is_shared = True
    try:
        with _BatchNorms():
            yield
    finally:
        _is_shared = False


def extremes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest of two scalars over the shares of a batch; outside of one, themselves."""
    if not _is_shared:
        return low, high
    message = torch.stack([-low.detach(), high.detach()])
    distributed.all_reduce(message, distributed.ReduceOp.MAX)
    return -message[0], message[1]


class _BatchNorms(TorchFunctionMode):
    """Takes the place of every BatchNorm that learns its statistics."""

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.batch_norm:
            settings = inspect.signature(func).bind(*args, **kwargs)
            settings.apply_defaults()
            named = settings.arguments
        elif func in _OPERATORS:
            names = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
            named = {**dict(zip(names, args, strict=False)), **kwargs}
        else:
            named = {}
        if not named.pop("training", False):
            return func(*args, **kwargs)
        named.pop("cudnn_enabled", None)
        return _normalize(**named)


def _normalize(
    input: Tensor,  # noqa: A002  # PyTorch's name
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Return ``(x - mean) / sqrt(var + eps) * weight + bias`` over all shares, and move the running statistics.

    Args as `torch.batch_norm`; ``[N, C, ...]``. Source: Ioffe and Szegedy, arXiv:1502.03167, algorithm 1.
    """
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    others = [dim for dim in range(x.dim()) if dim != 1]
    shape = [-1 if dim == 1 else 1 for dim in range(x.dim())]
    sums = group.total(torch.cat([x.sum(others), x.new_tensor([x.numel() / x.shape[1]])]))
    mean, size = sums[:-1] / sums[-1], sums[-1]
    centred = x - mean.reshape(shape)
    variance = group.total(centred.square().sum(others)) / size
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * size / (size - 1)).to(running_var), momentum)
    gain = torch.rsqrt(variance + eps)
    result = centred * (gain if weight is None else gain * weight).reshape(shape)
    return (result if bias is None else result + bias.reshape(shape)).to(input.dtype)
