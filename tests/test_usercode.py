"""Code of the user's: whatever it raises or returns is told as theirs, by file and line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from program import call

MODULE = """\
import os
import sys
import torch
from torch import nn

def small(channels=1):
    return nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.Sigmoid())

def raises():
    raise KeyError("boom")

def leaves():
    sys.exit(0)

def returns_none():
    return None

def returns_tuple():
    return small(), 3

def returns_state():
    return small().state_dict()

def returns_class():
    return nn.Conv2d

def empty():
    return nn.ReLU()

def double():
    return small().double()

def meta():
    return small().to("meta")

def two_channels():
    return small(2)

class Odd(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.layer, self.answer = small(), answer

    def forward(self, x):
        if self.answer == "raise":
            raise ValueError("not today")
        if self.answer == "exit":
            sys.exit(0)
        y = self.layer(x)
        return {"none": None, "tuple": (y, y), "dict": {"y": y}}[self.answer]

def answers_none():
    return Odd("none")

def answers_tuple():
    return Odd("tuple")

def answers_dict():
    return Odd("dict")

def answers_raise():
    return Odd("raise")

def answers_exit():
    return Odd("exit")

def raises_base():
    raise GeneratorExit("base")

def rounds():
    return Rounding()

def frozen():
    return small().requires_grad_(False)

def switches_off():
    torch.set_grad_enabled(False)
    return small()

def elsewhere():
    os.chdir("/")
    print("I say so")
    return small()

class Rounding(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = small()

    def forward(self, x):
        return (self.layer(x) > 0).long()

class Detaching(Rounding):
    def forward(self, x):
        return self.layer(x).detach()

class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = small()

    def forward(self, x):
        if self.training:
            raise ValueError("only now")
        return self.layer(x)

def bad_data():
    raise IndexError("no data")

def no_loss():
    return None
"""
BOOM, LEAVES, NO_DATA = 'raise KeyError("boom")', "sys.exit(0)", 'raise IndexError("no data")'
NOT_TODAY, ONLY_NOW = 'raise ValueError("not today")', 'raise ValueError("only now")'


def at(text: str) -> str:
    """Return the place of the first line that is this one."""
    lines = [line.strip() for line in MODULE.splitlines()]
    return f"theirs.py:{lines.index(text) + 1}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "theirs.py").write_text(MODULE)
    yield tmp_path
    sys.modules.pop("theirs", None)
    torch.set_grad_enabled(True)


DATA = ("--data", "synthetic:cells?size=16&train=4&test=2")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", f"'theirs:raises' stopped with KeyError: 'boom' ({at(BOOM)})"),
        ("leaves", f"stopped with sys.exit(0) ({at(LEAVES)})"),
        ("raises_base", "'theirs:raises_base' stopped with GeneratorExit: base (theirs.py:"),
        ("rounds", "Rounding returns torch.int64 for an input of [1, 1, 16, 16]: it must return floating point"),
        ("Detaching", "Detaching cannot be trained, the loss has no gradient"),
        ("frozen", "Sequential cannot be trained, all of its parameters are frozen"),
        ("switches_off", "Sequential cannot be trained, code switched gradients off"),
        ("elsewhere", None),
        ("returns_none", "returned None: it must return a torch.nn.Module"),
        ("returns_tuple", "returned a tuple of 2"),
        ("returns_state", "returned a OrderedDict"),
        ("returns_class", "returned a class"),
        ("empty", "a ReLU without parameters"),
        ("meta", "0.weight is on the meta device"),
        ("double", "0.weight of Sequential is torch.float64"),
        ("two_channels", "returns [1, 2, 16, 16] for an input of [1, 1, 16, 16], whose truth is [1, 1, 16, 16]"),
        ("answers_none", "Odd returns None"),
        ("answers_tuple", "Odd returns a tuple of 2"),
        ("answers_dict", "Odd returns a dict"),
        ("answers_raise", f"ValueError: not today ({at(NOT_TODAY)})"),
        ("answers_exit", "Odd.forward stopped with sys.exit(0)"),
        ("Late", f"your code raised ValueError: only now ({at(ONLY_NOW)})"),
        ("nothing", "'theirs:nothing' cannot be imported: AttributeError"),
        ("small", None),
    ],
)
def test_models(name: str, words: str | None, folder: Path) -> None:
    out = ("--out", "m.safetensors")
    result = call("train", *DATA, "--model", f"theirs:{name}", *out, "--epochs", "1", cwd=folder)
    assert (result.code, (folder / "m.safetensors").exists()) == ((0, True) if words is None else (3, False))
    assert words is None or words in result.said
    assert "Traceback" not in result.stderr


def test_what_they_print_is_no_result(folder: Path) -> None:
    words = ("--model", "theirs:elsewhere", "--out", "m.safetensors", "--epochs", "0", "--json")
    result = call("train", *DATA, *words, cwd=folder)
    assert "I say so" in result.stderr
    assert json.loads(result.stdout)


def test_data_and_losses(folder: Path) -> None:
    result = call("train", "--data", "theirs:bad_data", "--out", "m.safetensors", cwd=folder)
    assert result.code == 3
    assert f"IndexError (no data) at {at(NO_DATA)}" in result.said
    (folder / "r.yaml").write_text("loss: {name: 'theirs:no_loss'}\ndata: synthetic:cells?size=16&train=4&test=2\n")
    result = call("run", "r.yaml", cwd=folder)
    assert result.code == 3
    assert "'theirs:no_loss' returned a NoneType" in result.said


def test_a_module_that_cannot_be_read(folder: Path) -> None:
    (folder / "broken.py").write_text("a = 1\nb = (\n")
    result = call("train", *DATA, "--model", "broken:make", "--out", "m.safetensors", cwd=folder)
    assert result.code == 3
    assert "SyntaxError: '(' was never closed (broken.py:2)" in result.said
