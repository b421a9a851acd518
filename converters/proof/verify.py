"""Show that an exported file computes what the PyTorch model computes that it came from."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from torchshrink import bench, quantize
from torchshrink.converters.export.to_onnx import Precision
from torchshrink.converters.proof import noise, operators
from torchshrink.converters.runtimes import rounding_of_file, spread
from torchshrink.errors import ConversionError, ModelError
from torchshrink.model.macs import evaluating
from torchshrink.model.signature import Inputs, as_tuple, leaves, tensors
from torchshrink.quantize.noise import snr_db, worst_db
from torchshrink.quantize.tracing import in_float32, plain_copy, without_autocast
from torchshrink.runtime.processors import HERE
from torchshrink.settings import check

# Largest absolute difference, as a share of the range of the reference's outputs (see `spread`).
FLOAT_LIMITS = {"fp32": 1e-4, "fp16": 1e-2}
HALVES_ALLOWED = 2.0  # times what rounding the weights of the module to float16 changes of an output
# Shares of the outputs that must lie within 1 and within 3 steps of the output's int8 grid.
WITHIN_ONE, WITHIN_THREE = 0.95, 0.999
# By how much the squared distance of a file from the float computation may exceed that of its graph, where rounding
# adds up with depth: 1.5 dB (the worst of 34 sound files of deep networks had 0.6). Few outputs vary more by chance.
NOISE_ALLOWED, DEVIATIONS_ALLOWED = 10**0.15, 3.0
_MOST_SAMPLES = 64  # of which noise is measured

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parity:
    """How a file's outputs compare with its source's.

    Attributes:
        reference: What the file was compared with.
        max_abs: Largest absolute difference of any output.
        mean_abs: Mean absolute difference.
        lsb_match: For int8, the share of outputs within one step of the output's grid; None for floats.
        passed: Whether the limits of this module hold.
        reason: The limit that does not hold, in words; empty when all do.
        noise_db: What rounding activations costs: the signal-to-noise ratio of the quantized graph against itself with
            no activation rounded, in dB (see `torchshrink.quantize.noise.snr_db`, as all figures in dB), of the worst
            output. None for floats, and where nothing differs.
        file_noise_db: The same of the file against the graph.
        judged_by: What decided: ``"limits"`` of differences; for fp16 also ``"halves"`` (what rounding the weights
            does to the module itself); for int8 also ``"operators"`` (one computes something
            else from the same inputs), ``"noise"`` (more steps apart than the limits allow, and as close to the float
            computation as the graph, or not) and ``"graph"`` (which gives out one number whatever goes in); in a
            pipeline ``"stored"`` too (a scale, a weight or a bias is another than its source's, see `scales`).
        operation: The first operation that computes something else from the same inputs, in words.
        graph_db: How far the graph itself is from the module that it was made of: the signal-to-noise ratio of the
            worst output in dB, as `torchshrink.quantize.convert` measured it; None where it is not known, and where
            nothing differs.
    """

    reference: str
    max_abs: float
    mean_abs: float
    lsb_match: float | None
    passed: bool
    reason: str = ""
    noise_db: float | None = None
    file_noise_db: float | None = None
    judged_by: str = "limits"
    operation: str | None = None
    graph_db: float | None = None


def verify(
    path: Path | str, model: nn.Module, inputs: Inputs, precision: str, reference: str, processor: str = HERE
) -> Parity:
    """Run a file in its real runtime, default delegates included, and compare it with ``model``.

    An int8 file is also taken apart, see `look_closer`.

    Args:
        path: An ONNX or TFLite file.
        model: The float module or quantized graph that it was made from.
        inputs: ``[N, C, *size]`` real inputs, normalised, or one for each argument of the model.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``; chooses the limits.
        reference: The name of ``model`` for the report.
        processor: Which kind of processor runs it, one of `torchshrink.runtime.processors.KINDS`.

    Raises:
        MissingExtraError: When an emulator is not installed.
        RecipeError: When there is no such precision or kind of processor.
        ConversionError: When the runtime cannot load or run the file.
    """
    check("precision", precision, Precision)
    path, arguments = Path(path), in_float32(inputs)
    if any(value.is_floating_point() and value.dtype != torch.float32 for value in model.parameters()):
        model = plain_copy(model)  # files compute in float32
    _logger.info("run %s in its runtime%s", path.name, "" if processor == HERE else f" on {processor}")
    try:
        found = bench.predict_all(path, [value.numpy() for value in arguments], processor=processor)
    except ModelError as error:
        raise ConversionError(f"{path.name} does not run: {error}") from error
    _logger.info("compute the same in PyTorch")
    expected = _outputs(model, arguments)
    parity = compare_all(found, expected, precision, reference, output_scales(model), rounding_of_file(path))
    if precision == "fp16":
        return look_at_halves(parity, model, arguments, found, expected)
    if precision != "int8":
        return parity
    _logger.info("hold each operator of %s against the graph's", path.name)
    return look_closer(parity, path, model, arguments, found, expected, processor)


def look_at_halves(
    parity: Parity,
    model: nn.Module,
    inputs: Sequence[Tensor],
    found: Sequence[NDArray[np.float32]],
    expected: Sequence[NDArray[np.float32]],
) -> Parity:
    """Judge an fp16 file that is further off than most by what rounding the weights alone does to its model.

    Deep models amplify it. Args as `look_closer`.
    """
    if parity.passed or not np.isfinite(parity.max_abs):
        return parity
    halves = copy.deepcopy(model)
    for parameter in halves.parameters():
        if parameter.dim() > 1 and parameter.is_floating_point():
            parameter.data = parameter.data.half().to(parameter.dtype)
    allowed = [HALVES_ALLOWED * np.abs(a - b).max(initial=0.0) for a, b in
               zip(_outputs(halves, inputs), expected, strict=True)]  # fmt: skip
    apart = [np.abs(a - b).max(initial=0.0) for a, b in zip(found, expected, strict=True)]
    if any(worst > limit for worst, limit in zip(apart, allowed, strict=True)):
        return replace(parity, reason=f"{parity.reason}; rounding the weights alone explains {max(allowed):.3g}")
    return replace(parity, passed=True, reason="", judged_by="halves")


def _outputs(model: nn.Module, arguments: Sequence[Tensor]) -> list[NDArray[np.float32]]:
    # A file holds float32 where the module's own blocks compute in half precision.
    with evaluating(model), torch.inference_mode(), without_autocast():
        parts = [tensors(model(*batch)) for batch in zip(*(torch.split(value, 1) for value in arguments), strict=True)]
    return [torch.cat(part).float().numpy() for part in zip(*parts, strict=True)]


def look_closer(
    parity: Parity,
    path: Path,
    model: nn.Module,
    inputs: Sequence[Tensor],
    found: Sequence[NDArray[np.float32]],
    expected: Sequence[NDArray[np.float32]],
    processor: str = HERE,
) -> Parity:
    """Judge an int8 file by its operators, each on its own inputs, and by its noise where the limits do not hold.

    Rounding adds up with depth, so that a sound file of a deep network may be many steps from its graph, and one wrong
    bias no step. Each operator alone is exact but for its kernel's rounding; and a sound file is as close to what the
    graph computes without rounding as the graph itself is.

    Args:
        parity: What `compare_all` says of the outputs.
        path: The file.
        model: The quantized graph that it was made from; of any other model ``parity`` is returned as it is.
        inputs: ``[N, C, *size]`` for each argument of the graph.
        found: The file's outputs for these.
        expected: The graph's.
        processor: Where the file gave these outputs, one of `torchshrink.runtime.processors.KINDS`.

    Raises:
        ConversionError: When the runtime does not run the file.
        MissingExtraError: When an emulator is not installed.
    """
    if not (isinstance(model, GraphModule) and quantize.is_quantized(model) and np.isfinite(parity.max_abs)):
        return parity
    inputs = [value[:_MOST_SAMPLES] for value in inputs]
    found, expected = ([values[:_MOST_SAMPLES] for values in each] for each in (found, expected))
    floats = noise.unrounded(model, inputs)
    scales = output_scales(model)
    parity = replace(
        parity,
        noise_db=_worst_db(expected, floats),
        file_noise_db=_worst_db(found, expected),
        graph_db=worst_db(model),
    )
    if any(noise.is_lost(*each) for each in zip(expected, floats, scales, strict=True)):
        reason = (
            "the quantized graph gives out one number where it tells inputs apart when nothing is rounded: nothing is "
            "left to verify; calibrate or train it on inputs like these"
        )
        return replace(parity, passed=False, reason=reason, judged_by="graph")
    wrong = operators.first_wrong(path, model, inputs, processor)
    if wrong is not None:
        reason = f"{wrong.operation} {wrong.tensor} computes something else from the same inputs"
        return replace(parity, passed=False, reason=reason, judged_by="operators", operation=str(wrong))
    if parity.passed:
        return parity
    loud = [_noise_reason(*each) for each in zip(found, expected, floats, scales, strict=True)]
    reason = f"{parity.reason}; {'; '.join(filter(None, loud))}" if any(loud) else ""
    return replace(parity, passed=not any(loud), reason=reason, judged_by="noise")


def _worst_db(values: Sequence[NDArray[np.float32]], references: Sequence[NDArray[np.float32]]) -> float | None:
    each = [snr_db(*map(torch.from_numpy, pair)) for pair in zip(values, references, strict=True)]
    return min(filter(np.isfinite, each), default=None)


def _noise_reason(
    found: NDArray[np.float32], expected: NDArray[np.float32], floats: NDArray[np.float32], scale: float | None
) -> str:
    """Say that an output is further from the float computation than the graph's, nothing when it is not."""
    file, graph = noise.power(found, floats), noise.power(expected, floats)
    allowed = NOISE_ALLOWED * (1 + DEVIATIONS_ALLOWED * np.sqrt(2 / found.size))
    if file <= allowed * max(graph, (scale or 0.0) ** 2):
        return ""
    apart = 10 * np.log10(file / graph) if graph else np.inf
    return f"{apart:.1f} dB further from the float computation than the graph, allowed {10 * np.log10(allowed):.1f}"


def compare_processors(path: Path, inputs: Inputs, processors: Sequence[str]) -> dict[str, Parity]:
    """Compare what a file computes on other kinds of processors with what it computes on this one.

    Nothing but the file is needed. Two right processors may differ by a step of an int8 file's output, which its float
    outputs do not tell: all are held to the fp16 limit.

    Args:
        path: An ONNX or TFLite file.
        inputs: ``[N, C, *size]``, or one for each input of the file.
        processors: Some of `torchshrink.runtime.processors.KINDS`.

    Raises:
        MissingExtraError: When an emulator is not installed.
        ModelError: When the runtime cannot load or run the file.
    """
    arrays = [value.numpy() for value in as_tuple(inputs)]
    here = bench.predict_all(path, arrays)
    found = {kind: bench.predict_all(path, arrays, processor=kind) for kind in processors}
    rounded = rounding_of_file(path)
    return {kind: compare_all(values, here, "fp16", HERE, [], rounded) for kind, values in found.items()}


def compare_all(
    found: Sequence[NDArray[np.float32]],
    expected: Sequence[NDArray[np.float32]],
    precision: str,
    reference: str,
    scales: Sequence[float | None],
    rounded: Sequence[float],
) -> Parity:
    """Compare every output with that of the reference and return the worst; Args as `compare`, one of each.

    Scales, and what is rounded, count where there are as many as outputs.
    """
    if len(found) != len(expected):
        reason = f"it has {len(found)} outputs instead of {len(expected)}"
        return Parity(reference, np.inf, np.inf, None, False, reason)
    known = scales if len(scales) == len(expected) else [None] * len(expected)
    least = rounded if len(rounded) == len(expected) else [0.0] * len(expected)
    each = [
        compare(values, wanted, precision, reference, scale, most)
        for values, wanted, scale, most in zip(found, expected, known, least, strict=True)
    ]
    if len(each) == 1:
        return each[0]
    failed = {index: parity.reason for index, parity in enumerate(each) if not parity.passed}
    shares = [parity.lsb_match for parity in each if parity.lsb_match is not None]
    return Parity(
        reference,
        max(parity.max_abs for parity in each),
        max(parity.mean_abs for parity in each),
        min(shares, default=None),
        not failed,
        "; ".join(f"output {index}: {reason}" for index, reason in failed.items()),
    )


def compare(
    found: NDArray[np.float32],
    expected: NDArray[np.float32],
    precision: str,
    reference: str,
    scale: float | None = None,
    rounded: float = 0.0,
) -> Parity:
    """Compare outputs with those of the reference; anything that is not a number fails.

    Args:
        found: The file's outputs.
        expected: The reference's outputs, same shape.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        reference: Its name.
        scale: The step of the int8 output grid; without it an int8 file with float output is held to the fp16 limit.
        rounded: How far floats may be off, however small they are; see `torchshrink.converters.runtimes.rounding`.
    """
    if found.shape != expected.shape:
        reason = f"outputs have shape {list(found.shape)} instead of {list(expected.shape)}"
        return Parity(reference, np.inf, np.inf, None, False, reason)
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return Parity(reference, np.inf, np.inf, None, False, "outputs hold values that are not finite numbers")
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    worst, mean = float(difference.max()), float(difference.mean())
    if precision == "int8" and scale is not None:
        steps = np.rint(difference / scale)
        one, three = float((steps <= 1).mean()), float((steps <= 3).mean())
        # Written so that NaN, which fails every comparison, fails the check.
        passed = one >= WITHIN_ONE and three >= WITHIN_THREE
        reason = f"{one:.2%} of outputs within 1 step and {three:.3%} within 3, needed {WITHIN_ONE:.0%} and 99.9%"
        return Parity(reference, worst, mean, one, passed, "" if passed else reason)
    limit = max(FLOAT_LIMITS.get(precision, FLOAT_LIMITS["fp16"]) * spread(expected), rounded)
    passed = worst <= limit
    reason = "" if passed else f"largest difference {worst:.3g}, allowed {limit:.3g} ({precision})"
    return Parity(reference, worst, mean, None, passed, reason)


def output_scales(model: nn.Module) -> list[float | None]:
    """Return the step of each output of a quantized graph, None for a float one; none of a float model's."""
    if not isinstance(model, GraphModule):
        return []
    result = next(iter(model.graph.find_nodes(op="output"))).args[0]
    return [_step(node) for _, node in leaves(result)]


def _step(node: Node) -> float | None:
    is_quantized = getattr(node.target, "_schema", None) is not None and "dequantize" in str(node.target)
    return float(node.args[1]) if is_quantized else None  # type: ignore[arg-type]
