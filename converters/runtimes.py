"""Look inside the runtimes: the values of intermediate tensors on one input."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from torchshrink.converters.onnx_file import inputs, load
from torchshrink.errors import ConversionError, ModelError
from torchshrink.quiet import silent_stderr
from torchshrink.runtime._model_files import dequantize, quantize, to_tflite_layout
from torchshrink.runtime.onnx_session import open_session
from torchshrink.runtime.predict import predict_all

# What a model is run on: the array of its only input, or one for each.
Sample = NDArray[Any] | Sequence[NDArray[Any]]
_SIGMOID = 5e-7
_MOVING = {"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"}  # values stay what they are


@dataclass(frozen=True)
class TensorValue:
    """A tensor of a TFLite file and what it held, as real numbers in the file's layout."""

    name: str
    values: NDArray[np.float32]


def onnx_session(model: Path | bytes, name: str, **settings: Any) -> Any:
    """Open a model in ONNX Runtime, in silence.

    Args:
        model: The file or its content.
        name: What errors call it.
        settings: See `open_session`.

    Raises:
        ConversionError: When ONNX Runtime refuses the model.
        ModelError: When a file keeps weights elsewhere.
    """
    try:
        with silent_stderr():
            return open_session(model, **settings)
    except ModelError:
        raise
    except Exception as error:  # its classes have no common base but this
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConversionError(f"{name} does not load in ONNX Runtime: {reason}") from error


def onnx_values(model: onnx.ModelProto, names: set[str], sample: Sample) -> dict[str, NDArray[Any]]:
    """Return the values of the named tensors of an ONNX graph, and those of its outputs.

    Args:
        model: The graph.
        names: Tensors of it.
        sample: One ``[N, C, *size]`` for each input, in order.

    Raises:
        ConversionError: When ONNX Runtime refuses the graph.
    """
    return onnx_runner(model, names, is_optimized=False)(sample)


def onnx_runner(
    model: onnx.ModelProto, names: set[str], is_optimized: bool
) -> Callable[[Sample], dict[str, NDArray[Any]]]:
    """Return what computes the named tensors of an ONNX graph, and its outputs, of one sample after the other.

    Args:
        model: The graph.
        names: Tensors of it.
        is_optimized: Whether integer kernels may compute what a QDQ graph describes, as they do when the file is used.

    Raises:
        ConversionError: When ONNX Runtime refuses the graph.
    """
    model = _giving_out(model, names)
    session = _session_for_values(model, is_optimized)
    found = [item.name for item in session.get_outputs()]

    def run(sample: Sample) -> dict[str, NDArray[Any]]:
        entry = {item.name: value for item, value in zip(inputs(model), arrays(sample), strict=True)}
        values = dict(zip(found, session.run(found, entry), strict=True))
        return values | {name: value for name, value in entry.items() if name in names}

    return run


def onnx_runner_elsewhere(
    model: onnx.ModelProto, names: set[str], processor: str
) -> Callable[[Sample], dict[str, NDArray[Any]]]:
    """Return what `onnx_runner` does, optimized, of another kind of processor; integers come as real numbers.

    Raises, when it is called:
        MissingExtraError: When an emulator is not installed.
        ModelError: When ONNX Runtime refuses the graph.
    """
    model = _giving_out(model, names)
    found = [item.name for item in model.graph.output]

    def run(sample: Sample) -> dict[str, NDArray[Any]]:
        with tempfile.TemporaryDirectory(prefix="torchshrink-") as folder:
            path = Path(folder, "values.onnx")
            path.write_bytes(model.SerializeToString())
            return dict(zip(found, predict_all(path, arrays(sample), processor=processor), strict=True))

    return run


def _giving_out(model: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """Return a copy of a graph whose outputs are the named tensors too."""
    model = copy.deepcopy(model)
    outputs = {item.name for item in model.graph.output}
    produced = {name for node in model.graph.node for name in node.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names & produced - outputs))
    return model


