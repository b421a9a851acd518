"""Say in words why an int8 file is slow, and which change to the model would help."""

from __future__ import annotations

from collections.abc import Sequence

from torchshrink.converters.anatomy import kernels
from torchshrink.converters.anatomy.kernels import Runtime
from torchshrink.converters.anatomy.operations import Detour, Operation
from torchshrink.converters.correspondence import nearest

_MOST_NAMES = 3
_WORTH_SAYING = 0.01  # of the time
_SLOW = 0.25  # of the time, for one kind of int8 operation that multiplies nothing


def verdict(operations: Sequence[Operation], detours: Sequence[Detour]) -> str:
    """Return one sentence about the whole file."""
    total = total_ms(operations)
    if not any(operation.precision == "int8" for operation in operations):
        return (
            "It is a float file: nothing in it computes in int8. Quantize the model (torchshrink qat or ptq) and "
            "export it with --precision int8."
        )
    conversions = [operation for operation in operations if operation.precision == "conversion"]
    if not detours:
        ends = sum(operation.ms or 0.0 for operation in conversions)
        where = f", but for converting its input and output ({share(ends, total)} of the time)" if conversions else ""
        return f"All of it computes in int8{where}."
    count = f"{len(detours)} detour{'s' * (len(detours) > 1)} through float"
    spent = share(sum(detour.ms for detour in detours), total)
    return f"{count} take{'s' * (len(detours) == 1)} {spent} of the time."


def findings(operations: Sequence[Operation], detours: Sequence[Detour], runtime: Runtime) -> tuple[str, ...]:
    """Return a sentence for each cause of the detours of an int8 file, the most expensive first; then slow kernels."""
    if not any(operation.precision == "int8" for operation in operations):
        return ()
    groups: dict[tuple[str, ...], list[Detour]] = {}
    for detour in detours:
        groups.setdefault(_cause(detour, runtime), []).append(detour)
    ordered = sorted(groups.values(), key=lambda group: -sum(detour.ms for detour in group))
    total = total_ms(operations)
    lines = [line for group in ordered for line in _sentences(group, len(detours), total, runtime)]
    return (*lines, *_slow_kernels(operations, total, runtime))


def _slow_kernels(operations: Sequence[Operation], total: float, runtime: Runtime) -> list[str]:
    """Name the kinds that compute in int8 and still take much of the time, although they multiply nothing.

    Those that take longer than in float are named even where they take little, or multiply.
    """
    slower = {each.full_kind for each in operations if kernels.is_slower(each, runtime)}
    spent: dict[str, float] = {}
    for each in operations:
        if each.precision == "int8" and (not each.macs or each.full_kind in slower):
            spent[each.full_kind] = spent.get(each.full_kind, 0.0) + (each.ms or 0.0)
    return [
        f"{kind} computes in int8, but takes {share(ms, total)} of the time: its int8 kernel in {runtime} is "
        f"{'slower than its float one' if kind in slower else 'slow'}; {kernels.advice(kind, runtime)}."
        for kind, ms in sorted(spent.items(), key=lambda item: -item[1])
        if ms > (_WORTH_SAYING if kind in slower else _SLOW) * total
    ]


def processor(
    operations: Sequence[Operation], instructions: Sequence[str], has_dot_products: bool, gain: float | None = None
) -> tuple[str, ...]:
    """Say that the processor lacks what makes int8 fast, where an int8 file multiplies in int8.

    ``gain`` is what a convolution gained from it (`torchshrink.converters.probe`), where that was measured.
    """
    if has_dot_products or not multiplies(operations):
        return ()
    best = f" ({instructions[-1]} only)" if instructions else ""
    said = (
        "int8 may save bytes and no time here: torchshrink doctor measures what it gains"
        if gain is None
        else f"a convolution in int8 is {gain:.1f}x as fast as in float here (just measured)"
    )
    return (f"This processor has no int8 dot products{best}, so that {said}; fewer channels make every file faster.",)


def multiplies(operations: Sequence[Operation]) -> bool:
    """Return whether anything multiplies and adds in int8."""
    return any(each.precision == "int8" and each.macs for each in operations)


def total_ms(operations: Sequence[Operation]) -> float:
    """Return what the operations took together."""
    return sum(operation.ms or 0.0 for operation in operations)


def share(part: float, whole: float) -> str:
    """Return a share in percent, as text."""
    return f"{part / whole if whole else 0:.1%}"


