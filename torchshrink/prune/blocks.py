"""Find heads of attention, and channels of gated layers: what one layer reads, and others make in several places."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from torchshrink.model.attention import FewerHeads
from torchshrink.prune.layers import PRUNABLE
from torchshrink.prune.proof import MIXING, Inputs, problem
from torchshrink.prune.surgery import Cut, is_cuttable

_MOST_TRIALS = 12  # of which attributes say how many heads there are
_OWN = (nn.MultiheadAttention, FewerHeads)
_Counts = dict[tuple[str, str], int]
_MULTIPLYING = (
    F.linear, torch.conv1d, torch.conv2d, torch.conv_transpose1d, torch.conv_transpose2d,
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Which entries of a parameter or buffer, along an axis, belong to each unit of a block."""

    axis: int
    units: tuple[int, ...]

    def of(self, chosen: Collection[int]) -> set[int]:
        """Return the entries of some units."""
        return {index for index, unit in enumerate(self.units) if unit in chosen}


@dataclass(frozen=True)
class Block:
    """Heads of one attention, or channels that several rows of one layer make together.

    Attributes:
        name: Of the module that counts the heads, or of the layer that makes the channels.
        size: How many units, heads or channels, there are.
        reader: The layer that reads them all.
        width: How many inputs of the reader one unit is.
        places: What makes the units, by the names of parameters and buffers.
        counts: Attributes that say how many there are, by module and name, and what they say of one unit.
    """

    name: str
    size: int
    reader: str
    width: int
    places: Mapping[str, Place]
    counts: Mapping[tuple[str, str], int]
    folds: ClassVar[int] = 1

    @property
    def is_attention(self) -> bool:
        """Whether its units are heads."""
        return self.width > 1

    @property
    def makers(self) -> set[str]:
        """The layers and modules whose parameters make the units."""
        return {key.rpartition(".")[0] for key in self.places}

    @property
    def inputs(self) -> Place:
        """Which inputs of the reader belong to each unit."""
        return Place(1, tuple(index // self.width for index in range(self.size * self.width)))

    def cuts(self, chosen: Collection[int], model: nn.Module) -> dict[str, Cut]:
        """Return what layers, parameters and modules of ``model`` lose when some units go, by their names."""
        found = {self.reader: Cut(into=self.inputs.of(chosen))} if chosen else {}
        for key, place in self.places.items() if chosen else ():
            owner = key.rpartition(".")[0]
            name = owner if is_cuttable(model.get_submodule(owner)) else key
            found.setdefault(name, Cut(place.axis)).out.update(place.of(chosen))
        for (module, attribute), amount in self.counts.items() if chosen else ():
            found.setdefault(module, Cut()).sizes[attribute] = amount * (self.size - len(chosen))
        return found


def find(
    model: nn.Module, example_input: Inputs, kept: Collection[str], known: Collection[str]
) -> tuple[list[Block], dict[str, str]]:
    """Return the blocks that can lose units, and the attention that cannot, by name, with the reason.

    The gradients of what a layer reads say what made it. A block is where a layer's inputs fall into parts, one input
    or one head each, that entries of other layers' parameters make for one part alone and for no other layer. That
    ``model`` computes without one what it does when nothing reads it is tried.

    Args:
        model: What would lose them; its weights are plain.
        example_input: As in `torchshrink.prune.channels`.
        kept: Layers that keep their channels.
        known: Layers whose inputs are thought to be channels that can be cut; heads among them are found all the same.
    """
    found: list[Block] = []
    stays: dict[str, str] = {}
    with torch.random.fork_rng(devices=[]):
        for variants in [*_own(model), *_traced(model, example_input, known)]:
            if _is_kept(variants[0], kept):
                continue
            block, reason = _first_that_works(model, variants, example_input)
            if block is None and variants[0].is_attention:
                stays[variants[0].name] = reason
            elif block is not None:
                is_taken = any(block.name == other.name for other in found)
                found.append(replace(block, name=block.reader) if is_taken else block)
    return found, stays


def _first_that_works(model: nn.Module, variants: Sequence[Block], example_input: Inputs) -> tuple[Block | None, str]:
    """Return the first variant without whose last unit the model computes the same; else what is wrong with the first.

    Several variants are one size of unit with this or that attribute, and larger units after that.
    """
    reasons = []
    for block in variants:
        reason = problem(model, block.cuts([block.size - 1], model), example_input)
        if reason is None:
            return block, ""
        reasons.append(reason)
    return None, reasons[0]


def _is_kept(block: Block, kept: Collection[str]) -> bool:
    return not {block.reader, *block.makers}.isdisjoint(kept)


def _own(model: nn.Module) -> Iterator[list[Block]]:
    """Yield what PyTorch's own attention is made of."""
    for name, module in model.named_modules():
        is_plain = type(module) in _OWN and module.bias_k is None and not module.add_zero_attn
        if is_plain and module.num_heads > 1:
            places = {}
            for key, value in module.named_parameters(recurse=False):
                rows, width = len(value), module.head_dim
                units = tuple(row // width % module.num_heads for row in range(rows))
                places[_joined(name, key)] = Place(0, units)
            counts = {(name, "num_heads"): 1}
            yield [Block(name, module.num_heads, _joined(name, "out_proj"), module.head_dim, places, counts)]


def _traced(model: nn.Module, example_input: Inputs, known: Collection[str]) -> Iterator[list[Block]]:
    """Yield blocks that gradients show, each in the variants that are to be tried, the likeliest first."""
    try:
        read = _Read(model, example_input)
    except Exception:  # whatever the model does when gradients are to be followed: then nothing is found
        return
    for name in read.readers:
        alone, *parts = read.sizes(name)
        if name not in known:
            parts = [alone, *parts]
        elif parts and read.places(name, alone) is not None:  # channel by channel they are known already
            parts = []
        variants = [
            variant
            for size in parts
            if (places := read.places(name, size)) is not None
            for variant in _variants(read.model, name, size, read.width(name) // size, places)
        ]
        if variants:
            yield variants


class _Reading(TorchFunctionMode):
    """Note what is multiplied with weights, by the layers' names, and let gradients end there."""

    def __init__(self, values: Mapping[str, Tensor], inputs: dict[str, list[Tensor]]) -> None:
        super().__init__()
        self._names = {id(value): name.rpartition(".")[0] for name, value in values.items()}
        self._inputs = inputs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch; those of layers read what no gradient follows further."""
        given = dict(kwargs or {})
        if func in _MULTIPLYING:
            given |= zip(("input", "weight"), args, strict=False)
            name = self._names.get(id(given["weight"]))
            if name is not None:
                self._inputs.setdefault(name, []).append(given["input"].clone())  # what follows may change it in place
                given["input"] = given["input"].detach()
            return func(given.pop("input"), given.pop("weight"), *args[2:], **given)
        return func(*args, **given)


class _Read:
    """What the layers of a model read, and how it comes from parameters and buffers that no layer lies between."""

    def __init__(self, model: nn.Module, example_input: Inputs) -> None:
        self.model = copy.deepcopy(model).eval()
        self._values = dict(_followed(self.model))
        self._inputs: dict[str, list[Tensor]] = {}
        for value in self._values.values():
            value.requires_grad_()
        for module in self.model.modules():
            if isinstance(module, MIXING):
                module.register_forward_hook(_only_scaled)
        inputs = example_input if isinstance(example_input, tuple) else (example_input,)
        with torch.enable_grad(), _Reading(self._values, self._inputs):
            outputs = [output for output in tree_leaves(self.model(*inputs)) if isinstance(output, Tensor)]
        self.readers = {name: self._reached(values) for name, values in self._inputs.items()}
        self._shared = self._reached(outputs)
        seen: set[str] = set()
        for reached in self.readers.values():
            self._shared |= seen & reached
            seen |= reached

    def width(self, reader: str) -> int:
        """Return how many channels a layer reads."""
        return self._inputs[reader][0].shape[self._axis(reader)]

    def sizes(self, reader: str) -> list[int]:
        """Return into how many parts a layer's inputs may fall, the most first: each alone, or what modules count."""
        width = self.width(reader)
        owners = {reader, *(key.rpartition(".")[0] for key in self.readers[reader] - self._shared)}
        counted = {
            size
            for name, module in self.model.named_modules()
            if any(_is_within(owner, name) for owner in owners)
            for attribute, value in _numbers(module)
            if "head" in attribute.lower()
            for size in (value, width // value)
        }
        return [width, *sorted((size for size in counted if 1 < size < width and width % size == 0), reverse=True)]

    def places(self, reader: str, size: int) -> dict[str, Place] | None:
        """Return what makes ``size`` parts of a layer's inputs, or nothing when some of it makes several of them."""
        keys = sorted(key for key in self.readers[reader] if not self._is_bias(key))
        own = set(keys) - self._shared
        if not any(self._is_weight(key) for key in own) or _is_grouped(self.model.get_submodule(reader)):
            return None
        reached = self._reached_by_bit(reader, size, keys)
        found = {key: _place(values, size) for key, values in zip(keys, reached, strict=True)}
        for key, place in found.items():
            if place is None and (key in own and self._is_weight(key)):
                return None
            if place is not None and not (key in own and place.units and self._is_cut_at(key, place.axis)):
                return None
        return {key: place for key, place in found.items() if place is not None}

    def owner(self, key: str) -> nn.Module:
        """Return the module that a parameter or buffer belongs to."""
        return self.model.get_submodule(key.rpartition(".")[0])

    def _is_weight(self, key: str) -> bool:
        return isinstance(self.owner(key), PRUNABLE) and self._values[key].dim() > 1

    def _is_bias(self, key: str) -> bool:
        """Whether a layer's weight says what this makes, which a softmax or an activation that is off may hide."""
        return key.endswith(".bias") and is_cuttable(self.owner(key)) and f"{key[:-4]}weight" in self._values

    def _is_cut_at(self, key: str, axis: int) -> bool:
        """Whether channels are taken out of a layer's parameter along that axis; any will do for one of no layer."""
        owner = self.owner(key)
        if _is_grouped(owner):  # its inputs would have to go as well
            return False
        is_second = self._values[key].dim() > 1 and isinstance(owner, _ConvTransposeNd | nn.Embedding)
        return not is_cuttable(owner) or axis == int(is_second)

    def _axis(self, reader: str) -> int:
        return 1 if isinstance(self.model.get_submodule(reader), _ConvNd) else -1

    def _reached(self, values: Sequence[Tensor]) -> set[str]:
        """Return the names of what tensors are computed from."""
        values = [value for value in values if value.requires_grad]
        if not values:
            return set()
        total = torch.stack([(value * _noise(value)).sum() for value in values]).sum()
        gradients = torch.autograd.grad(total, list(self._values.values()), retain_graph=True, allow_unused=True)
        return {name for name, gradient in zip(self._values, gradients, strict=True) if gradient is not None}

    def _reached_by_bit(self, reader: str, size: int, keys: Sequence[str]) -> list[list[tuple[Tensor, Tensor]]]:
        """Return for each tensor, and each bit of a part's number, what entries reach parts without and with it."""
        values, axis = self._inputs[reader], self._axis(reader)
        noise = [value * _noise(value) for value in values]
        part = torch.arange(self.width(reader), device=values[0].device) * size // self.width(reader)
        found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in keys]
        for bit in range((size - 1).bit_length()):
            sides = []
            for side in (0, 1):
                mask = (part >> bit & 1) == side
                total = torch.stack([value.transpose(axis, -1)[..., mask].sum() for value in noise]).sum()
                tensors = [self._values[key] for key in keys]
                gradients = torch.autograd.grad(total, tensors, retain_graph=True, materialize_grads=True)
                sides.append([gradient != 0 for gradient in gradients])
            for index, pair in enumerate(zip(*sides, strict=True)):
                found[index].append(pair)
        return found


def _place(reached: Sequence[tuple[Tensor, Tensor]], size: int) -> Place | None:
    """Return which entries reach one part alone, along the first axis where they do; nothing where none do.

    The place has no entries when they do so in no order that could be kept without some. Entries behind an activation
    that is off reach nothing; half of them say what the others do.
    """
    for axis in range(reached[0][0].dim()):
        others = [other for other in range(reached[0][0].dim()) if other != axis]
        pairs = [[side.any(others) if others else side for side in pair] for pair in reached]
        if any(bool((without & with_).any()) for without, with_ in pairs):
            continue
        seen = torch.stack([without | with_ for without, with_ in pairs]).all(0)
        unit = torch.stack([with_.long() << bit for bit, (_, with_) in enumerate(pairs)]).sum(0)
        if 2 * int(seen.sum()) >= len(seen):
            return Place(axis, _layout(unit, seen, size))
    return None


def _layout(unit: Tensor, seen: Tensor, size: int) -> tuple[int, ...]:
    """Return the unit of every entry, as those that were seen say: the units in turns, equally many entries each."""
    index, each = torch.arange(len(unit), device=unit.device), len(unit) // size
    for run in (run for run in range(1, each + 1) if each % run == 0 and len(unit) == each * size):
        units = index // run % size
        if bool((units == unit)[seen].all()):
            return tuple(units.tolist())
    return ()


def _variants(model: nn.Module, reader: str, size: int, width: int, places: Mapping[str, Place]) -> Iterator[Block]:
    """Yield a block with this or that said by attributes of its modules, the likeliest first."""
    owners = [reader, *(key.rpartition(".")[0] for key in places)]
    layers = [owner for owner in owners if is_cuttable(model.get_submodule(owner))]
    shared = _common([owner.rpartition(".")[0] if owner in layers else owner for owner in owners])
    around = {
        name: module
        for name, module in model.named_modules()
        if name not in layers and _is_within(name, shared) and any(_is_within(owner, name) for owner in owners)
    }

    def contents(name: str) -> tuple[int, int]:
        return sum(_is_within(owner, name) for owner in owners), len(name)

    counting, lengths, other = _counts(around, size, {size * width, *(len(place.units) for place in places.values())})
    maker = next(owner for owner in owners[1:] if isinstance(model.get_submodule(owner), PRUNABLE))
    name = max((name for name, _ in counting), key=contents, default=shared) if width > 1 else maker
    plain = counting | lengths
    alone = [{key: value} for key, value in other.items()]
    tried: list[_Counts] = []
    for counts in [plain, *(plain | each for each in alone), plain | other, counting, {}, *alone]:
        if counts not in tried and len(tried) < _MOST_TRIALS:
            tried.append(counts)
            yield Block(name, size, reader, width, places, counts)


def _counts(modules: Mapping[str, nn.Module], size: int, lengths: Collection[int]) -> tuple[_Counts, _Counts, _Counts]:
    """Return what attributes say of one of ``size`` units: those that count heads, their channels, and maybe either."""
    counting, channels, other = _Counts(), _Counts(), _Counts()
    for name, module in modules.items():
        for attribute, value in _numbers(module):
            is_named = any(word in attribute.lower() for word in ("head", "attn", "inner"))
            if value % size or value < size or not (is_named or value in lengths):
                continue
            is_count = value == size and "head" in attribute.lower()
            kind = counting if is_count else channels if is_named and value in lengths else other
            kind[name, attribute] = value // size
    return counting, channels, other


def _followed(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what gradients are followed to: parameters, and buffers that are no statistics."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            yield name, parameter
    for name, buffer in model.named_buffers():
        owner = model.get_submodule(name.rpartition(".")[0])
        if buffer.is_floating_point() and not isinstance(owner, _NormBase):
            yield name, buffer


def _only_scaled(module: Any, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
    """Leave of a normalisation what it does to each channel alone."""
    weight = getattr(module, "weight", None)
    return inputs[0] * weight if isinstance(weight, Tensor) and not isinstance(module, nn.GroupNorm) else inputs[0]


def _noise(like: Tensor) -> Tensor:
    return torch.randn(like.shape).to(like)


def _is_grouped(module: Any) -> bool:
    return isinstance(module, _ConvNd) and module.groups > 1


def _numbers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the whole numbers that a module calls by a name."""
    for name, value in vars(module).items():
        if isinstance(value, int) and not isinstance(value, bool) and value > 1 and not name.startswith("_"):
            yield name, value


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _is_within(name: str, outer: str) -> bool:
    return not outer or name == outer or name.startswith(f"{outer}.")


def _common(names: Sequence[str]) -> str:
    """Return the innermost module that all of these are in."""
    paths = [name.split(".") for name in names]
    shared = []
    for steps in zip(*paths, strict=False):
        if len(set(steps)) > 1:
            break
        shared.append(steps[0])
    return ".".join(shared)
