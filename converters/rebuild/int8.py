"""From a float ONNX file and samples to int8 files that bear its names, with the quantizer of PyTorch models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor
from torch.fx import GraphModule

from torchshrink import quantize
from torchshrink.converters import onnx_file
from torchshrink.converters.export import onnxruntime_int8
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.rebuild.from_onnx import from_onnx
from torchshrink.progress import SILENT, Progress
from torchshrink.quantize.ladder.climb import BUDGET_DB, Effort


@dataclass(frozen=True)
class Calibrated:
    """A float ONNX file, quantized.

    Attributes:
        source: The float graph.
        graph: The quantized one.
        example: One sample for each input.
    """

    source: onnx.ModelProto
    graph: GraphModule
    example: tuple[Tensor, ...]

    def write(self, path: Path, for_onnxruntime: bool, metadata: dict[str, Any] | None = None) -> Path:
        """Write a QDQ file with the inputs, outputs and batch size of the float one.

        Args:
            path: The file.
            for_onnxruntime: Rewrite it for the integer kernels of ONNX Runtime; otherwise it is for `to_tflite`, which
                takes one sample at a time.
            metadata: Stored in the file as JSON.

        Raises:
            UnsupportedOpError: When an operation cannot be exported.
        """
        sides = [item.type.tensor_type.shape.dim for item in onnx_file.inputs(self.source)]
        batch = (max(0, sides[0][0].dim_value) or None) if for_onnxruntime else 1
        model = export(self.graph, self.example, batch)
        self._name(model)
        if for_onnxruntime:
            model = onnxruntime_int8.rewrite(model)
        onnx_file.save(model, path, metadata)
        return path

    def _name(self, model: onnx.ModelProto) -> None:
        """Give the inputs and outputs the names that they have in the float file."""
        ends = [(*onnx_file.inputs(each), *each.graph.output) for each in (model, self.source)]
        wanted = {new.name: old.name for new, old in zip(*ends, strict=True)}
        stored = {item.name for item in model.graph.initializer}
        wanted = {new: old for new, old in wanted.items() if old not in stored}
        known = {name for node in model.graph.node for name in (*node.input, *node.output)}
        inner = (set(wanted.values()) & known) - set(wanted)
        onnx_file.rename(model, wanted | {name: f"{name}_inner" for name in inner})


def calibrate(
    path: Path,
    samples: Sequence[tuple[Tensor, ...]],
    effort: Effort = "bias",
    *,
    budget_db: float = BUDGET_DB,
    keep_float: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Calibrated:
    """Quantize a float ONNX file of any exporter.

    Args:
        path: The file, see `from_onnx`.
        samples: One for each, with a batch of one: what each input takes.
        effort: See `torchshrink.quantize.ptq`, as the rest.
        budget_db: See there.
        keep_float: Nodes, by their names in the module of `from_onnx`.
        progress: Told about every step.

    Raises:
        UnsupportedOpError: As `from_onnx`, like the next two.
        ModelError: See there.
        ParityError: See there.
        DataError: When a sample is not finite.
    """
    module = from_onnx(path, samples[0])
    progress.start("calibrate")
    graph = quantize.ptq(module, samples, effort, budget_db=budget_db, keep_float=keep_float, progress=progress)
    return Calibrated(onnx_file.load(path), graph, samples[0])
