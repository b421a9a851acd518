"""Checkpoints: exact round trips, and files that are not to be trusted."""

import json
import pickle
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink import checkpoint, prune
from torchshrink.errors import ModelError, OutputError
from torchshrink.model.unet import UNet


class Foreign(nn.Module):
    """A user's own model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.layer(x))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture
def write_header(path: Path) -> Callable[..., Path]:
    """A valid file whose description is any text."""

    def write(text: str) -> Path:
        save_file({"a": torch.zeros(1)}, path, metadata={"torchshrink": text})
        return path

    return write


@pytest.mark.parametrize(
    "settings", [{"widths": (4, 8)}, {"widths": (2, 3, 4), "dims": 1, "up": "nearest", "out_channels": 2}]
)
def test_unet_round_trip_is_exact(path: Path, settings: dict[str, Any]) -> None:
    model = UNet(**settings)
    inputs = torch.randn(2, 1, *[8] * model.config["dims"])
    model(inputs)  # statistics that are not the initial ones
    checkpoint.save(model, path)
    loaded = checkpoint.load(path)
    assert isinstance(loaded, UNet)
    assert loaded.config == model.config
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert torch.equal(loaded(inputs), model.eval()(inputs))


def test_quantized_round_trip_is_exact(path: Path, graph: GraphModule, inputs: Tensor) -> None:
    checkpoint.save(graph, path)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded(inputs), graph(inputs))
    buffers = dict(graph.named_buffers())
    for name, value in loaded.named_buffers():
        assert value.dtype == buffers[name].dtype
        assert torch.equal(value, buffers[name])
    checkpoint.save(loaded, path)
    assert torch.equal(checkpoint.load(path)(inputs), graph(inputs))


def test_int8_is_stored_as_int8(path: Path, ptq_graph: GraphModule, pruned_unet: UNet) -> None:
    checkpoint.save(ptq_graph, path)
    with safe_open(path, framework="np") as file:
        stored = sum(file.get_tensor(name).size for name in file.keys() if file.get_tensor(name).dtype == "int8")  # noqa: SIM118
    assert stored == sum(layer.weight.numel() for layer in prune.prunable_layers(pruned_unet).values())


def test_a_fresh_process_reads_a_quantized_graph(path: Path, ptq_graph: GraphModule, inputs: Tensor) -> None:
    """Without torchao's help, and without a warning."""
    checkpoint.save(ptq_graph, path, {"a": 1})
    code = (
        "import sys, torch; from pathlib import Path; from torchshrink import checkpoint;"
        f"model = checkpoint.load(Path({str(path)!r}));"
        f"print(repr(model(torch.ones(1, 1, 16, 16)).double().sum().item()), 'torchao' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    expected = ptq_graph(torch.ones(1, 1, 16, 16)).double().sum().item()
    assert done.stdout.split() == [repr(expected), "False"]


def test_description_is_in_the_header(path: Path) -> None:
    checkpoint.save(UNet(widths=(2, 4)), path, {"class_names": ["cell"], "history": {"best_epoch": 3}})
    found = checkpoint.describe(path)
    assert found["class_names"] == ["cell"]
    assert found["history"] == {"best_epoch": 3}
    assert found["schema"] == 1
    assert found["architecture"]["name"] == "UNet"
    # Another tool reads it without us: 8 bytes of length, then JSON.
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["torchshrink"]) == found


def test_files_of_other_tools_have_no_description(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path)
    assert checkpoint.describe(path) == {}


def test_foreign_models_need_their_factory(path: Path) -> None:
    model = Foreign().eval()
    checkpoint.save(model, path)
    with pytest.raises(
        ModelError, match=r"holds the weights of Foreign: say how to build it with --model MODULE:FACTORY"
    ):
        checkpoint.load(path)
    loaded = checkpoint.load(path, Foreign)
    inputs = torch.randn(1, 1, 4, 4)
    assert torch.equal(loaded(inputs), model(inputs))


@pytest.mark.parametrize("is_foreign", [False, True])
def test_the_file_is_let_go_of_before_its_copy_is_looked_at(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_foreign: bool
) -> None:
    """Both and what the look takes were four times the model."""
    read, held = checkpoint.read if is_foreign else checkpoint.tensors, []
    path = path.with_suffix(".pt") if is_foreign else path
    if is_foreign:
        torch.save(Foreign().state_dict(), path)
    else:
        checkpoint.save(Foreign(), path)

    def noted(*given: Any) -> Any:
        content = read(*given)
        held.extend(weakref.ref(value) for value in content.values())
        return content

    monkeypatch.setattr(checkpoint, "read" if is_foreign else "tensors", noted)
    monkeypatch.setattr(checkpoint, "_check_numbers", lambda *_: held.append(all(each() is None for each in held)))
    checkpoint.load(path, Foreign)
    assert len(held) == 3
    assert held[-1] is True


@pytest.mark.parametrize("place", [0, 2**20, -1])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_every_weight_is_looked_at(path: Path, place: int, odd: float) -> None:
    """Of a long one, too, of which some are looked at at a time, in any order of memory."""
    layer = nn.Linear(1025, 1030)
    layer.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)
    checkpoint.save(layer, path)
    with torch.no_grad():
        layer.weight.T.view(-1)[place] = odd
    with pytest.raises(ModelError, match="weight holds numbers that are not finite"):
        checkpoint.save(layer, path)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3)])
def test_few_weights_are_finite(path: Path, shape: tuple[int, ...]) -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(shape))
    checkpoint.save(module, path)
    assert checkpoint.tensors(path)["weight"].shape == shape


