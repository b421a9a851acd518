"""Inputs for a file of another tool: arrays as the file takes them, or pictures."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from PIL import Image
from torch import Tensor

from torchshrink.converters import onnx_file
from torchshrink.data import arrays as data_arrays
from torchshrink.data import images
from torchshrink.data.preparation import Preparation
from torchshrink.errors import DataError, ModelError

MOST = 256  # samples that are read
_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Entry:
    """An input of a file: its name, the shape of a sample without the batch, and its type for numpy."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


def entries(model: onnx.ModelProto, name: str, shapes: Mapping[str, Sequence[int]] | None = None) -> list[Entry]:
    """Return the inputs of a graph.

    Args:
        model: The graph.
        name: What errors call it.
        shapes: With the batch, by the input's name, or "" for the first one, where sizes are open. Sizes to which the
            graph gives one name are the same in all inputs.

    Raises:
        ModelError: When a size is free, ``shapes`` are not what the graph takes, or an input has no samples.
    """
    check_samples(model, name)
    items = onnx_file.inputs(model)
    given = {key or items[0].name: list(shape) for key, shape in (shapes or {}).items()}
    if unknown := given.keys() - {item.name for item in items}:
        named = ", ".join(item.name for item in items)
        raise ModelError(
            f"{name} has no input {sorted(unknown)[0]!r} that a shape could be given for: it takes {named}"
        )
    known: dict[str, int] = {}
    for item in items:
        if item.name in given:
            _check_shape(item, given[item.name], name)
            known.update(zip(map(_symbol, _sides(item)), given[item.name], strict=False))
    known.pop("", None)
    found = []
    for item in items:
        sides = given.get(item.name) or [side.dim_value or known.get(_symbol(side), 0) for side in _sides(item)]
        if not sides or any(side < 1 for side in sides[1:]):
            option = "1,3,224,224" if item is items[0] else f"{item.name}:1,3,224,224"
            raise ModelError(
                f"{name}: input {item.name!r} has the free sizes {_shown(item)}: say which, such as --shape {option}"
            )
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)).name
        found.append(Entry(item.name, tuple(sides[1:]), dtype))
    return found


def check_samples(model: onnx.ModelProto, name: str) -> None:
    """Refuse a graph with an input that does not hold a sample after the other along its first dimension.

    Raises:
        ModelError: Naming the input.
    """
    items = onnx_file.inputs(model)
    count = next(map(_symbol, _sides(items[0])), "")
    for item in items:
        if item.type.tensor_type.HasField("shape") and not _sides(item):
            raise ModelError(
                f"{name}: input {item.name!r} is one number for all samples, and calibration gives every input by "
                "sample: store its value in the file, as an initializer of that name"
            )
        for place, side in enumerate(_sides(item)[1:], 2):
            if count and _symbol(side) == count:
                raise ModelError(
                    f"{name}: input {item.name!r} ({_shown(item)}) counts the samples, {count!r}, in its size "
                    f"{place}, and quantization needs them first, in every input: export the model so, or quantize "
                    "the PyTorch model (torchshrink ptq)"
                )


def _check_shape(item: onnx.ValueInfoProto, shape: Sequence[int], name: str) -> None:
    pairs = zip((side.dim_value for side in _sides(item)[1:]), shape[1:], strict=False)
    is_open = not item.type.tensor_type.HasField("shape")
    if not is_open and (len(shape) != len(_sides(item)) or any(0 < old != new for old, new in pairs)):
        raise ModelError(f"{name}: input {item.name!r} has the shape {_shown(item)}, which {list(shape)} does not fit")


def _sides(item: onnx.ValueInfoProto) -> Sequence[Any]:
    return list(item.type.tensor_type.shape.dim)


def _symbol(side: Any) -> str:
    """Return the name of a free size, if it is one: some tools write that they know none."""
    name = str(side.dim_param)
    return name if name.strip("?_-") and name.lower() not in ("none", "unknown") else ""


def _shown(item: onnx.ValueInfoProto) -> str:
    return ",".join(str(max(0, side.dim_value) or side.dim_param or "?") for side in _sides(item)) or "?"


