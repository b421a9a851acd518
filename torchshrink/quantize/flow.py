"""From a float module to a quantized graph: prepare, train or calibrate, convert."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink.errors import DataError, ModelError, ParityError, RecipeError
from torchshrink.model import graphs
from torchshrink.model.checked import check_example, check_is_module
from torchshrink.model.signature import Inputs, as_tuple, lively, tensors
from torchshrink.quantize import exits
from torchshrink.quantize.prepared import PreparedModule
from torchshrink.quantize.tracing import (
    calm_own_code,
    capture_calm,
    in_float32,
    plain_copy,
    plain_names,
    set_mode,
)
from torchshrink.quiet import quiet
from torchshrink.settings import Weights, check, check_names, check_switch

if TYPE_CHECKING:
    from torchshrink.quantize.quantizer import TFLiteQuantizer


def prepare_qat(
    model: nn.Module,
    example_input: Inputs,
    keep_float: Sequence[str] = (),
    portable: bool = True,
    weights: Weights = "int8",
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
        weights: ``"int4"`` puts those of convolutions and linear layers, but depthwise and transposed ones, on a grid
            of 15 values, which TFLite files then hold in half a byte each; the kernels for that take longer.

    Raises:
        ModelError: When torch.export cannot trace the model, a file cannot hold what it does, or ``keep_float`` names
            what it does not call.
        RecipeError: When ``keep_float`` is no list of names, ``portable`` neither True nor False, or ``weights``
            neither of the two.

    Source: Jacob et al., arXiv:1712.05877, sections 3.1 and 3.2, through torchao's PT2E flow.
    """
    return _prepare(model, example_input, True, keep_float, portable, weights)


def prepare_ptq(
    model: nn.Module, example_input: Inputs, keep_float: Sequence[str] = (), portable: bool = True
) -> PreparedModule:
    """Return a copy of ``model`` whose tensors are observed: feed it data with `calibrate`, then `convert` it.

    Args and Raises as `prepare_qat`. There are no int4 weights without training: 15 values are too few for that.
    """
    return _prepare(model, example_input, False, keep_float, portable, "int8")


@torch.no_grad()
def calibrate(prepared: PreparedModule, batches: Iterable[Inputs]) -> None:
    """Show a module from `prepare_ptq` or `prepare_qat` batches of ``[N, C, *size]``, from which it learns its ranges.

    A batch is what the model takes: one tensor, or one for each of its arguments. Before training for quantization, a
    few batches let ranges begin with what all of them show; nothing else of the module changes.

    Raises:
        DataError: When there is no batch, one is empty, no tensor, of another type or of too many, or values in it, or
            those that the model makes of it, are not finite.
        RecipeError: When ``batches`` is a tensor, whose samples would be taken for batches, or holds none.
        ModelError: When ``prepared`` is something else, or a batch is of another size than it was prepared for.
    """
    _check_prepared(prepared, "calibrate")
    check_batches(batches)
    count = 0
    with prepared.observing():
        for count, batch in enumerate(batches, 1):
            _show(prepared, as_tuple(batch), f"batch {count} of the calibration data")
    if count == 0:
        raise DataError("there is no batch in the calibration data: give at least one")


def check_batches(batches: object) -> None:
    """Refuse a tensor, whose samples would be taken for batches, and what holds none.

    Raises:
        RecipeError: Saying what it is.
    """
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        given = f"{list(batches.shape)}" if isinstance(batches, Tensor) else f"{batches!r}"
        kind = "tensor" if isinstance(batches, Tensor) else type(batches).__name__
        raise RecipeError(f"batches={given}: expected a list of batches, such as [images], got a {kind}")


