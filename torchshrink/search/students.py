"""Students as candidates: settings drawn from a space of shapes, and the step of a recipe that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import Trial

from torchshrink.pipeline.students import Student, Students

PRUNED, STUDENT = "pruned", "student"  # the families of a search
_BEFORE = "student_"
_MULTIPLE = 4  # of the channels: what kernels compute at once
_KERNELS = {1: (5, 9, 15), 2: (3,)}
_CHOICES = ("convolution", "merge", "stem", "up", "kernel_size", "features")

_COUNTS = ("depth", "convolutions", "skips_from")

# A few students that are good in many tasks: half of the size at once and a pyramid, few channels everywhere, and a
# separable one of a handful of kilobytes.
_STARTS: tuple[dict[str, Any], ...] = (
    {"width": 12, "growth": 1.4, "depth": 4, "convolutions": 2, "convolution": "full", "merge": "concat",
     "stem": "stride", "up": "transpose"},
    {"width": 8, "growth": 1.0, "depth": 4, "convolutions": 2, "convolution": "full", "merge": "add",
     "stem": "none", "up": "transpose"},
    {"width": 8, "growth": 1.3, "depth": 4, "convolutions": 2, "convolution": "separable", "merge": "add",
     "stem": "stride", "up": "transpose"},
)  # fmt: skip


def resolved(students: Students, sides: Sequence[int]) -> Students:
    """Return a space in which every student fits inputs of these sides.

    >>> resolved(Students(), (32, 48)).depth
    (2, 4)
    >>> resolved(Students(stem="none"), (20,)).depth
    (2, 3)
    """
    if students.factory is not None:
        return students
    halvings = next(power for power in range(32) if any(side % 2 ** (power + 1) for side in sides))
    most = max(1, halvings + 1 - (set(students.stem) != {"none"}))
    depth = min(students.depth[0], most), min(students.depth[1], most)
    kernels = students.kernel_size or _KERNELS.get(len(sides), (3,))
    return students.model_copy(update={"depth": depth, "kernel_size": kernels})


def draw(trial: Trial, students: Students) -> dict[str, Any]:
    """Return the settings of a student, each named ``student_...``."""
    if students.factory is not None:
        found = {name: _drawn(trial, _BEFORE + name, value) for name, value in students.arguments.items()}
        found["features"] = _one_of(trial, _BEFORE + "features", students.features)
    else:
        found = {name: _within(trial, _BEFORE + name, getattr(students, name)) for name in _COUNTS}
        low, high = (round(width / _MULTIPLE) * _MULTIPLE or _MULTIPLE for width in students.width)
        found["width"] = trial.suggest_int(_BEFORE + "width", low, high, step=_MULTIPLE) if low < high else low
        found["growth"] = _within(trial, _BEFORE + "growth", (float(students.growth[0]), float(students.growth[1])))
        found |= {name: _one_of(trial, _BEFORE + name, getattr(students, name)) for name in _CHOICES}
    return {_BEFORE + name: value for name, value in found.items()}


def step(settings: Mapping[str, Any], students: Students, **training: Any) -> Student:
    """Return the step that teaches the student of these settings.

    >>> chosen = {"student_width": 8, "student_growth": 1.5, "student_depth": 3, "student_stem": "stride"}
    >>> step(chosen, Students(), epochs=5).widths
    (8, 12, 20)
    """
    own = {name.removeprefix(_BEFORE): value for name, value in settings.items() if name.startswith(_BEFORE)}
    features = own.pop("features", 0.0)
    if students.factory is not None:
        return Student(factory=students.factory, arguments=own, features=features, **training)
    width, growth = own.pop("width"), own.pop("growth")
    wanted = [width * growth**level / _MULTIPLE for level in range(own.pop("depth"))]
    widths = tuple(max(1, int(each + 0.5)) * _MULTIPLE for each in wanted)
    if "skips_from" in own:
        own["skips_from"] = min(own["skips_from"], len(widths) - 1)
    return Student(widths=widths, features=features, **own, **training)


def starts(students: Students, others: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the settings of students that a search begins with; ``others`` are those of no architecture."""
    if students.factory is not None:
        return []
    found = []
    for wanted in _STARTS:
        settings = {}
        for name in ("width", "growth", *_COUNTS):
            low, high = getattr(students, name)
            settings[_BEFORE + name] = min(max(wanted.get(name, low), low), high)
        for name in _CHOICES:
            choices = getattr(students, name)
            settings[_BEFORE + name] = wanted[name] if wanted.get(name) in choices else choices[0]
        settings = {"family": STUDENT, **others, **settings}
        if settings not in found:
            found.append(settings)
    return found


def _within(trial: Trial, name: str, bounds: tuple[Any, Any]) -> Any:
    low, high = bounds
    if low == high:
        return low
    is_whole = isinstance(low, int) and isinstance(high, int)
    return trial.suggest_int(name, low, high) if is_whole else trial.suggest_float(name, low, high)


def _one_of(trial: Trial, name: str, choices: Sequence[Any]) -> Any:
    return trial.suggest_categorical(name, choices) if len(choices) > 1 else choices[0]


def _drawn(trial: Trial, name: str, value: Any) -> Any:
    """Return an argument: of a range, one of several, or what it always is."""
    if not isinstance(value, list | tuple) or not value:
        return value
    is_range = len(value) == 2 and all(isinstance(each, int | float) and not isinstance(each, bool) for each in value)
    return _within(trial, name, (min(value), max(value))) if is_range else _one_of(trial, name, value)