def _cause(detour: Detour, runtime: Runtime) -> tuple[str, ...]:
    """Return the kinds that have no int8 kernel; all kinds where there are none."""
    kinds = {operation.kind for operation in _steps(detour)}
    lacking = {kind for kind in kinds if not kernels.has_int8(kind, runtime)}
    return tuple(sorted(lacking or kinds))


def _steps(detour: Detour) -> list[Operation]:
    return [operation for operation in detour.operations if not kernels.is_layout(operation.kind)]


def _sentences(group: list[Detour], count: int, total: float, runtime: Runtime) -> list[str]:
    """Explain detours that have the same cause."""
    steps = [operation for detour in group for operation in _steps(detour)]
    culprits = [operation for operation in steps if not kernels.has_int8(operation.kind, runtime)]
    spent = share(sum(detour.ms for detour in group), total)
    where = f"{len(group)} of {count} detour{'s' * (count > 1)}, {spent} of the time with conversions"
    replacement = kernels.composed((operation.kind for operation in steps), runtime)
    if not steps:
        return [
            f"Values are dequantized and quantized again with nothing in between ({where}): give the two tensors the "
            "same scale and zero point."
        ]
    if not culprits:
        remedy = replacement or _why_unused(group, runtime)
        return [f"{_computes(steps)} in float although {runtime} has int8 kernels for {_kinds(steps)} ({where}): "
                f"{remedy}."]  # fmt: skip
    slowest = max(culprits, key=lambda operation: operation.ms or 0.0)
    remedy = replacement or kernels.advice(slowest.kind, runtime)
    found = [
        f"{_computes(culprits)} in float, because {runtime} has no int8 kernel for {_kinds(culprits)} ({where}): "
        f"{remedy}."
    ]
    return found if replacement else found + _followers(group, culprits, total)


def _followers(group: list[Detour], culprits: list[Operation], total: float) -> list[str]:
    """Say which expensive operations compute in float only because of their neighbours."""
    lines = []
    for detour in group:
        for operation in _steps(detour):
            if operation in culprits or (operation.ms or 0.0) < _WORTH_SAYING * total:
                continue
            before = _nearest(operation, detour, culprits, is_forward=False)
            after = _nearest(operation, detour, culprits, is_forward=True)
            link = (
                f"input comes from {_label(before)}" if before else f"output goes to {_label(after)}" if after else ""
            )
            if link:
                spent = share(operation.ms or 0.0, total)
                lines.append(
                    f"{_label(operation)} computes in float because its {link}, which has no int8 kernel: {spent} of "
                    "the time."
                )
    return lines


def _nearest(operation: Operation, detour: Detour, culprits: list[Operation], is_forward: bool) -> Operation | None:
    """Return the closest culprit before or after an operation, within the detour."""

    def neighbours(one: Operation) -> list[Operation]:
        ends = [
            (one.outputs, other.inputs) if is_forward else (one.inputs, other.outputs) for other in detour.operations
        ]
        return [other for other, (mine, its) in zip(detour.operations, ends, strict=True) if set(mine) & set(its)]

    return next(iter(nearest(neighbours(operation), culprits, neighbours)), None)


def _why_unused(group: list[Detour], runtime: Runtime) -> str:
    if all(kernels.only_moves(operation.kind) for detour in group for operation in _steps(detour)):
        return "they only move values, so give their inputs and outputs the same scale and zero point"
    if any(len(_steps(detour)) > 1 for detour in group):
        return "quantize the values that pass between them too"
    if all(operation.kind in kernels.SLOWER_IN_INT8[runtime] for detour in group for operation in _steps(detour)):
        return "with both conversions that is faster; replace it by ReLU or ReLU6, which costs nothing"
    if runtime == "ONNX Runtime":
        return (
            "it takes those only where every input and output is quantized the way they expect, as torchshrink "
            "export --precision int8 writes it without --target generic"
        )
    return "quantize their weights, inputs and outputs too"


def _computes(operations: list[Operation]) -> str:
    labels = [_label(operation) for operation in operations]
    listed = ", ".join(labels[:_MOST_NAMES])
    if len(labels) > _MOST_NAMES:
        listed += f" and {len(labels) - _MOST_NAMES} more"
    return f"{listed} compute{'s' * (len(labels) == 1)}"


def _label(operation: Operation) -> str:
    return f"{operation.kind} {short(operation.name)}"


def _kinds(operations: list[Operation]) -> str:
    return ", ".join(dict.fromkeys(operation.kind for operation in operations))


def short(name: str) -> str:
    """Return the end of a tensor's name that tells it from others, without the names that were fused into it."""
    return "/".join(name.partition(";")[0].split("/")[-2:])
