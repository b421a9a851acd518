"""What a model file spends its bytes on: weights, the graph that uses them, and what describes both."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from torchshrink.converters import tflite_file
from torchshrink.converters.onnx_file import load


@dataclass(frozen=True)
class Parts:
    """Bytes that add up to those of the file.

    Attributes:
        weights: Constant values as they are stored, with the indices of sparse ones.
        graph: Operations, shapes, names and scales; for checkpoints the names and shapes of tensors.
        metadata: What is stored besides: descriptions, and the padding and checksums of archives.
    """

    weights: int
    graph: int
    metadata: int


def read(path: Path) -> Parts | None:
    """Return the parts of a file; None where onnx2tf writes the weights into the graph, and for .ort."""
    readers = {
        ".onnx": _onnx,
        ".tflite": _tflite,
        ".safetensors": _safetensors,
        ".pt": _archive,
        ".pt2": _archive,
    }
    reader = readers.get(path.suffix)
    return reader(path) if reader is not None else None


def _onnx(path: Path) -> Parts:
    model = load(path)
    weights = sum(len(item.raw_data) for item in model.graph.initializer)
    metadata = sum(item.ByteSize() for item in model.metadata_props)
    return Parts(weights, path.stat().st_size - weights - metadata, metadata)


def _tflite(path: Path) -> Parts:
    model = tflite_file.read(path)
    described = {entry.buffer for entry in model.metadata or []}
    sizes = {index: len(buffer.data) for index, buffer in enumerate(model.buffers) if buffer.data is not None}
    metadata = sum(sizes.pop(index, 0) for index in described)
    indices = [
        part.values.nbytes
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.sparsity is not None
        for dimension in tensor.sparsity.dimMetadata
        for part in (dimension.arraySegments, dimension.arrayIndices)
        if part is not None
    ]
    weights = sum(sizes.values()) + sum(indices)
    return Parts(weights, path.stat().st_size - weights - metadata, metadata)


def _safetensors(path: Path) -> Parts:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    metadata = len(json.dumps(header.get("__metadata__", {}), separators=(",", ":")))
    graph = 8 + length - metadata
    return Parts(path.stat().st_size - 8 - length, graph, metadata)


def _archive(path: Path) -> Parts:
    """Read a .pt or .pt2 archive: tensors are entries of their own, the graph is JSON or a pickle."""
    with zipfile.ZipFile(path) as archive:
        entries = {item.filename: item.compress_size for item in archive.infolist()}
    weights = sum(size for name, size in entries.items() if _is_tensor(name))
    graph = sum(size for name, size in entries.items() if name.endswith((".pkl", ".json")) and not _is_tensor(name))
    return Parts(weights, graph, path.stat().st_size - weights - graph)


def _is_tensor(name: str) -> bool:
    folder, _, entry = name.rpartition("/")
    return folder.endswith(("/data", "/data/weights", "/data/constants")) and not entry.endswith(".json")
