"""Find which channels of a model stand and fall together."""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchshrink.errors import ModelError, RecipeError
from torchshrink.prune import blocks
from torchshrink.prune.blocks import Block
from torchshrink.prune.layers import PRUNABLE, check_plain, prunable_layers
from torchshrink.prune.proof import Inputs
from torchshrink.prune.surgery import Cut, is_cuttable

_MOST_WAYS, _MOST_INDICES = 20_000, 1_000_000  # from one layer on


@dataclass(frozen=True)
class Group:
    """Channels of several layers that stand and fall together.

    Attributes:
        items: Torch-Pruning's: which channels of which layer belong to which of the root's, the root first.
        size: Channels of the root.
        folds: Parts of the root in which the same channels must go (grouped convolutions and normalisations).
    """

    items: Any
    size: int
    folds: int
    width: ClassVar[int] = 1
    is_attention: ClassVar[bool] = False


class Traced:
    """A copy of a model with its groups of channels, and its blocks of heads and gated channels.

    Channels stay, in no group, when the outputs consist of them, when they are added to an input, and when what lies
    between the layers takes them apart or mixes them.

    Attributes:
        model: The copy.
        groups: What can lose channels or heads.
        stays: Attention whose heads cannot be removed, by name, with the reason.

    Raises:
        RecipeError: When ``model`` is masked, weights are computed from others, or ``ignore`` fits no layer.
        ModelError: When it cannot be traced.
    """

    def __init__(self, model: nn.Module, example_input: Inputs, ignore: Sequence[str]) -> None:
        import torch_pruning

        name = type(model).__name__
        for module in model.modules():
            if hasattr(module, "weight_mask"):
                raise RecipeError(f"{name} is masked: make its pruning permanent first, torchshrink.prune.remove")
        layers = prunable_layers(model)
        check_plain(layers)
        kept = set(layers) - set(prunable_layers(model, ignore))
        self._ops = torch_pruning.ops.OPTYPE
        self._graph = torch_pruning.DependencyGraph()
        try:
            self.model = copy.deepcopy(model).eval()
            ignored = {self.model.get_submodule(layer) for layer in kept}
            found = self._find(example_input, ignored)
        except Exception as error:  # whatever the model or the tracing of it does
            raise ModelError(f"{name} cannot be traced for channel pruning: {type(error).__name__}: {error}") from error
        more, self.stays = blocks.find(model, example_input, kept, self._members(found, reads=True))
        heads = {maker for block in more for maker in block.makers}  # what they make is no matter of single channels
        found = [group for group in found if heads.isdisjoint(self._members([group], reads=False))]
        self.groups: list[Group | Block] = [*found, *more]

    def _members(self, groups: Sequence[Group], *, reads: bool) -> set[str]:
        """Return the layers that only read the channels of some groups, or those that make them and pass them on."""
        deps = (dep for group in groups for dep, _ in group.items if _reads(dep) == reads)
        return {self._names[dep.target.module] for dep in deps if dep.target.module in self._names}

    def cuts(self, chosen: Sequence[Sequence[int]]) -> dict[str, Cut]:
        """Return what every layer loses when those channels of each group's root go, by its name."""
        found: dict[str, Cut] = {}
        for group, indices in zip(self.groups, chosen, strict=True):
            if isinstance(group, Block):
                for name, cut in group.cuts(set(indices), self.model).items():
                    found.setdefault(name, Cut(cut.axis)).add(cut)
                continue
            root = group.items[0].dep.target.module
            for dep, lost in self._together(root, indices) if indices else ():
                module = dep.target.module
                if module in self._names:  # not an operation
                    cut = found.setdefault(self._names[module], Cut(dep.target.pruning_dim))
                    (cut.into if _reads(dep) else cut.out).update(lost)
        return found

    def root(self, group: Group | Block) -> str:
        """Return the name of the layer whose channels number a group's, or of what counts a block's heads."""
        if isinstance(group, Block):
            return group.name
        return self._names[group.items[0].dep.target.module]

    def _find(self, example_input: Inputs, ignored: set[nn.Module]) -> list[Group]:
        inputs = example_input if isinstance(example_input, tuple) else (example_input,)
        for parameter in self.model.parameters():  # tracing follows gradients
            parameter.requires_grad_(parameter.is_floating_point())
        enclosed = _Enclosed(self.model, inputs).eval()
        self._entries = set(enclosed.entries)
        hooks = [module.register_forward_hook(_skip_inside) for module in self.model.modules() if is_cuttable(module)]
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            with _uncounted_reshapes():
                self._graph.build_dependency(enclosed, inputs, lambda module, values: module(*values), verbose=False)
            for hook in hooks:
                hook.remove()
            named: Iterator[tuple[str, Any]] = iter([*self.model.named_modules(), *self.model.named_parameters()])
            self._names = {value: name for name, value in named}
            layers = [module for module in self._graph.module2node if isinstance(module, PRUNABLE)]
            known = (self._graph.get_in_channels, self._graph.get_out_channels)
            self._widest = max((count(module) for module in layers for count in known), default=0)
            for node in self._graph.module2node.values():
                if node.type == self._ops.SLICE and _keeps_channels(node.grad_fn):  # it would shift channels instead
                    node.module.start, node.module.step, node.module.end = 0, 1, sys.maxsize
            groups = [self._group(items) for items in self._candidates(ignored)]
        return [group for group in groups if group is not None]

    def _candidates(self, ignored: set[nn.Module]) -> Iterator[Any]:
        """Yield all channels that go together, unless an ignored layer makes some of them."""
        seen: set[nn.Module] = set()
        for module in list(self._graph.module2node):
            if isinstance(module, PRUNABLE) and module not in seen:
                size = self._graph.get_out_channels(module)
                items: Any = []
                try:
                    items = self._together(module, range(size)) if size > 1 else []
                except _EndlessError as error:  # and so from whatever it led to
                    seen |= error.makers
                except IndexError:  # into what has no channels, such as the gates of a recurrent layer
                    pass
                makers = {item.dep.target.module for item in items if not _reads(item.dep)}
                seen |= makers
                if items and not makers & ignored:
                    yield items

    def _together(self, root: nn.Module, indices: Sequence[int]) -> Any:
        """Return what else must go when a layer makes some channels no more."""
        remove = self._graph.get_pruner_of_module(root).prune_out_channels
        with _uncounted_reshapes(), _looked_up(self._widest):
            items = self._graph.get_pruning_group(root, remove, list(indices)).items
        return [item for item in items if not self._is_broadcast(item.dep)]

    def _group(self, items: Any) -> Group | None:
        """Return a group, or nothing when its channels must stay."""
        size = len(items[0].idxs)
        if not all(self._is_cuttable(dep, indices) for dep, indices in items) or self._is_coupled(items):
            return None
        folds = math.lcm(*(self._parts(dep) for dep, _ in items))
        return Group(items, size, folds) if size % folds == 0 else None

    def _is_cuttable(self, dep: Any, indices: list[int]) -> bool:
        """Whether one layer can lose channels, or one operation between layers keeps them apart and in order."""
        module, kind = dep.target.module, dep.target.type
        if module in self._entries or kind in (self._ops.OUTPUT, self._ops.SPLIT, self._ops.UNBIND):
            return False
        if kind in (self._ops.SLICE, self._ops.RESHAPE):
            return _keeps_channels(dep.target.grad_fn)
        if module not in self._names:
            return True  # element by element, or a concatenation
        if not is_cuttable(module):
            return False
        channels = self._channels(dep)
        is_part = isinstance(module, PRUNABLE) and self._parts(dep) > 1 and len(indices) < channels
        return channels is None or (max(indices) < channels and not is_part)

    def _is_broadcast(self, dep: Any) -> bool:
        """Whether a layer makes one channel, which several others are added to or multiplied with."""
        return not _reads(dep) and dep.target.module in self._names and self._channels(dep) == 1

    def _is_coupled(self, items: Any) -> bool:
        """Whether some of the root's channels bring others of the root's with them: halves, added to each other."""
        if all(mapping is None for dep, _ in items for mapping in dep.index_mapping):
            return False
        size = len(items[0].idxs)
        for bit in range((size - 1).bit_length()):  # any two channels differ in one
            part = [index for index in range(size) if not index >> bit & 1]
            if len(self._together(items[0].dep.target.module, part)[0].idxs) > len(part):
                return True
        return False

    def _channels(self, dep: Any) -> Any:
        known = self._graph.get_in_channels if _reads(dep) else self._graph.get_out_channels
        return known(dep.target)

    def _parts(self, dep: Any) -> int:
        if dep.target.type == self._ops.DEPTHWISE_CONV:
            return 1
        pruner = self._graph.get_pruner_of_module(dep.target.module)
        parts = pruner.get_in_channel_groups if _reads(dep) else pruner.get_out_channel_groups
        return int(parts(dep.target.module))


