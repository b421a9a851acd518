"""Two processes that train together compute what one computes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from torchshrink.parallel.launch import is_main

WORKER = Path(__file__).with_name("distributed_worker.py")
Results = dict[str, Any]


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("distributed_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def one(worker: ModuleType) -> Results:
    return worker.everything()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """The results of both processes. They do not see each other's weights or data, only what they exchange."""
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(WORKER), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor], **tolerance: float) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(
            value, right[name], **(tolerance or {"atol": 0, "rtol": 0}), msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "pruned", "qat", "distilled"])
def test_the_number_of_processes_changes_nothing(one: Results, two: list[Results], kind: str) -> None:
    """In double precision, augmentation and BatchNorm included; the losses themselves are float32.

    A graph with fake quantization is float32, and where its rounding falls to the other side a whole code moves.
    """
    alone, together = one[kind], two[0][kind]
    tolerance = 2e-2 if kind == "qat" else 1e-6
    for expected, found in zip(alone["history"]["epochs"], together["history"]["epochs"], strict=True):
        assert found == pytest.approx(expected, rel=tolerance)
    assert together["history"]["best_epoch"] == alone["history"]["best_epoch"]
    # Adam makes a whole step (lr 0.01) of a gradient that is rounding alone, as a bias before a BatchNorm has.
    close = {"atol": 0.03, "rtol": 0.01} if kind == "qat" else {"atol": 1e-6, "rtol": 1e-6}
    assert_equal(together["state"], alone["state"], **close)
    losses = [epoch["train_loss"] for epoch in alone["history"]["epochs"]]
    assert len(losses) == 1 or losses[-1] < losses[0]  # it did train


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "pruned", "qat", "distilled", "uneven", "contrary"])
def test_all_processes_end_alike(two: list[Results], kind: str) -> None:
    first, second = (results[kind] for results in two)
    assert first["history"] == second["history"]
    assert_equal(first["state"], second["state"])


@pytest.mark.slow
def test_masks_are_kept(one: Results, two: list[Results]) -> None:
    for kind in ("pruned", "qat"):
        for results in (one, *two):
            weights = [value for value in results[kind]["state"].values() if value.dim() == 4]
            share = sum(int((value == 0).sum()) for value in weights) / sum(value.numel() for value in weights)
            assert share == pytest.approx(0.6, abs=0.001)


@pytest.mark.slow
def test_shares_of_different_size_count_by_their_size(one: Results, two: list[Results]) -> None:
    """A mean of means would be 2 % off in the last batch's loss; float32 losses leave a few millionths."""
    alone, together = one["uneven"], two[0]["uneven"]
    assert together["history"]["epochs"][0] == pytest.approx(alone["history"]["epochs"][0], rel=1e-5)
    assert_equal(together["state"], alone["state"], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_main_process_decides(two: list[Results]) -> None:
    """It sees -1, -2 and -3; the other sees a loss that gets worse, and would stop after the second epoch."""
    for results in two:
        history = results["contrary"]["history"]
        assert [epoch["validation_loss"] for epoch in history["epochs"]] == [-1, -2, -3]
        assert history["best_epoch"] == 3
        assert bool(results["contrary"]["state"]["is_used"])
    assert not two[0]["contrary"]["unused_changed"]  # weight decay stays away from what has no gradient


@pytest.mark.slow
def test_weights_are_the_same_in_every_step(two: list[Results]) -> None:
    """Each process made a model of its own."""
    first, second = (results["contrary"]["weights"] for results in two)
    assert len(first) == 6
    assert torch.equal(first, second)


@pytest.mark.slow
def test_shares_have_dropout_of_their_own(two: list[Results]) -> None:
    first, second = (results["contrary"]["dropped"] for results in two)
    assert first.shape == second.shape
    assert not torch.equal(first, second)


@pytest.mark.slow
def test_what_stops_one_process_stops_all(two: list[Results]) -> None:
    for results in two:
        assert results["nan"].startswith("the training loss became nan at step 1")
        assert results["few"] == (
            "task 'noise' has batches of 1 samples, too few for 2 processes to share: raise batch_size, or start fewer"
        )


@pytest.mark.slow
def test_batch_norm_of_shares_is_that_of_the_whole(worker: ModuleType, one: Results, two: list[Results]) -> None:
    """One process uses PyTorch's own."""
    for name in worker.NORMS:
        expected, shares = one["norms"][name], [results["norms"][name] for results in two]
        for key, value in expected.items():
            if key in ("output", "input_gradient"):
                found = torch.cat([share[key] for share in shares])
                torch.testing.assert_close(found, value, atol=1e-12, rtol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
            elif key == "dtype":
                assert {share[key] for share in shares} == {value}
            elif value is not None:
                for share in shares:
                    torch.testing.assert_close(share[key], value, atol=1e-12, rtol=1e-12)


@pytest.mark.slow
def test_ranges_are_those_of_the_whole_batch(one: Results, two: list[Results]) -> None:
    """The first batch shows [-4, 3], the second [0, 8]: half of each."""
    assert one["range"] == [-2, 5.5]
    for rank, results in enumerate(two):
        assert results["range"] == [-2, 5.5]
        assert results["own_range"] == rank


@pytest.mark.slow
def test_imitation_looks_at_the_whole_batch(one: Results, two: list[Results]) -> None:
    """2 is no probability, so all of the batch is compared by squares: of 0.25 and 1.5."""
    expected = (0.25**2 + 1.5**2) / 2
    assert one["imitation"] == pytest.approx(expected)
    assert [results["imitation"] for results in two] == pytest.approx([expected] * 2)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({"RANK": "1"}, True),  # left over from something else: no launcher set LOCAL_RANK
        ({"LOCAL_RANK": "0", "RANK": "0"}, True),
        ({"LOCAL_RANK": "1", "RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "RANK": "8"}, False),  # the first of the second machine
    ],
)
def test_the_main_process(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: bool) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_main() is expected
