"""Log a finished run to MLflow or TensorBoard: settings, training curves, the figures of every file, and the files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from torchshrink.errors import MissingExtraError
from torchshrink.report import document
from torchshrink.report.curves import curves
from torchshrink.report.schema import Row

Tracker = Literal["mlflow", "tensorboard"]

_EXPERIMENT = "torchshrink"
_STORE = "sqlite:///mlflow.db"  # MLflow's embedded store, in the current folder
_LOGS = "tensorboard"


def log(folder: Path, tracker: Tracker) -> str:
    """Log the run in ``folder`` and return where to look at it.

    MLflow gets one run for all and one inside of it for every variant, in the store that ``MLFLOW_TRACKING_URI`` names,
    or in ``mlflow.db`` in the current folder. TensorBoard gets a folder of events for every variant, in
    ``tensorboard`` inside of the run's folder.

    Args:
        folder: The folder of a finished run, which holds report.json.
        tracker: Where to.

    Raises:
        DataError: When there is no report in the folder.
        MissingExtraError: When the tracker is not installed.
    """
    rows = document.load(folder)["rows"]
    check(tracker)
    return _to_mlflow(rows, folder) if tracker == "mlflow" else _to_tensorboard(rows, folder)


def check(tracker: Tracker) -> None:
    """Raise MissingExtraError when the tracker is not installed, before hours of work end with that."""
    try:
        if tracker == "mlflow":
            import mlflow  # noqa: F401
        else:
            import tensorboardX  # noqa: F401  # PyTorch's own writer would load TensorFlow
    except ImportError as error:
        raise MissingExtraError(f"{tracker} is not installed: pip install 'torchshrink[{tracker}]'") from error


def settings(folder: Path) -> dict[str, str]:
    """Return the run's recipe as one level of dotted keys."""
    return {key: str(value) for key, value in _flat(json.loads((folder / "recipe.json").read_text()), "")}


def figures(row: Row) -> dict[str, float]:
    """Return every number of a row of the report as one level of dotted keys."""
    numbers = ((key, value) for key, value in _flat(row, "") if isinstance(value, int | float))
    return {key: float(value) for key, value in numbers if math.isfinite(value)}


def _to_mlflow(rows: Sequence[Row], folder: Path) -> str:
    import mlflow

    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(_STORE)
    mlflow.set_experiment(_EXPERIMENT)
    with mlflow.start_run(run_name=folder.name):
        mlflow.log_params(settings(folder))
        for path in sorted(folder.glob("report.*")):
            mlflow.log_artifact(str(path))
        for variant, files in _by_variant(rows).items():
            with mlflow.start_run(run_name=variant, nested=True):
                for epoch, values in enumerate(curves(folder, variant), 1):
                    mlflow.log_metrics(values, step=epoch)
                for row in files:
                    name = row["name"].partition("/")[2] or row["name"]
                    mlflow.log_metrics({f"{name}/{key}": value for key, value in figures(row).items()})
                    if (path := folder / row["path"]).is_file():
                        mlflow.log_artifact(str(path))
    uri = mlflow.get_tracking_uri()
    return f"mlflow ui --backend-store-uri {uri}"


def _to_tensorboard(rows: Sequence[Row], folder: Path) -> str:
    from tensorboardX import SummaryWriter

    logs = folder / _LOGS
    for variant, files in _by_variant(rows).items():
        with SummaryWriter(str(logs / variant)) as writer:
            writer.add_text("recipe", f"```json\n{(folder / 'recipe.json').read_text()}\n```")
            for epoch, values in enumerate(curves(folder, variant), 1):
                for key, value in values.items():
                    writer.add_scalar(key, value, epoch)
            for row in files:
                name = row["name"].partition("/")[2] or row["name"]
                for key, value in figures(row).items():
                    writer.add_scalar(f"{name}/{key}", value)
    return f"tensorboard --logdir {logs}"


def _by_variant(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["variant"], []).append(row)
    return found


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
