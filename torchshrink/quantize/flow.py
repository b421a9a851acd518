"""From a float module to a quantized graph: prepare, train or calibrate, convert."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from operator import attrgetter

import torch
from torch import nn
from torch.export import Dim
from torch.fx import GraphModule

from torchshrink.errors import ModelError
from torchshrink.model import graphs
from torchshrink.model.signature import Inputs, as_tuple, first
from torchshrink.quantize.prepared import PreparedModule
from torchshrink.quiet import quiet

_TORCHAO_BATCH_NORM_EPS = 1e-5  # built into torchao's QAT pattern


def prepare_qat(
    model: nn.Module, example_input: Inputs, keep_float: Sequence[str] = (), portable: bool = True
) -> PreparedModule:
    """Return a trainable copy of ``model`` that computes with the TFLite int8 scheme, faked in float.

    BatchNorm is folded into the weights that are quantized and keeps learning its statistics until ``freeze()``.
    The copy takes any batch size. Pruned weights (exact zeros) stay zero as long as ``apply_masks()`` follows
    every optimizer step.

    Args:
        model: A float module whose pruning has been made permanent (`torchshrink.prune.remove`).
        example_input: ``[N, C, *size]``, or one for each argument of the model; only the size of one sample counts.
        keep_float: Modules that stay float, as ``model.named_modules()`` names them, with all that is inside of them
            and the BatchNorm and ReLU that TFLite computes together with them.
        portable: Leave room in the weights for what x86 without VNNI adds in 16 bits, so that ONNX Runtime computes the
            same on every processor; `torchshrink.sensitivity.weight_noise_db` says what it costs.

    Raises:
        ModelError: When torch.export cannot trace the model, or ``keep_float`` names what it does not call.

    Source: Jacob et al., arXiv:1712.05877, sections 3.1 and 3.2, through torchao's PT2E flow.
    """
    return _prepare(model, example_input, True, keep_float, portable)


def prepare_ptq(
    model: nn.Module, example_input: Inputs, keep_float: Sequence[str] = (), portable: bool = True
) -> PreparedModule:
    """Return a copy of ``model`` whose tensors are observed: feed it data with `calibrate`, then `convert` it.

    Args and Raises as `prepare_qat`.
    """
    return _prepare(model, example_input, False, keep_float, portable)


@torch.no_grad()
def calibrate(prepared: PreparedModule, batches: Iterable[Inputs]) -> None:
    """Show a module from `prepare_ptq` batches of ``[N, C, *size]``, from which it learns its ranges.

    A batch is what the model takes: one tensor, or one for each of its arguments.
    """
    for batch in batches:
        prepared(*as_tuple(batch))


def convert(prepared: PreparedModule) -> GraphModule:
    """Return the quantized graph: int8 weights, and explicit quantize and dequantize nodes around every operation.

    ``prepared`` is left as it was, so that its training can go on.
    """
    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        from torchshrink.quantize.batch_norms import fold_trained_norms
        from torchshrink.quantize.bias import round_biases

        trained = copy.deepcopy(prepared).eval().graph_module
        fold_trained_norms(trained)
        _observe_weights(trained)
        graph = convert_pt2e(trained)

    # Through the form that files have: what is used here is what a file will hold.
    graph = graphs.from_json(*graphs.to_json(graph))
    round_biases(graph)
    return graph


def _observe_weights(graph: GraphModule) -> None:
    """Let the scales be those of the weights as they are: training moves them once more after it last looked."""
    from torchshrink.quantize.observer import WeightObserver

    for node in graph.graph.nodes:
        observed = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        observer = getattr(observed, "activation_post_process", observed)
        if isinstance(observer, WeightObserver) and node.args[0].op == "get_attr":
            observer(attrgetter(node.args[0].target)(graph))


def is_quantized(model: nn.Module) -> bool:
    """Return whether ``model`` is a quantized graph, fresh from `convert` or read from a file."""
    return isinstance(model, GraphModule) and any("quantized_decomposed" in str(n.target) for n in model.graph.nodes)


def capture(model: nn.Module, example_input: Inputs) -> GraphModule:
    """Return ``model`` as an exported graph with a free batch size.

    Raises:
        ModelError: When torch.export cannot trace the model.
    """
    # Two samples: torch.export treats a dimension of 1 as a constant.
    sample = first(example_input, 2)
    try:
        with quiet():
            program = torch.export.export(model, sample, dynamic_shapes=({0: Dim.DYNAMIC},) * len(sample))
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ModelError(
            f"{type(model).__name__} cannot be traced by torch.export ({type(error).__name__}: {reason}); "
            "its forward must not branch on the values of tensors"
        ) from error
    return program.module()


def _prepare(
    model: nn.Module, example_input: Inputs, is_qat: bool, keep_float: Sequence[str], portable: bool
) -> PreparedModule:
    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e, prepare_qat_pt2e

        from torchshrink.quantize import keep
        from torchshrink.quantize.quantizer import TFLiteQuantizer

        keep.check(model, keep_float)
        if any(hasattr(module, "weight_mask") for module in model.modules()):
            raise ModelError(f"{type(model).__name__} is masked: make its pruning permanent, torchshrink.prune.remove")
        model = copy.deepcopy(model).train(is_qat)
        _fit_batch_norms(model)
        prepare = prepare_qat_pt2e if is_qat else prepare_pt2e
        return PreparedModule(
            prepare(capture(model, example_input), TFLiteQuantizer(is_qat, keep_float, portable)), is_qat
        )


def _fit_batch_norms(model: nn.Module) -> None:
    """Write every BatchNorm as torchao's pattern expects it, computing the same: its eps, a scale and a shift."""
    for module in model.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_var is None:
            continue
        module.running_var += module.eps - _TORCHAO_BATCH_NORM_EPS
        module.eps = _TORCHAO_BATCH_NORM_EPS
        if not module.affine:
            module.weight = nn.Parameter(torch.ones_like(module.running_var), requires_grad=False)
            module.bias = nn.Parameter(torch.zeros_like(module.running_var), requires_grad=False)