def _session_for_values(model: onnx.ModelProto, is_optimized: bool) -> Any:
    """Open a graph; as it is written where ONNX Runtime's optimizer makes one of it that it has no kernels for."""
    content = model.SerializeToString()
    if is_optimized:
        with suppress(ConversionError):
            return onnx_session(content, "the graph")
    return onnx_session(content, "the graph", level="DISABLE_ALL")


def tflite_values(model: Path | bytes, sample: Sample) -> dict[int, TensorValue]:
    """Return the float and int8 tensors of a TFLite file, or of its content, by tensor index.

    Inputs are in PyTorch's layout. Delegates keep their intermediate tensors to themselves, so this runs without any.

    Raises:
        ConversionError: When LiteRT's own kernels, which are stricter than those of delegates, refuse the file.
    """
    try:
        interpreter = _run_tflite(model, sample)
    except (RuntimeError, ValueError) as error:
        name = model.name if isinstance(model, Path) else "the model"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConversionError(f"{name} does not run in LiteRT without delegates: {reason}") from error
    found = {}
    for tensor in interpreter.get_tensor_details():
        try:
            codes = interpreter.get_tensor(tensor["index"])
        except ValueError:
            continue  # a temporary tensor without data
        scale, zero_point = tensor["quantization"]
        if codes.dtype == np.int8 and scale:
            codes = dequantize(codes, scale, zero_point)
        if codes.dtype == np.float32:
            found[int(tensor["index"])] = TensorValue(tensor["name"], codes)
    return found


def _run_tflite(model: Path | bytes, sample: Sample) -> Any:
    """Return an interpreter without delegates that has run, and kept all tensors."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is meant for looking inside, and that is what is done here
        interpreter = Interpreter(
            **({"model_path": str(model)} if isinstance(model, Path) else {"model_content": model}),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
            num_threads=1,
        )
    interpreter.allocate_tensors()
    for detail, each in zip(interpreter.get_input_details(), arrays(sample), strict=True):
        values = quantize(each, detail["dtype"], *detail["quantization"])
        interpreter.set_tensor(detail["index"], to_tflite_layout(values, tuple(detail["shape"].tolist())))
    interpreter.invoke()
    return interpreter


def check_tflite(path: Path, threads: int = 1) -> None:
    """Run a TFLite file once, on zeros, as `tflite_values` does: LiteRT crashes on some, so let a process do it.

    Raises:
        RuntimeError: What LiteRT refuses it with; see `torchshrink.runtime.apart`.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    for resolver in (OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, OpResolverType.AUTO):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            interpreter = Interpreter(str(path), experimental_op_resolver_type=resolver, num_threads=threads)
        interpreter.allocate_tensors()
        interpreter.invoke()


def arrays(sample: Sample) -> list[NDArray[Any]]:
    """Return one array for each input."""
    return [sample] if isinstance(sample, np.ndarray) else list(sample)


def rounding(model: onnx.ModelProto) -> dict[str, float]:
    """Return how far two runtimes may be apart in each output, however small its values are.

    Kernels of a sigmoid round what is near 0 as what is near 1: at -16 ONNX Runtime's is 47 % off, by 5e-8.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for item in model.graph.output:
        node = made_by.get(item.name)
        while node is not None and node.op_type in _MOVING:
            node = made_by.get(node.input[0])
        found[item.name] = _SIGMOID if node is not None and node.op_type == "Sigmoid" else 0.0
    return found


def rounding_of_file(path: Path) -> list[float]:
    """Return how far each output of a file may be from what PyTorch computes, however small its values are.

    Only ONNX Runtime rounds so: what LiteRT's sigmoids give is right in every digit, down to 1e-13.

    Raises:
        ModelError: When an ONNX file cannot be read.
    """
    return [] if path.suffix == ".tflite" else list(rounding(load(path)).values())


def spread(values: NDArray[Any]) -> float:
    """Return the range of values that differences are compared with; of nearly constant ones, a share of their size."""
    return max(float(np.ptp(values)), 1e-2 * float(np.abs(values).max(initial=0.0)), 1e-6)
