"""Sparse files: smaller, and bit for bit what the dense ones are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import thinned
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from torchshrink import prune
from torchshrink.converters import contents, sparse, tflite_file

PAIRS = ["tflite-fp32", "tflite-int8"]
KINDS: dict[Any, int] = {
    np.float32: schema.TensorType.FLOAT32,
    np.float16: schema.TensorType.FLOAT16,
    np.int8: schema.TensorType.INT8,
}
Save = Callable[[NDArray[Any]], Path]

# --- the exported files ---


@pytest.mark.parametrize("name", ["tflite-fp32", "tflite-fp32-sparse", "tflite-int8", "tflite-int8-sparse"])
def test_pruned_weights_are_exact_zeros_in_the_file(unet: Any, name: str) -> None:
    stored = contents.read_weights(unet.path(name))
    zeros = sum(int((array == 0).sum()) for array in stored) / sum(array.size for array in stored)
    assert prune.sparsity(unet.model) == pytest.approx(0.8, abs=0.001)
    assert zeros >= prune.sparsity(unet.model)


@pytest.mark.parametrize("name", PAIRS)
def test_weights_are_those_of_the_dense_file(unet: Any, name: str) -> None:
    dense, packed = (_constants(unet.path(file)) for file in (name, f"{name}-sparse"))
    assert set(dense) == set(packed)
    for key, values in dense.items():
        assert packed[key].dtype == values.dtype
        assert packed[key].shape == values.shape
        assert np.array_equal(packed[key], values)


@pytest.mark.parametrize("name", PAIRS)
def test_outputs_are_identical(unet: Any, name: str) -> None:
    assert np.array_equal(unet.outputs(name), unet.outputs(f"{name}-sparse"))


@pytest.mark.parametrize("name", PAIRS)
def test_file_is_smaller(unet: Any, name: str) -> None:
    assert unet.path(f"{name}-sparse").stat().st_size < unet.path(name).stat().st_size


def test_encoding_twice_changes_nothing(unet2d: Any, tmp_path: Path) -> None:
    path = unet2d.path("tflite-int8-sparse")
    assert sparse.encode(path, tmp_path / "twice.tflite") == 0
    first, second = _constants(path), _constants(tmp_path / "twice.tflite")
    assert {name: value.tobytes() for name, value in first.items()} == {n: v.tobytes() for n, v in second.items()}


# --- arrays ---

SHAPES = [
    (40, 300),  # positions beyond 255: uint16
    (300, 40),  # more than 255 values before the last row: uint16
    (2, 70_000),  # positions beyond 65535: int32
    (20, 30, 17),
    (16, 3, 3, 16),
    (6, 1, 300, 5),
]


# Every shape, and one of them in every type at every sparsity.
@pytest.mark.parametrize(
    ("shape", "sparsity", "dtype"),
    thinned.product(
        SHAPES,
        [0.7, 0.95, 1.0],
        KINDS,
        often=lambda shape, sparsity, dtype: shape == (20, 30, 17) or (sparsity, dtype) == (0.95, np.int8),
    ),
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_decoding_gives_back_what_was_encoded(
    save_weight: Save, tmp_path: Path, shape: tuple[int, ...], sparsity: float, dtype: type
) -> None:
    values = _random(shape, sparsity, dtype)
    source, target = save_weight(values), tmp_path / "sparse.tflite"
    if sparse.encode(source, target):
        assert target.stat().st_size < source.stat().st_size
    model = tflite_file.read(target)
    (found,) = _constants(target).values()
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)
    assert len(model.subgraphs[0].operators) == 1 + (model.subgraphs[0].tensors[-1].sparsity is not None)


@pytest.mark.parametrize(
    ("sparsity", "dtype"), [(0.8, np.float32), (0.8, np.float16), (0.9, np.int8)], ids=["float32", "float16", "int8"]
)
def test_pruned_weights_are_encoded(save_weight: Save, tmp_path: Path, sparsity: float, dtype: type) -> None:
    """Or the round trips above would compare dense files with dense files."""
    assert sparse.encode(save_weight(_random((64, 3, 3, 64), sparsity, dtype)), tmp_path / "sparse.tflite") == 1


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.ones((64, 64), np.float32), "nothing is zero"),
        (np.eye(5, dtype=np.float32), "too small for the tables"),
        (np.zeros(10_000, np.float32), "a vector"),
        (np.tile(np.array([0, 1], np.int8), (64, 64)), "half of the bytes are zero, a position takes one each"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_not_be_smaller_stays_dense(
    save_weight: Save, tmp_path: Path, values: NDArray[Any], why: str
) -> None:
    source, target = save_weight(values), tmp_path / "dense.tflite"
    assert sparse.encode(source, target) == 0, why
    model = tflite_file.read(target)
    assert all(tensor.sparsity is None for tensor in model.subgraphs[0].tensors)
    assert len(model.subgraphs[0].operators) == 1


@pytest.mark.parametrize(("length", "kind"), [(256, "Uint8Vector"), (257, "Uint16Vector"), (65_537, "Int32Vector")])
def test_positions_take_the_narrowest_type(save_weight: Save, tmp_path: Path, length: int, kind: str) -> None:
    """A row of n has positions up to n - 1: 255 is the last that fits into a byte, 65535 into two."""
    values = np.zeros((4, length), np.float32)
    values[:, -1] = 1  # one value a row, in a place that only the other order of traversal stores as a small number
    values[:, ::8] = 2
    assert sparse.encode(save_weight(values), tmp_path / "sparse.tflite") == 1
    tensor = tflite_file.read(tmp_path / "sparse.tflite").subgraphs[0].tensors[-1]
    innermost = tensor.sparsity.dimMetadata[-1]
    if list(tensor.sparsity.traversalOrder) == [0, 1]:
        assert innermost.arrayIndicesType == getattr(schema.SparseIndexVector, kind)
    assert int(np.max(innermost.arraySegments.values)) == np.count_nonzero(values)


@pytest.mark.parametrize("innermost", range(4))
def test_litert_expands_every_order_of_traversal(
    tflite_builder: Any, interpreter: Callable[[Path], Any], tmp_path: Path, innermost: int
) -> None:
    """The runtime's own DENSIFY is the reference. Long rows along one axis make that one the best."""
    shape = [3, 4, 5, 6]
    shape[innermost] = 120
    values = _random(tuple(shape), 0.9, np.float32)
    _save_convolution(tflite_builder, values, tmp_path / "dense.tflite")
    assert sparse.encode(tmp_path / "dense.tflite", tmp_path / "sparse.tflite") == 1
    graph = tflite_file.read(tmp_path / "sparse.tflite").subgraphs[0]
    assert graph.tensors[-1].sparsity.traversalOrder[-1] == innermost
    opened = interpreter(tmp_path / "sparse.tflite")
    opened.set_tensor(opened.get_input_details()[0]["index"], np.zeros((1, *shape[1:]), np.float32))
    opened.invoke()
    assert np.array_equal(opened.get_tensor(graph.operators[0].outputs[0]), values)


