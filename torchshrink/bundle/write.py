"""Write a bundle: into a folder of a temporary name, proven there in a process of its own, then renamed."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from torchshrink.bundle import card, check, image, languages, library, micro, packages
from torchshrink.bundle.describe import describe
from torchshrink.errors import ModelError, OutputError, ParityError
from torchshrink.files import real, sha256
from torchshrink.harmless import markdown
from torchshrink.runtime.predict import predict

Runtime = Literal["tflite-c", "litert", "onnxruntime"]
MODEL, SUMS = "model.json", "SHA256SUMS"
_PARTS = ("run.py", "formats.py", "pngs.py", "tiles.py", "selftest.py")
_SERVER_PARTS = ("server.py", "load_test.py")
_RUNS = {".tflite": ("tflite-c", "litert"), ".onnx": ("onnxruntime",)}  # the cheapest first, see docs/deployment.md
_TYPES = {"f": np.float32, "b": np.int8, "B": np.uint8}


@dataclass(frozen=True)
class Bundle:
    """A folder that was written.

    Attributes:
        path: The folder.
        runtime: What runs the file there.
        proof: What its self-test found, see `parts/selftest.py`.
        bytes: Of all its files.
        image: How large its image is.
    """

    path: Path
    runtime: str
    proof: dict[str, Any]
    bytes: int
    image: image.Size


def bundle(
    file: Path, out: Path, *, runtime: Runtime | None = None, server: bool = False, overwrite: bool = False
) -> Bundle:
    """Write a folder that runs a shipped file without torch and torchshrink.

    Args:
        file: An ``.onnx`` or ``.tflite`` file that torchshrink made.
        out: The folder.
        runtime: What runs the file there; by default what needs the least memory.
        server: Add an HTTP server and its load test.
        overwrite: Replace a bundle that is there.

    Raises:
        ModelError: When the file cannot be used, or the runtime does not run such files.
        OutputError: When the folder exists, or is no bundle that could be replaced.
        MissingExtraError: When the runtime is not installed here.
        ParityError: When the runner does not give what the file gives in its own runtime.
    """
    chosen = _runtime(file, runtime)
    _check_out(out, file, overwrite)
    spec = describe(file)
    wanted = packages.requirements(chosen, bool(spec["prepared"]), server)
    with _renamed(out) as folder:
        shutil.copyfile(file, folder / file.name)
        _copy_parts(folder, chosen, server)
        _write_texts(folder, spec, chosen, wanted, server)
        _write(folder / "micro", micro.sources(file, spec))
        _record(folder, file, spec)
        _write_sums(folder)
        proof = check.self_test(folder)
        if not proof["passed"]:
            raise ParityError(f"{file} does not compute the same in {chosen}: {check.reason(proof)}")
        size = image.computed(folder)
        (folder / "MODEL_CARD.md").write_text(card.card(spec, chosen, file, proof, str(size)), encoding="utf-8")
        _write_sums(folder)
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return Bundle(out, chosen, proof, total, size)


def _runtime(file: Path, runtime: Runtime | None) -> str:
    fitting = _RUNS.get(file.suffix)
    if fitting is None:
        raise ModelError(f"{file} is no shipped model: expected an .onnx or .tflite file")
    if not file.name.isprintable():
        raise ModelError(f"{file} has a name that cannot be printed, which its folder would be full of: rename it")
    if runtime is not None and runtime not in get_args(Runtime):
        raise ModelError(f"there is no runtime {runtime!r}: choose {', '.join(get_args(Runtime))}")
    if runtime is not None and runtime not in fitting:
        raise ModelError(f"{runtime} does not run {file.suffix} files such as {file}: choose {' or '.join(fitting)}")
    return runtime or fitting[0]


def _check_out(out: Path, file: Path, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise OutputError(f"{out} exists: choose another --out, or pass --overwrite")
    if not out.is_dir() or out.is_symlink() or not ((out / MODEL).is_file() and (out / SUMS).is_file()):
        raise OutputError(f"{out} is no bundle, so it is not replaced: choose another --out")
    if real(file).is_relative_to(real(out)):
        raise OutputError(f"{file} is in {out}, which is to be replaced: choose another --out")


@contextmanager
def _renamed(out: Path) -> Iterator[Path]:
    """Yield a new folder beside ``out`` that becomes it when the block ends well."""
    temporary = out.parent / f".{out.name}-{uuid.uuid4().hex[:8]}"
    old = out.parent / f".{out.name}-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if out.exists():
            out.rename(old)
        temporary.rename(out)
    except OSError as error:
        if old.exists() and not out.exists():
            old.rename(out)
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _copy_parts(folder: Path, runtime: str, server: bool) -> None:
    engine = f"engine_{runtime.replace('-', '_')}.py"
    names = {name: name for name in (*_PARTS, *(_SERVER_PARTS if server else ()))} | {engine: "engine.py"}
    for source, target in names.items():
        (folder / target).write_bytes(files("torchshrink.bundle").joinpath("parts", source).read_bytes())
    if runtime == "tflite-c":
        place = folder / "lib" / library.machine() / library.NAME
        place.parent.mkdir(parents=True)
        shutil.copyfile(library.fetch(), place)


def _write_texts(folder: Path, spec: dict[str, Any], runtime: str, wanted: list[str], server: bool) -> None:
    texts = {
        MODEL: json.dumps(spec, indent=1, ensure_ascii=False) + "\n",
        "requirements.txt": "".join(f"{line}\n" for line in wanted),
        "Dockerfile": image.dockerfile(wanted, server),
        ".dockerignore": "lib\nsnippets\n__pycache__\n",
        "README.md": _readme(spec, runtime, bool(wanted), server),
    }
    _write(folder, texts)
    _write(folder / "snippets", languages.snippets(spec))


def _write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _readme(spec: dict[str, Any], runtime: str, has_packages: bool, server: bool) -> str:
    install = "pip install --no-deps -r requirements.txt"
    lines = [
        f"# {markdown(spec['file'])}",
        "",
        f"Runs with Python 3.11 or later and {runtime}; MODEL_CARD.md says what it is and was measured at.",
        "",
        *([f"    {install}"] if has_packages else []),
        "    python run.py image.png --out results     # also .npy, .npz and .wav",
        "    python -I selftest.py                     # or: torchshrink verify THIS_FOLDER",
        *(["    python server.py --port 8000", "    python load_test.py 1000 8"] if server else []),
        "    docker build -t model .",
        "",
        *(
            [
                f"`lib/` holds the TFLite C library {library.VERSION} for {library.machine()} (Apache-2.0), taken from "
                f"the wheel {library.PACKAGE}; other machines get theirs from requirements.txt.",
                "",
            ]
            if runtime == "tflite-c"
            else []
        ),
    ]
    return "\n".join(lines)


def _record(folder: Path, file: Path, spec: dict[str, Any]) -> None:
    """Write an input and what the file makes of it in its own runtime, opened by torchshrink."""
    raw = _sample(spec)
    shape = (1, -1, *[1] * spec["dims"])
    mean, std = (np.array(spec[name], np.float32).reshape(shape) for name in ("mean", "std"))
    divisor = {"uint8 / 255": 255, "uint16 / 65535": 65535}.get(spec["raw"], 1)
    values = (raw.astype(np.float32) / np.float32(divisor) - mean) / std
    found = predict(file, values, raw=bool(spec["output"]["scale"]))
    (folder / "selftest").mkdir()
    np.save(folder / "selftest" / "input.npy", raw)
    last = np.moveaxis(found, 1, -1).astype(_TYPES[spec["output"]["code"]])
    (folder / "selftest" / "output.bin").write_bytes(np.ascontiguousarray(last).tobytes())


def _sample(spec: dict[str, Any]) -> NDArray[Any]:
    """Return an input ``[1, C, *size]`` of the raw type: patches and noise, the same every time."""
    rng = np.random.default_rng(0)
    shape = (1, spec["channels"], *spec["tile"])
    coarse = rng.uniform(size=(1, spec["channels"], *(-(-side // 16) for side in spec["tile"])))
    for axis in range(2, coarse.ndim):
        coarse = coarse.repeat(16, axis)
    level = 0.8 * coarse[tuple(slice(side) for side in shape)] + 0.2 * rng.uniform(size=shape)
    if spec["raw"] in ("uint8 / 255", "uint16 / 65535"):
        kind = np.uint8 if spec["raw"].startswith("uint8") else np.uint16
        codes: NDArray[Any] = (level * np.iinfo(kind).max).astype(kind)
        return codes
    mean, std = (np.array(spec[name]).reshape(1, -1, *[1] * spec["dims"]) for name in ("mean", "std"))
    floats: NDArray[Any] = (mean + std * (4 * level - 2)).astype(np.float32)
    return floats


def _write_sums(folder: Path) -> None:
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != SUMS and "__pycache__" not in path.parts and "lib" not in path.parts
    )
    (folder / SUMS).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in names), encoding="utf-8")
