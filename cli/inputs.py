"""What commands take: models, data, recipes, shapes, and places to write to."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from torchshrink.errors import DataError, ModelError, OutputError
from torchshrink.parallel.launch import is_main

if TYPE_CHECKING:
    from torch import Tensor, nn

    from torchshrink.pipeline.recipe import Recipe
    from torchshrink.task import Task


def check_output(
    path: Path, overwrite: bool, endings: tuple[str, ...], option: str = "--out", sources: Sequence[Path | None] = ()
) -> None:
    """Refuse a name that says another format, a folder that cannot be written, and to replace what nobody said to."""
    if path.suffix.lower() not in endings:
        raise typer.BadParameter(f"{path}: expected a name ending in {', '.join(endings)}", param_hint=option)
    for source in sources:
        if source is not None and source.exists() and path.exists() and path.samefile(source):
            raise OutputError(f"{path} is what is read: choose another {option}")
    if is_main() and path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another {option}, or pass --overwrite")
    folder = next(each for each in path.absolute().parents if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}: {folder} is no folder that you may write into")


def parse_shape(shape: str) -> list[int]:
    """Return the sizes that --shape names."""
    parts = shape.split(",")
    if not all(part.strip().isdecimal() and len(part) < 20 and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{shape!r}: expected sizes such as 1,1,128,128", param_hint="--shape")
    return [int(part) for part in parts]


def parse_shapes(shapes: Sequence[str]) -> dict[str, list[int]]:
    """Return the sizes of each --shape by the input's name, or "" for the first one."""
    pairs = [shape.rpartition(":") for shape in shapes]
    names = [name for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise typer.BadParameter("give each input one, such as x:1,1,128 and y:1,4", param_hint="--shape")
    return {name: parse_shape(sizes) for name, _, sizes in pairs}


def load_network(path: Path, factory: str | None, allow_pickle: bool) -> nn.Module:
    """Return a checkpoint's model, built by ``module:factory`` where one is given."""
    from torchshrink import checkpoint
    from torchshrink.model.checked import check_module
    from torchshrink.pipeline.assemble import resolve
    from torchshrink.usercode import calling

    if factory is None:
        return checkpoint.load(path, None, allow_pickle)
    make, what = resolve(factory, "model"), f"model {factory!r}"

    def made() -> nn.Module:
        with calling(what):
            return check_module(make(), what)

    return checkpoint.load(path, made, allow_pickle)


def load_model(
    path: Path, shape: str | None, factory: str | None, allow_pickle: bool
) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    """Return a checkpoint's model, an example input and the metadata that travels with it."""
    import torch

    model, description = load_network(path, factory, allow_pickle), _describe(path)
    sizes = parse_shape(shape) if shape else description.get("input_shape")
    if sizes is None:
        raise ModelError(f"{path} does not say what shape its input has: pass --shape, such as --shape 1,1,128,128")
    if math.prod(sizes) > 2**31:
        raise ModelError(f"an input of {sizes} has too many values: pass another --shape")
    kept = ("normalization", "class_names", "input_shape", "prepared")
    return model, torch.zeros(sizes), {key: description[key] for key in kept if key in description}


def load_task(
    path: Path, data: str | None, seed: int, factory: str | None, allow_pickle: bool, sized: bool = False
) -> tuple[Task, nn.Module]:
    """Return the data, normalised as the model was trained with, and the model.

    Without data, it is what the checkpoint was made with. ``sized`` makes generated data of the checkpoint's size.
    """
    from torchshrink.data import open_task
    from torchshrink.pipeline.origin import data_of
    from torchshrink.task import Normalization

    source, chosen = (data, seed) if data is not None else data_of(path)
    model, known = load_network(path, factory, allow_pickle), _describe(path)
    stored = known.get("normalization")
    normalization = Normalization(tuple(stored["mean"]), tuple(stored["std"]), stored["raw"]) if stored else None
    if sized:
        source = _of_size(source, known.get("input_shape"))
    try:
        prepared = known.get("prepared", "")
        return open_task(source, seed=chosen, normalization=normalization, prepared=prepared), model
    except DataError as error:
        if data is not None:
            raise
        raise DataError(f"{path} was made with the data {source}, which is not here: pass --data ({error})") from error


def load_recipe(
    path: Path | None, data: str | None, trust: bool, allow_pickle: bool, settings: Sequence[str] | None = None
) -> Recipe:
    """Return the recipe of a command, with what the command line says instead of it; raises as `chosen.choose`.

    Data that is not there is said at once, before PyTorch is loaded to read it.
    """
    from torchshrink.pipeline.chosen import choose

    found = choose(path, data, trust, allow_pickle, settings or ())
    place = found.data.partition("?")[0]
    if ":" not in place and not os.path.exists(os.path.expanduser(place)):
        raise DataError(f"{place} does not exist: `torchshrink train -h` says what data may be")
    return found


def _describe(path: Path) -> dict[str, Any]:
    from torchshrink import checkpoint

    return checkpoint.describe(path) if path.suffix == ".safetensors" else {}


def _of_size(source: str, shape: list[int] | None) -> str:
    """Return generated data in the size of a checkpoint's input, unless it says its own."""
    key = "length" if source.startswith("synthetic:pulses") else "size"
    if shape is None or not source.startswith("synthetic:") or f"{key}=" in source:
        return source
    return f"{source}{'&' if '?' in source else '?'}{key}={shape[-1]}"