def test_a_layer_of_zeros_runs(unet2d: Any, tmp_path: Path, interpreter: Callable[[Path], Any]) -> None:
    """Pruning can empty a layer; its packed values are then an empty buffer."""
    model = tflite_file.read(unet2d.path("tflite-fp32"))
    graph = model.subgraphs[0]
    weight = max((graph.tensors[op.inputs[1]] for op in graph.operators if len(op.inputs) == 3), key=_size)
    model.buffers[weight.buffer].data = np.zeros(4 * _size(weight), np.uint8)
    tflite_file.write(model, tmp_path / "dense.tflite")
    sparse.encode(tmp_path / "dense.tflite", tmp_path / "sparse.tflite")
    outputs = []
    for name in ("dense", "sparse"):
        opened = interpreter(tmp_path / f"{name}.tflite")
        opened.set_tensor(opened.get_input_details()[0]["index"], np.ones((1, 32, 32, 1), np.float32))
        opened.invoke()
        outputs.append(opened.get_tensor(opened.get_output_details()[0]["index"]))
    assert np.array_equal(*outputs)


def test_a_buffer_that_two_tensors_share_stays(tflite_builder: Any, tmp_path: Path) -> None:
    values = _random((64, 64), 0.9, np.float32)
    weight = tflite_builder.tensor("weight", values.shape, KINDS[np.float32], values)
    twin = tflite_builder.tensor("twin", values.shape, KINDS[np.float32])
    tflite_builder.model.subgraphs[0].tensors[twin].buffer = tflite_builder.model.subgraphs[0].tensors[weight].buffer
    _finish_dense(tflite_builder, [weight, twin], tmp_path / "shared.tflite")
    assert sparse.encode(tmp_path / "shared.tflite", tmp_path / "sparse.tflite") == 0


@pytest.fixture
def save_weight(tflite_builder: Any, tmp_path: Path) -> Save:
    """Write a file with one FULLY_CONNECTED and the given weight; enough to be encoded, whatever its rank."""

    def save(values: NDArray[Any]) -> Path:
        weight = tflite_builder.tensor("weight", values.shape, KINDS[values.dtype.type], values)
        return _finish_dense(tflite_builder, [weight], tmp_path / "weight.tflite")

    return save


def _finish_dense(builder: Any, weights: list[int], path: Path) -> Path:
    entry = builder.tensor("input", (1, 4), schema.TensorType.FLOAT32)
    output = builder.tensor("output", (1, 4), schema.TensorType.FLOAT32)
    options = schema.FullyConnectedOptionsT()
    for weight in weights:
        builder.operator(schema.BuiltinOperator.FULLY_CONNECTED, [entry, weight], [output], options)
    tflite_file.write(builder.finish([entry], [output]), path)
    return path


def _save_convolution(builder: Any, values: NDArray[np.float32], path: Path) -> None:
    """Write a convolution whose kernel covers the whole input: ``[o, h, w, i]`` on ``[1, h, w, i]``."""
    kind = schema.TensorType.FLOAT32
    outputs, *size = values.shape
    entry = builder.tensor("input", (1, *size), kind)
    weight = builder.tensor("weight", values.shape, kind, values)
    bias = builder.tensor("bias", (outputs,), kind, np.zeros(outputs, np.float32))
    output = builder.tensor("output", (1, 1, 1, outputs), kind)
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.VALID, 1, 1
    options.dilationHFactor = options.dilationWFactor = 1
    builder.operator(schema.BuiltinOperator.CONV_2D, [entry, weight, bias], [output], options)
    tflite_file.write(builder.finish([entry], [output]), path)


def _random(shape: tuple[int, ...], sparsity: float, dtype: type) -> NDArray[Any]:
    generator = np.random.default_rng(0)
    values = generator.integers(1, 127, shape) * generator.choice([-1, 1], shape)
    return np.where(generator.random(shape) < sparsity, 0, values).astype(dtype)


def _constants(path: Path) -> dict[str, NDArray[Any]]:
    """Return the constants of a file by name, sparse ones dense and under the name of the dense tensor."""
    model = tflite_file.read(path)
    found = {}
    for tensor in model.subgraphs[0].tensors:
        is_sparse = tensor.sparsity is not None
        values = sparse.decode(model, tensor) if is_sparse else tflite_file.constant(model, tensor)
        if values is not None:
            found[tflite_file.tensor_name(tensor).removesuffix("_sparse")] = values
    return found


def _size(tensor: Any) -> int:
    return int(np.prod(tensor.shape))
