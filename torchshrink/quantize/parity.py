"""Hold a prepared graph against the module it was made of: without quantization both compute the same numbers."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torchao.quantization.pt2e import FakeQuantizeBase, ObserverBase

from torchshrink.errors import ModelError, ParityError
from torchshrink.quantize import exits, modes
from torchshrink.quantize.tracing import without_autocast
from torchshrink.quiet import quiet

# Largest difference, as a share of the largest value. In double precision a rounding is 1e-16, so that 1e-6 leaves room
# for deep models that amplify it and none for another eps; single precision is for models that insist on it.
_LIMITS = {torch.float64: 1e-6, torch.float32: 1e-3}
_LOOSE = 3e-2  # for what was computed in half precision
_ROUNDINGS = 16  # of float32, in each weight: folding a BatchNorm into one takes three


@torch.no_grad()
def try_out(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return the outputs of a model in evaluation; it is left as it was.

    Raises:
        ModelError: When the model itself refuses the inputs.
    """
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    is_compiled = any("_orig_mod" in module._modules for module in model.modules())
    try:
        # Compiling takes minutes, for one run.
        with torch.compiler.set_stance("force_eager") if is_compiled else contextlib.nullcontext():
            return exits.named(model(*inputs))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        given = ", ".join(f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}" for value in inputs)
        raise ModelError(
            f"{type(model).__name__} fails on an input of {given} ({reason}): fix the model or the example input"
            f"{_of_states(model, inputs)}"
        ) from error
    finally:
        for module in was_training:
            module.training = True


