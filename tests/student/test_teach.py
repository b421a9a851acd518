"""A student takes and gives what its teacher does, and learns from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchshrink import losses, student
from torchshrink.errors import ModelError, RecipeError
from torchshrink.model.student import Student
from torchshrink.model.unet import UNet
from torchshrink.student.features import Features
from torchshrink.task import Normalization, Task
from torchshrink.training import Settings


def task(dims: int = 2, count: int = 8, **changes: Any) -> Task:
    torch.manual_seed(0)
    inputs = torch.randn(count, 1, *[16] * dims)
    samples = list(zip(inputs, (inputs > 0).float(), strict=True))
    plain = Task("t", samples, samples, samples, Normalization((0.0,), (1.0,)), losses.FocalTversky())
    return replace(plain, **changes)


SETTINGS = Settings(epochs=2, batch_size=4, distillation=0.5, precision="fp32")


@pytest.mark.parametrize("dims", [1, 2])
def test_ends_follow_from_the_teachers_answer(dims: int) -> None:
    teacher = UNet(widths=(4, 8), dims=dims, out_channels=1)
    made = student.make(teacher, task(dims), {"widths": [4, 4], "merge": "add"})
    assert isinstance(made, Student)
    assert (made.config["dims"], made.config["result"], made.config["merge"]) == (dims, "probability", "add")


def test_logits_are_answered_with_logits_and_scores_with_scores() -> None:
    linear = student.make(UNet(widths=(4, 8), result="linear"), task(), {})
    assert isinstance(linear, Student)
    assert linear.config["result"] == "linear"
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(256, 7))
    scores = student.make(classifier, task(), {"widths": [4, 8]})
    assert scores(torch.zeros(2, 1, 16, 16)).shape == (2, 7)


def test_what_the_built_in_student_cannot_give_is_refused() -> None:
    with pytest.raises(ModelError, match="give your own architecture"):
        student.make(nn.MaxPool2d(2), task(), {})


def test_a_factory_of_another_answer_is_refused() -> None:
    with pytest.raises(ModelError, match="truth is"):
        student.make(UNet(widths=(4, 8)), task(), {}, lambda: UNet(widths=(4, 8), out_channels=2))


def test_the_teacher_alone_decides_with_a_share_of_one() -> None:
    """A student that sees only its teacher comes nearer to it, wherever the truth is."""
    given = task(count=32, loss=losses.Imitation())
    torch.manual_seed(1)
    teacher = UNet(widths=(4, 8)).eval()
    teacher.head.weight.data *= 40  # untrained, it would answer one half to everything
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    made = student.make(teacher, given, {"widths": [8, 8]})
    inputs = torch.stack([each for each, _ in given.train])
    with torch.no_grad():
        answers = teacher(inputs)
    given = replace(given, validation=list(zip(inputs, answers, strict=True)))
    with torch.no_grad():
        first = float(losses.imitation(made.eval()(inputs), answers))
    student.teach(made, given, replace(SETTINGS, epochs=6, distillation=1.0, lr=0.02), teacher)
    with torch.no_grad():
        assert float(losses.imitation(made(inputs), answers)) < 0.5 * first
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_features_are_compared_and_leave_no_trace() -> None:
    given, teacher = task(), UNet(widths=(4, 8)).eval()
    made = student.make(teacher, given, {"widths": [4, 4], "stem": "stride"})
    names = set(made.state_dict())
    before = made.encoder[0][0][0].weight.detach().clone()  # type: ignore[index,union-attr]
    student.teach(made, replace(given, loss=_nothing), replace(SETTINGS, distillation=0.0), teacher, features=1.0)
    assert set(made.state_dict()) == names
    assert not any(module._forward_hooks for network in (made, teacher) for module in network.modules())
    assert not torch.equal(before, made.encoder[0][0][0].weight)  # type: ignore[index,union-attr]


def test_the_distance_of_features_is_that_of_the_last_ones_at_each_size() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top, self.down, self.head = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 2, stride=2), nn.Conv2d(2, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.top(x)
            self.down(x)
            return self.head(x)

    torch.manual_seed(0)
    ours, theirs, x = Network(), Network(), torch.randn(3, 1, 4, 4)
    found = Features(ours, theirs, x[:1], 2.0)
    adapters: Any = ours.get_submodule("feature_adapters")
    distances = []
    for adapter, make in zip(adapters, (lambda n: n.top(x), lambda n: n.down(n.top(x))), strict=True):
        target = make(theirs)
        distances.append((adapter(make(ours)) - target).square().mean() / target.var())
    ours(x), theirs(x)
    torch.testing.assert_close(found(), 2.0 * (distances[0] + distances[1]) / 2)


def test_features_of_no_common_size_are_refused() -> None:
    given = task()
    other = nn.Sequential(nn.Flatten(), nn.Linear(256, 256), nn.Unflatten(1, (1, 16, 16)), nn.Sigmoid())
    with pytest.raises(RecipeError, match="leave features out"):
        student.teach(student.make(other, given, {}), given, SETTINGS, other, features=1.0)


def _nothing(output: Tensor, _truth: Tensor) -> Tensor:
    return 0 * output.mean()