def read(
    source: Path, entries: Sequence[Entry], mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
) -> list[tuple[Tensor, ...]]:
    """Return samples for a model, each with a batch of one, of which at most 256 are read.

    Args:
        source: A folder, or ``train`` and ``images`` in it where they are there, or one file. ``.npy`` and ``.npz``
            hold a sample or several exactly as the model takes them; an ``.npz`` for several inputs has their names as
            keys. Pictures are brought to the input's size and become ``(value / 255 - mean) / std``.
        entries: The inputs of the model.
        mean: Of pictures, one number or one for each channel.
        std: The same.

    Raises:
        DataError: When there is nothing that fits the model.
    """
    found: list[tuple[Tensor, ...]] = []
    for path in _files(source):
        is_picture = path.suffix.lower() in _PICTURES
        found += [_picture(path, entries, mean, std)] if is_picture else islice(_arrays(path, entries), MOST)
        if len(found) >= MOST:
            break
    return found[:MOST]


def described(source: Path, entry: Entry, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """Return what a file says of its input when it was calibrated on ``source``, see `read`; of its outputs nothing.

    Nothing at all where the input is no ``[C, L]`` or ``[C, H, W]`` of numbers.
    """
    if len(entry.shape) not in (2, 3) or entry.dtype != "float32":
        return {}
    channels, *sides = entry.shape
    known: dict[str, Any] = {"kind": "", "input_shape": [1, *entry.shape]}
    if any(path.suffix.lower() in _PICTURES for path in _files(source)):
        if channels not in _MODES:  # it has its channels last
            return {}
        form = Preparation(size=(sides[1], sides[0]), colour="gray" if channels == 1 else "rgb")
        each = {"mean": _each(mean, channels), "std": _each(std, channels)}
        return {**known, "normalization": {**each, "raw": "uint8 / 255"}, "prepared": str(form)}
    unchanged = {"mean": [0.0] * channels, "std": [1.0] * channels, "raw": "float32"}
    return {**known, "normalization": unchanged}


def _each(numbers: Sequence[float], channels: int) -> list[float]:
    return [float(number) for number in (list(numbers) * channels)[:channels]]


def _files(source: Path) -> list[Path]:
    for part in ("train", "images"):
        source = source / part if (source / part).is_dir() else source
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    known = [path for path in files if path.suffix.lower() in (".npy", ".npz", *_PICTURES)]
    if not known:
        raise DataError(f"{source} holds no .npy, .npz or picture: give inputs as the model takes them")
    return known


def _arrays(path: Path, entries: Sequence[Entry]) -> Iterator[tuple[Tensor, ...]]:
    arrays = _load(path)
    names = [entry.name for entry in entries]
    if len(entries) == 1 and len(arrays) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    missing = [name for name in names if name not in arrays]
    if missing:
        raise DataError(
            f"{path} has no array {missing[0]!r}: it holds {', '.join(arrays)}, name them as the model does"
        )
    given = [_batch(path, arrays[entry.name], entry) for entry in entries]
    if len({len(values) for values in given}) > 1:
        raise DataError(f"{path} holds another number of samples for each input of the model")
    for parts in zip(*given, strict=True):
        yield tuple(
            torch.from_numpy(part[None].astype(entry.dtype)) for part, entry in zip(parts, entries, strict=True)
        )


def _load(path: Path) -> dict[str, NDArray[Any]]:
    images.check_regular(path)
    if zipfile.is_zipfile(path):
        return {key: data_arrays.array_in(path, key) for key in sorted(data_arrays.names_in(path))}
    try:
        return {"": np.load(path, "r", allow_pickle=False)}  # a header that claims what is not there sets nothing aside
    except Exception as error:  # whatever the bytes happen to mean: NumPy reads a header as Python
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read as arrays ({reason}): save it again") from error


def _batch(path: Path, values: NDArray[Any], entry: Entry) -> NDArray[Any]:
    batch = values[None] if values.shape == entry.shape else values
    if batch.shape[1:] != entry.shape:
        raise DataError(
            f"{path} holds {list(values.shape)}, but input {entry.name!r} of the model takes {list(entry.shape)} per "
            "sample"
        )
    return batch


def _picture(path: Path, entries: Sequence[Entry], mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, ...]:
    shape = entries[0].shape
    is_last = len(shape) == 3 and shape[0] not in _MODES and shape[-1] in _MODES
    if len(entries) > 1 or len(shape) != 3 or not (is_last or shape[0] in _MODES):
        raise DataError(f"{path} is a picture, but the model takes {[list(each.shape) for each in entries]}: give .npz")
    height, width = shape[:2] if is_last else shape[1:]
    channels = shape[-1] if is_last else shape[0]
    with images.opened(path, is_whole=True, more=("BMP", "WEBP")) as image:
        picture = image.convert(_MODES[channels]).resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.float32).reshape(height, width, channels) / 255
    values = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return (torch.from_numpy(np.ascontiguousarray(values if is_last else values.transpose(2, 0, 1), np.float32))[None],)
