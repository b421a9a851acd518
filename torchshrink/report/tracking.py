"""Tell trackers of a run: its losses while it trains, then settings, curves, the figures of every file, and files."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from torchshrink.errors import MissingExtraError
from torchshrink.files import read
from torchshrink.report import document
from torchshrink.report.curves import curves
from torchshrink.report.schema import Row

Tracker = Literal["mlflow", "tensorboard", "wandb", "comet_ml", "aim"]

AFTERWARDS = ("mlflow", "tensorboard")  # which get figures and files by `log`, after what `live` told them
_EXPERIMENT = "torchshrink"
_STORE = "sqlite:///mlflow.db"  # MLflow's embedded store, in the current folder
_LOGS = "tensorboard"
_MODULES = {name: name for name in get_args(Tracker)} | {"tensorboard": "tensorboardX"}  # PyTorch's loads TensorFlow
_TOLD = ("torchshrink.pipeline.build", "torchshrink.training")  # who say which variant is trained, and each epoch


@contextlib.contextmanager
def live(tracker: Tracker, folder: Path) -> Iterator[None]:
    """Tell a tracker of every epoch of a run while it is trained; of figures and files, too, or let `log` do it.

    accelerate's trackers do it, with the settings that each takes from its own environment variables; TensorBoard's
    events are written by tensorboardX into ``tensorboard/live``.

    Args:
        tracker: Where to.
        folder: Of the run; its name is the run's.

    Raises:
        MissingExtraError: When the tracker is not installed.
    """
    check(tracker)
    handler = _Live(_begin(tracker, folder))
    loggers = [logging.getLogger(name) for name in _TOLD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield
        if tracker not in AFTERWARDS:
            handler.end(document.load(folder)["rows"])
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        if tracker != "mlflow":  # `log` goes on with its run
            handler.tracker.finish()


class _Live(logging.Handler):
    """Hands the figures of each epoch to a tracker, under the name of the variant that is trained.

    Steps are the epochs of the whole run: some trackers take no step that is less than one before.
    """

    def __init__(self, tracker: Any) -> None:
        super().__init__(logging.DEBUG)
        self.tracker, self._variant, self._step = tracker, "", 0

    def emit(self, record: logging.LogRecord) -> None:
        self._variant = getattr(record, "variant", self._variant)
        if epoch := getattr(record, "figures", None):
            self.epoch(self._variant, epoch)

    def epoch(self, variant: str, values: dict[str, float]) -> None:
        self._step += 1
        self.tracker.log({f"{variant}/{key}": value for key, value in values.items()}, step=self._step)

    def end(self, rows: Sequence[Row]) -> None:
        values = {f"{row['name']}/{key}": value for row in rows for key, value in figures(row).items()}
        self.tracker.log(values, step=self._step)


class _Events:
    """TensorBoard, called like accelerate's trackers; its folder is made by what there is to tell."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = functools.cache(lambda: SummaryWriter(str(folder)))

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer().add_scalar(name, value, step)
        self._writer().flush()

    def finish(self) -> None:
        if self._writer.cache_info().currsize:
            self._writer().close()


def _begin(tracker: Tracker, folder: Path) -> Any:
    if tracker == "tensorboard":
        return _Events(folder / _LOGS / "live")
    from accelerate import tracking

    options = {
        "mlflow": {"run_name": folder.name},
        "wandb": {"name": folder.name},
        "aim": {"logging_dir": str(folder.parent)},
    }
    if tracker == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
        import mlflow

        mlflow.set_tracking_uri(_STORE)
    made = tracking.LOGGER_TYPE_TO_CLASS[tracker](_EXPERIMENT, **options.get(tracker, {}))
    if hasattr(made, "start"):  # since accelerate 1.11; before, a new one has started
        made.start()
    return made


def log(folder: Path, tracker: Tracker) -> str:
    """Log the finished run in ``folder`` and return where to look at it.

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
    if tracker not in AFTERWARDS:
        handler = _Live(_begin(tracker, folder))
        for variant in _by_variant(rows):
            for values in curves(folder, variant):
                handler.epoch(variant, values)
        handler.end(rows)
        handler.tracker.finish()
        return tracker
    return _to_mlflow(rows, folder) if tracker == "mlflow" else _to_tensorboard(rows, folder)


def check(tracker: Tracker) -> None:
    """Raise MissingExtraError when the tracker is not installed, before hours of work end with that."""
    try:
        importlib.import_module(_MODULES[tracker])
    except ImportError as error:
        package = f"'torchshrink[{tracker}]'" if tracker in AFTERWARDS else _MODULES[tracker].replace("_", "-")
        raise MissingExtraError(f"{tracker} is not installed: pip install {package}") from error


def settings(folder: Path) -> dict[str, str]:
    """Return the run's recipe as one level of dotted keys."""
    return {key: str(value) for key, value in _flat(_recipe(folder), "")}


def _recipe(folder: Path) -> dict[str, Any]:
    """Return the recipe as the run stored it; nothing when it is lost or damaged: the figures are worth logging."""
    try:
        content = json.loads(read(folder / "recipe.json"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def figures(row: Row) -> dict[str, float]:
    """Return every number of a row of the report as one level of dotted keys."""
    numbers = ((key, value) for key, value in _flat(row, "") if isinstance(value, int | float))
    return {key: float(value) for key, value in numbers if math.isfinite(value)}


def _to_mlflow(rows: Sequence[Row], folder: Path) -> str:
    import mlflow

    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(_STORE)
    mlflow.set_experiment(_EXPERIMENT)
    with mlflow.active_run() or mlflow.start_run(run_name=folder.name):
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
            writer.add_text("recipe", f"```json\n{json.dumps(_recipe(folder), indent=1)}\n```")
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
