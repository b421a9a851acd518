"""Prune a model and make it int8 while Hugging Face's Trainer trains it."""

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from torchshrink.loops import Shrinking
from torchshrink.loops.transformers import ShrinkCallback


class Classifier(nn.Module):  # noqa: D101
    def __init__(self):
        super().__init__()
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(784, 2))
        self.net = Shrinking(net, torch.randn(2, 1, 16, 16), amount=0.5)  # stands where the model stood

    def forward(self, pixels, labels):  # noqa: D102
        scores = self.net(pixels)
        return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}


def main(**arguments):  # noqa: D103
    data = [{"pixels": image, "labels": int(image.mean() > 0)} for image in torch.randn(64, 1, 16, 16)]
    model = Classifier()
    Trainer(model, TrainingArguments(**arguments), train_dataset=data, callbacks=[ShrinkCallback()]).train()
    return model.net.finish()  # an int8 graph, half of its weights zero


if __name__ == "__main__":
    print(main(output_dir="runs/hugging-face", num_train_epochs=4, report_to="none"))
