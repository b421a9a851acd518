"""One run of a recipe, step by step: its folder, and the variants made so far."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as tree

from torchshrink import bench, checkpoint, quantize, stages
from torchshrink.bench.environment import environment
from torchshrink.constant import constant
from torchshrink.digits import written
from torchshrink.errors import ConversionError, ModelError, RecipeError, ShrinkError
from torchshrink.files import atomic, sha256
from torchshrink.model import graphs
from torchshrink.model.built_in import name_of
from torchshrink.pipeline.artefacts import Artefact, Bridge, Made, Outputs, Source, ranges_path
from torchshrink.pipeline.assemble import make_factory, make_model, make_task
from torchshrink.pipeline.build import build, teacher_of
from torchshrink.pipeline.elsewhere import check_emulators, elsewhere
from torchshrink.pipeline.keys import data_key, int8_key, model_key
from torchshrink.pipeline.origin import stated
from torchshrink.pipeline.recipe import Recipe, Variant
from torchshrink.pipeline.rows import (
    UNCOMPARED,
    Row,
    failed_file,
    failed_variant,
    figures,
    file_row,
    task_row,
)
from torchshrink.pipeline.steps import Result, Steps, Work, digest
from torchshrink.pipeline.subject import Loss
from torchshrink.pipeline.teaching import factory_of, kept_float, student_of
from torchshrink.pipeline.test_part import Tally, TestPart
from torchshrink.progress import Progress
from torchshrink.quantize.noise import to_rows
from torchshrink.report import samples
from torchshrink.report.activations import Activation, Reader
from torchshrink.runtime.processors import instructions
from torchshrink.sensitivity.keep_float import layers_to_keep
from torchshrink.sensitivity.layer_info import layer_costs
from torchshrink.sensitivity.room import room_cost
from torchshrink.task import Task
from torchshrink.unlabelled import taught

LOSS_LIMIT = 0.01  # how far an int8 file's test loss may be from its PyTorch graph's, as a share of it
_LEAST_LOSS = 1e-6  # differences below are rounding
_AT_HAND = 4  # models that are kept in memory: a variant, its int8 graph, what it comes from, and its teacher


class Job:
    """One run: its recipe, its folder, and the variants made so far.

    Args:
        recipe: What the variants are.
        out: The run's folder.
        bridge: Exports and compares.
        steps: What is done already.
        progress: Told about every step.
        task: The data, when it is not the recipe's: files are checked and scored on its test part.
        factory: Makes the model that is started from, when it is not the recipe's.

    Raises:
        MissingExtraError: When a processor of the recipe cannot be emulated.

    Attributes:
        made: The variants made so far, by name.
        load: Returns the model of a checkpoint of this run; the last few are kept, and must be left as they are.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        bridge: Bridge,
        steps: Steps,
        progress: Progress,
        task: Task | None = None,
        factory: checkpoint.Factory | None = None,
    ) -> None:
        self.recipe, self.out, self.bridge, self.steps, self.progress = recipe, out, bridge, steps, progress
        check_emulators(recipe.processors)
        if task is None:
            progress.start(f"data {recipe.data}")
        self.origin = {} if task else stated(recipe.data, recipe.seed)
        self.task = task or make_task(recipe)
        if self.task.note:
            progress.note(self.task.note)
        self.data_key = data_key(recipe, self.task.test, self.task.train)
        self._start = factory or (lambda: make_model(self.recipe, self.task))
        if self.task.kind == "unlabelled":
            self._learn_from_the_model()
        self.test = TestPart(self.task)
        self.metadata = self.task.metadata
        self.made: dict[str, Made] = {}
        if factory is None and recipe.model.factory != "unet":
            factory = make_factory(recipe, self.task)
        self._factory = factory
        self.load = lru_cache(_AT_HAND)(self._read)

    def _learn_from_the_model(self) -> None:
        """Let the outputs of the model that the run starts from take the place of labels."""
        if self.recipe.model.factory == "unet" and self.recipe.model.checkpoint is None:
            raise RecipeError(
                f"{self.recipe.data} has no labels, and the built-in U-Net no weights: give a trained model as "
                "model: {checkpoint: FILE}"
            )
        self.recipe = self.recipe.model_copy(update={"loss": Loss(name="teacher")})
        self.task = taught(self.task, self._start().eval())
        self.data_key = digest([self.data_key, model_key(self.recipe)])

    def _read(self, path: Path) -> nn.Module:
        """Return the model of a checkpoint of this run; a student's is built as its own step says."""
        step = student_of(self.recipe, path.name.removesuffix(".safetensors"))
        return checkpoint.load(path, factory_of(step, self.recipe.seed) if step is not None else self._factory)

    def make(self, name: str, variant: Variant) -> None:
        """Train, prune or quantize one variant and write its model."""
        path = self.out / "models" / f"{name}.safetensors"
        if variant.source is not None and variant.source not in self.made:
            raise ModelError(f"{variant.source!r}, which it comes from, failed")
        parent = self.made[variant.source] if variant.source else None

        def work() -> tuple[Result, list[Path]]:
            load = self._read if variant.train else self.load  # training changes the model that it is given
            start = load(parent.path) if parent else self._start()
            first = teacher_of(self.recipe, name)
            teacher = self.load(self.made[first].path) if first else None
            model, history, kept = build(self.recipe, name, start, self.task, teacher, self.progress)
            checkpoint.save(model, path, {**self.metadata, **self.origin, "history": history, "keep_float": kept})
            is_graph = quantize.is_quantized(model)
            macs = parent.macs if parent and is_graph else bench.count_macs(model, self.task.example_input)
            what = parent.architecture if parent and is_graph else name_of(model)
            return {"macs": macs, "history": history, "keep_float": kept, "architecture": what}, [path]

        origin = parent.stamp if parent else model_key(self.recipe)
        inputs: list[Any] = [self.data_key, variant.model_dump(mode="json"), origin]
        inputs += [self.recipe.imitation] if parent else []
        inputs += int8_key(self.recipe) if variant.qat else []
        result, stamp = self._step(f"make:{name}", inputs, work)
        best = result["history"]["best_loss" if self.task.decides == "loss" else "best_cost"]
        self.made[name] = Made(path, stamp, result["macs"], best, result.get("keep_float", ()))
        self.made[name].architecture = result.get("architecture", "")

    def export(self, name: str) -> None:
        """Write every file of a variant."""
        made, recipe, folder = self.made[name], self.recipe, self.out / "files"
        if "int8" in recipe.precisions and recipe.variants[name].qat is None:
            made.calibrated = self.out / "models" / f"{name}-ptq.safetensors"

        def work() -> tuple[Result, list[Path]]:
            folder.mkdir(parents=True, exist_ok=True)
            ranges = ranges_path(folder, name)
            ranges.unlink(missing_ok=True)  # of an earlier export
            kept = list(made.keep_float) if made.calibrated is None else self._calibrate(name, made.calibrated)
            self.progress.start(f"{name}: export and convert")
            artefacts = self.bridge.export(self._source(name), folder, recipe.formats, recipe.precisions)
            paths = [artefact.path for artefact in artefacts] + ([made.calibrated] if made.calibrated else [])
            paths += [ranges] if ranges.is_file() else []
            return {"artefacts": [artefact.to_dict(self.out) for artefact in artefacts], "keep_float": kept}, paths

        inputs: list[Any] = [made.stamp, recipe.formats, recipe.precisions]
        inputs += int8_key(self.recipe) if made.calibrated else []
        result, made.stamp = self._step(f"export:{name}", inputs, work)
        made.keep_float = result.get("keep_float", ())
        made.artefacts = [Artefact.from_dict(item, self.out) for item in result["artefacts"]]

    def check(self, name: str) -> None:
        """Run every file of a variant over the test set, compare it with its source and score it."""
        made = self.made[name]

        def work() -> tuple[Result, list[Path]]:
            self.progress.start(f"{name}: verify")
            source = self._source(name)
            rows: list[Row] = []
            failed: list[Row] = []
            kept: list[Path] = []
            for index, (artefact, tally) in enumerate(self._compared(source, made.artefacts), 1):
                parity, example = self._judged(artefact, source, tally), self.task.example_input
                shown_on = elsewhere(self.bridge, artefact, source, example, self.recipe.processors, parity)
                if parity["passed"]:
                    row, shown = self._row(artefact, tally, parity, self._activations(artefact, source))
                    row["processors"] = shown_on
                    if artefact.precision == "int8" and isinstance(source.quantized, GraphModule):
                        row["graph_noise"] = to_rows(quantize.noise(source.quantized))
                    rows.append(row)
                    kept += [shown, self._sidecar(row)]
                else:
                    failed.append(failed_file(artefact, self.out, parity))
                self.progress.update(index, len(made.artefacts), artefact.name)
            return {"rows": rows, "failed": failed}, kept

        result, made.stamp = self._step(f"verify:{name}", [made.stamp, self.recipe.processors], work)
        made.checked, made.failed = result["rows"], result["failed"]
        for item in made.failed:
            (self.out / item["path"]).unlink(missing_ok=True)

    def report(self, errors: dict[str, ShrinkError]) -> dict[str, Any]:
        """Measure all verified files together and return the report, which names the variants that failed too."""
        rows = self.rows
        paths = {row["name"]: self.out / row["path"] for row in rows}

        def work() -> tuple[Result, list[Path]]:
            measured = self._measure([*paths.values()])
            islands = {row["name"]: self._float_time(row) for row in rows if row["islands"]}
            return {name: figures(measured[path]) | islands.get(name, {}) for name, path in paths.items()}, []

        def keep() -> tuple[Result, list[Path]]:
            return {}, [samples.keep_data(self.out, *self.test.first())]

        self._step("samples", [self.data_key], keep)
        inputs = [self.recipe.measure.model_dump(), [[name, sha256(path)] for name, path in paths.items()]]
        found, _ = self._step("measure", inputs, work)
        return {
            "task": task_row(self.task, self.recipe, constant(self.task, self.test.truths())),
            "environment": environment(),
            "rows": [{**row, **found[row["name"]]} for row in rows],
            "layers": self._layers(),
            "failed": [item for made in self.made.values() for item in made.failed]
            + [failed_variant(name, error) for name, error in errors.items()],
        }

    def _measure(self, paths: Sequence[Path]) -> dict[Path, bench.Measurement]:
        self.progress.start("measure every file in fresh processes")
        how, example = self.recipe.measure, self.task.example_input.numpy()
        return bench.measure_all(paths, example, threads=how.threads, runs=how.runs, on_progress=self.progress.update)

    def _float_time(self, row: Row) -> dict[str, float]:
        """Return what the float islands of an int8 file cost, where its operations can be timed."""
        how = self.recipe.measure
        try:
            return {"float_time": self.bridge.float_time(self.out / row["path"], how.runs, how.threads)}
        except (ModelError, ConversionError) as error:
            self.progress.note(f"{row['name']}: the report does not say what its islands cost: {error}")
            return {}

    def _layers(self) -> dict[str, list[Row]]:
        """Return what each layer of the float variants holds and computes, where the model has such layers."""
        layers = {}
        for name, made in self.made.items():
            if self.recipe.variants[name].qat is not None:
                continue
            try:
                layers[name] = layer_costs(self.load(made.path), self.task.example_input)
            except ModelError as error:
                self.progress.note(f"{name}: the report has no figures per layer: {error}")
        return layers

    def _calibrate(self, name: str, path: Path) -> list[str]:
        """Write the calibrated int8 graph of a float variant and return which of its layers stay float."""
        self.progress.start(f"{name}: calibrate int8")
        model = self.load(self.made[name].path)
        layers = layers_to_keep(kept_float(self.recipe, name, model), model, self.task, self.progress)
        self.progress.note(f"{name}: {room_cost(model, layers, self.recipe.portable)}")
        graph = stages.ptq(model, self.task, keep_float=layers, portable=self.recipe.portable)
        checkpoint.save(graph, path, {**self.metadata, **self.origin, "keep_float": layers})
        return layers

    def _source(self, name: str) -> Source:
        made = self.made[name]
        model = self.load(made.path)
        graph = self.load(made.calibrated) if made.calibrated else model if quantize.is_quantized(model) else None
        return Source(name, model, graph, self.task.example_input, self.metadata)

    def _compared(self, source: Source, artefacts: Sequence[Artefact]) -> Iterator[tuple[Artefact, Tally]]:
        """Run files and their source over the test part, a piece after the other, and yield what each comes to.

        A file that has failed sees no further piece.
        """
        tallies = [Tally(self.task, self._structure) for _ in artefacts]
        for inputs, truths in self.test:
            expected: dict[bool, Outputs] = {}
            for artefact, tally in zip(artefacts, tallies, strict=True):
                if not tally.parity.get("passed", True):
                    continue
                is_int8 = artefact.precision == "int8"
                if is_int8 not in expected:
                    expected[is_int8] = self.bridge.outputs(artefact, source, inputs)
                outputs = self._predicted(artefact.path, inputs)
                parity = self.bridge.compare(artefact, source, outputs, expected[is_int8], inputs)
                tally.compare(parity, expected[is_int8], truths)
                if parity["passed"]:
                    tally.add(outputs, truths)
        yield from zip(artefacts, tallies, strict=True)

    def _judged(self, artefact: Artefact, source: Source, tally: Tally) -> dict[str, Any]:
        """Return the parity of a file: its outputs, and for int8 its loss, are those of its source."""
        parity = tally.parity
        if parity["passed"] and (odd := tally.scores.odd(self.task)):
            return parity | {"passed": False, "reason": f"the test {odd}"}
        if parity["passed"] and artefact.precision == "int8":
            reached, wanted = tally.scores.loss, tally.wanted.loss
            if not abs(reached - wanted) <= LOSS_LIMIT * abs(wanted) + _LEAST_LOSS:
                reason = f"test loss {written(reached)} instead of the PyTorch graph's {written(wanted)}"
                parity |= {"passed": False, "reason": reason}
        if not parity["passed"]:
            where = self.bridge.locate(artefact, source, self.task.example_input)
            parity["reason"] += f"; first diverging operation: {where or 'none found on the first test input'}"
        return parity

    @cached_property
    def _structure(self) -> Any:
        """What the model's output is built of: one tensor, or several in tuples, lists and dictionaries."""
        model = self.load(next(iter(self.made.values())).path)
        with torch.no_grad():
            return tree.tree_structure(model(self.task.example_input))

    def _predicted(self, path: Path, inputs: Tensor) -> Outputs:
        if self._structure.num_leaves == 1:
            return bench.predict(path, inputs.numpy())
        return bench.predict_all(path, (inputs.numpy(),))

    def _row(
        self, artefact: Artefact, tally: Tally, parity: dict[str, Any], spreads: Sequence[Activation] = ()
    ) -> tuple[Row, Path]:
        """Return the row of a file, and what is kept for the report to show beside it."""
        weights = self.bridge.weights(artefact.path)
        row = file_row(artefact, self.made[artefact.variant], self.out, weights, tally.scores, parity)
        return row | tally.confusion, samples.keep(self.out, artefact.name, tally.outputs, weights, spreads)

    @property
    def rows(self) -> list[Row]:
        """What the report has to say so far, without what is measured."""
        return [row for made in self.made.values() for row in (*made.scored, *made.checked)]

    def score(self, name: str) -> None:
        """Score a variant's PyTorch checkpoint; a quantized graph is a reference, not a thing to ship.

        Raises:
            ModelError: When its figures are no numbers.
        """
        variant, made = self.recipe.variants[name], self.made[name]
        if variant.qat is not None:
            return
        student = student_of(self.recipe, name)
        is_ours = self.recipe.model.factory == "unet" if student is None else student.factory is None
        # A fresh process cannot build a model from the user's code: it gets the traced graph.
        path = made.path if is_ours else self.out / "models" / f"{name}-graph.safetensors"

        def work() -> tuple[Result, list[Path]]:
            if not is_ours:
                checkpoint.save(_trace(self.load(made.path), self.task), path, self.metadata)
            tally = Tally(self.task, self._structure)
            for inputs, truths in self.test:
                tally.add(self._predicted(path, inputs), truths)
            tally.scores.check(self.task, "test")
            row, shown = self._row(Artefact(name, "torch", "fp32", path), tally, UNCOMPARED)
            return row, [path, shown]

        row, _ = self._step(f"score:{name}", [sha256(made.path), self.data_key], work)
        made.scored = [row]

    def _activations(self, artefact: Artefact, source: Source) -> list[Activation]:
        """Return how activations of an int8 file spread, where its runtime lets one look inside."""
        if source.quantized is None or artefact.precision != "int8" or not isinstance(self.bridge, Reader):
            return []
        try:
            inputs, _ = next(iter(self.test))
            return self.bridge.activations(artefact.path, source.quantized, inputs)
        except (ModelError, ConversionError) as error:
            self.progress.note(f"{artefact.name}: the report has no histograms of its activations: {error}")
            return []

    def _sidecar(self, row: Row) -> Path:
        """Write what a file's user must know beside it."""
        path = self.out / f"{row['path']}.json"
        with atomic(path) as temporary:
            content = {**row, **self.metadata, "instructions": list(instructions())}
            temporary.write_text(json.dumps(content, indent=1))
        return path

    def _step(self, name: str, inputs: Any, work: Work) -> tuple[Result, str]:
        result, stamp, was_done = self.steps.run(name, inputs, work)
        if was_done:
            self.progress.note(f"{name}: done before")
        return result, stamp


def _trace(model: nn.Module, task: Task) -> nn.Module:
    return graphs.from_json(*graphs.to_json(quantize.capture(model, task.example_input)))
