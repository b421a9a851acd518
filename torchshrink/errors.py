"""What can go wrong, as one tree.

ShrinkError
|-- DataError             data that cannot be read or used: exit code 3
|-- RecipeError           a recipe with unknown keys or contradicting values: 3
|-- ModelError            a model or checkpoint that cannot be read or used: 3
|   `-- UnsupportedOpError    an operation that the target format cannot express: 3
|-- OutputError           a file or folder that cannot be written: 3
|-- ConversionError       a converter that stopped: 4
|-- ParityError           a file that does not compute what its source computes: 4
`-- MissingExtraError     an optional dependency that is not installed: 5
"""

from __future__ import annotations

import re

# Which extra brings a module: "torchshrink[torch]".
EXTRAS = {
    "torch": (
        "torch",
        "torchao",
        "torch_pruning",
        "torchmetrics",
        "accelerate",
        "safetensors",
        "onnx_ir",
        "onnxscript",
    ),
    "onnxruntime": ("onnx", "onnxruntime"),
    "litert": ("ai_edge_litert", "flatbuffers"),
    "tflite": ("onnx2tf", "tensorflow", "ai_edge_quantizer"),
    "micro": ("tflite_micro",),
    "search": ("optuna", "sqlalchemy"),
    "report": ("jinja2", "markupsafe", "matplotlib", "zstandard"),
}


class ShrinkError(Exception):
    """Base of every error that torchshrink raises on purpose; its text is one sentence for the user."""

    exit_code = 3
    is_reported = False  # whether a run's report was written all the same, with everything that did work


class DataError(ShrinkError):
    """Data that cannot be read or used."""


class RecipeError(ShrinkError):
    """A recipe with unknown keys or contradicting values."""


class ModelError(ShrinkError):
    """A model or checkpoint that cannot be read or used."""


class UnsupportedOpError(ModelError):
    """An operation that the target format cannot express."""


class OutputError(ShrinkError):
    """A file or folder that cannot be written."""


class ConversionError(ShrinkError):
    """A converter that stopped; the text names its log."""

    exit_code = 4


class ParityError(ShrinkError):
    """A file that does not compute what its source computes."""

    exit_code = 4


class MissingExtraError(ShrinkError):
    """An optional dependency that is not installed."""

    exit_code = 5


def missing_extra_of(text: str) -> MissingExtraError | None:
    """Return the same as `missing_extra` of what another process said."""
    found = re.search(r"No module named '([\w.]+)'", text)
    return missing_extra(ModuleNotFoundError(name=found[1])) if found else None


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Return what to install for a module that is not there; None for one that no extra brings."""
    module = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    if extra is None:
        return None
    return MissingExtraError(f"this needs {module}, which is not installed: pip install 'torchshrink[{extra}]'")
