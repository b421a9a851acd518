"""Where int8 hurts: what `inspect` says of an int8 checkpoint, and of a file that was made from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchshrink.cli import console
from torchshrink.cli.inputs import load_network
from torchshrink.errors import ModelError

if TYPE_CHECKING:
    from torch.fx import GraphModule


def is_int8(path: Path) -> bool:
    """Return whether a checkpoint holds a quantized graph, by what it says of itself."""
    from torchshrink import checkpoint

    architecture = checkpoint.describe(path).get("architecture", {}) if path.suffix == ".safetensors" else {}
    return "quantized_decomposed" in str(architecture.get("graph"))


def load(path: Path) -> GraphModule:
    """Return the quantized graph of a checkpoint, which must know its noise."""
    from torch.fx import GraphModule

    from torchshrink.quantize import is_quantized, noise

    graph = load_network(path, None, False)
    if not isinstance(graph, GraphModule) or not is_quantized(graph):
        raise ModelError(f"{path} is not quantized: give the int8 checkpoint, as torchshrink ptq or qat writes it")
    if not noise(graph):
        raise ModelError(f"{path} does not say how much its int8 loses: quantize the model again, with data")
    return graph


def to_rows(graph: GraphModule) -> list[dict[str, Any]]:
    """Return the noise of a graph as JSON has it."""
    from torchshrink.quantize import noise
    from torchshrink.quantize.noise import to_rows

    return to_rows(noise(graph))


@dataclass(frozen=True)
class Lost:
    """What the modules of a file lose.

    Attributes:
        rows: As `to_rows` returns them, each with the ``node`` of the file that computes it, or None.
        operations: The same for a table: ``CONV_2D 3`` by the name of the module.
    """

    rows: list[dict[str, Any]]
    operations: dict[str, str]


def of_file(path: Path, against: Path, out: Path | None) -> Lost:
    """Return what the modules of a file lose by its checkpoint, and write it for Model Explorer if ``out`` is given."""
    from torchshrink.converters.proof import overlay
    from torchshrink.quantize import noise

    graph = load(against)
    places = overlay.places(path, graph)
    if out is not None:
        overlay.write(path, places, noise(graph), out)
    nodes = {call: place for place in places for call in place.calls}
    rows = to_rows(graph)
    for row in rows:
        row["node"] = nodes[row["name"]].node if row["name"] in nodes else None
    return Lost(rows, {call: f"{place.kind} {place.node}" for call, place in nodes.items()})


def show(rows: Sequence[Any], title: str, wide: bool, nodes: Mapping[str, str] | None = None) -> None:
    """Write the table, and the sentences that say what matters of it.

    Args:
        rows: As `to_rows` returns them.
        title: What stands above.
        wide: Show all columns.
        nodes: Which operation of a file computes what a module returns.
    """
    from torchshrink.report import noise

    headings, cells = list(noise.HEADINGS), [list(line) for line in noise.cells(rows)]
    if nodes is not None:
        headings.insert(1, "operation")
        for row, line in zip(rows, cells, strict=True):
            line.insert(1, nodes.get(row["name"], ""))
    few = [each for each in headings if each != "what helps"]
    console.show_table(headings, cells, title, few, wide)
    console.show(noise.said_of_graph(rows))
    if low := noise.said_of_low(rows):
        console.errors.print(f"warning: {low}", style="yellow")
