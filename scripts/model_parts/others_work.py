"""Put one model through everything, in a process of its own, and write what became of it.

The row is written anew after each step, so that a process that is ended leaves what was found until then.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
import torch
from onnx import ModelProto
from others_libraries import library
from others_models import LIBRARIES, MODELS, Entry
from torch import Tensor, nn

from torchshrink import bench, prune, quantize
from torchshrink.converters import half, qdq, speed, tflite
from torchshrink.converters.anatomy.inspect import find_islands
from torchshrink.converters.export import onnxruntime_int8
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.onnx_file import save
from torchshrink.converters.proof import verify
from torchshrink.errors import ShrinkError
from torchshrink.model.signature import tensors
from torchshrink.quantize.noise import snr_db
from torchshrink.quiet import quiet

CALIBRATED, JUDGED, SETTLING, RUNS = 16, 4, 8, 25
AMOUNT = 0.3  # of the channels
_LEAST_GAIN = 0.1  # of a BatchNorm in the mean; those that begin with one have 1
PRECISIONS = {"float": ("fp32", "fp16"), "int8": ("int8",)}  # by the graph that they are made from
Row = dict[str, Any]


@dataclass(frozen=True)
class Graph:
    """A module, or its quantized graph, and what it is as ONNX."""

    source: nn.Module
    onnx: ModelProto


class Work:
    """What became of one model so far, and where its files are."""

    def __init__(self, name: str, folder: Path, row: Path, runtimes: Sequence[str]) -> None:
        self.folder, self.out, self.entry = folder, row, MODELS[name]
        self.row: Row = {"name": name, "tried": list(runtimes), "formats": {}, "seconds": {}}
        self.files: dict[str, Path] = {}

    def write(self) -> None:
        """Write the row as it is."""
        self.out.write_text(json.dumps(self.row))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the processor time of this process and of those that it starts to a stage."""
        before = processes.family_seconds(os.getpid())  # TensorFlow's process lives longer than a stage
        try:
            yield
        finally:
            spent = self.row["seconds"]
            spent[stage] = round(spent.get(stage, 0.0) + processes.family_seconds(os.getpid()) - before, 1)
            self.write()

    def add(self, format_: str, source: nn.Module, make: Callable[[Path], object]) -> None:
        """Make a file, hold it against its source, and note what became of it."""
        runtime, precision = format_.split("-")
        path = self.folder / f"{precision}.{runtime}"
        with self.timed(runtime):
            outcome = attempt(lambda: make(path))
        if "outcome" not in outcome:
            with self.timed("verify"):
                outcome = attempt(lambda: self.judged(path, source, precision))
            self.files[format_] = path
        self.row["formats"][format_] = outcome
        self.write()

    def note(self, runtimes: Sequence[str], precisions: Sequence[str], outcome: Row) -> None:
        """Note that several formats have the same outcome."""
        self.row["formats"] |= {f"{runtime}-{each}": outcome for runtime in runtimes for each in precisions}
        self.write()

    def judged(self, path: Path, source: nn.Module, precision: str) -> Row:
        """Return what the proof says of a file."""
        inputs = self.entry.inputs(JUDGED, seed=100)
        parity = verify.verify(path, source, inputs, precision, "source")
        found = {
            "outcome": "verified" if parity.passed else "wrong",
            "reason": parity.reason,
            "max_abs": parity.max_abs,
        }
        if precision == "int8":
            found |= {"within_one": parity.lsb_match, "islands": len(find_islands(path)), "graph_db": parity.graph_db}
        return found


