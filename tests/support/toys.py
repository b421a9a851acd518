"""A toy task that trains in a second, and models quantized once for the whole session: a plugin of conftest.py."""

import copy
import gc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.data import TensorDataset

from torchshrink import prune, quantize
from torchshrink.losses import FocalTversky
from torchshrink.model.unet import UNet
from torchshrink.quantize import PreparedModule
from torchshrink.task import Normalization, Task

gc.disable()  # until all is collected: nothing of it is ever freed, and looking for that takes a fifth of the time

SIZE = 16


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


def bright_squares(count: int, seed: int) -> TensorDataset:
    """Noise with one 6x6 square that is 2 brighter, and where it is: inputs [N, 1, 16, 16], truth uint8."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(count, 1, SIZE, SIZE)).astype(np.float32)
    truth = np.zeros_like(inputs, np.uint8)
    for sample, (top, left) in enumerate(rng.integers(0, SIZE - 6, (count, 2))):
        truth[sample, 0, top : top + 6, left : left + 6] = 1
    return TensorDataset(torch.from_numpy(inputs + 2 * truth), torch.from_numpy(truth))


@pytest.fixture(scope="session")
def make_task() -> Callable[..., Task]:
    def make(train: int = 24, loss: nn.Module | None = None) -> Task:
        return Task(
            name="squares",
            train=bright_squares(train, 0),
            validation=bright_squares(8, 1),
            test=bright_squares(8, 2),
            normalization=Normalization((0.0,), (1.0,)),
            loss=loss or FocalTversky(),
            class_names=("square",),
        )

    return make


@pytest.fixture(scope="session")
def tiny_task(make_task: Callable[..., Task]) -> Task:
    return make_task()


@pytest.fixture
def small_net() -> nn.Module:
    """A segmenter without BatchNorm, which torchao converts in no time."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 1, 1),
        nn.Sigmoid(),
    )


@pytest.fixture(scope="session")
def inputs() -> Tensor:
    """Eight samples, [8, 1, 16, 16]."""
    return torch.randn(8, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def pruned_unet(inputs: Tensor) -> UNet:
    """A U-Net with settled BatchNorm statistics, 60 % of its weights exactly zero."""
    torch.manual_seed(1)
    model = UNet(widths=(4, 8))
    for _ in range(30):
        model(inputs)
    prune.remove(prune.magnitude(model, 0.6))
    return model.eval()


def trained(prepared: PreparedModule, inputs: Tensor) -> PreparedModule:
    """Train a prepared model for 20 steps, frozen from the 12th on, by an optimizer with momentum and weight decay."""
    optimizer = torch.optim.AdamW(prepared.parameters(), lr=1e-2, weight_decay=0.3)
    truth = (inputs > 0.5).float()
    for step in range(20):
        if step == 12:
            prepared.freeze()
        nn.functional.binary_cross_entropy(prepared(inputs), truth).backward()
        optimizer.step()
        optimizer.zero_grad()
        prepared.apply_masks()
    prepared.eval()(inputs)  # the scales of the weights as the last step left them
    return prepared


@pytest.fixture(scope="session")
def trained_qat(pruned_unet: UNet, inputs: Tensor) -> PreparedModule:
    """The pruned U-Net after quantization-aware training by an optimizer with momentum and strong weight decay."""
    return trained(quantize.prepare_qat(pruned_unet, inputs), inputs)


@pytest.fixture(scope="session")
def qat_graph(trained_qat: PreparedModule) -> GraphModule:
    return quantize.convert(trained_qat)


@pytest.fixture(scope="session")
def ptq_graph(pruned_unet: UNet, inputs: Tensor) -> GraphModule:
    prepared = quantize.prepare_ptq(pruned_unet, inputs)
    quantize.calibrate(prepared, inputs.split(4))
    return quantize.convert(prepared)


@pytest.fixture(params=["qat_graph", "ptq_graph"])
def graph(request: pytest.FixtureRequest) -> GraphModule:
    """A quantized U-Net, one by training and one by calibration; a copy, so that a test may change it."""
    return copy.deepcopy(request.getfixturevalue(request.param))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
