"""Reading and writing TFLite files as Python objects, through LiteRT's own schema."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from torchshrink.converters.ranges import Range
from torchshrink.converters.tflite_checks import check
from torchshrink.errors import ModelError
from torchshrink.files import atomic
from torchshrink.files import read as read_bytes
from torchshrink.metadata import KEY

_DTYPES: dict[int, Any] = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.INT4: np.int8,  # two in a byte; see `nibbles`
    schema.TensorType.UINT8: np.uint8,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.BOOL: np.bool_,
}
_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


def read(path: Path) -> Any:
    """Return the model object of a TFLite file.

    Raises:
        ModelError: When the file is missing, damaged or not TFLite.
    """
    try:
        content = read_bytes(path, 2**31)  # more than a flatbuffer can hold
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    return parse(content, str(path))


def parse(content: bytes, name: str) -> Any:
    """Return the model object of a TFLite file's content; errors as `read`, which call it ``name``."""
    if content[4:8] != b"TFL3":
        raise ModelError(f"{name} is not a TFLite file: convert a model first")
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        check(model)
        return model
    except Exception as error:  # whatever the bytes happen to mean
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise ModelError(f"{name} is damaged ({reason}): convert or copy it again") from error


def check_ends(model: Any, name: str) -> None:
    """Refuse a model that computes nothing, of nothing, or for nobody; errors as `read`, which call it ``name``."""
    graph = model.subgraphs[0]
    for part in ("operators", "inputs", "outputs"):
        if len(getattr(graph, part)) == 0:
            raise ModelError(f"{name} has no {part}: convert or copy it again")


