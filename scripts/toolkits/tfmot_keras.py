"""TensorFlow Model Optimization: pruning, QAT and sparsity-preserving QAT of the same U-Net, written in Keras.

The Keras model starts with the weights of the PyTorch model and is trained on the same data, see `keras_unet.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # the toolkit works on Keras 2 only

import keras_unet
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from toolkit import Inputs, Made, answer

SPARSITY = 0.8
PRUNE_LR, QAT_LR = 2e-3, 5e-4  # as in torchshrink
UNPRUNED = ("encoder.0.0", "head")  # the first and the last layer, as its guide recommends: few weights, much harm
PRUNED_BY, SETTLED = 0.5, 0.6  # as there: shares of a training after which all is pruned, ranges are settled

Data = dict[str, np.ndarray]


def make(variant: str, inputs: Inputs, out: Path) -> Made:
    """Make one row's file."""
    keras.utils.set_random_seed(0)
    data = {name: array.transpose(0, 2, 3, 1) for name, array in inputs.training.items()}
    calibration = inputs.calibration.transpose(0, 2, 3, 1)
    model = keras_unet.build(str(inputs.checkpoint), data["x"].shape[1:3])
    pruned = out.with_name("tfmot-pruned.weights.h5")
    prune_epochs, qat_epochs = inputs.epochs
    if variant == "prune":
        model = prune(model, data, prune_epochs)
        model.save_weights(pruned)
    elif variant != "ptq":
        if variant.startswith("pqat"):
            model.load_weights(pruned)
        model = quantized(variant, model)
        keras_unet.train(model, data, qat_epochs, QAT_LR, SETTLED)
    is_sparse = variant not in ("ptq", "qat")
    write(model, None if "qat" in variant else calibration, out.with_suffix(".tflite"), is_sparse)
    return Made(out.with_suffix(".tflite"))


def prune(model: Any, data: Data, epochs: int) -> Any:
    """Return the model with 80 % of each layer's weights set to zero while it is fine-tuned."""
    steps = epochs * len(keras_unet.Batches(data["x"], data["y"]))
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, SPARSITY, 0, round(PRUNED_BY * steps), frequency=10)

    def wrap(layer: Any) -> Any:
        is_pruned = hasattr(layer, "kernel") and layer.name not in UNPRUNED
        return tfmot.sparsity.keras.prune_low_magnitude(layer, schedule) if is_pruned else layer

    wrapped = keras.models.clone_model(model, clone_function=wrap)
    update = tfmot.sparsity.keras.UpdatePruningStep()
    keras_unet.train(wrapped, data, epochs, PRUNE_LR, PRUNED_BY, update)
    return tfmot.sparsity.keras.strip_pruning(wrapped)


def quantized(variant: str, model: Any) -> Any:
    """Return the model prepared for QAT; ``pqat`` keeps its zeros, ``pqat-conv`` without transposed convolutions."""
    if variant == "qat":
        return tfmot.quantization.keras.quantize_model(model)

    def annotated(layer: Any) -> Any:
        is_left_out = variant == "pqat-conv" and isinstance(layer, keras.layers.Conv2DTranspose)
        return layer if is_left_out else tfmot.quantization.keras.quantize_annotate_layer(layer)

    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    clone = keras.models.clone_model(model, clone_function=annotated)
    return tfmot.quantization.keras.quantize_apply(clone, scheme)


def write(model: Any, calibration: np.ndarray | None, out: Path, is_sparse: bool) -> None:
    """Convert to int8 TFLite, inputs and outputs included; ``calibration`` where no range was learned."""
    converter = tf.lite.TFLiteConverter.from_keras_model(fixed_batch(model))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if is_sparse:
        converter.optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    if calibration is not None:
        converter.representative_dataset = lambda: ([sample[None]] for sample in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    out.write_bytes(converter.convert())


def fixed_batch(model: Any) -> Any:
    """Return the model for batches of one."""
    inputs = keras.Input(batch_shape=(1, *model.input_shape[1:]))
    return keras.Model(inputs, model(inputs))


if __name__ == "__main__":
    answer(make)
