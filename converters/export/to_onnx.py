"""PyTorch to ONNX: float32, float16 weights, and QDQ int8."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from torchshrink.converters import half, onnx_file, qdq, runtimes
from torchshrink.converters.export import ceil_pools, onnxruntime_int8, translations
from torchshrink.converters.onnx_file import save
from torchshrink.errors import ConversionError, ModelError, ParityError, RecipeError, ShrinkError, UnsupportedOpError
from torchshrink.model.checked import check_example, check_is_module
from torchshrink.model.signature import Inputs, batch_shapes, first, input_names, lively, output_names, tensors
from torchshrink.quantize.flow import is_quantized
from torchshrink.quantize.noise import LIMIT_DB, snr_db
from torchshrink.quantize.prepared import PreparedModule
from torchshrink.quantize.tracing import in_float32, plain_copy, without_autocast
from torchshrink.quiet import quiet
from torchshrink.settings import check

Precision = Literal["fp32", "fp16", "int8"]
Target = Literal["onnxruntime", "generic"]

OPSET = 18
_MOST_DIMENSIONS = 4
_LARGEST_MESSAGE = 2**31 - 1
_RANDOM = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"
}  # fmt: skip
_NUDGE = 1e-3  # of the largest input: a quarter of a step of int8 at most
_TOLERANCE = 1e-3  # of the largest value; rounding is 1e-5 in deep models, another window or padding 1e-2 and more


def to_onnx(
    model: nn.Module,
    example_input: Inputs,
    path: Path | str,
    precision: Precision = "fp32",
    target: Target = "onnxruntime",
    metadata: dict[str, Any] | None = None,
    batch: int | None = 1,
) -> Path:
    """Export ``model`` to an ONNX file and return its path.

    One input is called ``input``, several what ``forward`` calls them; one output is called ``output``, those of a
    dictionary by its keys, those of a tuple ``output_0`` and so on.

    Args:
        model: A float module; for ``"int8"`` the quantized graph of `torchshrink.quantize.convert`.
        example_input: ``[N, C, *size]``, or one for each argument of the model.
        path: The file to write.
        precision: ``"fp16"`` stores the weights as float16 and computes in float32: half the bytes, the same speed,
            on every runtime.
        target: For ``"int8"``: ``"onnxruntime"`` rewrites the graph for the integer kernels of ONNX Runtime,
            ``"generic"`` keeps the operations of the model, for other runtimes and for `to_tflite`.
        metadata: Stored in the file as JSON.
        batch: How many samples the file takes at once; None for any number, which `to_tflite` does not convert.

    Raises:
        RecipeError: When an argument is none of its choices.
        ModelError: When the precision does not fit the model, or the model refuses ``example_input``.
        UnsupportedOpError: When an operation has no ONNX counterpart.
        ParityError: When the graph does not compute what the model does.
    """
    path = Path(path)
    for name, value, known in (("precision", precision, Precision), ("target", target, Target)):
        check(name, value, known)
    if batch is not None and (not isinstance(batch, int) or batch < 1):
        raise RecipeError(f"batch={batch!r}: expected a number of samples, or None for any")
    is_int8 = is_quantized(model)
    if is_int8 != (precision == "int8"):
        expected = "a quantized graph (torchshrink qat or ptq makes one)" if precision == "int8" else "a float model"
        raise ModelError(f"precision {precision} needs {expected}, got {'a quantized graph' if is_int8 else 'floats'}")
    exported = export(model, example_input, batch)
    if precision == "fp16":
        exported = half.round_onnx(exported)
    elif precision == "int8" and target == "onnxruntime":
        exported = onnxruntime_int8.rewrite(exported)
    save(exported, path, metadata)
    return path


def export(model: nn.Module, example_input: Inputs, batch: int | None = 1) -> onnx.ModelProto:
    """Return ``model`` as ONNX with everything that converters look for; Args as `to_onnx`.

    Raises:
        ModelError: When the model itself refuses ``example_input``.
        UnsupportedOpError: When an operation has no ONNX counterpart.
    """
    check_is_module(model)
    check_example(example_input)
    if isinstance(model, PreparedModule):
        raise ModelError("the model is prepared for quantization only: torchshrink.quantize.convert makes it a graph")
    example_input = in_float32(example_input)
    example = first(example_input, batch or 2)  # of two: torch.export takes a dimension of 1 for a constant
    if not isinstance(model, torch.fx.GraphModule) or model.graph.find_nodes(op="call_module"):  # not of torch.export
        model = plain_copy(model).eval()
    # Without gradients blocks under inference_mode can be followed.
    with torch.no_grad(), without_autocast():
        exported = _exported(model, example, batch)
        onnx_file.fold_casts(exported)
        onnx_file.add_kernel_shapes(exported)
        ceil_pools.spell_out(exported)
        _check(exported, model, lively(example_input, batch or 2))
    return exported


def _exported(model: nn.Module, example: tuple[Tensor, ...], batch: int | None) -> onnx.ModelProto:
    outputs, own = _try_out(model, example), translations.own()
    try:
        # stdout is where the exporter shows its progress
        with (
            quiet(),
            contextlib.redirect_stdout(io.StringIO()),
            translations.read_once(),
            translations.limits_of_one_kind(),
        ):
            program = torch.onnx.export(
                model,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=input_names(model, len(example)),
                output_names=output_names(outputs),
                dynamic_shapes=None if batch else batch_shapes(model, len(example)),
                custom_translation_table=own,
                verbose=False,
            )
    except Exception as error:
        reason = _reason(error)
        branches = "data-dependent" in reason
        advice = "do not branch on the values of tensors" if branches else "replace that operation"
        raise UnsupportedOpError(
            f"{type(model).__name__} cannot be exported to ONNX: {reason}; {advice} in the model"
        ) from error
    assert program is not None
    drawn = [node.op_type for node in program.model_proto.graph.node if node.op_type in _RANDOM]
    if drawn:
        raise ModelError(
            f"{type(model).__name__} draws random numbers in evaluation too ({drawn[0]}), so no file can compute what "
            "it computes: draw only where self.training is set, or outside of the model"
        )
    return _copy_without_notes(program.model_proto)


def _check(exported: onnx.ModelProto, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Hold a graph against its module, in ONNX Runtime.

    Raises:
        ParityError: Naming the output.
        UnsupportedOpError: When it does not run.
    """
    wanted = [value.detach() for value in tensors(_try_out(model, inputs))]
    names = [item.name for item in onnx_file.inputs(exported)]
    if len(names) != len(inputs) or exported.ByteSize() > _LARGEST_MESSAGE:
        return  # an input that nothing depends on; a graph too large to be handed over in memory
    try:
        run = runtimes.onnx_runner(exported, set(), is_optimized=False)
    except ConversionError:
        return  # it has an operation that ONNX Runtime lacks; others may have it
    try:
        found = run([value.numpy() for value in inputs])
    except Exception as error:  # its classes have no common base but this
        raise UnsupportedOpError(
            f"the ONNX graph of {type(model).__name__} does not run: {_reason(error)}; replace that operation in the "
            "model (an LSTM with proj_size by one without and a linear layer)"
        ) from error
    is_int8, rounded = qdq.is_quantized(exported), runtimes.rounding(exported)
    for index, (item, target) in enumerate(zip(exported.graph.output, wanted, strict=True)):
        result = torch.from_numpy(np.asarray(found[item.name]))
        is_same = _is_same(result, target, is_int8, rounded[item.name])
        if not (is_same or (is_int8 and _is_chaotic(result, target, model, inputs, index))):
            raise ParityError(
                f"the ONNX graph of {type(model).__name__} computes another {item.name!r} than the module: an "
                "operation was exported wrong; replace pooling, padding or resizing of unusual settings first"
            )