def test_files_of_other_tools_need_a_factory(path: Path) -> None:
    save_file(dict(Foreign().state_dict()), path)
    with pytest.raises(ModelError, match=r"an unknown model.*--model"):
        checkpoint.load(path)
    assert isinstance(checkpoint.load(path, Foreign), Foreign)


def test_wrong_model(path: Path) -> None:
    checkpoint.save(UNet(widths=(2, 4)), path)
    with pytest.raises(ModelError, match=r"model\.safetensors does not fit Foreign: .*'encoder\.0\.0'"):
        checkpoint.load(path, Foreign)
    with pytest.raises(ModelError, match=r"does not fit UNet: .*encoder") as caught:
        checkpoint.load(path, lambda: UNet(widths=(2, 3)))  # channels can have been removed, never added
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", [checkpoint.load, checkpoint.describe])
def test_missing_file(tmp_path: Path, function: Callable[[Path], Any]) -> None:
    for name in ("absent.safetensors", "absent.pt"):
        with pytest.raises(ModelError, match=f"no such checkpoint: .*{name}"):
            function(tmp_path / name)


@pytest.mark.parametrize("function", [checkpoint.load, checkpoint.describe])
@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_truncated_file(path: Path, function: Callable[[Path], Any], length: int) -> None:
    checkpoint.save(UNet(widths=(2, 4)), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated or not a safetensors file"):
        function(path)


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "null",
        '{"architecture": 3}',
        '{"architecture": {"name": "UNet", "arguments": {"bogus": 1}}}',
        '{"architecture": {"name": "UNet", "arguments": [1]}}',
        '{"architecture": {"name": "UNet", "arguments": {"widths": "abc"}}}',
        '{"architecture": {"name": "UNet", "arguments": {"widths": [65536, 65536]}}}',
        '{"architecture": {"name": "UNet", "arguments": {"widths": [4611686018427387904, 4]}}}',
        '{"architecture": {"name": "UNet", "arguments": {"widths": [4, 8], "kernel_size": 1000001}}}',
        '{"architecture": {"name": "UNet", "arguments": {"widths": [null, {}]}}}',
        '{"architecture": ' * 50_000,
        '{"architecture": {"graph": 5}}',
        '{"architecture": {"graph": {"nodes": []}}}',
    ],
)
def test_damaged_description(write_header: Callable[..., Path], text: str) -> None:
    with pytest.raises(ModelError, match=r"."):
        checkpoint.load(write_header(text))


def test_newer_schema(write_header: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="schema 99"):
        checkpoint.load(
            write_header('{"schema": 99, "architecture": {"name": "UNet", "arguments": {"widths": [2, 4]}}}')
        )


def test_other_endings_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.pt: checkpoints are written as \.safetensors"):
        checkpoint.save(UNet(widths=(2, 4)), tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_full_disk(path: Path) -> None:
    """safetensors does not raise OSError then."""
    checkpoint.save(UNet(widths=(2, 4)), path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*model\.safetensors"):
            checkpoint.save(UNet(widths=(2, 4)), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# --- Pickles


class Exploit:
    """What unpickling runs; here it only creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["evil.pt", "evil.pth", "evil.safetensors"])
def test_malicious_pickles_are_not_run(tmp_path: Path, name: str) -> None:
    created, path = tmp_path / "created", tmp_path / name
    torch.save({"weight": Exploit(created)}, path)
    with pytest.raises(ModelError):
        checkpoint.load(path)
    path.write_bytes(pickle.dumps(Exploit(created)))
    with pytest.raises(ModelError):
        checkpoint.load(path)
    assert not created.exists()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of the exploit's
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_exploit_would_work(tmp_path: Path) -> None:
    """The meta-test of the one above."""
    created, path = tmp_path / "created", tmp_path / "evil.pt"
    torch.save({"weight": Exploit(created)}, path)
    with pytest.raises(ModelError, match="holds neither a module nor a state_dict"):
        checkpoint.load(path, Foreign, allow_pickle=True)
    assert created.exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_whole_modules_need_trust(tmp_path: Path, suffix: str) -> None:
    model, path = UNet(widths=(2, 4)).eval(), tmp_path / f"model{suffix}"
    torch.save(model, path)
    with pytest.raises(ModelError, match=r"is a pickle, which can run code .*model\.unet\.UNet.*--allow-pickle"):
        checkpoint.load(path, lambda: UNet(widths=(2, 4)))
    for factory in (lambda: UNet(widths=(2, 4)), None):
        loaded = checkpoint.load(path, factory, allow_pickle=True)
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
        assert not loaded.training


def test_modules_beside_other_things(tmp_path: Path) -> None:
    """As detectors are saved: the module and its average, whole."""
    model, averaged = Foreign(), Foreign()
    torch.save({"epoch": 3, "model": model, "ema": averaged}, tmp_path / "a.pt")
    loaded = checkpoint.load(tmp_path / "a.pt", allow_pickle=True)
    assert torch.equal(loaded.state_dict()["layer.weight"], averaged.layer.weight)


@pytest.mark.parametrize("content", [3, {"a": 1}, ["x"]])
def test_pickles_of_something_else(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="neither a module nor a state_dict"):
        checkpoint.load(tmp_path / "a.pt", Foreign, allow_pickle=True)


def test_damaged_pickle(tmp_path: Path) -> None:
    """Nobody is told to trust what trust would not open."""
    (tmp_path / "a.pt").write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"a\.pt is truncated or not a file of torch\.save"):
        checkpoint.load(tmp_path / "a.pt", Foreign)
    with pytest.raises(ModelError, match=r"a\.pt cannot be unpickled"):
        checkpoint.load(tmp_path / "a.pt", Foreign, allow_pickle=True)
