"""The second road to TFLite: litert-torch, for graphs that onnx2tf refuses or converts wrong.

onnx2tf moves channels last and finds out what became of each side by comparing sizes, which it cannot where two are
equal. litert-torch converts PyTorch's own graph, whose sides have places. So the ONNX graph becomes a PyTorch module
again (`converters.rebuild`), and that module a file. Ranges are matched by values and the proof is the same.
"""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from torchshrink.converters import environment, onnx_file, tflite_file
from torchshrink.converters.float_tflite import forms, fusing, products
from torchshrink.converters.rebuild.from_onnx import build
from torchshrink.errors import ConversionError, ShrinkError
from torchshrink.quiet import quiet

NAME = "litert-torch"
_WORKER = Path(__file__).parent / "_litert_worker.py"


def convert(source: onnx.ModelProto, name: str, target: Path) -> Any:
    """Return the TFLite model object that litert-torch makes of a float graph.

    Args:
        source: The graph.
        name: What errors call it.
        target: The file that is written; its folder is worked in.

    Raises:
        ConversionError: When the graph cannot be rebuilt in PyTorch, or litert-torch fails.
        MissingExtraError: When there is no environment with litert-torch.
    """
    python = environment.second()
    model = copy.deepcopy(source)
    for step in (forms.fold_constants, forms.spread_kernels, forms.fuse_gelu):
        model = step(model)
    inputs = [torch.from_numpy(value) for value in onnx_file.random_inputs(model)]
    program, given = _exported(model, name, inputs)
    folder = target.parent
    folder.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, str(folder / "program.pt2"))
    torch.save(given, folder / "inputs.pt")
    done = subprocess.run([python, "-P", str(_WORKER), str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ConversionError(f"{NAME} could not convert {name} ({lines[-1].strip()[:200]})")
    made = tflite_file.read(target)
    _name_ends(made, [item.name for item in onnx_file.inputs(model)], [item.name for item in model.graph.output])
    fusing.fuse(made)
    products.turn_first_factors(made)
    return made


class _ChannelsLast(nn.Module):
    """Takes and gives what a TFLite file does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Any:
        results = self.model(*(value.movedim(-1, 1) if value.dim() > 2 else value for value in inputs))
        return tuple(map(_last, results)) if isinstance(results, tuple) else _last(results)


def _last(value: Tensor) -> Tensor:
    return value.movedim(1, -1) if value.dim() > 2 else value


def _exported(model: onnx.ModelProto, name: str, inputs: Sequence[Tensor]) -> tuple[Any, tuple[Tensor, ...]]:
    given = tuple(_last(value).contiguous() for value in inputs)
    try:
        with quiet():
            return torch.export.export(_ChannelsLast(build(model, name, inputs)).eval(), given), given
    except ShrinkError as error:
        raise ConversionError(f"{NAME} is not given {name}: {error}") from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ConversionError(f"{NAME} is not given {name}: torch.export refuses it ({reason})") from error


def _name_ends(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Call inputs and outputs what the graph calls them, in its file's signature too."""
    graph = model.subgraphs[0]
    (signature,) = model.signatureDefs
    for index, tensor in enumerate(graph.tensors):  # else they spell out the modules that they come from
        tensor.name = f"{re.split('[/.]', tflite_file.tensor_name(tensor))[-1]}_{index}"
    ends = ((graph.inputs, signature.inputs, inputs), (graph.outputs, signature.outputs, outputs))
    for indices, entries, names in ends:
        by_tensor = dict(zip(map(int, indices), names, strict=True))
        for index, end in by_tensor.items():
            graph.tensors[index].name = end
        for entry in entries:
            entry.name = by_tensor[int(entry.tensorIndex)]
