"""Shrink the network of spoken digits while PyTorch Lightning trains it.

Usage: python digits_lightning.py DATA/spoken_digits DENSE.safetensors EPOCHS, where `torchshrink run digits.yaml` wrote
the dense checkpoint. Prints the test accuracy of the float model and of the int8 graph, half of whose weights are zero.
"""

import sys

import lightning
import nets
import torch
from torch import nn

from torchshrink import checkpoint
from torchshrink.data import open_task
from torchshrink.loops import Shrinking
from torchshrink.loops.lightning import ShrinkCallback
from torchshrink.metrics import evaluate


class Digits(lightning.LightningModule):
    """A loop like any other, but for `Shrinking`, which stands where the network stood."""

    def __init__(self, net, example):
        super().__init__()
        self.net, self.generator = Shrinking(net, example, amount=0.5), torch.Generator().manual_seed(0)

    def training_step(self, batch, _):
        """Return the loss of a batch in other voices."""
        sounds, digits = nets.other_voices(*batch, self.generator)
        return nn.functional.cross_entropy(self.net(sounds), digits, label_smoothing=0.1)

    def configure_optimizers(self):
        """Return AdamW with one cycle."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=1e-2)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def main(data, dense, epochs):
    """Train, and print both accuracies."""
    lightning.seed_everything(0)
    task = open_task(f"{data}?level=peak&group=speaker")
    net = checkpoint.load(dense, nets.digits)
    before = evaluate(net, task.test, task.loss, metrics=task.metrics).accuracy
    model = Digits(net, task.example_input.repeat(2, 1, 1))
    loader = torch.utils.data.DataLoader(task.train, 32, shuffle=True, drop_last=True)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    lightning.Trainer(max_epochs=int(epochs), accelerator="cpu", callbacks=[ShrinkCallback()], **quiet).fit(
        model, loader
    )
    graph = model.net.finish()
    after = evaluate(graph, task.test, task.loss, metrics=task.metrics).accuracy
    print(f"test accuracy: float {before:.4f}, int8 with half of the weights zero {after:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
