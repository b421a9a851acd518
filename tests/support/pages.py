"""The code on the pages of the site and in README, and how a test runs it on models of a few kilobytes."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from program import Run

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

RAY = "tests/search/engines/test_ray_cluster.py has one on this machine"
# Lines that no test runs as they stand, by how they begin, and why.
NOT_RUN = {
    "pip install": "it installs: scripts/environment does, before any test",
    "scripts/demo": "it trains for minutes: tests/cli/test_run.py runs the same job on a smaller model",
    "scripts/test": "it runs this test",
    "ray start": "it starts a cluster: " + RAY,
    "torchshrink search recipe.yaml --hours 8 --engine ray": "it needs the cluster: " + RAY,
    "torchshrink search --hours 8 --engine ray": "it needs the cluster: " + RAY,
    "torchrun": "tests/cli/test_launched.py launches it",
    "accelerate launch": "tests/cli/test_launched.py launches it",
    "torchshrink verify model.onnx --on": "it needs qemu: tests/runtime/test_processors.py",
    "torchshrink doctor --prepare": "it downloads: scripts/demo used it",
}
# What takes ten seconds to a minute even so: scripts/test --exhaustive runs it. README's `run` stands for the others.
LONG = re.compile(r"torchshrink (search|sweep|run$|run recipe|run --data path/to/data --out)")
DATA = "synthetic:cells?size=32&train=16&test=4"
SHORT = [
    *("--set", "variants={dense: {train: {epochs: 1}}}"),
    *("--set", "formats=[onnx]"),
    *("--set", "precisions=[fp32]"),
    *("--set", "model.arguments.widths=[4, 8]"),
    *("--set", "measure.runs=5"),
]
# What is added to a command so that it takes seconds: fewer epochs, samples and repetitions.
LESS = {
    "run": SHORT,
    "search": ["--trials", "1", "--set", "search={epochs: 1, qat_epochs: 1, final_epochs: 1, final_qat_epochs: 1}"],
    "sweep": ["--epochs", "1", "--sparsity", "50", "--channels", "50"],
    "train": ["--epochs", "1", "--widths", "4,8", "--data", DATA],
    "prune": ["--epochs", "1"],
    "qat": ["--epochs", "1"],
    "ptq": ["--samples", "4"],
    "bench": ["--runs", "5"],
    "predict": ["--data", "inputs.npz"],  # the model of the run was trained on generated numbers, not on pictures
}


def blocks(language: str, *pages: Path) -> list[str]:
    """Return the code in this language on these pages, by default on all of them."""
    return [
        block
        for page in pages or PAGES
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
    ]


def lines(page: Path) -> list[str]:
    """Return what a page tells its reader to type in a shell, without comments."""
    typed = (line for block in blocks("bash", page) for line in block.replace("\\\n", " ").splitlines())
    return [" ".join(line.partition(" #")[0].split()) for line in typed if line.strip()]


def reason(line: str) -> str | None:
    """Return why a line is not run."""
    return next((why for start, why in NOT_RUN.items() if line.startswith(start)), None)


def words(line: str) -> list[str]:
    """Return the arguments of a line that starts with ``torchshrink``, made small."""
    _, command, *arguments = shlex.split(line)
    if "--init" in arguments:
        return [command, *arguments]
    if command in ("run", "search") and "--data" not in arguments:
        arguments += ["--data", DATA]
    if "--round-to" in arguments:  # the model of the run has layers of 8 channels
        arguments += ["--round-to", "1"]
    return [command, *(DATA if each == "synthetic:cells" else each for each in arguments), *LESS.get(command, [])]


def furnish(folder: Path, finished: Run) -> None:
    """Put what the pages speak of into a folder: a finished run, its files under the pages' names, data, a recipe."""
    for name in ("runs/mine", "runs/recipe", "runs/short"):
        shutil.copytree(finished.out, folder / name)
    for name, source in {
        "dense.safetensors": "models/dense.safetensors",
        "pruned.safetensors": "models/pruned.safetensors",
        "slim.safetensors": "models/pruned.safetensors",
        "int8.safetensors": "models/pruned-qat.safetensors",
        "model.onnx": "files/pruned-qat-int8.onnx",
        "any.onnx": "files/pruned-qat-int8.onnx",
        "model.tflite": "files/pruned-qat-int8.tflite",
        "model.ranges.json": "files/pruned-qat-int8.ranges.json",
        "int8.tflite": "files/pruned-qat-int8.tflite",
        "dense.tflite": "files/dense-fp32.tflite",
        "float.tflite": "files/dense-fp32.tflite",
        "other-tools.onnx": "files/dense-fp32.onnx",
        "other-tools-qdq.onnx": "files/pruned-qat-int8.onnx",
    }.items():
        shutil.copy(finished.out / source, folder / name)
    random = np.random.default_rng(0)
    np.savez(folder / "inputs.npz", x=random.normal(size=(2, 1, 32, 32)).astype(np.float32))
    for place in ("path/to/data/images", "path/to/data/masks", "path/to/images", "path/to/inputs"):
        (folder / place).mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(0, 256, (32, 32)).astype(np.uint8)
            Image.fromarray(pixels if not place.endswith("masks") else np.uint8(255) * (pixels > 99)).save(
                folder / place / f"{number}.png"
            )
    shutil.copy(finished.recipe, folder / "recipe.yaml")


def clear(line: str, folder: Path) -> None:
    """Remove what a line is about to write, which its reader does not have yet."""
    arguments = shlex.split(line)
    if arguments[-1] == "--init":
        (folder / "recipe.yaml").unlink(missing_ok=True)
    if "run" in arguments and not {"--out", "--init"} & set(arguments):
        shutil.rmtree(folder / "runs" / "recipe", ignore_errors=True)
    for option in ("--out", "--save", "--overlay", "--init"):
        if option in arguments[:-1]:
            path = folder / arguments[arguments.index(option) + 1]
            for each in (path, path.with_name(f"{path.name}.json"), path.with_suffix(".ranges.json")):
                if each.is_dir():
                    shutil.rmtree(each)
                else:
                    each.unlink(missing_ok=True)
