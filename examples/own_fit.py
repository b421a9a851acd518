"""Keep your own trainer: a recipe's `fit` is called wherever a variant is trained."""

import torch
from torch.utils.data import DataLoader

import torchshrink as ts

RECIPE = {
    "data": "synthetic:cells?size=32&train=40&test=8",
    "model": {"arguments": {"widths": [8, 16]}},
    "fit": "own_fit:fit",  # this file, beside the recipe
    "variants": {"dense": {"train": {"epochs": 4}}, "half": {"from": "dense", "prune": {"amount": 0.5, "epochs": 2}}},
}


def fit(model, task, settings, after_step):
    """Train the model in place, as you always did; `after_step` prunes and keeps zeros."""
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=0.9)
    loader = DataLoader(task.train, settings.batch_size, shuffle=True)
    for epoch in range(settings.epochs):
        for step, (inputs, truth) in enumerate(loader, 1):
            task.loss(model.train()(inputs), truth).backward()
            optimizer.step()
            optimizer.zero_grad()
            after_step(epoch * len(loader) + step, settings.epochs * len(loader))


if __name__ == "__main__":
    print(ts.run(RECIPE, "runs/own-fit"))