class _Builder(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers ships no types
    """Puts every vector of bytes on a 16-byte border, as the schema asks of buffers and generated code forgets.

    Equal vectors are stored once: the zero points alone, 8 bytes for every channel of every weight and bias, take a
    tenth of the file of a small model otherwise.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._vectors: dict[tuple[str, bytes], int] = {}

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: N802, N803  # its names
        """Begin a vector."""
        return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802  # its name
        """Return where a vector with these elements is."""
        key = (x.dtype.str, x.tobytes())
        if key not in self._vectors:
            self._vectors[key] = super().CreateNumpyVector(x)
        return self._vectors[key]


def write(model: Any, path: Path) -> None:
    """Write a model object as a TFLite file."""
    with atomic(path) as temporary:
        temporary.write_bytes(pack(model))


def pack(model: Any) -> bytes:
    """Return the content of the TFLite file that `write` would write."""
    builder = _Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def unique(name: str, taken: set[str]) -> str:
    """Return a name, with a number where it is taken already, and take it."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}#{number}"
    taken.add(found)
    return found


def tensor_name(tensor: Any) -> str:
    """Return a tensor's name as text."""
    return _text(tensor.name)


def dtype(tensor: Any) -> Any:
    """Return the NumPy type of a tensor's elements."""
    return _DTYPES[tensor.type]


def constant(model: Any, tensor: Any) -> NDArray[Any] | None:
    """Return the values of a constant tensor; None for a computed or sparse one, or one of an unusual type."""
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0 or tensor.sparsity is not None or tensor.type not in _DTYPES:
        return None
    shape = tuple(int(side) for side in tensor.shape) if tensor.shape is not None else ()
    if tensor.type == schema.TensorType.INT4:
        pairs = np.frombuffer(bytes(data), np.int8)
        halves: NDArray[np.int8] = np.stack([pairs << 4 >> 4, pairs >> 4], axis=1)
        return halves.reshape(-1)[: math.prod(shape)].reshape(shape)
    return np.frombuffer(bytes(data), _DTYPES[tensor.type]).reshape(shape)


def nibbles(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return codes of 4 bits two in a byte, the first in the lower half, the last alone where their number is odd."""
    flat = np.append(codes.ravel(), np.zeros(codes.size % 2, np.int8)).view(np.uint8) & 0x0F
    return (flat[0::2] | flat[1::2] << 4).astype(np.uint8)


def quantization(model: Any, tensor: Any) -> Range | None:
    """Return how a tensor is quantized, None when it is not."""
    parameters = tensor.quantization
    if parameters is None or parameters.scale is None or len(parameters.scale) == 0:
        return None
    scale = tuple(float(value) for value in parameters.scale)
    zero_point = tuple(int(value) for value in parameters.zeroPoint)
    # A weight with one output channel has one scale, like an activation, but holds data.
    data = model.buffers[tensor.buffer].data
    is_weight = tensor.shape is not None and len(tensor.shape) > 1 and data is not None and len(data) > 0
    is_per_channel = len(scale) > 1 or is_weight
    try:
        return Range(scale, zero_point, int(parameters.quantizedDimension) if is_per_channel else None)
    except ValueError as error:
        raise ModelError(f"tensor {tensor_name(tensor)} is quantized in no way that can be ({error})") from error


def op_name(model: Any, operator: Any) -> str:
    """Return the name of an operator, such as CONV_2D."""
    code = model.operatorCodes[operator.opcodeIndex]
    return str(_NAMES.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM"))


def custom_name(code: Any) -> str:
    """Return the name of an operator code that is not one of TFLite's own, empty for those."""
    return _text(code.customCode or "")


def opcode(model: Any, builtin: int, version: int = 1) -> int:
    """Return the index of an operator code, added when the model had no such operator."""
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = builtin
    code.deprecatedBuiltinCode = min(builtin, 127)
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def add_buffer(model: Any, data: bytes) -> int:
    """Append a buffer and return its index."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(data, np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def redirect(graph: Any, old: int, new: int) -> None:
    """Let everything that reads tensor ``old`` read ``new``."""
    for operator in graph.operators:
        operator.inputs = [new if index == old else index for index in operator.inputs]
    graph.outputs = [new if index == old else index for index in graph.outputs]


class Graph:
    """The main graph of a TFLite model, or another of its graphs; what is changed here is changed in the model.

    Tensors go by their number; operators and tensors are the schema's own objects, in lists that are changed in place.

    Attributes:
        model: The model object.
        content: The schema's own object of this graph.
        tensors: By number.
        operators: In the order of computation.
    """

    def __init__(self, model: Any, position: int = 0) -> None:
        self.model, self.content = model, model.subgraphs[position]
        self.tensors: list[Any] = self.content.tensors
        self.operators: list[Any] = self.content.operators

    @property
    def inputs(self) -> list[int]:
        """What the caller gives."""
        return [int(index) for index in self.content.inputs]

    @property
    def outputs(self) -> list[int]:
        """What the caller gets."""
        return [int(index) for index in self.content.outputs]

    def kind(self, operator: Any) -> str:
        """Return the name of an operator, such as CONV_2D."""
        return op_name(self.model, operator)

    def name(self, index: int) -> str:
        """Return a tensor's name."""
        return tensor_name(self.tensors[index])

    def grid(self, index: int) -> Range | None:
        """Return how a tensor is quantized, None when it is not."""
        return quantization(self.model, self.tensors[index])

    def constant(self, index: int) -> NDArray[Any] | None:
        """Return a tensor's values; None for a computed or sparse one, or one of an unusual type."""
        return constant(self.model, self.tensors[index])

    def has_data(self, index: int) -> bool:
        """Return whether a tensor is constant, of any type, sparse ones too."""
        data = self.model.buffers[self.tensors[index].buffer].data
        return data is not None and len(data) > 0

    def is_float(self, index: int) -> bool:
        """Return whether a tensor is float32."""
        return bool(self.tensors[index].type == schema.TensorType.FLOAT32)

    def is_int8(self, index: int) -> bool:
        """Return whether a tensor is int8."""
        return bool(self.tensors[index].type == schema.TensorType.INT8)

    def producer(self, index: int) -> Any | None:
        """Return the operator that computes a tensor; None for inputs and constants."""
        return next((operator for operator in self.operators if index in list(operator.outputs)), None)

    def readers(self, index: int) -> list[Any]:
        """Return the operators that read a tensor."""
        return [operator for operator in self.operators if index in list(operator.inputs)]

    def step(self, kind: str, source: int, target: int, version: int = 2) -> Any:
        """Return an operator from one tensor to another, not yet among the graph's."""
        made = schema.OperatorT()
        made.opcodeIndex = opcode(self.model, getattr(schema.BuiltinOperator, kind), version)
        made.inputs, made.outputs = [source], [target]
        return made

    def transposition(self, index: int, order: Sequence[int]) -> Any:
        """Return a TRANSPOSE of a tensor to one of its own, not yet among the graph's operators."""
        moved = self.add_copy(index, f"{self.name(index)}_moved")
        tensor, axes = self.tensors[moved], schema.TensorT()
        tensor.shape, tensor.shapeSignature = [int(tensor.shape[axis]) for axis in order], None
        self.model.buffers.append(schema.BufferT())  # one that two share is taken for one constant
        tensor.buffer = len(self.model.buffers) - 1
        axes.name, axes.shape, axes.type = f"{self.name(moved)}_order", [len(order)], schema.TensorType.INT32
        axes.buffer = add_buffer(self.model, np.array(order, np.int32).tobytes())
        self.tensors.append(axes)
        made = self.step("TRANSPOSE", index, moved, version=1)
        made.inputs = [index, len(self.tensors) - 1]
        made.builtinOptionsType = schema.BuiltinOptions.TransposeOptions
        made.builtinOptions = schema.TransposeOptionsT()
        return made

    def add_copy(self, index: int, name: str) -> int:
        """Add a tensor that is like another one and that nothing computes or reads yet; return its number.

        Where a tensor has that name already, its own is another: ai-edge-quantizer refuses a model with one twice.
        """
        added = copy.copy(self.tensors[index])
        added.name = unique(name, {tensor_name(tensor) for graph in self.model.subgraphs for tensor in graph.tensors})
        self.tensors.append(added)
        return len(self.tensors) - 1

    def make_int8(self, index: int, grid: Range) -> None:
        """Let a tensor hold int8 codes on this grid."""
        tensor = self.tensors[index]
        tensor.type, tensor.quantization = schema.TensorType.INT8, schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = list(grid.scale), list(grid.zero_point)

    def redirect(self, old: int, new: int) -> None:
        """Let everything that reads tensor ``old`` read ``new``, the caller too."""
        redirect(self.content, old, new)

    def replace_end(self, side: Literal["inputs", "outputs"], old: int, new: int) -> None:
        """Put another tensor in an input's or output's place, in the file's signatures too."""
        setattr(self.content, side, [new if index == old else index for index in getattr(self, side)])
        for signature in self.model.signatureDefs or []:
            for item in getattr(signature, side):
                item.tensorIndex = new if item.tensorIndex == old else item.tensorIndex


def graphs(model: Any) -> list[Graph]:
    """Return every graph of a model, the main one first."""
    return [Graph(model, position) for position in range(len(model.subgraphs))]


def set_metadata(model: Any, content: dict[str, Any]) -> None:
    """Store ``content`` as JSON among the model's metadata, in place of an earlier one."""
    data = json.dumps(content).encode()
    for entry in model.metadata or []:
        if _entry_name(entry) == KEY:
            model.buffers[entry.buffer].data = np.frombuffer(data, np.uint8)
            return
    entry = schema.MetadataT()
    entry.name = KEY
    entry.buffer = add_buffer(model, data)
    model.metadata = [*(model.metadata or []), entry]


def get_metadata(model: Any) -> dict[str, Any]:
    """Return what `set_metadata` stored, or an empty dictionary."""
    for entry in model.metadata or []:
        if _entry_name(entry) == KEY:
            content: dict[str, Any] = json.loads(bytes(model.buffers[entry.buffer].data))
            return content
    return {}


def _entry_name(entry: Any) -> str:
    return _text(entry.name)


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
