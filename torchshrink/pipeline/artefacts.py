"""What a run produces: models, and the files that are exported from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Format = Literal["torch", "onnx", "tflite", "h5"]
Precision = Literal["fp32", "fp16", "int8", "dynamic"]
Outputs = NDArray[np.float32] | list[NDArray[np.float32]]  # of a model with one output, or with several


@dataclass(frozen=True)
class Artefact:
    """One file of one variant.

    Attributes:
        variant: The variant's name in the recipe.
        format: Which runtime reads it.
        precision: How its weights are stored, and for int8 how it computes.
        path: The file.
        is_sparse: Whether zeros are left out of the file.
        islands: Operations that compute in float although the file is int8.
        matched: Share of the int8 activations whose range was learned in PyTorch, in [0, 1]; None where no ranges had
            to be matched.
        ends: What the file takes and gives; empty where nobody looked.
        road: The tool that converted a TFLite file; empty for other files.
    """

    variant: str
    format: Format
    precision: Precision
    path: Path
    is_sparse: bool = False
    islands: tuple[str, ...] = ()
    matched: float | None = None
    ends: dict[str, Any] = field(default_factory=dict)
    road: str = ""

    @property
    def name(self) -> str:
        """Return the row's name, unique in a run: ``pruned-qat/tflite-int8-sparse``."""
        return f"{self.variant}/{self.format}-{self.precision}{'-sparse' if self.is_sparse else ''}"

    def to_dict(self, root: Path) -> dict[str, Any]:
        """Return it as JSON-like data, its path relative to ``root``."""
        return asdict(self) | {"path": str(self.path.relative_to(root)), "islands": list(self.islands)}

    @classmethod
    def from_dict(cls, content: dict[str, Any], root: Path) -> Artefact:
        """Rebuild what `to_dict` returned."""
        values = content | {"path": root / content["path"], "islands": tuple(content["islands"])}
        return cls(**values)


@dataclass
class Made:
    """What is known of a variant so far."""

    path: Path
    stamp: str  # of all that went into it and came out of it
    macs: int
    best_loss: float | None = None  # what decides on the validation part, smaller is better, in the epoch that was kept
    keep_float: Sequence[str] = ()
    calibrated: Path | None = None  # the int8 graph of a float variant that is to have int8 files
    artefacts: Sequence[Artefact] = ()
    scored: Sequence[dict[str, Any]] = ()  # the row of its own checkpoint, where that can be shipped
    checked: Sequence[dict[str, Any]] = ()  # rows of the files that compute what they should
    architecture: str = ""  # of its float model, in words
    failed: Sequence[dict[str, Any]] = ()  # what the report says of the others


def ranges_path(folder: Path, variant: str) -> Path:
    """Return where the ranges of a variant's int8 TFLite file are kept, beside it."""
    return folder / f"{variant}-int8.ranges.json"


@dataclass(frozen=True)
class Source:
    """A variant's model, ready to be exported.

    Attributes:
        variant: Its name.
        model: The float module; for a quantized variant, the graph of `torchshrink.quantize.convert`.
        quantized: The int8 graph: the model itself, or what calibration made of a float model.
        example_input: ``[1, C, *size]``.
        metadata: Stored in every file.
    """

    variant: str
    model: nn.Module
    quantized: nn.Module | None
    example_input: Tensor
    metadata: dict[str, Any]

    @property
    def is_quantized(self) -> bool:
        """Return whether there is no float model, only the int8 graph."""
        return self.model is self.quantized


class Bridge(Protocol):
    """What a pipeline needs from the converters, which it must not import."""

    def export(self, source: Source, folder: Path, formats: Sequence[str], precisions: Sequence[str]) -> list[Artefact]:
        """Write every requested file of a variant."""

    def outputs(self, artefact: Artefact, source: Source, inputs: Tensor) -> Outputs:
        """Return what the file's source computes for ``[N, C, *size]``."""

    def compare(
        self,
        artefact: Artefact,
        source: Source,
        found: Outputs,
        expected: Outputs,
        inputs: Tensor,
    ) -> dict[str, Any]:
        """Return the parity of a file's outputs for ``inputs`` with those of its source, as the report holds it."""

    def compare_on(self, artefact: Artefact, source: Source, sample: Tensor, processor: str) -> dict[str, Any]:
        """Return the parity of a file that another kind of processor runs with its source, for one input."""

    def locate(self, artefact: Artefact, source: Source, sample: Tensor) -> str | None:
        """Name the first operation at which the file and its source part, for one input."""

    def float_time(self, path: Path, runs: int, threads: int) -> float:
        """Return the share of an inference's time that a file spends in float operations, in [0, 1]."""

    def latency_ms(self, path: Path, costs: Path) -> float:
        """Return what a TFLite file takes on the processor whose operators were measured for the file ``costs``."""

    def arena_bytes(self, path: Path) -> int:
        """Return the memory that a TFLite file of integers needs on a microcontroller; keep it beside the file."""

    def weights(self, path: Path) -> list[NDArray[Any]]:
        """Return the weights that a file stores, dense, in the type that it stores them."""


def as_list(outputs: Outputs) -> list[NDArray[np.float32]]:
    """Return the outputs of a model with one or several."""
    return outputs if isinstance(outputs, list) else [outputs]