class _Enclosed(nn.Module):
    """A model between layers that stand for its inputs and operations that stand for its outputs.

    Torch-Pruning sees neither an input that is added or concatenated to, nor a layer whose result is an output.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.model = model
        self.entries = nn.ModuleList(
            _Entry(value.shape[1], device=value.device, dtype=value.dtype)
            if value.is_floating_point() and value.dim() > 1
            else nn.Identity()
            for value in inputs
        )

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        outputs = self.model(*(entry(value) for entry, value in zip(self.entries, inputs, strict=True)))
        return [output * 1 for output in tree_leaves(outputs) if isinstance(output, Tensor) and output.requires_grad]


class _Entry(nn.modules.batchnorm._BatchNorm):
    """A layer with a number of channels, for inputs of any shape."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  # PyTorch's name
        pass


def _skip_inside(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """Hide the operations inside of a layer, such as the reshaping of an instance normalisation."""
    return output.detach() + 0 * inputs[0].sum() if inputs and inputs[0].is_floating_point() else output


@contextlib.contextmanager
def _uncounted_reshapes() -> Iterator[None]:
    """Let Torch-Pruning pass by reshapings behind which it counts no channels, such as shuffles: it divides by them.

    Channels that come through one stay anyway, see `_keeps_channels`.
    """
    from torch_pruning.dependency import index_mapping

    update = index_mapping.update_reshape_index_mapping

    def tolerant(*given: Any) -> None:
        with contextlib.suppress(ZeroDivisionError):
            update(*given)

    index_mapping.update_reshape_index_mapping = tolerant
    try:
        yield
    finally:
        index_mapping.update_reshape_index_mapping = update


class _EndlessError(IndexError):
    """There is no end to what else goes; ``makers`` are layers that were met until then."""

    def __init__(self, makers: set[Any]) -> None:
        super().__init__("more than can be followed")
        self.makers = makers


@contextlib.contextmanager
def _looked_up(widest: int) -> Iterator[None]:
    """Let Torch-Pruning look up whether a group has a layer's channels, which it asks for every way that leads there.

    It compares them with those of all layers so far: minutes where parts of channels are added. Where each block adds
    others, as in ReXNet, there is no end to the ways; where attention reshapes, there are more indices after each turn
    than the widest layer has channels. Such channels stay.
    """
    from torch_pruning.dependency.group import Group as Found

    add, has = Found.add_dep, Found.has_pruning_op

    def key(dep: Any, indices: Any) -> tuple[Any, ...]:
        return dep.target, dep.handler, tuple(indices)

    def add_dep(self: Any, dep: Any, idxs: Any) -> None:
        found = vars(self)
        found["indices"] = found.get("indices", 0) + len(idxs)
        if len(self) >= _MOST_WAYS or len(idxs) > widest or found["indices"] > _MOST_INDICES:
            raise _EndlessError({each.target.module for each, _ in self.items if not _reads(each)})
        add(self, dep, idxs)
        found.setdefault("known", set()).add(key(dep, idxs))

    Found.add_dep = add_dep
    Found.has_pruning_op = lambda self, dep, idxs: key(dep, idxs) in vars(self).get("known", ())
    try:
        yield
    finally:
        Found.add_dep, Found.has_pruning_op = add, has


def _reads(dep: Any) -> bool:
    """Whether a layer only reads the channels; normalisations and depthwise convolutions also pass them on."""
    return bool(dep.handler.__name__ == "prune_in_channels")


def _keeps_channels(operation: Any) -> bool:
    """Whether a reshaping or slicing leaves samples and channels as they are, or flattens all but the samples."""
    before, after = tuple(getattr(operation, "_saved_self_sym_sizes", ())), tuple(operation._input_metadata[0].shape)
    is_flattening = "View" in operation.name() and len(after) == 2 and before[:1] == after[:1]
    return len(before) > 1 and (before[:2] == after[:2] or is_flattening)
