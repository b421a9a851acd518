"""One run of a recipe, step by step: its folder, and the variants made so far."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from torchshrink import bench, checkpoint, quantize, stages
from torchshrink.bench.environment import environment
from torchshrink.errors import ConversionError, ModelError, ShrinkError
from torchshrink.files import atomic, sha256
from torchshrink.metrics import Scores, score, stack
from torchshrink.model import graphs
from torchshrink.pipeline import recipe as recipes
from torchshrink.pipeline.artefacts import Artefact, Bridge, Source, ranges_path
from torchshrink.pipeline.assemble import make_model, make_task
from torchshrink.pipeline.recipe import Recipe, Variant
from torchshrink.pipeline.steps import Steps, digest
from torchshrink.progress import Progress
from torchshrink.report import samples
from torchshrink.report.activations import Activation, Reader
from torchshrink.sensitivity.keep_float import layers_to_keep
from torchshrink.sensitivity.measurement import layer_costs
from torchshrink.task import Task
from torchshrink.training import History, Settings

_TITLES = {
    "train": "train",
    "prune": "prune and fine-tune",
    "channels": "remove channels and fine-tune",
    "cluster": "cluster the weights and fine-tune",
    "qat": "quantization-aware training",
}
LOSS_LIMIT = 0.002  # how far an int8 file's test loss may be from its PyTorch graph's
PARITY_SAMPLES = 32


@dataclass
class _State:
    """What is known of a variant so far; ``best_loss`` is of the validation part, in the kept epoch."""

    path: Path
    stamp: str
    macs: int
    best_loss: float | None = None
    keep_float: Sequence[str] = ()
    quantized_path: Path | None = None
    artefacts: Sequence[Artefact] = ()
    checked: Sequence[dict[str, Any]] = ()
    failed: Sequence[dict[str, Any]] = ()


class Job:
    """One run: its recipe, its folder, and the variants made so far.

    Args:
        recipe: What the variants are.
        out: The run's folder.
        bridge: Exports and compares.
        steps: What is done already.
        progress: Told about every step.
        task: The data, when it is not the recipe's: files are checked and scored on its test part.
    """

    def __init__(
        self, recipe: Recipe, out: Path, bridge: Bridge, steps: Steps, progress: Progress, task: Task | None = None
    ) -> None:
        self.recipe, self.out, self.bridge, self.steps, self.progress = recipe, out, bridge, steps, progress
        if task is None:
            progress.start(f"data {recipe.data}")
        self.task = task or make_task(recipe)
        self.inputs, self.truths = stack(self.task.test)
        self.data_key = digest(
            [recipe.data, recipe.seed, recipe.validation, recipe.augment, recipes.dump(recipe).get("loss")]
            + [_tensor_digest(array.numpy()) for array in (self.inputs, self.truths, *stack(self.task.train))]
        )
        self.states: dict[str, _State] = {}
        self.metadata = self.task.metadata

    def make(self, name: str, variant: Variant) -> None:
        """Train, prune or quantize one variant and write its model."""
        path = self.out / "models" / f"{name}.safetensors"
        if variant.source is not None and variant.source not in self.states:
            raise ModelError(f"{variant.source!r}, which it comes from, failed")
        parent = self.states[variant.source] if variant.source else None

        def work() -> tuple[dict[str, Any], list[Path]]:
            model, history, kept = self._build(name, variant, parent)
            checkpoint.save(model, path, {**self.metadata, "history": history, "keep_float": kept})
            macs = parent.macs if parent and quantize.is_quantized(model) else self._macs(model)
            return {"macs": macs, "history": history, "keep_float": kept}, [path]

        settings: list[Any] = [
            self.data_key,
            variant.model_dump(mode="json"),
            parent.stamp if parent else self._model_key(),
        ]
        settings += [self.recipe.distillation] if parent else []
        settings += [self.recipe.keep_float] if variant.qat and self.recipe.keep_float else []
        result, stamp = self._step(f"make:{name}", settings, work)
        best = result["history"]["best_loss"]
        self.states[name] = _State(path, stamp, result["macs"], best, result.get("keep_float", ()))

    def export(self, name: str) -> None:
        """Write every file of a variant."""
        state = self.states[name]
        folder = self.out / "files"
        needs_ptq = "int8" in self.recipe.precisions and not self._is_quantized(name)
        quantized = self.out / "models" / f"{name}-ptq.safetensors"

        def work() -> tuple[dict[str, Any], list[Path]]:
            folder.mkdir(parents=True, exist_ok=True)
            ranges = ranges_path(folder, name)
            ranges.unlink(missing_ok=True)  # of an earlier export
            kept = list(state.keep_float)
            if needs_ptq:
                self.progress.start(f"{name}: calibrate int8")
                model = self._load(state.path)
                kept = layers_to_keep(self.recipe.keep_float, model, self.task, self.progress)
                graph = stages.ptq(model, self.task, keep_float=kept)
                checkpoint.save(graph, quantized, {**self.metadata, "keep_float": kept})
            self.progress.start(f"{name}: export and convert")
            artefacts = self.bridge.export(
                self._source(name, quantized), folder, self.recipe.formats, self.recipe.precisions
            )
            paths = [artefact.path for artefact in artefacts] + ([quantized] if needs_ptq else [])
            paths += [ranges] if ranges.is_file() else []
            return {"artefacts": [artefact.to_dict(self.out) for artefact in artefacts], "keep_float": kept}, paths

        settings: list[Any] = [state.stamp, self.recipe.formats, self.recipe.precisions]
        settings += [self.recipe.keep_float] if needs_ptq and self.recipe.keep_float else []
        result, state.stamp = self._step(f"export:{name}", settings, work)
        state.quantized_path = quantized if needs_ptq else None
        state.keep_float = result.get("keep_float", ())
        state.artefacts = [Artefact.from_dict(item, self.out) for item in result["artefacts"]]

    def check(self, name: str) -> None:
        """Run every file of a variant over the test set, compare it with its source and score it."""
        state = self.states[name]

        def work() -> tuple[dict[str, Any], list[Path]]:
            self.progress.start(f"{name}: verify")
            source = self._source(name, state.quantized_path)
            rows: list[dict[str, Any]] = []
            failed: list[dict[str, Any]] = []
            kept: list[Path] = []
            expected: dict[str, Any] = {}
            for index, artefact in enumerate(state.artefacts):
                kind = "int8" if artefact.precision == "int8" else "float"
                if kind not in expected:
                    expected[kind] = self.bridge.outputs(artefact, source, self.inputs)
                found = bench.predict(artefact.path, self.inputs.numpy())
                row = self._check_file(artefact, source, found, expected[kind])
                if row["parity"]["passed"]:
                    rows.append(row)
                    kept.append(self._keep(row, found, self._activations(artefact, source)))
                else:
                    failed.append(row)
                self.progress.update(index + 1, len(state.artefacts), artefact.name)
            sidecars = [self._sidecar(row) for row in rows]
            return {"rows": rows, "failed": [self._failure(row) for row in failed]}, [*sidecars, *kept]

        result, state.stamp = self._step(f"verify:{name}", [state.stamp], work)
        state.checked, state.failed = result["rows"], result["failed"]
        for item in state.failed:
            (self.out / item["path"]).unlink(missing_ok=True)

    def report(self, errors: dict[str, ShrinkError]) -> dict[str, Any]:
        """Measure all verified files together and return the report, which names the variants that failed too."""
        rows = [row for name in self.states for row in (*self._torch_rows(name), *self.states[name].checked)]

        def work() -> tuple[dict[str, Any], list[Path]]:
            self.progress.start("measure every file in fresh processes")
            measured = bench.measure_all(
                [self.out / row["path"] for row in rows],
                self.task.example_input.numpy(),
                threads=self.recipe.measure.threads,
                runs=self.recipe.measure.runs,
                on_progress=self.progress.update,
            )
            figures = {row["name"]: _figures(measured[self.out / row["path"]]) for row in rows}
            for row in rows:
                if row["islands"]:
                    figures[row["name"]] |= self._float_time(row)
            return figures, []

        def keep() -> tuple[dict[str, Any], list[Path]]:
            return {}, [samples.keep_data(self.out, self.inputs.numpy(), self.truths.numpy())]

        self._step("samples", [self.data_key], keep)
        settings = [self.recipe.measure.model_dump(), [[row["name"], sha256(self.out / row["path"])] for row in rows]]
        figures, _ = self._step("measure", settings, work)
        return {
            "task": self._describe_task(),
            "environment": environment(),
            "rows": [{**row, **figures[row["name"]]} for row in rows],
            "layers": self._layers(),
            "failed": [item for state in self.states.values() for item in state.failed]
            + [{"name": name, "path": None, "reason": str(error), "parity": None} for name, error in errors.items()],
        }

    def _float_time(self, row: dict[str, Any]) -> dict[str, float]:
        """Return what the float islands of an int8 file cost, where its operations can be timed."""
        settings = self.recipe.measure
        try:
            return {"float_time": self.bridge.float_time(self.out / row["path"], settings.runs, settings.threads)}
        except (ModelError, ConversionError) as error:
            self.progress.note(f"{row['name']}: the report does not say what its islands cost: {error}")
            return {}

    def _layers(self) -> dict[str, list[dict[str, Any]]]:
        """Return what each layer of the float variants holds and computes, where the model has such layers."""
        found = {}
        for name in self.states:
            if self._is_quantized(name):
                continue
            try:
                found[name] = layer_costs(self._load(self.states[name].path), self.task.example_input)
            except ModelError as error:
                self.progress.note(f"{name}: the report has no figures per layer: {error}")
        return found

    def _build(self, name: str, variant: Variant, parent: _State | None) -> tuple[nn.Module, dict[str, Any], list[str]]:
        """Return the model of a variant, the history of its training, and which of its layers stay float."""
        ((kind, step),) = variant.steps.items()
        fields = {key: getattr(step, key) for key in recipes.Training.model_fields}
        settings = Settings(seed=self.recipe.seed, distillation=self.recipe.distillation, **fields)
        teacher = self._teacher(name)
        self.progress.start(f"{name}: {_TITLES[kind]}")
        model = make_model(self.recipe, self.task) if parent is None else self._load(parent.path)
        if isinstance(step, recipes.Dense):
            if step.reinitialize:
                model = stages.reinitialize(model, self.recipe.seed)
            return model, stages.train(model, self.task, settings, teacher, self.progress).to_dict(), []
        stage: Callable[..., tuple[nn.Module, History]] = {  # type: ignore[assignment]
            "prune": stages.prune,
            "channels": stages.channels,
            "cluster": stages.cluster,
            "qat": stages.qat,
        }[kind]
        own = {key: getattr(step, key) for key in type(step).model_fields if key not in fields}
        if kind == "qat":
            own["keep_float"] = layers_to_keep(self.recipe.keep_float, model, self.task, self.progress)
            self.progress.start(f"{name}: {_TITLES[kind]}")
        made, history = stage(model, self.task, settings, **own, teacher=teacher, progress=self.progress)
        return made, history.to_dict(), own.get("keep_float", [])

    def _teacher(self, name: str) -> nn.Module | None:
        """Return the model that a variant's line begins with, when that is another one and is to be imitated."""
        first = name
        while not self._is_new(first):
            first = str(self.recipe.variants[first].source)
        return self._load(self.states[first].path) if self.recipe.distillation and first != name else None

    def _is_new(self, name: str) -> bool:
        """Return whether a variant's weights come from no other variant."""
        variant = self.recipe.variants[name]
        return variant.source is None or (variant.train is not None and variant.train.reinitialize)

    def _step(self, name: str, settings: Any, work: Any) -> tuple[dict[str, Any], str]:
        result, stamp, was_done = self.steps.run(name, settings, work)
        if was_done:
            self.progress.note(f"{name}: done before")
        return result, stamp

    def _load(self, path: Path) -> nn.Module:
        uses_unet = self.recipe.model.factory == "unet"
        factory = None if uses_unet else (lambda: make_model(self._without_checkpoint(), self.task))
        return checkpoint.load(path, factory)

    def _without_checkpoint(self) -> Recipe:
        return self.recipe.model_copy(update={"model": self.recipe.model.model_copy(update={"checkpoint": None})})

    def _source(self, name: str, quantized: Path | None) -> Source:
        model = self._load(self.states[name].path)
        if quantize.is_quantized(model):
            graph: nn.Module | None = model
        else:
            graph = self._load(quantized) if quantized is not None and quantized.is_file() else None
        return Source(name, model, graph, self.task.example_input, self.metadata)

    def _is_quantized(self, name: str) -> bool:
        return self.recipe.variants[name].qat is not None

    def _macs(self, model: nn.Module) -> int:
        return bench.count_macs(model, self.task.example_input)

    def _model_key(self) -> list[Any]:
        settings = self.recipe.model
        path = Path(settings.checkpoint or "")
        return [settings.model_dump(mode="json"), sha256(path) if path.is_file() else None]

    def _check_file(self, artefact: Artefact, source: Source, found: Any, expected: Any) -> dict[str, Any]:
        parity = self.bridge.compare(artefact, source, found, expected, self.inputs)
        reached, wanted = self._score(found), self._score(expected)
        if parity["passed"] and artefact.precision == "int8" and not abs(reached.loss - wanted.loss) <= LOSS_LIMIT:
            reason = f"test loss {reached.loss:.4f} instead of the PyTorch graph's {wanted.loss:.4f}"
            parity |= {"passed": False, "reason": reason}
        if not parity["passed"]:
            where = self.bridge.locate(artefact, source, self.inputs[:1])
            parity["reason"] += f"; first diverging operation: {where or 'none found on the first test input'}"
        return self._row(artefact, reached, parity)

    def _score(self, outputs: Any) -> Scores:
        return score(torch.from_numpy(np.asarray(outputs)), self.truths, self.task.loss)

    def _row(self, artefact: Artefact, scores: Scores, parity: dict[str, Any]) -> dict[str, Any]:
        stored = self.bridge.weights(artefact.path)
        total, nonzero = sum(array.size for array in stored), sum(int(np.count_nonzero(array)) for array in stored)
        return {
            "name": artefact.name,
            "variant": artefact.variant,
            "format": artefact.format,
            "precision": artefact.precision,
            "path": str(artefact.path.relative_to(self.out)),
            "bytes": bench.size_bytes(artefact.path),
            "gzip_bytes": bench.gzip_bytes(artefact.path),
            "entropy_bytes": bench.entropy_bytes(stored),
            "params": total,
            "nonzero": nonzero,
            "sparsity": 1 - nonzero / max(total, 1),
            "macs": self.states[artefact.variant].macs,
            "loss": scores.loss,
            "metrics": {"dice": scores.dice, "iou": scores.iou},
            "parity": parity,
            "islands": list(artefact.islands),
            "matched_ranges": artefact.matched,
            "keep_float": list(self.states[artefact.variant].keep_float) if artefact.precision == "int8" else [],
        }

    def _torch_rows(self, name: str) -> list[dict[str, Any]]:
        """Return the row of a variant's PyTorch checkpoint; a quantized graph is a reference, not a thing to ship."""
        if self._is_quantized(name) or not self.recipe.variants[name].export:
            return []
        is_unet = self.recipe.model.factory == "unet"
        # A fresh process cannot build a model from the user's code: it gets the traced graph.
        path = self.states[name].path if is_unet else self.out / "models" / f"{name}-graph.safetensors"

        def work() -> tuple[dict[str, Any], list[Path]]:
            if not is_unet:
                checkpoint.save(self._trace(name), path, self.metadata)
            artefact = Artefact(name, "torch", "fp32", path)
            found = bench.predict(path, self.inputs.numpy())
            parity = {"reference": None, "max_abs": 0.0, "mean_abs": 0.0, "lsb_match": None, "passed": True}
            row = self._row(artefact, self._score(found), parity)
            return row, [path, self._keep(row, found)]

        row, _ = self._step(f"score:{name}", [sha256(self.states[name].path), self.data_key], work)
        return [row]

    def _keep(self, row: dict[str, Any], found: Any, spreads: Sequence[Activation] = ()) -> Path:
        """Keep what the report shows of a file beside its figures."""
        return samples.keep(self.out, row["name"], found, self.bridge.weights(self.out / row["path"]), spreads)

    def _activations(self, artefact: Artefact, source: Source) -> list[Activation]:
        """Return how activations of an int8 file spread, where its runtime lets one look inside."""
        if source.quantized is None or artefact.precision != "int8" or not isinstance(self.bridge, Reader):
            return []
        try:
            return self.bridge.activations(artefact.path, source.quantized, self.inputs)
        except (ModelError, ConversionError) as error:
            self.progress.note(f"{artefact.name}: the report has no histograms of its activations: {error}")
            return []

    def _trace(self, name: str) -> nn.Module:
        model = self._load(self.states[name].path)
        return graphs.from_json(*graphs.to_json(quantize.capture(model, self.task.example_input)))

    def _sidecar(self, row: dict[str, Any]) -> Path:
        """Write what a file's user must know beside it."""
        path = self.out / f"{row['path']}.json"
        with atomic(path) as temporary:
            temporary.write_text(json.dumps({**row, **self.metadata}, indent=1))
        return path

    def _failure(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"name": row["name"], "path": row["path"], "reason": row["parity"]["reason"], "parity": row["parity"]}

    def _describe_task(self) -> dict[str, Any]:
        task = self.task
        return {
            "name": task.name,
            "train": len(task.train),  # type: ignore[arg-type]
            "validation": len(task.validation),  # type: ignore[arg-type]
            "test": len(task.test),  # type: ignore[arg-type]
            "input": list(task.example_input.shape),
            "output": list(task.example_truth.shape),
            "loss": type(task.loss).__name__,
            "seed": self.recipe.seed,
            "threads": self.recipe.measure.threads,
            "class_names": list(task.class_names),
            "normalization": task.normalization.to_dict(),
        }


def _figures(measurement: bench.Measurement) -> dict[str, Any]:
    latency = measurement.latency
    return {
        "latency_ms": {
            "median": latency.median,
            "p90": latency.p90,
            "threads": latency.threads,
            "runs": latency.runs,
        },
        "peak_rss_mb": measurement.peak_rss_mb,
        "runtime_rss_mb": measurement.runtime_rss_mb,
        "model_rss_mb": measurement.model_rss_mb,
    }


def _tensor_digest(array: Any) -> str:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
