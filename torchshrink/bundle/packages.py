"""What the bundle's image installs: exact versions, and the bytes that they take."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution, requires, version

from torchshrink.bundle import library

RUNTIMES = {"tflite-c": "", "litert": "ai-edge-litert", "onnxruntime": "onnxruntime"}
# Wheels for every system, so one checksum each; tried together with the load test of the bundle.
_SERVER = {
    "anyio==4.16.0": "c66ae634e0b8228396b801741beb3294326d4b6102f7bba4041c0dfb58c29026",
    "click==8.5.1": "8bb5376d2006950386f8c6427613334a2acadc5f559cb80e638d00b4df957e37",
    "h11==0.16.0": "63cf8bbe7522de3bf65932fda1d9c2772064ffb3dae62d55932da54b31cb6c86",
    "idna==3.20": "ab7ae7122974553370f0bdb919e1a960b2cd1bc1ef0276416d896db81c14582c",
    "starlette==1.10.0": "478c0ab3b4ced6e82719849c118fa406f0278a3499c1a898cd15cd31bdc38ce4",
    "typing-extensions==4.16.0": "481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8",
    "uvicorn==0.54.0": "505bdb0f318731d45f1f712071fc781a8981f6847a31c902c9f5e652d4f67faf",
}
_SERVER_BYTES = 2_336_696


def requirements(runtime: str, with_pillow: bool, with_server: bool) -> list[str]:
    """Return the lines of requirements.txt; they name everything, so nothing else is to be installed."""
    names = [name for name in (RUNTIMES[runtime], "pillow" if with_pillow else "") if name]
    if names:  # pip wants checksums for all packages or for none
        found = {name: f"{name}=={version(name)}" for name in sorted(closure(names))}
        if with_server:
            found |= {line.partition("==")[0]: line for line in _SERVER}
        lines = [*found.values()]
    else:
        lines = [f"{line} --hash=sha256:{digest}" for line, digest in _SERVER.items()] if with_server else []
    if runtime == "tflite-c":
        lines.append(library.PACKAGE if names else library.requirement())
    return lines


def installed_bytes(lines: list[str]) -> int:
    """Return what the packages of requirements.txt take on disk, by their own lists of files."""
    total = _SERVER_BYTES if any(line.startswith("uvicorn==") for line in lines) else 0
    for line in lines:
        name = line.partition("==")[0]
        if name == library.PACKAGE.partition("==")[0]:
            total += library.BYTES
        elif not any(known.startswith(f"{name}==") for known in _SERVER):
            try:
                total += sum(file.size or 0 for file in distribution(name).files or ())
            except PackageNotFoundError:
                continue
    return total


def closure(names: list[str]) -> set[str]:
    """Return packages and all that they need here."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            needed = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            if name in names:
                raise
            continue
        found.add(name)
        left += [item.name for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
    return found
