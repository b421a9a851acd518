"""From a module to an exported graph: wrappers taken off, blocks written in, nothing random left."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from torchshrink.errors import ModelError
from torchshrink.model.checked import unwrapped, wrapped
from torchshrink.model.plain import computed, leaves, make_plain
from torchshrink.model.signature import Inputs, as_tuple, batch_shapes, first
from torchshrink.quantize import bags, exits, in_place, masks
from torchshrink.quantize.modes import CUMULATIVE, owner, random_operations, refuse_random, remember
from torchshrink.quiet import quiet

# Blocks that torch.export writes as graphs of their own, and where the graph stands among the arguments.
_BLOCKS: dict[Any, int] = {
    torch.ops.higher_order.wrap_with_set_grad_enabled: 1,
    torch.ops.higher_order.wrap_with_autocast: 4,
}


def capture(model: nn.Module, example_input: Inputs) -> GraphModule:
    """Return ``model`` as an exported graph with a free batch size.

    Raises:
        ModelError: When torch.export cannot trace the model.
    """
    # Two samples: torch.export treats a dimension of 1 as a constant.
    sample = first(example_input, 2)
    is_trained = any(module.training for module in model.modules())
    try:
        # Without gradients blocks under inference_mode can be followed, which nothing can be trained behind.
        with quiet(), without_autocast(), torch.set_grad_enabled(is_trained and torch.is_grad_enabled()):
            graph = torch.export.export(model, sample, dynamic_shapes=batch_shapes(model, len(sample))).module()
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ModelError(
            f"{type(model).__name__} cannot be traced by torch.export ({type(error).__name__}: {reason}); "
            f"{_advice(str(error), model, sample)}"
        ) from error
    _inline(graph, model)
    bags.spell_out(graph)
    in_place.spell_out(graph)
    masks.drop_idle(graph, sample)
    return graph


def capture_calm(model: nn.Module, example_input: Inputs) -> GraphModule:
    """Return ``model`` as `capture` does, with every layer in evaluation that draws random numbers in training only.

    Dropout stays, which a graph can switch off; stochastic depth and the like are branches of the module's own code,
    and are out of the graph for good. The mode of such layers is changed in place.

    Raises:
        ModelError: When a layer draws them in evaluation as well.
    """
    _mark_cumulative(model)
    graph = capture(model, example_input)
    while random := [node for node in random_operations(graph) if model.get_submodule(owner(node)).training]:
        for node in random:
            model.get_submodule(owner(node)).training = False
        graph = capture(model, example_input)
    if random_operations(graph) or not any(module.training for module in model.modules()):
        refuse_random(graph, model)
    remember(graph)
    exits.mark(graph)
    return graph


def plain_copy(model: nn.Module) -> nn.Module:
    """Return a copy in float32 without wrappers, and with plain weights.

    Taken off is what wraps the model or parts of it (DataParallel, torch.compile). Weights that are computed from
    others (weight_norm, spectral_norm, any parametrization), or shortened when they are read (an embedding's
    ``max_norm``), become what they are now.

    Raises:
        ModelError: When it is TorchScript, which has no modules to trace.
    """
    scripted = next((m for m in model.modules() if isinstance(m, torch.jit.ScriptModule)), None)
    if scripted is not None:
        raise ModelError(f"{type(model).__name__} is TorchScript: give the module from which it was scripted or traced")
    memo = leaves(model)
    for module in reversed(list(model.modules())):  # the innermost first
        if (inner := wrapped(module)) is not None:
            memo[id(module)] = copy.deepcopy(inner, memo)
    plain: nn.Module = copy.deepcopy(model, memo)
    for module in plain.modules():
        module._compiled_call_impl = None
    with torch.no_grad():
        modes = {module: module.training for module in plain.modules()}
        make_plain(plain.eval(), computed(plain))
        _shorten(plain)
        for module, is_training in modes.items():
            module.training = is_training
    return _in_float32(plain)


@contextmanager
def without_autocast() -> Iterator[None]:
    """Let blocks under autocast compute in float32, as a graph does: ONNX Runtime has no kernels for bfloat16."""
    enter: Any = torch.autocast.__enter__

    def enter_off(block: torch.autocast) -> Any:
        is_on, block._enabled = block._enabled, False
        try:
            return enter(block)
        finally:
            block._enabled = is_on

    torch.autocast.__enter__ = enter_off  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__enter__ = enter  # type: ignore[method-assign]


def in_float32(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return inputs of half or double precision in float32; integers stay."""
    return tuple(value.float() if value.is_floating_point() else value for value in as_tuple(inputs))


def set_mode(model: nn.Module, is_training: bool) -> None:
    """Switch a model to evaluation, or to training but for what its owner froze, in place.

    Frozen are BatchNorms whose parameters are not to be trained, and what the model's own ``train`` leaves in
    evaluation; a model that is in training already also keeps in evaluation what is in it.
    """
    was_training = model.training
    still = [module for module in model.modules() if not module.training]
    model.train(is_training)
    if is_training and was_training:
        for module in still:
            module.training = False
        return
    for module in model.modules():
        parameters = list(module.parameters(recurse=False))
        is_frozen = parameters and not any(value.requires_grad for value in parameters)
        if is_frozen and isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()


