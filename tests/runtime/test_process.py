"""Workers that live, and all the ways in which one can die."""

import io
import os
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from program import call

from torchshrink.bench import predict, session
from torchshrink.errors import ModelError
from torchshrink.runtime import process
from torchshrink.runtime.process import Worker


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("name", ["onnx_file", "tflite_file", "int8_file"])
def test_imports_only_its_runtime(name: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(name)
    with Worker(path) as worker:
        worker.load()
        modules = set(worker.ask("modules")["modules"])
    expected = {".onnx": "onnxruntime", ".tflite": "ai_edge_litert"}[path.suffix]
    runtimes = {"onnxruntime", "ai_edge_litert", "torch", "tensorflow", "onnx", "torchao"}
    assert runtimes & modules == {expected}
    ours = {name for name in modules if name.startswith("torchshrink")}
    ours -= {"torchshrink.errors", "torchshrink.runtime.external_data"}  # what looks at an ONNX file first
    rooms = ("", "._model_files", ".limits", ".onnx_session")
    assert ours == {"torchshrink"} | {f"torchshrink.runtime{name}" for name in rooms}


def test_torch_file_does_not_import_the_rest(pt2_file: Path) -> None:
    with Worker(pt2_file, allow_pickle=True) as worker:
        worker.load()
        modules = set(worker.ask("modules")["modules"])
    assert {"onnxruntime", "ai_edge_litert", "torch", "tensorflow", "torchao"} & modules == {"torch"}


def test_process_ends_with_the_block(onnx_file: Path) -> None:
    with Worker(onnx_file) as worker:
        worker.load()
        assert _is_alive(worker.pid)
    assert not _is_alive(worker.pid)


def test_process_ends_on_interruption(onnx_file: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Worker(onnx_file) as worker:
        raise KeyboardInterrupt
    assert not _is_alive(worker.pid)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such model file: .*/absent\.onnx"):
        Worker(tmp_path / "absent.onnx")


def test_unknown_ending_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.h5").touch()
    with pytest.raises(ModelError, match=r"model\.h5 cannot be measured: expected a file in \.onnx, \.tflite"):
        Worker(tmp_path / "model.h5")


@pytest.mark.parametrize(("suffix", "runtime"), [(".onnx", "onnxruntime"), (".tflite", "LiteRT"), (".pt2", "PyTorch")])
def test_damaged_file_is_one_clear_line(suffix: str, runtime: str, damaged: Callable[[str], Path]) -> None:
    path = damaged(suffix)
    with Worker(path, timeout_s=60, allow_pickle=True) as worker, pytest.raises(ModelError) as caught:
        worker.load()
    message = str(caught.value)
    assert message.startswith((f"{runtime} cannot load {path}: ", f"{runtime} could not load {path}: "))
    assert message.endswith(("export it again, or copy it again", "the file is damaged: export it again"))
    assert "\n" not in message


def test_death_by_signal_is_named(onnx_file: Path) -> None:
    with Worker(onnx_file) as worker:
        worker.load()
        os.kill(worker.pid, signal.SIGSEGV)
        with pytest.raises(ModelError, match=r"onnxruntime could not run .*scale\.onnx: .*SIGSEGV") as caught:
            worker.ask("once")
        with pytest.raises(ModelError, match="SIGSEGV"):
            worker.ask("once")
    assert "it left no message" in str(caught.value)


def test_last_words_are_told(onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "dies.py"
    script.write_text("import sys; print('first', file=sys.stderr); sys.exit('disk on fire')")
    monkeypatch.setattr(process, "_SCRIPT", script)
    with Worker(onnx_file) as worker, pytest.raises(ModelError, match=r"exit code 1 \(disk on fire\)") as caught:
        worker.load()
    assert caught.value.__notes__ == ["The runtime's last lines:\nfirst\ndisk on fire"]


def test_hanging_worker_is_given_up(onnx_file: Path) -> None:
    with Worker(onnx_file) as worker:
        worker.load()
        worker.timeout_s = 0.2
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(ModelError, match=r"could not run .*: no answer in 0\.2 s"):
            worker.ask("once")


def test_error_leaves_the_worker_usable(onnx_file: Path, tmp_path: Path, sample: np.ndarray) -> None:
    wrong, right = tmp_path / "wrong.npy", tmp_path / "right.npy"
    np.save(wrong, np.zeros((1, 2, 4, 4), np.float32))
    np.save(right, sample)
    with Worker(onnx_file) as worker:
        worker.load()
        with pytest.raises(ModelError, match=r"onnxruntime cannot run .*scale\.onnx: InvalidArgument"):
            worker.ask("predict", inputs=str(wrong), output=str(tmp_path / "y.npy"))
        reply = worker.ask("predict", inputs=str(right), output=str(tmp_path / "y.npy"))
    assert reply["shapes"] == [[1, 2, 3, 5]]


def test_runtime_chatter_does_not_reach_the_protocol(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "chatty.py"
    script.write_text(
        "import os, runpy, sys, types\n"
        "chatty = types.ModuleType('onnxruntime')\n"
        "def session(*args, **kwargs):\n"
        "    print('hello'); sys.stdout.flush(); os.write(1, b'from C\\n'); raise ValueError('two\\nlines')\n"
        "chatty.SessionOptions = session\n"
        "sys.modules['onnxruntime'] = chatty\n"
        f"runpy.run_path({str(process._SCRIPT)!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(process, "_SCRIPT", script)
    with Worker(onnx_file) as worker, pytest.raises(ModelError, match="ValueError: two lines") as caught:
        worker.load()
    assert caught.value.__notes__ == ["The runtime's last lines:\nhello\nfrom C"]


def test_environment_sets_threads_and_drops_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://example.invalid")
    monkeypatch.setenv("http_proxy", "http://example.invalid")
    environment = process.environment(3)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["PATH"] == os.environ["PATH"]
    assert not [name for name in environment if name.lower().endswith("_proxy")]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_telemetry_is_off_before_the_runtime_is_imported(onnx_file: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "XDG_CACHE_HOME"):
            patch.setenv(name, str(home))
        with Worker(onnx_file) as worker:
            worker.load()
    assert list(home.rglob("*")) == []


class Exploit:
    """What unpickling runs; here it only creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


@pytest.fixture
def evil_file(pt2_file: Path, tmp_path: Path) -> Path:
    """An exported program whose example inputs create the file ``created``."""
    buffer, path = io.BytesIO(), tmp_path / "evil.pt2"
    torch.save(Exploit(tmp_path / "created"), buffer)
    with zipfile.ZipFile(pt2_file) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, buffer.getvalue() if "sample_inputs" in name else source.read(name))
    return path


def test_exported_programs_are_pickles(evil_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"evil\.pt2 holds pickles, which can run code .*--allow-pickle"):
        predict(evil_file, np.zeros((1, 2, 3, 5)))
    with pytest.raises(ModelError, match="--allow-pickle"):
        session.run([evil_file], np.zeros((1, 2, 3, 5), np.float32), reference=evil_file)
    assert call("bench", evil_file, "--data", "synthetic:cells?train=8&test=4").code == 3
    assert not (tmp_path / "created").exists()
    with pytest.raises(ModelError):
        predict(evil_file, np.zeros((1, 2, 3, 5)), allow_pickle=True)
    assert (tmp_path / "created").exists()  # the exploit would work
