"""What an exported ONNX or TFLite file says about itself, read without torch, TensorFlow or a runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchshrink import metadata
from torchshrink.errors import ModelError
from torchshrink.runtime import external_data

_ONNX_FLOATS = (1, 10, 11)  # TensorProto.FLOAT, FLOAT16, DOUBLE
_MOST_ENTRIES = 10_000
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Shipped:
    """A file that torchshrink exported.

    Attributes:
        path: The file.
        channels: Of its input.
        sides: The size of its input, ``(L,)`` or ``(H, W)``; 0 where it takes any.
        default_sides: The same, with the size that it was exported for where it takes any; 0 if that is not known.
        mean: What is subtracted from the raw input, one number per channel.
        std: What the result is divided by.
        raw: What the raw input is, such as ``"uint8 / 255"``.
        class_names: One per output channel.
        kind: What it was trained for, see `torchshrink.task.Task`; empty where nobody said.
        prepared: What training did to files, see `torchshrink.data.preparation`.
    """

    path: Path
    channels: int
    sides: Shape
    default_sides: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    raw: str
    class_names: tuple[str, ...]
    kind: str = "segmentation"
    prepared: str = ""


def read(path: Path, any_origin: bool = False) -> Shipped:
    """Return what a file says about its input, its output and the normalisation that it expects.

    Args:
        path: The file.
        any_origin: Take files that say nothing of it, too: inputs are then float32, as the file itself takes them.

    Raises:
        ModelError: When there is no such file, it is damaged, or it does not carry what torchshrink stores in files.
    """
    if path.suffix not in _READERS:
        raise ModelError(f"{path} is not a shipped model: expected an .onnx or .tflite file")
    if not path.is_file():
        raise ModelError(f"no such model file: {path}")
    try:
        entry, output, text = _READERS[path.suffix](path)
    except (ModelError, ModuleNotFoundError):
        raise
    except Exception as error:  # whatever the bytes happen to mean
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{path} cannot be read ({reason}): export it again, or copy it again") from error
    content = metadata.parse(text, str(path)) if text else {}
    if content.get("normalization") is None and any_origin:
        content |= {"normalization": _unchanged(entry), "kind": ""}
    return _described(path, entry, output, content)


def _unchanged(entry: Shape) -> dict[str, Any]:
    channels = entry[1] if len(entry) > 1 else 1
    return {"mean": [0.0] * channels, "std": [1.0] * channels, "raw": "float32"}


def _described(path: Path, entry: Shape, output: Shape, content: dict[str, Any]) -> Shipped:
    """Check that shapes ``[N, C, *size]`` and the metadata fit each other."""
    normalization = content.get("normalization")
    known = content.get("input_shape") or [0] * len(entry)
    if len(entry) == len(known) + 1 and entry[2] == 1:  # a signal in a file whose runtime knows images only
        entry = (*entry[:2], *entry[3:])
    if normalization is None:
        raise ModelError(
            f"{path} does not say how its input is normalised, so it was not made by torchshrink from a trained "
            "checkpoint: torchshrink bundle makes a runner of it that takes its inputs as they are"
        )
    if len(entry) not in (3, 4) or len(entry) != len(known) or entry[0] > 1:
        raise ModelError(f"{path} takes inputs of shape {list(entry)}: expected [1, C, L] or [1, C, H, W]")
    mean, std = tuple(normalization["mean"]), tuple(normalization["std"])
    channels = entry[1] or len(mean)
    if not len(mean) == len(std) == channels:
        raise ModelError(f"{path} takes {channels} channels but normalises {len(mean)}: export it again")
    sides = entry[2:]
    names = tuple(content.get("class_names") or ())
    classes = (output[1] if len(output) > 1 else 0) or len(names)
    if classes == 0:
        raise ModelError(f"{path} does not say how many classes it has: export it again")
    return Shipped(
        path=path,
        channels=channels,
        sides=sides,
        default_sides=tuple(side or int(other) for side, other in zip(sides, known[2:], strict=True)),
        mean=mean,
        std=std,
        raw=normalization.get("raw", "float32"),
        class_names=names if len(names) == classes else tuple(f"class {k}" for k in range(classes)),
        kind=str(content.get("kind", "segmentation")),
        prepared=str(content.get("prepared", "")),
    )


def _read_onnx(path: Path) -> tuple[Shape, Shape, str]:
    """Return the shapes of input and output with 0 for free sides, and the metadata."""
    import onnx

    external_data.check(path)
    model = onnx.load(str(path), load_external_data=False)
    entry, output = model.graph.input[0], model.graph.output[0]
    if entry.type.tensor_type.elem_type not in _ONNX_FLOATS:
        raise ModelError(f"{path} takes integers whose scale it does not tell: export it again with torchshrink export")
    found = {item.key: item.value for item in model.metadata_props}
    shapes = [tuple(max(0, int(side.dim_value)) for side in end.type.tensor_type.shape.dim) for end in (entry, output)]
    return shapes[0], shapes[1], found.get(metadata.KEY, "")


def _read_tflite(path: Path) -> tuple[Shape, Shape, str]:
    """Return the shapes of input and output in PyTorch's layout with 0 for free sides, and the metadata."""
    from ai_edge_litert import schema_py_generated as schema

    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError("it is not TFLite")
    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    entry, output = (_tflite_shape(graph.Tensors(index)) for index in (graph.Inputs(0), graph.Outputs(0)))
    if model.MetadataLength() > _MOST_ENTRIES:
        raise ValueError(f"it claims {model.MetadataLength()} entries of metadata")
    for index in range(model.MetadataLength()):
        item = model.Metadata(index)
        if item.Name() == metadata.KEY.encode():
            return entry, output, model.Buffers(item.Buffer()).DataAsNumpy().tobytes().decode()
    return entry, output, ""


def _tflite_shape(tensor: Any) -> Shape:
    signature = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else tensor.ShapeAsNumpy()
    batch, *size, channels = (max(0, int(side)) for side in signature)
    return (batch, channels, *size)


_READERS = {".onnx": _read_onnx, ".tflite": _read_tflite}
