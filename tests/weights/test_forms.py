"""The forms in which people have their weights: each file is made as its tool makes it, read without a flag."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from torchshrink import checkpoint
from torchshrink.errors import ModelError


class Net(nn.Module):
    """A classifier with a BatchNorm, whose counter is part of its state."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.features(x).mean((2, 3))
        return self.head(features)


class Tied(nn.Module):
    """Two names of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def averaged(model: nn.Module) -> dict[str, Any]:
    """Beside other weights, which are the wrong ones."""
    return {"model": Net().state_dict(), "model_ema": AveragedModel(model).state_dict(), "epoch": 3}


def lightning(prefix: str) -> Callable[[nn.Module], dict[str, Any]]:
    def make(model: nn.Module) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(model.parameters())
        return {
            "epoch": 1,
            "global_step": 20,
            "pytorch-lightning_version": "2.6.0",
            "state_dict": {**prefixed(model.state_dict(), prefix), "loss.pos_weight": torch.ones(1)},
            "optimizer_states": [optimizer.state_dict()],
            "hyper_parameters": {"lr": 1e-3},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        }

    return make


FORMS: dict[str, Callable[[nn.Module], Any]] = {
    "state_dict": lambda model: model.state_dict(),
    "DataParallel": lambda model: nn.DataParallel(model).state_dict(),
    "compiled": lambda model: prefixed(model.state_dict(), "_orig_mod."),
    "compiled DataParallel": lambda model: prefixed(model.state_dict(), "module._orig_mod."),
    "model": lambda model: {"model": model.state_dict(), "epoch": 3, "optimizer": {"state": {0: torch.ones(1)}}},
    "wrapped state_dict": lambda model: {"state_dict": model.state_dict()},
    "model_state_dict": lambda model: {"model_state_dict": model.state_dict(), "loss": 0.5},
    "other networks beside it": lambda model: {"discriminator": nn.Linear(2, 2).state_dict(), "g": model.state_dict()},
    "averaged": averaged,
    "averaged, in one state_dict": lambda model: {
        **prefixed(Net().state_dict(), "model."),
        **prefixed(model.state_dict(), "ema_model."),
    },
    "averaged, without buffers": lambda model: {
        "net": {**Net().state_dict(), **dict(model.named_buffers())},
        "ema": {"decay": 0.99, "shadow": {name: value.detach() for name, value in model.named_parameters()}},
    },
    "Lightning, model": lightning("model."),
    "Lightning, net": lightning("net."),
    "of before num_batches_tracked": lambda model: {
        name: value for name, value in model.state_dict().items() if "num_batches" not in name
    },
}


@pytest.fixture
def model() -> Net:
    net = Net()
    net(torch.randn(4, 1, 8, 8))  # statistics that are not the initial ones
    return net.eval()


def assert_same(found: nn.Module, model: nn.Module) -> None:
    inputs = torch.randn(2, 1, 8, 8)
    assert torch.equal(found(inputs), model(inputs))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", [".pt", ".ckpt"])
def test_forms_of_torch_save(tmp_path: Path, model: Net, form: str, ending: str) -> None:
    torch.save(FORMS[form](copy.deepcopy(model)), tmp_path / f"a{ending}")
    assert_same(checkpoint.load(tmp_path / f"a{ending}", Net), model)


class Compiled(nn.Module):
    """Named as torch.compile names what it wraps."""

    def __init__(self) -> None:
        super().__init__()
        self._orig_mod = Net()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self._orig_mod(x)
        return found


class CompiledFrom(Compiled):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model  # type: ignore[assignment]


@pytest.mark.parametrize("wrap", [lambda: nn.DataParallel(Net()), Compiled, lambda: nn.DataParallel(Compiled())])
def test_factories_of_wrapped_models(tmp_path: Path, model: Net, wrap: Callable[[], nn.Module]) -> None:
    for form in ("state_dict", "DataParallel"):
        torch.save(FORMS[form](model), tmp_path / "a.pt")
        assert_same(checkpoint.load(tmp_path / "a.pt", wrap), model)


@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel, lambda model: CompiledFrom(model)])
def test_whole_wrapped_modules(tmp_path: Path, model: Net, wrap: Callable[[nn.Module], nn.Module]) -> None:
    torch.save({"model": wrap(model)}, tmp_path / "a.pt")
    found = checkpoint.load(tmp_path / "a.pt", allow_pickle=True)
    assert type(found) is Net
    assert_same(found, model)


def test_a_hugging_face_folder(tmp_path: Path, model: Net) -> None:
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_same(checkpoint.load(tmp_path, Net), model)
    save_file(prefixed(model.state_dict(), "backbone."), tmp_path / "model.safetensors")  # of a larger model's part
    assert_same(checkpoint.load(tmp_path, Net), model)


def test_a_folder_of_many_files(tmp_path: Path, model: Net) -> None:
    parts: dict[str, dict[str, Tensor]] = {"model-1.safetensors": {}, "model-2.safetensors": {}}
    for place, (name, value) in enumerate(model.state_dict().items()):
        parts[f"model-{place % 2 + 1}.safetensors"][name] = value
    for name, part in parts.items():
        save_file(part, tmp_path / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same(checkpoint.load(tmp_path, Net), model)
    index["weight_map"]["head.bias"] = "../model-2.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"names '\.\./model-2\.safetensors', which is not in its folder"):
        checkpoint.load(tmp_path, Net)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match=r"index\.json is damaged"):
        checkpoint.load(tmp_path, Net)


def test_an_old_hugging_face_folder(tmp_path: Path, model: Net) -> None:
    with pytest.raises(ModelError, match=r"holds none of model\.safetensors"):
        checkpoint.load(tmp_path, Net)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert_same(checkpoint.load(tmp_path, Net), model)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    tied = Tied()
    save_file({"embed.weight": tied.embed.weight.detach()}, tmp_path / "a.safetensors")
    loaded = checkpoint.load(tmp_path / "a.safetensors", Tied)
    assert torch.equal(loaded.state_dict()["head.weight"], tied.embed.weight)


def test_which_of_several_is_not_guessed(tmp_path: Path, model: Net) -> None:
    content = {**prefixed(model.state_dict(), "left."), **prefixed(Net().state_dict(), "right.")}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"several sets of weights that fit \(left, right\)"):
        checkpoint.load(tmp_path / "a.pt", Net)


# --- What does not fit


def misfit(tmp_path: Path, state: dict[str, Tensor]) -> str:
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ModelError) as caught:
        checkpoint.load(tmp_path / "a.pt", Net)
    return str(caught.value).removeprefix(f"{tmp_path / 'a.pt'} does not fit Net: ")


def test_another_number_of_classes(tmp_path: Path) -> None:
    assert misfit(tmp_path, Net(5).state_dict()) == (
        "2 of 9 tensors of another shape (all of them in head); "
        "of another shape: head.weight [5, 4] instead of [3, 4], head.bias [5] instead of [3]"
    )


def test_missing_and_unknown(tmp_path: Path) -> None:
    state = {name: value for name, value in Net().state_dict().items() if name != "head.bias"}
    assert misfit(tmp_path, {**state, "decoder.a.weight": torch.ones(1), "decoder.a.bias": torch.ones(1)}) == (
        "1 of 9 tensors not in the file, 2 of 10 tensors not in the model (all of them in decoder.a); "
        "not in the file: head.bias; not in the model: decoder.a.weight, decoder.a.bias"
    )


def test_the_whole_list_is_said(tmp_path: Path) -> None:
    state = {f"blocks.{place}.attention.projection.weight": torch.ones(1) for place in range(300)}
    said = misfit(tmp_path, state)
    assert said.startswith("no name is the same, the file's begin with blocks and the model's with features, head, ")
    assert all(name in said for name in (*state, *Net().state_dict()) if "num_batches" not in name)
    assert "\n" not in said


@pytest.mark.parametrize("length", [4, 300, -10])
def test_a_truncated_file(tmp_path: Path, model: Net, length: int) -> None:
    path = tmp_path / "a.pt"
    torch.save(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"a\.pt is truncated or not a file of torch\.save"):
        checkpoint.load(path, Net)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # as torch 2.14 has it
def test_torchscript(tmp_path: Path, model: Net) -> None:
    torch.jit.script(model).save(tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"a\.pt is TorchScript: save the state_dict\(\)"):
        checkpoint.load(tmp_path / "a.pt", Net)