def _show(prepared: PreparedModule, values: tuple[Any, ...], name: str) -> None:
    entries = prepared.graph_module.graph.find_nodes(op="placeholder")
    for place, value in enumerate(values):
        entry = getattr(entries[place].meta.get("val"), "dtype", None) if place < len(entries) else None
        if (problem := _problem(value, entry)) is not None:
            where = f" in input {place}" if len(values) > 1 else ""
            raise DataError(f"{name} holds {problem[0]}{where}: {problem[1]}")
    if len(values) != len(entries):
        raise DataError(
            f"{name} holds {len(values)} inputs, the model takes {len(entries)}: give those, without labels"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*inf detected", UserWarning)  # torchao leaves them out
            found = tensors(prepared(*values))
        is_lost, reason = any(bool(value.isnan().any()) for value in found), None
    except (RuntimeError, UserWarning) as error:
        if "finite" not in str(error) and "inf detected" not in str(error):
            raise
        is_lost, reason = True, error
    if is_lost:
        raise DataError(
            f"the model computes NaN or infinite values from {name}, "
            f"first in {exits.first_not_finite(prepared.graph_module, values)}: keep that module float (keep_float)"
        ) from reason


def _problem(value: object, entry: torch.dtype | None) -> tuple[str, str] | None:
    """Return what is wrong with one input of a batch, and what to do; None where nothing is."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}", "give tensors, as torch.from_numpy makes them"
    if value.numel() == 0:
        return "no sample", "leave it out"
    if entry is not None and value.is_floating_point() != entry.is_floating_point:
        kinds = [str(dtype).removeprefix("torch.") for dtype in (value.dtype, entry)]
        return kinds[0], f"give {kinds[1]}, as the example was"
    return None if bool(torch.isfinite(value).all()) else ("NaN or infinite values", "remove it")


def convert(prepared: PreparedModule) -> GraphModule:
    """Return the quantized graph: int8 weights, and explicit quantize and dequantize nodes around every operation.

    It is held against the module, as training left it, on a few samples of the last batch that was seen: `noise`
    returns the signal to noise of every tensor, and there is a warning where an output has too little.

    ``prepared`` is left as it was, so that its training can go on.

    Raises:
        ModelError: When it has seen no data, or NaN, or is something else.
    """
    from torchshrink.quantize.noise import measure

    _check_prepared(prepared, "convert")
    graph, reference = converted(prepared)
    if prepared.seen:
        measure(graph, reference, in_float32(prepared.seen))
    return graph


def converted(prepared: PreparedModule) -> tuple[GraphModule, GraphModule]:
    """Return the quantized graph, and the float one that it was made of; nothing is measured.

    Raises:
        ModelError: When ``prepared`` has seen no data, or NaN.
    """
    with quiet():
        from torchshrink.quantize import batch_norms, means, modes, parity, pt2e
        from torchshrink.quantize.bias import make_room, round_biases

        trained = copy.deepcopy(prepared).eval().graph_module
        batch_norms.fold(trained)
        modes.forget_counters(trained)
        _check_ranges(trained)
        reference = parity.without_quantization(trained)
        _observe_weights(trained)
        means.widen(trained)
        make_room(trained)
        graph = pt2e.quantized(trained)

    # Through the form that files have: what is used here is what a file will hold.
    graph = graphs.from_json(*graphs.to_json(graph))
    round_biases(graph)
    return graph, reference


def _check_prepared(prepared: object, stage: str) -> None:
    if not isinstance(prepared, PreparedModule):
        raise ModelError(f"{stage} takes what prepare_qat or prepare_ptq returned, got {type(prepared).__name__}")


def _check_ranges(graph: GraphModule) -> None:
    """Refuse ranges that were never learned, or not from numbers."""
    found = [(name, module) for name, module in graph.named_modules() if hasattr(module, "min_val")]
    activations = [(name, module) for name, module in found if module.min_val.numel() == 1]
    if activations and all(bool(module.min_val > module.max_val) for _, module in activations):
        raise ModelError("no batch was seen: calibrate or train what was prepared before it is converted")
    for name, module in activations:
        if not bool(module.min_val <= module.max_val):
            owner = name.removesuffix(".activation_post_process")
            node = graph.graph.find_nodes(op="call_module", target=owner)[0]
            raise ModelError(
                f"no range was learned for {exits.place(node.args[0])}, which saw nothing but NaN or infinite values: "
                "look for them in the data, or keep that module float (keep_float)"
            )


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


def _prepare(
    model: nn.Module,
    example_input: Inputs,
    is_qat: bool,
    keep_float: Sequence[str],
    portable: bool,
    weights: Weights,
) -> PreparedModule:
    check_names("keep_float", keep_float)
    check_switch("portable", portable)
    check("weights", weights, Weights)
    check_is_module(model)
    check_example(example_input)
    if is_quantized(model) or isinstance(model, PreparedModule):
        raise ModelError(f"{type(model).__name__} is quantized already: prepare the float model that it was made from")
    with quiet():
        from torchshrink.quantize import keep, parity
        from torchshrink.quantize.quantizer import TFLiteQuantizer

        keep.check(model, keep_float)
        if any(hasattr(module, "weight_mask") for module in model.modules()):
            raise ModelError(f"{type(model).__name__} is masked: make its pruning permanent, torchshrink.prune.remove")
        for name, weight in model.named_parameters():
            if not bool(weight.isfinite().all()):
                raise ModelError(f"parameter {name!r} holds NaN or infinite values: take weights from before that")
        inputs = lively(example_input)
        wanted = parity.try_out(model, inputs)
        quantizer = TFLiteQuantizer(is_qat, plain_names(model, keep_float), portable, weights)
        plain = plain_copy(model)
        set_mode(plain, is_qat)
        try:
            return _prepared(plain, inputs, wanted, quantizer)
        except (ModelError, ParityError):
            plain = plain_copy(model)
            set_mode(plain, is_qat)
            if not calm_own_code(plain):
                raise
            try:  # what their own code does in training may be what cannot be traced, or was baked in
                return _prepared(plain, inputs, wanted, quantizer)
            except (ModelError, ParityError):
                pass
            raise


def _prepared(
    plain: nn.Module, inputs: tuple[Tensor, ...], wanted: Mapping[str, Tensor], quantizer: TFLiteQuantizer
) -> PreparedModule:
    """Return the graph of a module with observers, which was held against the module."""
    from torchshrink.quantize import parity, pt2e

    reference, example = copy.deepcopy(plain), in_float32(inputs)
    graph = capture_calm(plain, example)
    graphs.check_operations(graph)
    for name, module in plain.named_modules():
        reference.get_submodule(name).training = module.training
    prepared = pt2e.observe(graph, quantizer)
    parity.check(reference, prepared, example, wanted, quantizer.is_qat)
    return PreparedModule(prepared, quantizer.is_qat)
