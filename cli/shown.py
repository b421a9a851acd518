"""What several commands show: reports, files, and where a finished run was logged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchshrink.cli import console
from torchshrink.errors import ParityError

if TYPE_CHECKING:
    from torchshrink.report.columns import Cell
    from torchshrink.report.schema import Report
    from torchshrink.report.tracking import Tracker


_PROOF = {"parity": "proof"}


def show_report(content: Report, folder: Path, as_json: bool = False, wide: bool = False) -> None:
    """Show what a run made, and where its report is."""
    from torchshrink.report import columns, text

    if as_json:
        console.show_json(content)
        return
    headings, lines = columns.table(content["rows"])
    few = ("file", "MB", "smaller", text.judge_of(content).decides, "faster", "RAM MB", "proof")
    show_cells([_PROOF.get(each, each) for each in headings], lines, few=few, wide=wide)
    console.show(text.verdict(content))
    page = folder / "report.html"
    console.show(f"report: {page if page.is_file() else folder / 'report.json'}")


def show_cells(
    headings: Sequence[str],
    lines: Sequence[Sequence[Cell]],
    title: str | None = None,
    few: Sequence[str] = (),
    wide: bool = False,
) -> None:
    """Show a table of a report, see `console.show_table`."""
    console.show_table(headings, [[cell.text for cell in line] for line in lines], title, few, wide)


def write_sidecar(path: Path, precision: str, metadata: dict[str, Any]) -> None:
    """Write what a file's user must know beside it, as a run does."""
    if metadata:
        content = {"path": path.name, "bytes": path.stat().st_size, "precision": precision, **metadata}
        write_json(content | ({"speed": speed_of(path)} if precision == "int8" else {}), sidecar_of(path))


def sidecar_of(path: Path) -> Path:
    """Return where what a file's user must know stands."""
    return path.with_name(f"{path.name}.json")


def show_file(path: Path, as_json: bool, is_int8: bool = False, micro: dict[str, Any] | None = None) -> None:
    """Show what was written, of an int8 file what is known of its speed, and what a microcontroller needs for it."""
    speed = speed_of(path) if is_int8 else ()
    if as_json:
        found = ({"speed": speed} if is_int8 else {}) | ({"micro": micro} if micro else {})
        console.show_json({"path": str(path), "bytes": path.stat().st_size} | found)
        return
    console.show(f"{path}: {path.stat().st_size / 1e6:.3f} MB")
    show_micro(micro)
    show_speed(speed)


def speed_of(path: Path) -> tuple[str, ...]:
    """Return what is known of an int8 file's speed on this processor."""
    from torchshrink.converters.anatomy import slow_int8

    return slow_int8.expected(path)


def show_speed(lines: Sequence[str]) -> None:
    """Show what `speed_of` returned."""
    for line in lines:
        console.show(f"speed: {line}")


def examine_micro(path: Path, beside: Sequence[Path] = ()) -> dict[str, Any]:
    """Return what a file needs in TensorFlow Lite Micro; one that fails does not stay, nor what is ``beside`` it."""
    from torchshrink.converters import micro
    from torchshrink.errors import ShrinkError

    try:
        return asdict(micro.examine(path))
    except ShrinkError:
        for each in (path, micro.sidecar(path), *beside):
            each.unlink(missing_ok=True)
        raise


def show_micro(found: dict[str, Any] | None) -> None:
    """Show what `examine_micro` found, if the file is for a microcontroller."""
    if found:
        console.show(
            f"TensorFlow Lite Micro: equal to the reference kernels on {found['samples']} inputs, arena "
            f"{found['arena_bytes'] / 1e3:.1f} kB, operators {', '.join(found['operators'])}"
        )


def write_json(content: Any, out: Path | None) -> None:
    """Write ``content`` to a file, if one is wanted."""
    from torchshrink.files import atomic

    if out is not None:
        with atomic(out) as temporary:
            temporary.write_text(json.dumps(content, indent=1))


def check_tracker(track: Tracker | None) -> None:
    """Refuse a tracker that is not installed, before the work begins."""
    if track is not None:
        from torchshrink.report import tracking

        tracking.check(track)


def told(track: Tracker | None, folder: Path) -> AbstractContextManager[None]:
    """Tell a tracker, if one is wanted, what a run learns while it does."""
    if track is None:
        return nullcontext()
    from torchshrink.report import tracking

    return tracking.live(track, folder)


def log(folder: Path, track: Tracker | None, is_told: bool = True) -> None:
    """Log a finished run where the user asked for, unless it ``is_told`` there already."""
    if track is not None:
        from torchshrink.report import tracking

        if is_told and track not in tracking.AFTERWARDS:
            return
        console.errors.print(f"look at it with: {tracking.log(folder, track)}")


def verify_folder(folder: Path, as_json: bool) -> None:
    """Run a bundle's self-test in a clean process and show what it found."""
    with console.Progress() as progress:
        progress.start(f"verify {folder.name}")
        from torchshrink.bundle import check, image

        found = check.self_test(folder)
        size = image.size(folder)
    if as_json:
        console.show_json({"path": str(folder), "self_test": found, "image": size._asdict()})
    elif found["passed"]:
        console.show(f"{folder}: verified, {proof_line(found)}")
        console.show(f"image: {size}")
    if not found["passed"]:
        raise ParityError(f"{folder} failed its self-test: {check.reason(found)}")


def proof_line(found: dict[str, Any]) -> str:
    """Return what a bundle's self-test found."""
    peak = found.get("peak_rss_mb")
    memory = f", peak RAM {peak:.1f} MB" if peak else ""
    return f"{found['equal']:.2%} of the recorded values equal, first result in {found['first_result_s']:.2f} s{memory}"