def _of_states(model: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """Return what is to be done about states ``[layers, N, H]``, whose samples are not the first dimension."""
    if len(inputs) < 2 or not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        return ""
    return (
        "; the samples are the first dimension of every input and output: take states as [N, layers, H], and let the "
        "model move them (h.transpose(0, 1).contiguous())"
    )


@without_autocast()
def check(
    model: nn.Module,
    prepared: GraphModule,
    inputs: tuple[Tensor, ...],
    wanted: Mapping[str, Tensor],
    is_qat: bool,
) -> None:
    """Compare a prepared graph with its module, in evaluation and, where it will be trained, in training.

    Random numbers are the same for both, and blocks under autocast compute in full precision.

    Args:
        model: The module in the mode in which it was captured; it is not needed afterwards.
        prepared: The graph.
        inputs: What both take.
        wanted: What the user's own module returned in evaluation, in its own precision.
        is_qat: Whether the graph will be trained.

    Raises:
        ParityError: Naming the first module that computes something else.
    """
    graph = without_quantization(prepared)
    for dtype, limit in _LIMITS.items():
        given = tuple(value.to(dtype) if value.is_floating_point() else value for value in inputs)
        compare = partial(_compare, model, graph, dtype, given, wanted, is_qat)
        try:
            found = compare(limit)
            if found is not None and (noise := _of_rounding(model, dtype, given)) > limit:
                found = compare(noise)
        except (RuntimeError, TypeError):
            if dtype is torch.float32:
                raise
            continue  # it makes tensors of single precision itself
        if found is not None:
            raise ParityError(f"the graph of {type(model).__name__} does not compute what the module does: {found}")
        return


def _compare(
    model: nn.Module,
    graph: GraphModule,
    dtype: torch.dtype,
    given: tuple[Tensor, ...],
    wanted: Mapping[str, Tensor],
    is_qat: bool,
    limit: float,
) -> str | None:
    pair = copy.deepcopy(model).to(dtype), copy.deepcopy(graph).to(dtype)
    return _first_difference(*pair, given, wanted, is_qat, limit)


@torch.no_grad()
def _of_rounding(model: nn.Module, dtype: torch.dtype, given: tuple[Tensor, ...]) -> float:
    """Return what rounding every weight `_ROUNDINGS` times changes of an output, as a share of its largest value."""
    model = copy.deepcopy(model).to(dtype).eval()
    before = _seeded(model, given)
    generator = torch.Generator().manual_seed(0)
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            signs = torch.randint(2, value.shape, generator=generator).to(value) * 2 - 1
            value.mul_(1 + _ROUNDINGS * 2**-24 * signs)
    after = _seeded(model, given)
    apart = [(after[name] - value).abs().max() / value.abs().max().clamp_min(1e-30) for name, value in before.items()
             if value.is_floating_point() and value.numel()]  # fmt: skip
    return float(max(apart, default=0.0))


def without_quantization(prepared: GraphModule) -> GraphModule:
    """Return a copy that computes in float: observers and fake quantizers let everything through."""
    with quiet():  # torch.fx warns of itself when it copies a graph
        graph = copy.deepcopy(prepared)
    for node in graph.graph.nodes:
        if node.op == "call_module" and isinstance(
            graph.get_submodule(str(node.target)), FakeQuantizeBase | ObserverBase
        ):
            graph.set_submodule(str(node.target), nn.Identity())
    return graph


@torch.no_grad()
def _first_difference(
    model: nn.Module,
    graph: GraphModule,
    inputs: tuple[Tensor, ...],
    own_outputs: Mapping[str, Tensor],
    is_qat: bool,
    limit: float,
) -> str | None:
    own = {module: module.training for module in model.modules()}
    for is_training in (False, True) if is_qat else (False,):  # training moves statistics
        for module, mode in own.items():
            module.training = mode and is_training
        in_mode = "in training" if is_training else "in evaluation"
        modes.switch(graph, is_training)
        modes.set_cumulative(graph)
        before = copy.deepcopy(model.state_dict())
        wanted, found = _seeded(model, inputs), _seeded(graph, inputs)
        if not is_training and (name := _differing(own_outputs, found, _LOOSE)) is not None:
            return f"{name} differs {in_mode} from what it returned before it was copied"
        if (name := _differing(wanted, found, limit)) is not None:
            model.load_state_dict(before)
            return f"{name} differs {in_mode}, first at {_first_module(model, graph, inputs, limit)}"
        buffers, moved = dict(graph.named_buffers()), dict(model.named_buffers())
        common = {key: value for key, value in moved.items() if key in buffers}
        if (name := _differing(common, buffers, limit)) is not None:
            return f"a pass {in_mode} leaves another {name}"
    return None


def _seeded(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    devices = {value.device.index for value in inputs if value.device.type == "cuda"}
    with torch.random.fork_rng(sorted(index for index in devices if index is not None)):
        torch.manual_seed(0)
        return exits.named(module(*(value.clone() for value in inputs)))


def _first_module(model: nn.Module, graph: GraphModule, inputs: tuple[Tensor, ...], limit: float) -> str:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        wanted, _ = exits.of_module(model, inputs)
        torch.manual_seed(0)
        found, _ = exits.of_graph(graph, inputs)
    common = {name: value for name, value in wanted.items() if name in found}
    name = _differing(common, found, limit)
    return "the outputs" if name is None else f"{name!r} ({_kind(model, name)})"


def _kind(model: nn.Module, name: str) -> str:
    return type(model.get_submodule(name.partition("@")[0])).__name__


def _differing(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], limit: float) -> str | None:
    """Return the first of ``wanted`` that is not the same in ``found``."""
    return next((name for name, value in wanted.items() if not same(found.get(name), value, limit)), None)


def same(found: Tensor | None, wanted: Tensor, limit: float) -> bool:
    """Return whether no value differs by more than a share of the largest; what is not finite is so in both."""
    if found is None or found.shape != wanted.shape:
        return False
    found, wanted = found.detach().double(), wanted.detach().double()
    is_finite = wanted.isfinite()
    if not torch.equal(is_finite, found.isfinite()):
        return False
    found, wanted = found[is_finite], wanted[is_finite]
    if not wanted.numel():
        return True
    return bool((found - wanted).abs().max() <= limit * wanted.abs().max().clamp_min(1e-30))
