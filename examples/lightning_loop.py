"""Prune a model and make it int8 while PyTorch Lightning trains it."""

import lightning
from torch import nn, optim, randn, utils

from torchshrink.loops import Shrinking
from torchshrink.loops.lightning import ShrinkCallback


class Classifier(lightning.LightningModule):  # noqa: D101
    def __init__(self):
        super().__init__()
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(784, 2))
        self.net = Shrinking(net, randn(2, 1, 16, 16), amount=0.5)  # stands where the model stood

    def training_step(self, batch, _):  # noqa: D102
        return nn.functional.cross_entropy(self.net(batch), (batch.mean((1, 2, 3)) > 0).long())

    def configure_optimizers(self):  # noqa: D102
        return optim.AdamW(self.parameters(), lr=1e-3)


def main(**trainer):  # noqa: D103
    model, data = Classifier(), utils.data.DataLoader(randn(64, 1, 16, 16), 16)
    lightning.Trainer(callbacks=[ShrinkCallback()], **trainer).fit(model, data)
    return model.net.finish()  # an int8 graph, half of its weights zero


if __name__ == "__main__":
    print(main(max_epochs=4))
