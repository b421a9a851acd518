"""The fixes around TensorFlow, in the order in which they are made; see README.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from onnx import ModelProto

from torchshrink.converters.float_tflite import equal_sizes, forms, fusing, products
from torchshrink.converters.float_tflite.constants import Constants
from torchshrink.converters.float_tflite.names import Names
from torchshrink.converters.float_tflite.signals import lift


class Pass(Protocol):
    """One fix, made anew for every file."""

    def before(self, model: ModelProto) -> ModelProto:
        """Return the float graph for the next pass; ``model`` may be changed."""

    def after(self, tflite: Any) -> None:
        """Undo in TensorFlow's TFLite model object what has to be undone."""


@dataclass(frozen=True)
class Before:
    """A fix that leaves nothing to undo."""

    before: Callable[[ModelProto], ModelProto]

    def after(self, tflite: Any) -> None:
        """Leave the file as it is."""


@dataclass(frozen=True)
class After:
    """A fix of what TensorFlow wrote."""

    after: Callable[[Any], None]

    def before(self, model: ModelProto) -> ModelProto:
        """Leave the graph as it is."""
        return model


PASSES: tuple[Callable[[], Pass], ...] = (
    partial(Before, forms.fold_constants),
    partial(Before, forms.add_up_stacks),
    partial(Before, forms.spread_kernels),
    partial(Before, forms.add_sides_at_the_end),
    partial(Before, lift),
    Names,  # while constants among the inputs still show by their values
    partial(Before, equal_sizes.spell_out),  # of true inputs: constants still have their values
    Constants,
    partial(Before, forms.fuse_gelu),
    partial(Before, forms.split_norms),
    partial(After, products.turn_first_factors),
    partial(After, fusing.fuse),
)