def calm_own_code(model: nn.Module) -> bool:
    """Switch modules that are not PyTorch's own to evaluation, in place, and return whether any was in training.

    So are branches on ``self.training`` in a user's forward: layers that are left out at random, outputs that training
    alone has. The norms and dropouts among and inside of them keep their mode.
    """
    found = [module for module in model.modules() if module.training and not _is_torchs(module)]
    for module in found:
        module.training = False
    return bool(found)


def _is_torchs(module: nn.Module) -> bool:
    known = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    return type(module).__module__.startswith("torch.nn.") or isinstance(module, known)


def _mark_cumulative(model: nn.Module) -> None:
    """Let norms whose momentum is None be traced, which compute it from a counter."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is None:
            module.momentum = CUMULATIVE


def plain_names(model: nn.Module, names: Any) -> list[str]:
    """Return names of modules as they are once the wrappers are off."""
    found = []
    for name in names:
        parts, module = [], unwrapped(model)
        steps = name.split(".")
        if module is not model and steps[0] in ("module", "_orig_mod"):
            steps = steps[1:]
        for step in steps:
            child = module._modules.get(step) if isinstance(module, nn.Module) else None
            if step in ("module", "_orig_mod") and child is None:
                continue
            parts.append(step)
            module = unwrapped(child) if child is not None else module
        found.append(".".join(parts))
    return found


def _shorten(model: nn.Module) -> None:
    """Shorten what embeddings would when they are read."""
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            module.weight.copy_(torch.renorm(module.weight, module.norm_type, 0, module.max_norm))
            module.max_norm = None


def _in_float32(model: nn.Module) -> nn.Module:
    kinds = {value.dtype for value in model.parameters() if value.is_floating_point()}
    return model if kinds <= {torch.float32} else model.float()


def _advice(reason: str, model: nn.Module, sample: tuple[Tensor, ...]) -> str:
    try:
        with torch.no_grad():
            copy.deepcopy(model)(*sample)
    except Exception:
        reason = "batch"
    if "data-dependent" in reason or "data dependent" in reason.lower():
        return "its forward must not branch on the values of tensors"
    if "Constraints violated" in reason or "batch" in reason:
        return "its forward must take any number of samples: no shape with a fixed first size, no len(x) in it"
    return "replace in its forward what torch.export does not take"


def _inline(graph: GraphModule, model: nn.Module) -> None:
    """Write the operations of blocks under ``no_grad`` and ``autocast`` into the graph around them, in place.

    All is computed in float32; weights that a block without gradients uses alone are not trained.
    """
    for node in list(graph.graph.nodes):
        if node.target in _BLOCKS:
            _write_in(graph, node, model)
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_tensor_metadata.default):
        graph.graph.erase_node(node)  # of types that a block had
    for node in graph.graph.nodes:
        if node.op == "get_attr" and node.users and isinstance(_attribute(graph, node), GraphModule):
            user = next(iter(node.users))
            raise ModelError(
                f"{type(model.get_submodule(owner(user))).__name__} calls {user.target}, whose branches are graphs of "
                "their own: a quantized graph cannot hold them, so take one branch in the model"
            )


def _write_in(graph: GraphModule, node: Node, model: nn.Module) -> None:
    place = _BLOCKS[node.target]
    inner: Any = _attribute(graph, node.args[place])
    _inline(inner, model)
    operands = node.args[place + 1 :]
    if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled and node.args[0] is False:
        _freeze(graph, [operand for operand in operands if isinstance(operand, Node) and len(operand.users) == 1])
    known = dict(zip(inner.graph.find_nodes(op="placeholder"), operands, strict=True))
    with graph.graph.inserting_before(node):
        for part in inner.graph.nodes:
            if part.op == "get_attr":
                value = _attribute(inner, part)
                if not isinstance(value, Tensor):
                    continue
                name = f"_{node.name}_{part.name}"
                graph.register_buffer(name, value)
                known[part] = graph.graph.get_attr(name)
                known[part].meta = dict(part.meta)
            elif part.op not in ("placeholder", "output"):
                known[part] = graph.graph.node_copy(part, lambda of: known[of])
    results = inner.graph.output_node().args[0]
    for user in list(node.users):
        assert user.target is operator.getitem
        user.replace_all_uses_with(known[results[user.args[1]]])
        graph.graph.erase_node(user)
    graph.graph.erase_node(node)


def _freeze(graph: GraphModule, nodes: list[Node]) -> None:
    for node in nodes:
        if node.op == "get_attr" and isinstance(value := _attribute(graph, node), nn.Parameter):
            module, _, name = str(node.target).rpartition(".")
            setattr(graph.get_submodule(module), name, nn.Parameter(value.detach(), requires_grad=False))


def _attribute(graph: GraphModule, node: Any) -> Any:
    return operator.attrgetter(str(node.target))(graph)
