"""The converters as a pipeline sees them: every file of a variant, and proof of each."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink.converters import contents, half, micro, qdq, runtimes, targets, tflite, tflite_file
from torchshrink.converters import ranges as range_store
from torchshrink.converters.anatomy.inspect import find_islands, inspect
from torchshrink.converters.anatomy.op_costs import Costs
from torchshrink.converters.ends import ends
from torchshrink.converters.export import onnxruntime_int8
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.onnx_file import save
from torchshrink.converters.proof import activations, divergence, operators, scales, verify
from torchshrink.metrics import outputs
from torchshrink.model.signature import as_tuple, tensors
from torchshrink.pipeline.artefacts import Artefact, Outputs, Source, as_list, ranges_path
from torchshrink.report.activations import Activation

_logger = logging.getLogger(__name__)


class Bridge:
    """Implements `torchshrink.pipeline.artefacts.Bridge` with onnxruntime, onnx2tf, ai-edge-quantizer and LiteRT."""

    def __init__(self) -> None:
        self._learned: tuple[nn.Module, onnx.ModelProto] | None = None  # of the variant that is compared now

    def export(self, source: Source, folder: Path, formats: Sequence[str], precisions: Sequence[str]) -> list[Artefact]:
        """Write every requested file of a variant into ``folder``; TensorFlow starts once for all of them.

        A variant without a float model has int8 files only. Sparse files come on top of the dense ones where leaving
        out zeros makes a file smaller.

        Raises:
            UnsupportedOpError: When an operation has no ONNX counterpart.
            ConversionError: When a converter fails.
        """
        with tempfile.TemporaryDirectory(prefix="torchshrink-") as temporary:
            wanted = [precision for precision in precisions if precision == "int8" or not source.is_quantized]
            job = _Job(source, folder, Path(temporary), _count(formats, wanted))
            graphs = job.graphs(wanted)
            if source.quantized is not None and "int8" in graphs:
                self._learned = source.quantized, graphs["int8"]
            artefacts = []
            if "onnx" in formats:
                artefacts += [job.onnx_file(precision, graphs) for precision in wanted]
            if "tflite" in formats:
                artefacts += job.tflite_files(wanted, graphs)
        return artefacts

    def outputs(self, artefact: Artefact, source: Source, inputs: Tensor) -> Outputs:
        """Return what the file's source computes for ``[N, C, *size]``."""
        found = [output.numpy() for output in tensors(outputs(_reference(artefact, source), inputs))]
        return found if len(found) > 1 else found[0]

    def compare(
        self,
        artefact: Artefact,
        source: Source,
        found: Outputs,
        expected: Outputs,
        inputs: Tensor,
    ) -> dict[str, Any]:
        """Return the parity of a file's outputs for ``inputs`` with those of its source; see `verify.Parity`.

        What an int8 file stores is held against its source number by number as well.
        """
        model, name = _reference(artefact, source), _reference_name(artefact, source)
        ours, theirs = as_list(found), as_list(expected)
        steps, rounded = verify.output_scales(model), runtimes.rounding_of_file(artefact.path)
        parity = verify.compare_all(ours, theirs, artefact.precision, name, steps, rounded)
        if artefact.precision == "fp16":
            parity = verify.look_at_halves(parity, model, as_tuple(inputs), ours, theirs)
        elif artefact.precision == "int8":
            parity = verify.look_closer(parity, artefact.path, model, [inputs], ours, theirs)
            if parity.passed and (wrong := self._said_of_stored(artefact, source, inputs)):
                parity = replace(parity, passed=False, reason=wrong, judged_by="stored")
        return asdict(parity)

    def _said_of_stored(self, artefact: Artefact, source: Source, inputs: Tensor) -> str:
        if self._learned is None or self._learned[0] is not source.quantized:
            assert source.quantized is not None
            self._learned = source.quantized, export(source.quantized, source.example_input)
        return scales.said_of_wrong(scales.compare(artefact.path, self._learned[1], inputs))

    def compare_on(self, artefact: Artefact, source: Source, sample: Tensor, processor: str) -> dict[str, Any]:
        """Return the parity of a file that another kind of processor runs with its source, for one input.

        Raises:
            MissingExtraError: When its emulator is not installed.
            ConversionError: When the runtime cannot load or run the file there.
        """
        model, name = _reference(artefact, source), _reference_name(artefact, source)
        return asdict(verify.verify(artefact.path, model, sample, artefact.precision, name, processor))

    def locate(self, artefact: Artefact, source: Source, sample: Tensor) -> str | None:
        """Name the first operation at which the file and its source part, for one input."""
        model = _reference(artefact, source)
        graph = export(model, source.example_input)
        found = divergence.first(artefact.path, graph, sample, model)
        if found is None and isinstance(model, GraphModule) and artefact.precision == "int8":
            wrong = operators.first_wrong(artefact.path, model, [sample])
            return None if wrong is None else str(wrong)
        return None if found is None else str(found)

    def float_time(self, path: Path, runs: int, threads: int) -> float:
        """Return the share of an inference's time that a file spends in float operations, in [0, 1].

        Raises:
            ModelError: When the file cannot be taken apart.
            ConversionError: When ONNX Runtime refuses it.
        """
        return inspect(path, runs=runs, threads=threads).share_of_time("float")

    def latency_ms(self, path: Path, costs: Path) -> float:
        """Return what a TFLite file takes where its operators' costs were measured, in ms.

        Raises:
            DataError: When ``costs`` is not what ``torchshrink bench --save`` wrote of TFLite files.
            ModelError: When the file cannot be taken apart.
        """
        return Costs.load(costs).of_file(path)

    def arena_bytes(self, path: Path) -> int:
        """Return the memory that a TFLite file of integers needs on a microcontroller; see `micro.examine`.

        Raises:
            UnsupportedOpError: When there are floats in it.
            MissingExtraError: As `micro.examine`, like the next one.
            ParityError: See there.
        """
        targets.check(tflite_file.read(path), "integer-only", path.name)
        return micro.examine(path).arena_bytes

    def weights(self, path: Path) -> list[NDArray[Any]]:
        """Return the weights that a file stores, dense, in the type that it stores them."""
        return contents.read_weights(path)

    def activations(self, path: Path, quantized: nn.Module, inputs: Tensor) -> list[Activation]:
        """Return how some activations of an int8 file and of its graph in float spread, see `activations.read`.

        Raises:
            ConversionError: When ONNX Runtime refuses to show its intermediate tensors.
            ModelError: When the file takes another size.
        """
        assert isinstance(quantized, GraphModule)
        return activations.read(path, quantized, inputs)


