"""What a module must be to be trained, pruned and quantized, looked at before any of that begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as tree

from torchshrink.errors import DataError, ModelError
from torchshrink.usercode import calling

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def wrapped(module: nn.Module) -> nn.Module | None:
    """Return the module inside of what trains or compiles it; None for any other."""
    name = "_orig_mod" if "_orig_mod" in module._modules else "module" if isinstance(module, _WRAPPERS) else None
    return None if name is None else module._modules[name]


def unwrapped(module: nn.Module) -> nn.Module:
    """Return a module out of all its wrapping: DataParallel, AveragedModel, torch.compile."""
    while (inner := wrapped(module)) is not None:
        module = inner
    return module


def check_is_module(model: object) -> None:
    """Refuse what is no module: a class, a function.

    Raises:
        ModelError: Saying what it is.
    """
    if not isinstance(model, nn.Module):
        kind = "a class, not an object" if isinstance(model, type) else _kind(model)
        raise ModelError(f"expected a torch.nn.Module, got {kind}")


def check_example(example: object) -> None:
    """Refuse what is neither a tensor with samples, nor one for each argument.

    Raises:
        DataError: Saying what it is.
    """
    values = example if isinstance(example, list | tuple) else (example,)
    for value in values:
        if not isinstance(value, Tensor):
            raise DataError(
                f"the example input holds a {type(value).__name__}: give a tensor, or one for each argument"
            )
        if value.dim() == 0 or value.numel() == 0:
            raise DataError("the example input holds no sample: give one at least")


def check_module(found: object, what: str) -> nn.Module:
    """Return what a factory made when it is a module with weights, out of its wrapping.

    Args:
        found: What it returned.
        what: What errors call the factory.

    Raises:
        ModelError: When it is something else, or its weights are nowhere.
    """
    if not isinstance(found, nn.Module):
        kind = "a class, not an object" if isinstance(found, type) else _kind(found)
        raise ModelError(f"{what} returned {kind}: it must return a torch.nn.Module")
    weights = dict(found.named_parameters())
    if not weights:
        raise ModelError(
            f"{what} returned a {type(found).__name__} without parameters: there is nothing to make smaller"
        )
    for name, weight in weights.items():
        if weight.is_meta:
            raise ModelError(
                f"{what} returned a {type(found).__name__} whose {name} is on the meta device: give it values"
            )
    return unwrapped(found)


def check_answer(model: nn.Module, example: Tensor, wanted: Sequence[int] | None, classes: int = 0) -> None:
    """Run a module once, as it is used, and refuse it when its answer cannot be compared with a truth.

    Args:
        model: It is left as it was.
        example: ``[1, C, *size]``.
        wanted: The shape of the example's truth; None where any will do, of several tensors too.
        classes: How many have to have a score; a single score tells two apart.

    Raises:
        ModelError: When the module raises something, computes in another type than float32, or answers with something
            else than tensors, or than one of the wanted shape.
    """
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.dtype != torch.float32:
            raise ModelError(
                f"{name} of {type(model).__name__} is {weight.dtype}, not float32: call .float() on the model"
            )
    modes = [(module, module.training) for module in model.modules()]
    try:
        with calling(f"{type(model).__name__}.forward", ModelError), torch.no_grad(), torch.random.fork_rng(devices=[]):
            answer = model.eval()(example)
    finally:
        for module, is_training in modes:
            module.training = is_training
    shapes = f"for an input of {list(example.shape)}"
    if wanted is None:
        parts = tree.tree_leaves(answer)
        if not parts or not all(isinstance(part, Tensor) for part in parts):
            raise ModelError(f"{type(model).__name__} returns {_kind(answer)} {shapes}: it must return tensors")
        scores = answer.shape[1] if isinstance(answer, Tensor) and answer.dim() > 1 else classes
        if scores < classes and (scores, classes) != (1, 2):
            raise ModelError(
                f"{type(model).__name__} returns {scores} scores {shapes}, and the data has {classes} classes: give it "
                f"an output for each, such as num_classes={classes}"
            )
    elif not isinstance(answer, Tensor):
        raise ModelError(f"{type(model).__name__} returns {_kind(answer)} {shapes}: it must return one tensor")
    elif not answer.is_floating_point():
        raise ModelError(f"{type(model).__name__} returns {answer.dtype} {shapes}: it must return floating point")
    elif list(answer.shape) != list(wanted):
        raise ModelError(
            f"{type(model).__name__} returns {list(answer.shape)} {shapes}, whose truth is {list(wanted)}: give the "
            "model one output channel for each channel of the truth"
        )


def check_differentiable(loss: Tensor, model: nn.Module) -> None:
    """Refuse a loss that no weight of a model has a part in.

    Raises:
        ModelError: Saying why, as far as that can be seen.
    """
    if loss.requires_grad:
        return
    if not torch.is_grad_enabled():
        reason = "code switched gradients off for all: call torch.set_grad_enabled(True) after it"
    elif not any(weight.requires_grad for weight in model.parameters()):
        reason = "all of its parameters are frozen: call .requires_grad_() on the model"
    else:
        reason = "the loss has no gradient: let forward and loss neither detach nor round what they return"
    raise ModelError(f"{type(model).__name__} cannot be trained, {reason}")


def _kind(found: object) -> str:
    if isinstance(found, tuple | list):
        return f"a {type(found).__name__} of {len(found)}"
    return "None" if found is None else f"a {type(found).__name__}"
