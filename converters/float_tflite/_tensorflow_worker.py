"""Convert float ONNX files to TFLite with onnx2tf. Run as a script in a process of its own, see `prepared.py`.

TensorFlow takes seconds and hundreds of megabytes to load, onnx2tf prints pages, exits the interpreter on errors and
may rewrite its input: none of that may happen in the user's process.

Usage: ``python _tensorflow_worker.py JOBS.json`` with ``[{"onnx": FILE, "folder": FOLDER, "keras": BOOL}, ...]``.
Every folder receives ``model_float32.tflite``; with ``keras`` also a SavedModel and ``model_float32.h5``.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np


def convert(path: str, folder: str, keras: bool) -> None:
    """Run onnx2tf on one file."""
    import onnx
    import onnx2tf

    _leave_sums_channels_last()
    _resize_as_said()
    _lay_cubes_out()
    settings: dict[str, Any] = {
        "input_onnx_file_path": path,
        "output_folder_path": folder,
        "copy_onnx_input_output_names_to_tflite": True,
        "not_use_onnxsim": True,
        "non_verbose": True,
        "keep_shape_absolutely_input_names": [
            item.name for item in onnx.load(path).graph.input if item.doc_string == "channels last"
        ],
        "output_h5": keras,
    }
    if not onnx2tf.__version__.startswith("1."):
        # 2.x writes files by itself unless told otherwise: some did not load, and biases stayed operators of their own.
        settings["tflite_backend"] = "tf_converter"
    Path(folder).mkdir(parents=True)
    weights = contextlib.nullcontext() if keras else _no_weights_as_text()
    with weights, _nothing_else(keras), _nothing_twice(), _only_what_is_served():
        onnx2tf.convert(**settings)


class _Done(BaseException):
    """The float32 file is written, and onnx2tf need not go on."""


@contextlib.contextmanager
def _nothing_else(keras: bool) -> Iterator[None]:
    """Keep onnx2tf from what nobody reads, a float16 file and a SavedModel: each is a third of its time."""
    import tensorflow as tf
    from onnx2tf import onnx2tf

    def stop(**_: Any) -> None:
        raise _Done

    names, save = onnx2tf.rewrite_tflite_inout_opname, tf.saved_model.save
    onnx2tf.rewrite_tflite_inout_opname = stop  # called first for the float32 file; passes see to its names
    if not keras:
        tf.saved_model.save = lambda *_: None
    try:
        yield
    except _Done:
        pass
    finally:
        onnx2tf.rewrite_tflite_inout_opname, tf.saved_model.save = names, save


@contextlib.contextmanager
def _nothing_twice() -> Iterator[None]:
    """Let a layer that is given the very tensors of last time return what it did then.

    onnx2tf tries out every operation on what all before it compute, from the input on: of a model of several hundred
    that was half of its time.
    """
    import tensorflow as tf
    from tf_keras.src.engine.functional import Functional

    known: dict[int, tuple[Any, list[Any], list[Any]]] = {}  # by a node: it, what it was given, what it returned

    def entry(reference: Any, value: Any) -> Any:
        _, _, (before,) = known.get(id(reference), (None, [], [value]))
        if before.shape != value.shape or not bool(tf.reduce_all(before == value)):
            before = value
        known[id(reference)] = reference, [], [before]
        return before

    def run(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if not tf.executing_eagerly() or training or mask is not None:
            return whole(self, inputs, training, mask)
        values: dict[str, Any] = {}
        for reference, value in zip(self.inputs, self._flatten_to_reference_inputs(inputs), strict=True):
            values[str(id(reference))] = entry(reference, self._conform_to_reference_input(value, ref_input=reference))
        for node in (node for _, nodes in sorted(self._nodes_by_depth.items(), reverse=True) for node in nodes):
            if node.is_input or not values.keys() >= set(node.flat_input_ids):
                continue
            given = [values[each] for each in node.flat_input_ids]
            _, before, _ = known.get(id(node), (None, [], []))
            if list(map(id, before)) != list(map(id, given)) or id(node) not in known:
                uses = {each: [values[each]] * len(given) for each in node.flat_input_ids}
                arguments, others = node.map_arguments(uses)
                known[id(node)] = node, given, tf.nest.flatten(node.layer(*arguments, **others))
            values |= zip(node.flat_output_ids, known[id(node)][2], strict=True)
        return tf.nest.pack_sequence_as(self._nested_outputs, [values[str(id(each))] for each in self.outputs])

    whole, Functional._run_internal_graph = Functional._run_internal_graph, run
    try:
        yield
    finally:
        Functional._run_internal_graph = whole


@contextlib.contextmanager
def _only_what_is_served() -> Iterator[None]:
    """Hand the function of a model to TensorFlow's converter, which saves it first, without those of every layer.

    Of a model of several hundred layers these were a quarter of onnx2tf's time; the file is the same to the byte.
    """
    import tensorflow as tf
    from tensorflow.lite.python import lite
    from tf_keras.src.saving.legacy.saving_utils import trace_model_call

    def served(model: Any, folder: str, signatures: Any = None, options: Any = None) -> None:
        if signatures is None:  # a model of Keras
            signatures, holder = trace_model_call(model), tf.Module()
            holder.held, model = model.variables, holder  # a function does not keep what it reads
        save(model, folder, signatures, options)

    save, lite._save.save = lite._save.save, served
    try:
        yield
    finally:
        lite._save.save = save


def _leave_sums_channels_last() -> None:
    """Switch off what makes onnx2tf 1.29.24 and 2.6.9 return every sum channels first.

    They take a sum whose shape is not the one in ONNX for the result of a wrong broadcast, although it only is channels
    last, and search for transposes that make it so. Without transposed inputs they give the search up.
    """
    from onnx2tf.ops import Add

    Add.transpose_with_flexing_deterrence = lambda **_: None


def _resize_as_said() -> None:
    """Let onnx2tf read where the corners of a resized image are.

    1.29.24 and 2.6.9 do up to opset 17, and take every later file for one of half pixels.
    """
    from onnx2tf.ops import Resize

    make = Resize.make_node

    def make_node(*, graph_node: Any, opset: int, **others: Any) -> Any:
        is_known = graph_node.attrs.get("coordinate_transformation_mode") in ("align_corners", "asymmetric")
        return make(graph_node=graph_node, opset=min(opset, 17) if is_known else opset, **others)

    if not hasattr(make, "_reads_corners"):
        make_node._reads_corners = True  # type: ignore[attr-defined]
        Resize.make_node = make_node


def _lay_cubes_out() -> None:
    """Put channels last in tensors whose sides but the first are equal, as onnx2tf takes them to be.

    1.29.24 tells by its shape whether a tensor is channels last already. What is reshaped or transposed to equal sides
    may be in the order of ONNX, which only few operations find out: a convolution that pads does not.
    """
    from onnx2tf.ops import Reshape, Transpose

    for operator in (Reshape, Transpose):
        if not hasattr(operator.make_node, "_lays_cubes_out"):
            operator.make_node = _laying_cubes_out(operator.make_node)


def _laying_cubes_out(make: Callable[..., None]) -> Callable[..., None]:
    import tensorflow as tf

    def make_node(*, graph_node: Any, tf_layers_dict: dict[str, Any], **others: Any) -> None:
        make(graph_node=graph_node, tf_layers_dict=tf_layers_dict, **others)
        made = tf_layers_dict[graph_node.outputs[0].name]
        wanted = (others["onnx_tensor_infos_for_validation"] or {}).get(graph_node.outputs[0].name)
        if wanted is None or wanted.ndim < 3 or len({*wanted.shape[1:], *made["tf_node"].shape[1:]}) > 1:
            return
        value, wanted = _computed(made["tf_node"], tf_layers_dict, others), np.moveaxis(wanted, 1, -1)
        orders = [(0, *order) for order in permutations(range(1, wanted.ndim))]  # as it is comes first
        order = min(orders, key=lambda each: float(np.abs(value.transpose(each) - wanted).max()))
        if order != orders[0]:
            made["tf_node"] = tf.transpose(made["tf_node"], order)

    make_node._lays_cubes_out = True  # type: ignore[attr-defined]
    return make_node


def _computed(tensor: Any, layers: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Return what a tensor of onnx2tf's is when the model is given what it is tried with."""
    import tf_keras
    from onnx2tf.utils.common_functions import dummy_tf_inference, get_tf_model_inputs

    inputs = get_tf_model_inputs(tf_layers_dict=layers)
    model = tf_keras.Model(inputs=inputs, outputs=[tensor])
    given = {name: settings[name] for name in ("test_data_nhwc", "custom_input_op_name_np_data_path")}
    return next(iter(dummy_tf_inference(model=model, inputs=inputs, **given).values()))


@contextlib.contextmanager
def _no_weights_as_text() -> Iterator[None]:
    """Keep Keras from writing every weight as JSON into each SavedModel: onnx2tf passes weights as arguments of layers.

    That takes ten times as long as all the rest for 8 million weights. The SavedModel needs no configuration, and one
    that is not implemented is left out; an .h5 file needs it.
    """
    from tf_keras.src.engine.functional import Functional

    def refuse(_model: Any) -> dict[str, Any]:
        raise NotImplementedError

    before = Functional.get_config
    Functional.get_config = refuse
    try:
        yield
    finally:
        Functional.get_config = before


if __name__ == "__main__":
    failed = False
    for job in json.loads(Path(sys.argv[1]).read_text()):
        print("\f", flush=True)
        try:
            convert(job["onnx"], job["folder"], job["keras"])
            Path(job["folder"]).with_name("done").touch()
        except (Exception, SystemExit):  # onnx2tf ends the interpreter; the other files can do without this one
            traceback.print_exc()
            failed = True
    sys.exit(failed)
