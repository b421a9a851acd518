"""Settings are declared once: recipes, stages and errors say the same."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from torchshrink import bench, converters, prune, quantize, stages
from torchshrink.converters.proof import verify
from torchshrink.errors import ModelError, RecipeError
from torchshrink.pipeline import recipe
from torchshrink.runtime.processors import launcher
from torchshrink.settings import Importance, Scheduling, Scope, Training, check
from torchshrink.training import Settings, uses_bf16

EXAMPLE = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("stage", "step"),
    [(stages.prune, recipe.Pruning), (stages.channels, recipe.Channels), (stages.cluster, recipe.Clustering)],
)
def test_a_stage_and_its_step_have_the_same_settings(stage: Callable[..., Any], step: Any) -> None:
    given = ("model", "task", "settings", "teacher", "progress")
    taken = {name: one.default for name, one in inspect.signature(stage).parameters.items() if name not in given}
    shared = {field.name for field in fields(Training)}
    described = {field.name: getattr(field.default, "default", field.default) for field in fields(step)}
    assert taken == {name: default for name, default in described.items() if name not in shared}


def test_a_training_has_what_a_recipe_says() -> None:
    own = {field.name: field.default for field in fields(Training)}
    assert MISSING not in own.values()
    assert {key: getattr(Settings(epochs=30), key) for key in own} == own
    assert Settings(7, 0.5, 3) == Settings(epochs=7, lr=0.5, batch_size=3)  # as they are given in Python


@pytest.mark.parametrize("kind", [Scheduling, Importance, Scope])
def test_every_choice_is_accepted_and_no_other(kind: Any) -> None:
    for choice in get_args(kind):
        check("setting", choice, kind)
    with pytest.raises(RecipeError, match=r"^setting='best': expected '\w+'(, '\w+')* or '\w+'$"):
        check("setting", "best", kind)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda layer: stages.prune(layer, None, Settings(1), schedule="later"), "schedule='later': expected 'polyn"),  # type: ignore[arg-type]
        (lambda layer: prune.magnitude(layer, 0.5, scope="model"), "scope='model': expected 'global' or 'layer'"),  # type: ignore[arg-type]
        (lambda _: uses_bf16("fp16", "cpu"), "precision='fp16': expected 'auto', 'fp32' or 'bf16'"),
        (lambda layer: quantize.prepare_qat(layer, EXAMPLE, "0"), r"keep_float='0': expected a list of names, such as"),
        (lambda layer: quantize.prepare_ptq(layer, EXAMPLE, portable="no"), "portable='no': expected True or False"),  # type: ignore[arg-type]
        (lambda _: converters.to_tflite("a.onnx", "a.tflite", "int4"), "precision='int4': expected 'fp32', 'fp16' or"),  # type: ignore[arg-type]
        (lambda _: converters.to_tflite("a.onnx", "a.tflite", target="tpu"), "target='tpu': expected 'litert', 'inte"),  # type: ignore[arg-type]
        (lambda _: converters.to_tflite("a.onnx", "a.tflite", ends="uint8"), "ends='uint8': expected 'int8' or 'flo"),  # type: ignore[arg-type]
        (lambda _: converters.to_tflite("a.onnx", "a.tflite", is_sparse="no"), "is_sparse='no': expected True or Fal"),  # type: ignore[arg-type]
        (lambda _: converters.to_tflite("a", "b", target="edgetpu", ends="float"), "ends='float': edgetpu has no flo"),
        (lambda layer: converters.to_onnx(layer, EXAMPLE, "a.onnx", target="trt"), "target='trt': expected 'onnxrunt"),  # type: ignore[arg-type]
        (lambda layer: converters.to_onnx(layer, EXAMPLE, "a.onnx", batch=0), "batch=0: expected a number of samples"),
        (lambda layer: verify.verify(Path("a.onnx"), layer, EXAMPLE, "int4", ""), "precision='int4': expected 'fp32'"),
        (lambda _: launcher("riscv"), "processor='riscv': expected 'here', 'x86-avx2', 'x86-sse4' or 'arm64'"),
        (lambda _: bench.measure_all(["a.onnx"], EXAMPLE, threads=0), "threads=0: measuring needs at least 1"),
    ],
)
def test_choices_are_checked_where_they_are_used(call: Callable[[nn.Module], Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        call(nn.Linear(3, 2))


@pytest.mark.parametrize("stage", [quantize.convert, lambda model: quantize.calibrate(model, [EXAMPLE])])
def test_a_stage_out_of_order_is_refused(stage: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(ModelError, match="takes what prepare_qat or prepare_ptq returned, got Linear"):
        stage(nn.Linear(3, 2))


def test_a_tensor_is_no_list_of_batches() -> None:
    prepared = quantize.prepare_ptq(nn.Linear(3, 2), EXAMPLE)
    with pytest.raises(RecipeError, match=r"batches=\[4, 3\]: expected a list of batches, such as \[images\]"):
        quantize.calibrate(prepared, EXAMPLE)
    with pytest.raises(ModelError, match="PreparedModule is quantized already"):
        quantize.prepare_qat(prepared, EXAMPLE)
