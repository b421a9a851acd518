"""Rebuild a float ONNX file as a PyTorch module, and hold it against the file in ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, helper
from torch import Tensor, nn

from torchshrink.converters import onnx_file, qdq, runtimes
from torchshrink.converters.rebuild import branches, operators
from torchshrink.converters.rebuild.module import Operation, Rebuilt
from torchshrink.converters.rebuild.node import Node
from torchshrink.converters.rebuild.samples import check_samples, entries
from torchshrink.errors import ModelError, ParityError, ShrinkError, UnsupportedOpError
from torchshrink.model.signature import Inputs, as_tuple, lively, tensors
from torchshrink.quantize.parity import same

_TOLERANCE = 1e-3  # of the largest value that a node gives, from the same inputs
_SMALLEST = 1e-6  # the error of ONNX Runtime's sigmoid, however small its result
_LOOSE = 3e-2  # of the largest output: rounding adds up, and a sigmoid far below zero multiplies it


def from_onnx(path: Path | str, example_input: Inputs | None = None) -> nn.Module:
    """Return a module that computes what a float ONNX file computes, for any number of samples.

    The graph is run once, node by node: what depends on constants and shapes alone becomes a constant, all else a part
    of the module under the node's name (`torchshrink.quantize.prepare_ptq` takes it in ``keep_float``). So settings may
    be attributes, constants or computed, as exporters of opset 9 to 21 write them. Libraries that do the same
    (onnx2torch 1.5.15, onnx2pytorch) know fewer forms and are kept up no longer, hence one row for each operator in
    `rebuild.operators`.

    Args:
        path: The file; its weights may be in a file beside it, or among its inputs.
        example_input: ``[N, C, *size]``, or one for each input. By default noise of the size that the file says; it is
            needed where sizes other than the number of samples are free.

    Raises:
        UnsupportedOpError: When an operator, or a form of one, has no counterpart; naming the node.
        ModelError: When the file is no float ONNX file, a size is free, or samples of a batch are mixed.
        ParityError: When the module computes something else than the file does in ONNX Runtime; naming the node.
    """
    path = Path(path)
    model = onnx_file.load(path)
    if qdq.is_quantized(model):
        raise ModelError(f"{path.name} is quantized already: convert it as it is, without data")
    example = _inputs(model, path.name, example_input)
    rebuilt = build(model, path.name, example)
    _check(rebuilt, model, path.name, example)
    return rebuilt


def build(model: onnx.ModelProto, name: str, example: Sequence[Tensor]) -> Rebuilt:
    """Return the module of a graph, which is run on ``example`` meanwhile; Args and Raises as `from_onnx`."""
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 1)
    values = {key: torch.from_numpy(np.array(array)) for key, array in onnx_file.constants(model).items()}
    known = set(values)
    inputs = [item.name for item in onnx_file.inputs(model)]
    outputs = [item.name for item in model.graph.output]
    values.update(zip(inputs, example, strict=True))
    rebuilt = Rebuilt(inputs, outputs)
    readers = Counter([key for node in model.graph.node for key in branches.read(node)] + outputs)
    nodes = []
    waiting = _with_biases(list(model.graph.node), values, readers)[::-1]
    while waiting:
        nodes.append(proto := waiting.pop())
        given = [values.get(key) if key else None for key in proto.input]
        node = Node(proto, name, opset, given, [not key or key in known for key in proto.input])
        if proto.op_type == "If":
            waiting += branches.chosen(node)[::-1]
            continue
        part, taken, results = _computed(node)
        values.update(zip(proto.output, results, strict=False))
        if node.is_constant or proto.op_type in operators.OF_SHAPES:
            known.update(proto.output)
        else:
            rebuilt.add(proto.name or proto.output[0], str(node), part, taken, proto.output)
    for node in nodes:
        for key in {*node.output} & {*outputs} - values.keys():
            raise UnsupportedOpError(
                f"{name} cannot be quantized as it is: output {key!r} is a result of {node.op_type} that is not "
                "computed here; leave it out of the file"
            )
    fixed = [key for key in outputs if key in known]
    if fixed:
        raise ModelError(f"{name}: output {fixed[0]!r} does not depend on the inputs: leave it out of the file")
    return rebuilt.eval()


@torch.no_grad()
def _computed(node: Node) -> tuple[nn.Module, list[str], Sequence[Tensor]]:
    """Return the part that computes a node, the names of what it takes, and its results for one sample."""
    try:
        function = operators.row(node)
        places = node.operands
        fixed = {order: node.value(place) for order, place in enumerate(places) if node.known[place]}
        is_layer = isinstance(function, nn.Module) and not fixed
        part: Any = function if is_layer else Operation(function, {} if node.is_constant else fixed)
        moving = [place for place in places if node.is_constant or not node.known[place]]
        result = part.eval()(*(node.value(place) for place in moving))
    except ShrinkError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise node.refusal(f"is in a form that PyTorch does not compute ({reason})") from error
    results = result if isinstance(result, tuple | list) else (result,)
    return part, [node.proto.input[place] for place in moving], results


def _with_biases(nodes: list[NodeProto], values: Mapping[str, Tensor], readers: Mapping[str, int]) -> list[NodeProto]:
    """Return nodes in which a product with a constant matrix and the sum after it are one, as int8 kernels have it."""
    sums = {key: node for node in nodes if node.op_type == "Add" for key in node.input}
    for product in [node for node in nodes if node.op_type == "MatMul"]:
        weight, added = values.get(product.input[1]), sums.get(product.output[0])
        if weight is None or weight.dim() != 2 or added is None or readers[product.output[0]] != 1:
            continue
        name = next(key for key in added.input if key != product.output[0])
        bias = values.get(name)
        if bias is None or tuple(bias.shape) != (weight.shape[1],) or not product.input[0]:
            continue
        inputs = [*product.input, name]
        whole = helper.make_node("Gemm", inputs, list(added.output), product.name or product.output[0])
        nodes[nodes.index(added)] = whole
        nodes.remove(product)
    return nodes


def _inputs(model: onnx.ModelProto, name: str, example: Inputs | None) -> tuple[Tensor, ...]:
    """Return as many samples as the file takes at once, one where it takes any number."""
    items = onnx_file.inputs(model)
    if example is not None:
        given = as_tuple(example)
        if len(given) != len(items):
            named = ", ".join(item.name for item in items)
            raise ModelError(f"{name} takes {len(items)} inputs ({named}), not {len(given)}")
        check_samples(model, name)
        counts = [max(1, *(side.dim_value for side in item.type.tensor_type.shape.dim[:1]), 1) for item in items]
        return tuple(lively(value, count)[0] for value, count in zip(given, counts, strict=True))
    entries(model, name)
    return tuple(torch.from_numpy(value) for value in onnx_file.random_inputs(model))


@torch.no_grad()
def _check(rebuilt: Rebuilt, model: onnx.ModelProto, name: str, example: tuple[Tensor, ...]) -> None:
    """Hold a module against its file: each node on what it takes there, and the whole on two batches at once."""
    names = {key for step in rebuilt.steps for key in (*step.inputs, *step.outputs) if key}
    if any(node.op_type == "If" for node in model.graph.node):  # ONNX Runtime gives nothing out of a branch
        names &= {key for node in model.graph.node for key in node.output} | {*rebuilt.inputs}
    values = _in_runtime(model, name, example, names)
    for step in rebuilt.steps:
        for key, value in rebuilt.computed(step, values).items():
            if not _is_close(value, values.setdefault(key, value), _TOLERANCE):
                raise ParityError(
                    f"{name} computes another {key!r} in ONNX Runtime than rebuilt in PyTorch, at {step.node}: export "
                    "the model without that operation"
                )
    other = tuple(_other(value) for value in example)
    wanted = [values, _in_runtime(model, name, other, set())]
    reason = ""
    try:
        together = tensors(rebuilt(*(torch.cat(parts) for parts in zip(example, other, strict=True))))
        targets = [torch.cat([each[key] for each in wanted]) for key in rebuilt.outputs]
        is_apart = all(_is_close(value, target, _LOOSE) for value, target in zip(together, targets, strict=True))
    except (RuntimeError, ValueError, IndexError) as error:
        is_apart, reason = False, f" ({str(error).splitlines()[0][:120]})"
    if not is_apart:
        raise ModelError(
            f"{name} does not treat the samples of a batch one by one{reason}, as quantization needs it: export the "
            "model with a free number of samples, as its first dimension throughout"
        )


def _is_close(found: Tensor, wanted: Tensor, limit: float) -> bool:
    if same(found, wanted, limit):
        return True
    return found.shape == wanted.shape and bool(((found.double() - wanted.double()).abs() <= _SMALLEST).all())


def _other(value: Tensor) -> Tensor:
    return value.flip(-1) * 0.9 if value.is_floating_point() else value


def _in_runtime(model: onnx.ModelProto, name: str, inputs: tuple[Tensor, ...], names: set[str]) -> dict[str, Tensor]:
    """Return the named tensors and the outputs of a graph."""
    try:
        values = runtimes.onnx_values(model, names, [value.numpy() for value in inputs])
    except Exception as error:  # those of ONNX Runtime have no common base but this
        reason = str(error).splitlines()[0][:200]
        raise ModelError(
            f"{name} does not run in ONNX Runtime, so that nothing can be held against it: {reason}"
        ) from error
    return {key: torch.from_numpy(value) for key, value in values.items()}
