"""Weights in other files: beside the model, by a plain name, whatever part of the model names them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from program import call

from torchshrink import UNet, bench, checkpoint
from torchshrink.converters import runtimes
from torchshrink.converters.onnx_file import load
from torchshrink.errors import ModelError
from torchshrink.predict import shipped
from torchshrink.runtime import external_data

OUTSIDE = [
    "/etc/hostname",
    "../secret",
    "folder/../../secret",
    "folder/secret",
    "./secret",
    "..",
    ".",
    "",
    "link",
    "..\\secret",
    "C:\\secret",
    "*/_ORT_MEM_ADDR_/*",
    "a\0b",
]


def outside(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", location), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def model_of(tensor: TensorProto | None = None) -> onnx.ModelProto:
    """``y = x + w``."""
    value = tensor or numpy_helper.from_array(np.ones(2, np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [value])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    """Write a model beside the files that it may name."""
    folder = tmp_path / "models"
    (folder / "folder").mkdir(parents=True)
    for path in (tmp_path / "secret", folder / "folder" / "secret", folder / "secret", folder / "weights.bin"):
        path.write_bytes(np.array([3, 4], np.float32).tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")

    def write(model: onnx.ModelProto) -> Path:
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        return folder / "model.onnx"

    return write


@pytest.mark.parametrize("location", OUTSIDE)
def test_other_files_are_refused(save: Callable[[onnx.ModelProto], Path], location: str) -> None:
    with pytest.raises(ModelError, match=r"model\.onnx keeps weights in .*: only a file beside it, by its plain name"):
        external_data.check(save(model_of(outside(location))))


def test_a_file_beside_it_is_read(save: Callable[[onnx.ModelProto], Path]) -> None:
    path = save(model_of(outside("weights.bin")))
    assert bench.predict(path, np.zeros((1, 2), np.float32)).tolist() == [[3, 4]]
    assert len(load(path).graph.initializer[0].raw_data) == 8


def in_attribute(tensor: TensorProto) -> onnx.ModelProto:
    model = model_of()
    model.graph.node.add(op_type="Constant", output=["c"]).attribute.add(name="value", t=tensor, type=4)
    return model


def in_attributes(tensor: TensorProto) -> onnx.ModelProto:
    model = model_of()
    model.graph.node.add(op_type="X", output=["c"]).attribute.add(name="values").tensors.append(tensor)
    return model


def in_branch(tensor: TensorProto) -> onnx.ModelProto:
    model = model_of()
    branch = model.graph.node.add(op_type="If", output=["c"]).attribute.add(name="then_branch")
    branch.g.node.add(op_type="Loop").attribute.add(name="body").graphs.add().initializer.append(tensor)
    return model


def in_sparse(tensor: TensorProto) -> onnx.ModelProto:
    model = model_of()
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    return model


def in_sparse_attribute(tensor: TensorProto) -> onnx.ModelProto:
    model = model_of()
    model.graph.node[0].attribute.add(name="s").sparse_tensor.indices.CopyFrom(tensor)
    return model


def in_function(tensor: TensorProto) -> onnx.ModelProto:
    model = model_of()
    model.functions.add(name="f").node.add(op_type="Constant").attribute.add(name="value").t.CopyFrom(tensor)
    return model


def in_training(tensor: TensorProto) -> onnx.ModelProto:
    model = model_of()
    model.training_info.add().algorithm.initializer.append(tensor)
    return model


PLACES = [in_attribute, in_attributes, in_branch, in_sparse, in_sparse_attribute, in_function, in_training]


@pytest.mark.parametrize("make", PLACES)
def test_every_place_of_a_tensor(
    save: Callable[[onnx.ModelProto], Path], make: Callable[[TensorProto], onnx.ModelProto]
) -> None:
    with pytest.raises(ModelError, match="keeps weights in '/etc/hostname'"):
        external_data.check(save(make(outside("/etc/hostname"))))
    external_data.check(save(make(outside("weights.bin"))))


def test_the_fields_are_those_of_onnx() -> None:
    """Whatever message can hold a tensor, by onnx's own description of its format."""
    kinds = {
        "ModelProto": "model", "TrainingInfoProto": "training", "GraphProto": "graph", "FunctionProto": "function",
        "NodeProto": "node", "AttributeProto": "attribute", "SparseTensorProto": "sparse", "TensorProto": "tensor",
        "StringStringEntryProto": "entry",
    }  # fmt: skip
    for message, kind in kinds.items():
        fields = getattr(onnx, message).DESCRIPTOR.fields
        wanted = {
            field.number: kinds[field.message_type.name]
            for field in fields
            if field.name not in ("metadata_props", "initialization_binding", "update_binding")  # plain texts
            and field.message_type is not None
            and field.message_type.name in kinds
        }
        assert external_data._FIELDS.get(kind, {}) == wanted, message


@pytest.mark.parametrize("read", [load, shipped.read, lambda path: runtimes.onnx_session(path, path.name)])
def test_every_reader_asks(save: Callable[[onnx.ModelProto], Path], read: Callable[[Path], object]) -> None:
    with pytest.raises(ModelError, match="keeps weights in '/etc/hostname'"):
        read(save(model_of(outside("/etc/hostname"))))


def test_the_worker_asks(save: Callable[[onnx.ModelProto], Path]) -> None:
    with pytest.raises(ModelError, match=r"keeps weights in '\.\./secret'"):
        bench.predict(save(model_of(outside("../secret"))), np.zeros((1, 2), np.float32))


def test_commands_refuse_it(save: Callable[[onnx.ModelProto], Path], tmp_path: Path) -> None:
    path, dense = save(model_of(outside("../secret"))), tmp_path / "dense.safetensors"
    checkpoint.save(UNet(widths=(2, 4)), dense)
    for command in (
        ("bench", path),
        ("inspect", path),
        ("predict", path, "--data", tmp_path, "--out", tmp_path / "masks"),
        ("verify", path, "--against", dense, "--data", "synthetic:cells?train=8&test=4"),
        ("convert", path, "--out", tmp_path / "made.tflite"),
    ):
        found = call(*command)
        assert found.code == 3, command
        assert "keeps weights in '../secret'" in found.stderr, command


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_end_in_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(in_branch(outside("weights.bin")).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        external_data.check(path)
    except ModelError:
        return
    model = onnx.ModelProto()
    try:  # what is accepted is either no model at all, or names nothing that was overlooked
        model.ParseFromString(path.read_bytes())
    except Exception:
        return
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        assert all("/" not in entry.value for entry in tensor.external_data if entry.key == "location")
