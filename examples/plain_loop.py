"""Prune a model and make it int8 in a training loop of your own."""

import torch
from torch import nn

import torchshrink as ts


def main(epochs: int = 10) -> nn.Module:
    """Return an int8 graph, half of its weights zero."""
    inputs = torch.randn(64, 1, 16, 16)
    truths = (inputs.mean((1, 2, 3)) > 0).long()
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(784, 2))
    model = ts.loops.Shrinking(net, inputs[:2], amount=0.5)  # stands where the model stood
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step, steps = 0, epochs * 4
    for _ in range(epochs):
        for batch in torch.randperm(64).split(16):
            nn.functional.cross_entropy(model(inputs[batch]), truths[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            model.step(step, steps, optimizer)  # prunes, keeps zeros, switches to int8, freezes
    return model.finish()


if __name__ == "__main__":
    ts.converters.to_onnx(main(), torch.randn(1, 1, 16, 16), "small.onnx", precision="int8")
