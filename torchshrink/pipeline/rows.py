"""The rows of a report, each a function of what was made, compared and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils import _pytree as tree

from torchshrink import bench, losses
from torchshrink.metrics import Scores
from torchshrink.pipeline.artefacts import Artefact, Made
from torchshrink.pipeline.recipe import Recipe
from torchshrink.report import classes
from torchshrink.task import Task

Row = dict[str, Any]

_MOST_CLASSES = 100  # of which every pair is counted
UNCOMPARED: Row = {"reference": None, "max_abs": 0.0, "mean_abs": 0.0, "lsb_match": None, "passed": True}


def file_row(
    artefact: Artefact, made: Made, root: Path, weights: Sequence[NDArray[Any]], scores: Scores, parity: Row
) -> Row:
    """Return the row of a file in the run's folder ``root``, scored on the test part; ``weights`` are dense."""
    total, nonzero = sum(array.size for array in weights), sum(int(np.count_nonzero(array)) for array in weights)
    return {
        "name": artefact.name,
        "variant": artefact.variant,
        "architecture": made.architecture,
        "format": artefact.format,
        "precision": artefact.precision,
        "path": str(artefact.path.relative_to(root)),
        "bytes": bench.size_bytes(artefact.path),
        "gzip_bytes": bench.gzip_bytes(artefact.path),
        "entropy_bytes": bench.entropy_bytes(weights),
        "params": total,
        "nonzero": nonzero,
        "sparsity": 1 - nonzero / max(total, 1),
        "macs": made.macs,
        "loss": scores.loss,
        "metrics": dict(scores.metrics),
        "parity": parity,
        "islands": list(artefact.islands),
        "matched_ranges": artefact.matched,
        "keep_float": list(made.keep_float) if artefact.precision == "int8" else [],
        **({"ends": artefact.ends} if artefact.ends else {}),
        **({"road": artefact.road} if artefact.road else {}),
    }


def confusion(task: Task, outputs: NDArray[Any], truths: Any) -> Row:
    """Return how often each class, by row, was taken for each, by column; nothing when that would say too much."""
    if task.kind != "classification" or outputs.ndim > 2:
        return {}
    count = outputs.shape[1] if outputs.ndim == 2 and outputs.shape[1] > 1 else 2
    if count > _MOST_CLASSES:
        return {}
    found = np.zeros((count, count), np.int64)
    np.add.at(found, (truths.numpy().astype(np.int64).reshape(-1), classes.answers(outputs)), 1)
    return {"confusion": found.tolist()}


def kept_truth(task: Task, truths: Any) -> NDArray[Any]:
    """Return the truths that a report shows, ``[N, ...]``: of class numbers one mask, of several things the first."""
    first = tree.tree_leaves(truths)[0]
    kept: NDArray[Any] = (first.unsqueeze(1) if task.kind == "multiclass" else first).numpy()
    return kept


def figures(measurement: bench.Measurement) -> Row:
    """Return what a row holds of a file's measurement."""
    return {
        "latency_ms": {key: getattr(measurement.latency, key) for key in ("median", "p90", "threads", "runs")},
        "peak_rss_mb": measurement.peak_rss_mb,
        "runtime_rss_mb": measurement.runtime_rss_mb,
        "model_rss_mb": measurement.model_rss_mb,
    }


def failed_file(artefact: Artefact, root: Path, parity: Row) -> Row:
    """Return what a report keeps of a file that does not compute what its source does."""
    path, size = str(artefact.path.relative_to(root)), artefact.path.stat().st_size
    return {"name": artefact.name, "path": path, "bytes": size, "reason": parity["reason"], "parity": parity}


def failed_variant(name: str, error: Exception) -> Row:
    """Return what a report keeps of a variant that could not be made."""
    return {"name": name, "path": None, "reason": str(error), "parity": None}


def task_row(task: Task, recipe: Recipe, best_constant: Scores | None = None) -> Row:
    """Return what a report says of the data and of how it was looked at, and what a constant answer scores on it."""
    constant = {"constant": {"loss": best_constant.loss, **best_constant.metrics}} if best_constant else {}
    return {
        "name": task.name,
        "train": len(task.train),
        "validation": len(task.validation),
        "test": len(task.test),
        "input": list(task.example_input.shape),
        "output": shape_of(task.example_truth),
        "loss": losses.name_of(task.loss),
        "seed": recipe.seed,
        "threads": recipe.measure.threads,
        "class_names": list(task.class_names),
        "normalization": task.normalization.to_dict(),
        "kind": task.kind,
        "metrics": {name: {"higher_is_better": each.higher_is_better, "unit": each.unit}
                    for name, each in task.metrics.items()},
        "decides": task.decides,
        "budget": asdict(task.budget) if task.budget else None,
        **({"note": task.note} if task.note else {}),
        **constant,
    }  # fmt: skip


def shape_of(truth: Any) -> list[int]:
    """Return the shape of a truth; of several in a structure, the first one's."""
    return list(tree.tree_leaves(truth)[0].shape)
