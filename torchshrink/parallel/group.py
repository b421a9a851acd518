"""One training by several processes, as ``torchrun`` and ``accelerate launch`` start them.

Every process holds the same weights and reads the same batches, and computes with its share of each batch. What is made
of a whole batch is added up over the shares (here, and in `whole_batch`), so that the number of processes
changes nothing but the order of sums. With one process every function here does nothing.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from torchshrink.errors import RecipeError


def join() -> torch.device:
    """Connect this process with those that were launched together with it, once; return the device to compute on.

    Raises:
        RecipeError: When they cannot be reached.
    """
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    # Without a device of their own, launched processes share the processor; accelerate would leave them unconnected.
    is_cpu = "LOCAL_RANK" in os.environ and (accelerator is None or accelerator.type == "mps")
    try:
        device: torch.device = PartialState(cpu=is_cpu or parse_flag_from_env("ACCELERATE_USE_CPU")).device
    except (RuntimeError, ValueError) as error:
        where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        reason = " ".join(str(error).split())[:300]
        raise RecipeError(f"the processes that were launched together cannot meet at {where}: {reason}") from error
    return device


def count() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if _is_joined() else 1


def index() -> int:
    """Return which of them this one is, from 0."""
    return distributed.get_rank() if _is_joined() else 0


def share(batch: Tensor) -> Tensor:
    """Return this process's part of ``[N, ...]``; the parts differ by one sample at most."""
    return batch.tensor_split(count())[index()]


def total(value: Tensor) -> Tensor:
    """Return the sum of ``value`` over all processes; gradients flow back to all of them."""
    result: Tensor = value if count() == 1 else _Total.apply(value)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over all processes, in one message after the whole backward pass.

    `torch.nn.parallel.DistributedDataParallel` overlaps the two, but wants every parameter to be used and none of the
    buffers replaced, and leaves its hooks on the parameters.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if count() == 1 or not gradients:
        return
    message = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(message)
    for gradient, part in zip(gradients, torch.split(message, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def align(model: nn.Module) -> None:
    """Give all processes the parameters and buffers of the main one."""
    if count() == 1:
        return
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        # Gloo sends neither booleans nor other layouts than the contiguous one.
        message = tensor.detach().to(torch.uint8 if tensor.dtype == torch.bool else tensor.dtype).contiguous()
        distributed.broadcast(message, 0)
        tensor.copy_(message)


def agree(values: list[float], device: torch.device) -> list[float]:
    """Return the main process's values to all, so that all decide alike."""
    if count() == 1:
        return values
    message = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.broadcast(message, 0)
    return message.tolist()


def _is_joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class _Total(torch.autograd.Function):
    """A sum over processes. A loss of any process may use it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        result = value.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(result)
        return result

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        result = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(result)
        return result