def _is_same(found: Tensor, wanted: Tensor, is_int8: bool, rounded: float) -> bool:
    """Compare an output: where both round to int8, a tie may go either way, and what follows from it."""
    spread = float(wanted.double().abs().max()) if wanted.numel() else 0.0
    allowed = max(_TOLERANCE * spread, rounded)
    is_close = found.shape == wanted.shape and np.allclose(found, wanted, 0, allowed, equal_nan=True)
    if is_close or not is_int8:
        return is_close
    # Integers of an int8 graph, such as an argmax: one tie changes them.
    return not wanted.is_floating_point() or snr_db(found, wanted) >= LIMIT_DB


def _is_chaotic(found: Tensor, wanted: Tensor, model: nn.Module, inputs: tuple[Tensor, ...], index: int) -> bool:
    """Return whether an int8 graph is as far from itself, a few ties rounded otherwise, as an output is from it.

    Deep graphs of random weights are: each layer makes more of a tie. What the operators of a file compute from the
    same inputs is another proof, of each file.
    """
    generator = torch.Generator().manual_seed(0)
    nudged = tuple(
        value + _NUDGE * value.abs().max() * (2 * torch.rand(value.shape, generator=generator) - 1)
        if value.is_floating_point()
        else value
        for value in inputs
    )
    return snr_db(found, wanted) >= snr_db(tensors(_try_out(model, nudged))[index], wanted)


def _try_out(model: nn.Module, example: tuple[Tensor, ...]) -> Any:
    """Run the model, so that what it refuses by itself is not taken for something that the exporter cannot do."""
    for value in example:
        if value.ndim > _MOST_DIMENSIONS:
            raise UnsupportedOpError(
                f"{type(model).__name__} takes inputs of {value.ndim} dimensions, {list(value.shape)}: models of "
                "images [N, C, H, W] and signals [N, C, L] can be converted, those of volumes not"
            )
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model(*example)
    except ShrinkError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        shapes = ", ".join(str(list(value.shape)) for value in example)
        raise ModelError(
            f"{type(model).__name__} fails on an input of shape {shapes} ({reason}): fix the model or the shape"
        ) from error


def _copy_without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what the exporter wrote for its own debugging: stack traces with paths of this machine."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for holder in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer,
                   *model.graph.input, *model.graph.output):  # fmt: skip
        del holder.metadata_props[:]
        holder.doc_string = ""
    return model


def _reason(error: BaseException) -> str:
    """Return the line of an exporter's chained error that names the operation."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    lines = [line.strip() for text in reversed(texts) for line in text.splitlines() if line.strip()]
    named = [line for line in lines if "No ONNX function found" in line or "aten." in line]
    return (named or lines or [type(error).__name__])[0][:200]