def warm_up(names: Sequence[str]) -> None:
    """Load what these models need, once: processes that are forked from this one have it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for family in {name.partition("_")[0] for name in names} & LIBRARIES.keys():
        library(LIBRARIES[family])
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(nn.Linear(2, 2).eval(), (torch.zeros(1, 2),), dynamo=True, verbose=False)


def put_through(name: str, folder: Path, out: Path, runtimes: Sequence[str]) -> None:
    """Write the row of a model: what the files of those runtimes are worth, and how many channels it can lose.

    Args:
        name: One of `others_models.MODELS`.
        folder: Where its files go.
        out: The row, as JSON.
        runtimes: ``"onnx"``, ``"tflite"`` or both; channels go with ONNX.
    """
    with out.with_name("log").open("w") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    work = Work(name, folder, out, runtimes)
    work.write()
    model, inputs = settled(work.entry), work.entry.inputs(CALIBRATED, seed=1)
    work.row |= {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": bench.count_macs(model, inputs[:1]),
    }
    graphs = exported(work, model, inputs)
    if "onnx" in runtimes:
        to_onnx(work, graphs)
        measure(work, model, "onnx")
        with work.timed("channels"):
            work.row["channels"] = attempt(lambda: slimmer(model, inputs[:2]))
    if "tflite" in runtimes:
        to_tflite(work, graphs, inputs)
        measure(work, model, "tflite")
    work.write()


def settled(entry: Entry) -> nn.Module:
    """Return a model with random weights whose BatchNorms have seen some batches.

    What libraries begin with zeros, heads and class tokens, is random too: a head of zeros computes nothing. Gains of
    BatchNorms that are drawn around zero, as transformers' MobileViT has them, are ones: a hundredth in every layer is
    nothing in the end.
    """
    torch.manual_seed(0)
    model = entry.make().train()
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for module in model.modules():
        module.training = module in norms
    for norm in norms:
        norm.momentum = None  # the mean of all batches
        if norm.affine and norm.weight.any() and norm.weight.mean().abs() < _LEAST_GAIN:
            nn.init.ones_(norm.weight)
    if norms:
        with torch.no_grad():
            for seed in range(SETTLING):
                model(entry.inputs(16, seed))
    return model.eval()


def exported(work: Work, model: nn.Module, inputs: Tensor) -> dict[str, Graph]:
    """Return the float module and its quantized graph as ONNX, as far as they get there."""
    graphs: dict[str, Graph] = {}
    with work.timed("quantize"):
        made = attempt(lambda: {"source": quantized(model, inputs)})
    sources = {"float": model} | ({"int8": made["source"]} if "source" in made else {})
    if "source" not in made:
        work.note(work.row["tried"], ("int8",), made)
    for kind, source in sources.items():
        with work.timed("export"):
            made = attempt(lambda source=source: {"graph": export(source, inputs)})
        if "graph" in made:
            graphs[kind] = Graph(source, made["graph"])
        else:
            work.note(work.row["tried"], PRECISIONS[kind], made)
    return graphs


def quantized(model: nn.Module, inputs: Tensor) -> Any:
    """Return the calibrated graph."""
    prepared = quantize.prepare_ptq(model, inputs)
    quantize.calibrate(prepared, list(inputs.split(8)))
    return quantize.convert(prepared)


def to_onnx(work: Work, graphs: dict[str, Graph]) -> None:
    """Write and judge the ONNX files."""
    forms = {"fp32": lambda graph: graph, "fp16": half.round_onnx, "int8": onnxruntime_int8.rewrite}
    for kind, graph in graphs.items():
        for precision in PRECISIONS[kind]:
            form = forms[precision]
            work.add(
                f"onnx-{precision}", graph.source, lambda path, form=form, graph=graph: save(form(graph.onnx), path)
            )


def to_tflite(work: Work, graphs: dict[str, Graph], inputs: Tensor) -> None:
    """Write and judge the TFLite files: both graphs in one start of TensorFlow, each in its own where that fails."""
    if graphs and attempt(lambda: _to_tflite(work, graphs, inputs)):
        for kind, graph in graphs.items():
            failed = attempt(lambda kind=kind, graph=graph: _to_tflite(work, {kind: graph}, inputs))
            if failed:
                work.note(("tflite",), PRECISIONS[kind], failed)


def _to_tflite(work: Work, graphs: dict[str, Graph], inputs: Tensor) -> None:
    paths, ranges = {kind: work.folder / f"{kind}-graph.onnx" for kind in graphs}, None
    with contextlib.ExitStack() as stack:
        with work.timed("tflite"):
            for kind, graph in graphs.items():
                floats = graph.onnx
                if kind == "int8":
                    floats, ranges = qdq.split(floats)
                save(floats, paths[kind])
            converted = stack.enter_context(tflite.float_files(list(paths.values())))
        for (kind, path), files in zip(paths.items(), converted, strict=True):
            for precision in PRECISIONS[kind]:

                def make(target: Path, files: Any = files, path: Path = path, precision: str = precision) -> object:
                    known = ranges if precision == "int8" else None
                    return tflite.write(files, path, target, precision, known, samples=[[inputs[:1].numpy()]])

                work.add(f"tflite-{precision}", graphs[kind].source, make)
                work.row["formats"][f"tflite-{precision}"]["road"] = files.road
        if {"tflite-int8", "tflite-fp32"} <= work.files.keys():
            said = speed.said_of_slower(work.files["tflite-int8"], work.files["tflite-fp32"], "int8")
            work.row["formats"]["tflite-int8"]["said"] = said


def measure(work: Work, model: nn.Module, runtime: str) -> None:
    """Note the distance of an int8 file from the float module, and its speed against the float file."""
    floats, codes = (work.files.get(f"{runtime}-{precision}") for precision in ("fp32", "int8"))
    if codes is None:
        return
    inputs = work.entry.inputs(JUDGED, seed=100)
    with torch.no_grad():
        wanted = tensors(model(inputs))
    with work.timed("bench"):
        found = bench.predict_all(codes, [inputs.numpy()])
        noise = min(snr_db(torch.from_numpy(one), other) for one, other in zip(found, wanted, strict=True))
        work.row["formats"][f"{runtime}-int8"]["db"] = noise
        if floats is not None:
            times = bench.measure_all([floats, codes], inputs[:1].numpy(), runs=RUNS)
            work.row[f"{runtime}_ms"] = [times[each].latency.median for each in (floats, codes)]


def slimmer(model: nn.Module, inputs: Tensor) -> Row:
    """Say what is left without the channels: `prune.channels` refuses what the silenced model does not compute."""
    before, after = (bench.count_macs(each, inputs[:1]) for each in (model, prune.channels(model, inputs, AMOUNT)))
    return {"outcome": "works", "macs_left": after / before}


def attempt(action: Callable[[], Any]) -> Row:
    """Return what an action gives when that is a row, or why it refused or failed."""
    try:
        found = action()
    except ShrinkError as error:
        return {"outcome": "refused", "reason": f"{type(error).__name__}: {' '.join(str(error).split())}"[:600]}
    except Exception as error:  # a crash is what this looks for
        return {"outcome": "crashed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())}"[:600]}
    return found if isinstance(found, dict) else {}
