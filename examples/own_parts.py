"""Keep the built-in loop, with your own optimizer, schedule and augmentation of a batch."""

import torch

import torchshrink as ts

RECIPE = {
    "data": "synthetic:cells?size=32&train=40&test=8",
    "model": {"arguments": {"widths": [8, 16]}},
    "optimizer": "torch.optim:RMSprop",  # any that takes (parameters, lr=..., weight_decay=...)
    "schedule": "own_parts:warm_up",
    "augment": "own_parts:mix",
    "variants": {"dense": {"train": {"epochs": 4}}},
}


def warm_up(optimizer, steps):
    """Return a schedule over so many steps."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (0.2 * steps)))


def mix(inputs, truths, generator):
    """Mix every sample of a batch with another one."""
    order, share = torch.randperm(len(inputs), generator=generator), 0.9
    return share * inputs + (1 - share) * inputs[order], share * truths + (1 - share) * truths[order]


if __name__ == "__main__":
    print(ts.run(RECIPE, "runs/own-parts"))