_SPARSE = {"fp32": (False, True), "fp16": (False,), "int8": (False, True)}  # of TFLite files


def _count(formats: Sequence[str], precisions: Sequence[str]) -> int:
    """Return how many files there will be."""
    tflite_files = sum(len(_SPARSE[each]) for each in precisions)
    return len(precisions) * ("onnx" in formats) + tflite_files * ("tflite" in formats)


class _Job:
    """The export of one variant: its graphs, where its files go, and how many there will be."""

    def __init__(self, source: Source, folder: Path, temporary: Path, total: int) -> None:
        self.source, self.folder, self.temporary = source, folder, temporary
        self._written, self._total = 0, total

    def graphs(self, precisions: Sequence[str]) -> dict[str, onnx.ModelProto]:
        """Export from PyTorch what the precisions need: the float graph, the QDQ graph, or both."""
        graphs = {}
        _logger.info("export the graph of %s from PyTorch", self.source.variant)
        if {"fp32", "fp16"} & set(precisions):
            graphs["float"] = export(self.source.model, self.source.example_input)
        if "int8" in precisions and self.source.quantized is not None:
            graphs["int8"] = export(self.source.quantized, self.source.example_input)
        return graphs

    def onnx_file(self, precision: str, graphs: dict[str, onnx.ModelProto]) -> Artefact:
        """Write one ONNX file."""
        graph = graphs["int8" if precision == "int8" else "float"]
        if precision == "fp16":
            graph = half.round_onnx(graph)
        elif precision == "int8":
            graph = onnxruntime_int8.rewrite(graph)
        path = self._path(precision, "onnx")
        self._tell(path)
        save(graph, path, self._metadata(precision))
        return self._artefact("onnx", precision, path)

    def tflite_files(self, precisions: Sequence[str], graphs: dict[str, onnx.ModelProto]) -> list[Artefact]:
        """Write every TFLite file, dense and sparse."""
        floats: dict[str, Path] = {}
        ranges: range_store.Ranges | None = None
        for kind, graph in graphs.items():
            if kind == "int8":
                graph, found = qdq.split(graph)
                ranges = range_store.learned(found, "trained" if self.source.is_quantized else "calibrated")
                range_store.save(ranges, ranges_path(self.folder, self.source.variant))
            floats[kind] = self.temporary / f"{self.source.variant}-{kind}.onnx"
            save(graph, floats[kind])
        artefacts = []
        with tflite.float_files(list(floats.values())) as converted:
            files = dict(zip(floats, converted, strict=True))
            for precision in precisions:
                kind = "int8" if precision == "int8" else "float"
                for is_sparse in _SPARSE[precision]:
                    path = self._path(precision, "tflite", is_sparse)
                    self._tell(path)
                    result = tflite.write(
                        files[kind],
                        floats[kind],
                        path,
                        precision,
                        ranges=ranges if precision == "int8" else None,
                        is_sparse=is_sparse,
                        metadata=self._metadata(precision),
                        samples=[[value.numpy() for value in as_tuple(self.source.example_input)]],
                    )
                    if is_sparse and result.sparse_tensors == 0:
                        path.unlink()
                        continue
                    matched = result.match.share if result.match is not None else None
                    made = self._artefact("tflite", precision, path, is_sparse, matched)
                    artefacts.append(replace(made, road=files[kind].road))
        return artefacts

    def _tell(self, path: Path) -> None:
        _logger.info("write %s", path.name, extra={"done": self._written, "total": self._total})
        self._written += 1

    def _path(self, precision: str, ending: str, is_sparse: bool = False) -> Path:
        return self.folder / f"{self.source.variant}-{precision}{'-sparse' if is_sparse else ''}.{ending}"

    def _metadata(self, precision: str) -> dict[str, Any]:
        return {"variant": self.source.variant, "precision": precision, **self.source.metadata}

    def _artefact(
        self, format_: Any, precision: Any, path: Path, is_sparse: bool = False, matched: float | None = None
    ) -> Artefact:
        found = find_islands(path) if precision == "int8" else ()
        return Artefact(self.source.variant, format_, precision, path, is_sparse, found, matched, ends(path))


def _reference(artefact: Artefact, source: Source) -> nn.Module:
    if artefact.precision == "int8":
        assert source.quantized is not None
        return source.quantized
    return source.model


def _reference_name(artefact: Artefact, source: Source) -> str:
    return f"{source.variant} ({'quantized PyTorch graph' if artefact.precision == 'int8' else 'PyTorch model'})"
