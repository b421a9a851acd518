"""The built-in U-Net in Keras, its weights copied from a torchshrink checkpoint, and how it is trained there.

Loss, optimizer, learning rate, augmentation and choice of the best epoch follow `torchshrink.training` and
`torchshrink.data.augment`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from safetensors.numpy import load_file

WEIGHT_DECAY = 1e-4
BATCH = 16
EPSILON = 1e-5  # of PyTorch's BatchNorm


def build(checkpoint: str, size: tuple[int, int]) -> Any:
    """Return the U-Net of a checkpoint for images of ``size``; any widths, transposed convolutions."""
    weights = load_file(checkpoint)
    depth = len({name.split(".")[1] for name in weights if name.startswith("encoder")})
    inputs = x = keras.Input((*size, weights["encoder.0.0.weight"].shape[1]))
    skips = []
    for level in range(depth - 1):
        x = _level(x, weights, f"encoder.{level}")
        skips.append(x)
        x = keras.layers.MaxPool2D(2)(x)
    x = _level(x, weights, f"encoder.{depth - 1}")
    for level, skip in enumerate(reversed(skips)):
        up = keras.layers.Conv2DTranspose(skip.shape[-1], 2, strides=2, name=f"ups.{level}")
        x = _level(keras.layers.Concatenate()([skip, up(x)]), weights, f"decoder.{level}")
    classes = weights["head.bias"].shape[0]
    model = keras.Model(inputs, keras.layers.Activation("sigmoid")(keras.layers.Conv2D(classes, 1, name="head")(x)))
    for layer in model.layers:
        _copy(layer, weights)
    return model


def _level(x: Any, weights: dict[str, np.ndarray], name: str) -> Any:
    width = weights[f"{name}.0.weight"].shape[0]
    for index in (0, 3):
        x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}.{index}")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, epsilon=EPSILON, name=f"{name}.{index + 1}")(x)
        x = keras.layers.ReLU()(x)
    return x


def _copy(layer: Any, weights: dict[str, np.ndarray]) -> None:
    """Copy a layer's weights: OIHW, or IOHW of a transposed convolution, becomes HWIO, or HWOI."""
    if f"{layer.name}.running_mean" in weights:
        names = ("weight", "bias", "running_mean", "running_var")
        layer.set_weights([weights[f"{layer.name}.{name}"] for name in names])
    elif f"{layer.name}.weight" in weights:
        bias = [weights[f"{layer.name}.bias"]] if f"{layer.name}.bias" in weights else []
        layer.set_weights([weights[f"{layer.name}.weight"].transpose(2, 3, 1, 0), *bias])


def focal_tversky(truth: Any, probability: Any) -> Any:
    """Return the loss of `torchshrink.losses.FocalTversky` for channels-last tensors."""
    truth = tf.cast(truth, probability.dtype)
    positive = tf.reduce_sum(probability * truth, (1, 2))
    missed = tf.reduce_sum((1 - probability) * truth, (1, 2))
    wrong = tf.reduce_sum(probability * (1 - truth), (1, 2))
    index = (positive + 1) / (positive + 0.7 * missed + 0.3 * wrong + 1)
    return tf.reduce_mean(tf.pow(tf.maximum(1 - index, 0) + 1e-8, 0.75) - 1e-8**0.75)


class Batches(keras.utils.Sequence):  # type: ignore[misc]
    """Shuffled and augmented training batches, channels last; the last one is dropped when it is not full."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__()
        self._x, self._y = x, y
        self._random = np.random.default_rng(0)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Shuffle."""
        self._order = self._random.permutation(len(self._x))

    def __len__(self) -> int:
        return max(1, len(self._x) // BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._order[index * BATCH : (index + 1) * BATCH]
        pairs = [self._augmented(self._x[sample], self._y[sample]) for sample in chosen]
        return np.stack([x for x, _ in pairs]), np.stack([y for _, y in pairs])

    def _augmented(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        for move in (lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a.swapaxes(0, 1)):
            if self._random.random() < 0.5:
                x, y = move(x), move(y)
        x = x * (1 + self._random.uniform(-0.1, 0.1)) + self._random.uniform(-0.1, 0.1)
        return (x + 0.05 * self._random.standard_normal(x.shape)).astype(np.float32), y


class KeepBest(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the weights of the epoch with the least validation loss, of those after ``settled`` of the training."""

    def __init__(self, settled: float) -> None:
        super().__init__()
        self._settled, self._least, self._weights = settled, math.inf, None

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Compare."""
        if epoch + 1 >= self._settled * self.params["epochs"] and logs["val_loss"] < self._least:
            self._least, self._weights = logs["val_loss"], self.model.get_weights()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Go back."""
        if self._weights is not None:
            self.model.set_weights(self._weights)


def train(model: Any, data: dict[str, np.ndarray], epochs: int, lr: float, settled: float, *callbacks: Any) -> None:
    """Train in place; ``data`` holds x, y, validation_x, validation_y, channels last."""
    batches = Batches(data["x"], data["y"])
    steps = epochs * len(batches)
    schedule = keras.optimizers.schedules.CosineDecay(
        lr / 25, round(0.7 * steps), warmup_target=lr, warmup_steps=round(0.3 * steps)
    )
    model.compile(keras.optimizers.AdamW(schedule, WEIGHT_DECAY), focal_tversky)
    validation = (data["validation_x"], data["validation_y"])
    model.fit(
        batches,
        epochs=epochs,
        validation_data=validation,
        validation_batch_size=BATCH,
        verbose=2,
        callbacks=[*callbacks, KeepBest(settled)],
    )
