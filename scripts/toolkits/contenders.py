"""The toolkits that are compared, how each is installed, and the rows that each makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Variant:
    """One way of using a toolkit, which makes one row.

    Attributes:
        name: What the toolkit's script is told.
        title: What the table says.
        counterpart: The file of ours that has had the same done to it, which this one is compared with.
    """

    name: str
    title: str
    counterpart: str


@dataclass(frozen=True)
class Toolkit:
    """A toolkit with an environment of its own.

    Attributes:
        name: For the table.
        requirements: The file with its pinned requirements, without its ending; names the environment too.
        script: What makes its files, run by the environment's python.
        variants: Its rows.
        python: Which Python it is installed on.
        needs_checkout: Whether it is no package, but a folder that the user has.
    """

    name: str
    requirements: str
    script: str
    variants: tuple[Variant, ...]
    python: str = "3.11"
    needs_checkout: bool = False

    @property
    def pins(self) -> list[str]:
        """The pinned requirements."""
        lines = (FOLDER / f"{self.requirements}.txt").read_text().splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    def row(self, variant: Variant) -> str:
        """Return the name of a row, which is that of its file too."""
        return f"{self.requirements}-{variant.name}"


TOOLKITS = (
    Toolkit(
        "onnxruntime.quantization",
        "onnxruntime",
        "onnxruntime_quantize.py",
        (
            Variant("tensor-uint8", "static QDQ, weights per tensor, uint8 activations", "dense-int8.onnx"),
            Variant("channel-uint8", "static QDQ, weights per channel, uint8 activations", "dense-int8.onnx"),
            Variant("channel-int8", "static QDQ, weights per channel, int8 activations", "dense-int8.onnx"),
            Variant("dynamic", "dynamic, uint8 weights", "dense-int8.onnx"),
        ),
    ),
    Toolkit(
        "onnxsim",
        "onnxsim",
        "onnxsim_quantize.py",
        (
            Variant("static", "quantize_static, all operators", "dense-int8.onnx"),
            Variant("equalized", "the same, equalized before and its bias corrected after", "dense-int8.onnx"),
        ),
    ),
    Toolkit(
        "AIMET",
        "aimet",
        "aimet_quantize.py",
        (
            Variant("static", "QuantizationSimModel, to_onnx_qdq", "dense-int8.onnx"),
            Variant(
                "rounded", "the same, equalized and with AdaRound (500 iterations a layer) before", "dense-int8.onnx"
            ),
        ),
    ),
    Toolkit(
        "ai-edge-quantizer",
        "ai_edge_quantizer",
        "ai_edge_quantize.py",
        (
            Variant("static", "static_wi8_ai8", "dense-int8.tflite"),
            Variant("dynamic", "dynamic_wi8_afp32", "dense-int8.tflite"),
        ),
    ),
    Toolkit(
        "litert-torch",
        "litert_torch",
        "litert_torch_quantize.py",
        (
            Variant("float", "float", "dense-fp32.tflite"),
            Variant("pt2e", "PT2E, static, per channel", "dense-int8.tflite"),
        ),
    ),
    Toolkit(
        "onnx2tf 1.29",
        "onnx2tf",
        "onnx2tf_quantize.py",
        (Variant("tf", "-oiqt", "dense-int8.tflite"),),
    ),
    Toolkit(
        "onnx2tf 2.6",
        "onnx2tf_2",
        "onnx2tf_quantize.py",
        (
            Variant("flatbuffer_direct", "-oiqt, its default backend", "dense-int8.tflite"),
            Variant("tf_converter", "-oiqt -tb tf_converter", "dense-int8.tflite"),
        ),
        python="3.12",
    ),
    Toolkit(
        "TinyNeuralNetwork",
        "tinynn",
        "tinynn_quantize.py",
        (Variant("ptq", "PostQuantizer, int8, per channel", "dense-int8.tflite"),),
        needs_checkout=True,
    ),
    Toolkit(
        "TensorFlow Model Optimization",
        "tensorflow_model_optimization",
        "tfmot_keras.py",
        (
            Variant("ptq", "Keras model, TFLiteConverter's int8", "dense-int8.tflite"),
            Variant("qat", "quantize_model: QAT", "dense-qat-int8.tflite"),
            Variant("prune", "pruned 80 %, TFLiteConverter's int8, sparse", "pruned-qat-int8-sparse.tflite"),
            Variant("pqat", "pruned 80 %, sparsity-preserving QAT", "pruned-qat-int8-sparse.tflite"),
            Variant(
                "pqat-conv",
                "pruned 80 %, sparsity-preserving QAT without the transposed convolutions",
                "pruned-qat-int8-sparse.tflite",
            ),
        ),
    ),
    Toolkit(
        "NNCF + OpenVINO",
        "openvino",
        "openvino_quantize.py",
        (
            Variant("float", "float, OpenVINO", "dense-fp32.onnx"),
            Variant("int8", "nncf.quantize, OpenVINO", "dense-int8.onnx"),
            Variant("onnx", "nncf.quantize, ONNX for ONNX Runtime", "dense-int8.onnx"),
        ),
    ),
)
