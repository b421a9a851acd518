"""What a runner must know of a file: names, shapes and grids of its ends, normalisation and what its outputs are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torchshrink.errors import ModelError
from torchshrink.files import sha256
from torchshrink.predict import shipped

PIXELWISE = ("segmentation", "multiclass")
_CODES = {"FLOAT32": "f", "INT8": "b", "UINT8": "B"}  # of a TFLite tensor, and of Python's arrays


def describe(path: Path) -> dict[str, Any]:
    """Return the content of ``model.json``: see the keys below; shapes are as the file's runtime has them.

    Raises:
        ModelError: When the file has several inputs or outputs, takes any size, or takes something else than float32
            or 8-bit codes.
    """
    known = shipped.read(path, any_origin=True)
    if not all(known.default_sides) or 0 in known.sides:
        raise ModelError(f"{path} takes inputs of any size, a bundle is made for one: export it with a fixed size")
    entry, output = (_tflite_ends if path.suffix == ".tflite" else _onnx_ends)(path)
    kind = known.kind or "values"
    tile = list(known.sides)
    inner = output["shape"][2:] if path.suffix == ".onnx" else output["shape"][1:-1]
    output["sides"] = inner[-len(tile) :]
    return {
        "file": path.name,
        "sha256": sha256(path),
        "kind": kind,
        "dims": len(tile),
        "channels": known.channels,
        "raw": known.raw,
        "mean": list(known.mean),
        "std": list(known.std),
        "prepared": _prepared(known.prepared),
        "tiles": kind in PIXELWISE,
        "tile": tile,
        "overlap": [side // 4 for side in tile],
        "channels_first": path.suffix == ".onnx",
        "classes": list(known.class_names),
        "folders": folders(known.class_names),
        "input": entry,
        "output": output,
    }


def folders(names: Sequence[str]) -> list[str]:
    """Return a folder's name for each class, as `torchshrink.predict.run` has them."""
    found = [re.sub(r"[^\w.-]+", "-", name).strip("-.") for name in names]
    if "" in found or len({folder.lower() for folder in (*found, "probabilities")}) <= len(found):
        return [f"{index}-{folder}".rstrip("-") for index, folder in enumerate(found)]
    return found


def _prepared(text: str) -> dict[str, Any]:
    from torchshrink.data import preparation

    stored = preparation.stored(text)
    options: dict[str, Any] = dict(parse_qsl(text))
    return options | ({"size": list(stored.size)} if stored.size else {})


def _tflite_ends(path: Path) -> list[dict[str, Any]]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph, types = (
        model.Subgraphs(0),
        {value: name for name, value in vars(schema.TensorType).items() if name.isupper()},
    )
    if graph.InputsLength() != 1 or graph.OutputsLength() != 1:
        raise ModelError(
            f"{path} has {graph.InputsLength()} inputs and {graph.OutputsLength()} outputs, not one of each"
        )
    found = []
    for tensor in (graph.Tensors(graph.Inputs(0)), graph.Tensors(graph.Outputs(0))):
        grid, kind = tensor.Quantization(), types.get(tensor.Type(), "?")
        is_code = kind in ("INT8", "UINT8") and grid is not None and grid.ScaleLength() == 1
        if kind not in _CODES or (kind != "FLOAT32" and not is_code):
            raise ModelError(f"{path} takes or gives {kind}: a runner takes FLOAT32, INT8 or UINT8, convert it again")
        found.append(
            {
                "name": tensor.Name().decode(),
                "shape": [int(side) for side in tensor.ShapeAsNumpy()],
                "type": kind.lower(),
                "code": _CODES[kind],
                "scale": float(grid.Scale(0)) if is_code else 0.0,
                "zero_point": int(grid.ZeroPoint(0)) if is_code and grid.ZeroPointLength() else 0,
            }
        )
    return found


def _onnx_ends(path: Path) -> list[dict[str, Any]]:
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    if any(item.external_data for item in graph.initializer):
        raise ModelError(f"{path} keeps its weights in another file: export it again in one")
    if len(graph.input) != 1 or len(graph.output) != 1:
        raise ModelError(f"{path} has {len(graph.input)} inputs and {len(graph.output)} outputs, not one of each")
    found = []
    for end in (graph.input[0], graph.output[0]):
        kind = end.type.tensor_type
        if kind.elem_type != onnx.TensorProto.FLOAT:
            raise ModelError(f"{path} takes or gives another type than float32 at {end.name}: export it again")
        shape = [int(side.dim_value) or 1 for side in kind.shape.dim]
        found.append({"name": end.name, "shape": shape, "type": "float32", "code": "f", "scale": 0.0, "zero_point": 0})
    return found
