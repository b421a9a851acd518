"""The models whose right files are harmed: small ones with random weights, one for each kind of network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

import torchshrink as ts
from torchshrink import quantize
from torchshrink.converters import qdq, tflite
from torchshrink.converters.export import onnxruntime_int8
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.onnx_file import save


class Residual(nn.Module):
    """Two blocks with LeakyReLU whose input is added to what they compute."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)) for _ in range(2)
        )
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, 4, H, W]``."""
        x = F.leaky_relu(self.stem(x))
        for block in self.blocks:
            x = F.leaky_relu(x + block(x))
        return self.head(x)


class Transposed(nn.Module):
    """Down by a stride, up by a transposed convolution beside a skipped connection, a sigmoid in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 12, 3, stride=2, padding=1)
        self.up, self.head = nn.ConvTranspose2d(12, 6, 2, stride=2), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, 2, H, W]``."""
        skip = F.relu(self.first(x))
        up = F.relu(self.up(F.relu(self.down(skip))))
        return torch.sigmoid(self.head(torch.cat([skip, up], 1)))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(12 * 5 * 6, 20),
    )  # fmt: skip


def _depthwise() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    for out in (12, 16):
        width = int(layers[-2].num_features)  # type: ignore[arg-type]
        layers += [nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU6()]
        layers += [nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def _signal() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 8, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 12, 3, padding=1), nn.PReLU(12),
        nn.Conv1d(12, 3, 1),
    )  # fmt: skip


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 16))


def _silu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.SiLU(),
        nn.Conv2d(8, 5, 1),
    )  # fmt: skip


IMAGE = (3, 10, 12)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn": (_cnn, IMAGE),
    "unet": (lambda: ts.UNet(in_channels=1, widths=(4, 8)), (1, 16, 12)),
    "residual-leaky": (Residual, IMAGE),
    "depthwise": (_depthwise, (3, 16, 12)),
    "signal": (_signal, (2, 40)),
    "mlp": (_mlp, (24,)),
    "silu": (_silu, IMAGE),
    "transposed": (Transposed, IMAGE),
}


def inputs(name: str, count: int, seed: int) -> Tensor:
    """Return ``[count, *size]`` normal numbers, a third of which are twice as large: codes at both ends are met."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, *MODELS[name][1], generator=generator)
    values[: count // 3] *= 2
    return values


def quantized(name: str, seed: int) -> GraphModule:
    """Return a calibrated int8 graph; biases and the statistics of norms are drawn so that each of them matters."""
    torch.manual_seed(seed)
    model = MODELS[name][0]()
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.3)
    data = inputs(name, 48, seed)
    model.train()(data)  # the statistics of norms
    model.eval()
    prepared = quantize.prepare_ptq(model, data[:1])
    quantize.calibrate(prepared, [data])
    return quantize.convert(prepared)


def write(name: str, graph: GraphModule, format_: str, folder: Path) -> tuple[onnx.ModelProto, Path]:
    """Return the generic QDQ export, with which scales are compared, and the right int8 file made of it."""
    source = export(graph, inputs(name, 1, 0))
    path = folder / f"{name}.{format_}"
    if format_ == "onnx":
        save(onnxruntime_int8.rewrite(source), path)
        return source, path
    plain, ranges = qdq.split(source)
    floats = folder / f"{name}-float.onnx"
    save(plain, floats)
    with tflite.float_files([floats]) as (converted,):
        tflite.write(converted, floats, path, "int8", ranges)
    return source, path
