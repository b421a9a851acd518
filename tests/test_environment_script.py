"""``scripts/environment`` finds a Python that runs, and says so when there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "environment"
# Answers what the script asks a Python, and makes environments whose own Python does nothing.
PYTHON = """#!/bin/sh
case "$1" in
-c) echo {version} ;;
--version) echo "Python {version}.9 of {name}" ;;
-m) mkdir -p "$3/bin"; printf '#!/bin/sh\\n' >"$3/bin/python"; chmod +x "$3/bin/python" ;;
esac
"""
SHIM = "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n"


class Machine:
    """A copy of the script, and a search path with nothing but what is added to it and the system's own tools."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tools = folder, folder / "tools"
        (folder / "scripts").mkdir()
        shutil.copy(SCRIPT, folder / "scripts")
        (folder / "pyproject.toml").touch()
        self.tools.mkdir()
        for name in ("dirname", "sha256sum", "cut", "cat", "mkdir", "chmod"):
            found = shutil.which(name)
            assert found is not None
            (self.tools / name).symlink_to(found)

    def add(self, path: str, content: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        target.chmod(0o755)

    def add_python(self, path: str, version: str) -> None:
        self.add(path, PYTHON.format(version=version, name=path))

    def source(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        bash = shutil.which("bash")
        assert bash is not None
        command = [
            bash,
            "-c",
            'source "$0" "$@"; echo "$ENV"',
            str(self.folder / "scripts" / "environment"),
            *arguments,
        ]
        environment = os.environ | {"PATH": str(self.tools)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_python_of_that_name(machine: Machine) -> None:
    machine.add_python("tools/python3.12", "3.12")
    done = machine.source("--python", "3.12")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ".venv-3.12"
    assert "Python 3.12.9 of tools/python3.12" in done.stderr


def test_a_shim_that_fails_is_passed_over_for_what_pyenv_has(machine: Machine) -> None:
    machine.add("tools/python3.12", SHIM)
    machine.add_python("tools/python3", "3.11")
    machine.add("tools/pyenv", f"#!/bin/sh\necho {machine.folder}/pyenv\n")
    machine.add_python("pyenv/versions/3.12.1/bin/python", "3.12")
    done = machine.source("--python", "3.12")
    assert done.returncode == 0, done.stderr
    assert "Python 3.12.9 of pyenv/versions/3.12.1/bin/python" in done.stderr
    assert "command not found" not in done.stderr


def test_another_version_is_never_taken_instead(machine: Machine) -> None:
    machine.add("tools/python3.12", SHIM)
    machine.add_python("tools/python3", "3.11")
    done = machine.source("--python", "3.12")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "error: no Python 3.12 runs here: install one (pyenv install 3.12), or pass --python with a version you have\n"
    )
    assert not (machine.folder / ".venv-3.12").exists()


def test_without_a_wish_any_that_is_supported(machine: Machine) -> None:
    machine.add_python("tools/python3", "3.13")
    done = machine.source()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ".venv"
    assert "Python 3.13.9 of tools/python3" in done.stderr
