"""A search's rungs on a Ray cluster: what dies is done again elsewhere, from its last finished step."""

import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from servers import RayNodes, free_port, ray_nodes, token

from torchshrink import UNet, checkpoint
from torchshrink.errors import DataError, MissingExtraError, OutputError, RecipeError, ShrinkError
from torchshrink.pipeline import recipe
from torchshrink.pipeline.steps import Steps, digest
from torchshrink.search.engines import ray_cluster
from torchshrink.search.engines.local import Engine, Outcome
from torchshrink.search.engines.ray_cluster import RayEngine
from torchshrink.search.engines.work import Request

pytest.importorskip("fsspec", reason="the extra 'ray' is not installed")

LIMIT_S = 600
SUPPORT = Path(__file__).parents[2] / "support"

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")


@pytest.fixture(scope="module", autouse=True)
def with_token() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in token().items():
            patched.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_nodes(2) as started:
        yield started


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search, whose tests have a candidate each."""
    folder = tmp_path_factory.mktemp("out")
    torch.manual_seed(0)
    checkpoint.save(UNet(widths=(8, 16)), folder / "dense" / "dense.safetensors")
    return folder


@pytest.fixture(scope="module")
def engine(nodes: RayNodes, out: Path) -> Iterator[RayEngine]:
    # There is nothing to export in these rungs, so anything will do as a bridge.
    made = RayEngine(object, out / "trials", address=nodes.address)  # type: ignore[arg-type]
    yield made
    made.close()


@pytest.fixture
def where_the_loss_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import from the folder in which the search was started."""
    monkeypatch.chdir(SUPPORT)


def request(out: Path, number: int, *names: str, until: Path | None = None) -> Request:
    """A rung without a file to ship: the dense model and two fine-tunings, in the last of which it waits for a file."""
    variants = {
        "dense": {"train": {"epochs": 0}},
        "short": {"from": "dense", "train": {"epochs": 1}},
        "long": {"from": "short", "train": {"epochs": 1}},
    }
    content: dict[str, Any] = {
        "data": "synthetic:cells?size=32&train=40&test=8",
        "model": {"arguments": {"widths": [8, 16]}, "checkpoint": str(out / "dense" / "dense.safetensors")},
        "variants": variants,
    }
    if until is not None:
        waits = {"after": str(record(out, number, "short")), "until": str(until)}
        content["loss"] = {"name": "waiting_loss:Loss", "settings": waits}
    return Request(
        number=number,
        folder=out / "trials" / f"{number:04d}",
        recipe=recipe.dump(recipe.parse(content)),
        variants=names or tuple(variants),
        ships=None,
        reference=out / "dense" / "dense.safetensors",
    )


def record(out: Path, number: int, step: str) -> Path:
    """Where the store has a finished step."""
    return (
        out
        / "artefacts"
        / f"{out.name}-{digest(str(out / 'trials'))[:12]}"
        / f"{number:04d}"
        / ".steps"
        / f"make.{step}.json"
    )


def until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.02)


def outcomes(engine: Engine, count: int) -> dict[int, Outcome]:
    found: list[Outcome] = []
    until(lambda: bool(found.extend(engine.wait(1.0)) or len(found) >= count))
    return {outcome.number: outcome for outcome in found}


def mark(path: Path) -> None:
    """Change what a step found, which its key does not cover: who takes it as done finds the mark."""
    content = json.loads(path.read_text())
    content["result"]["history"]["best_loss"] = 0.125
    content.pop("digest")
    path.write_text(json.dumps({**content, "digest": digest(content)}))


def is_marked(path: Path) -> bool:
    return bool(json.loads(path.read_text())["result"]["history"]["best_loss"] == 0.125)


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("where_the_loss_is")
def test_a_killed_worker_is_lost_and_another_goes_on(
    nodes: RayNodes, engine: RayEngine, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert engine.slots == 2
    go = out / "go"
    engine.submit(request(out, 0, until=go))
    until(lambda: record(out, 0, "short").is_file())
    (worker,) = nodes.workers("candidate 0")
    os.kill(worker, signal.SIGKILL)
    assert outcomes(engine, 1)[0] == Outcome(0, error="the worker died", is_lost=True)
    mark(record(out, 0, "short"))
    go.touch()
    engine.submit(request(out, 0, until=go))
    result = outcomes(engine, 1)[0].result
    assert result is not None
    assert 0 < result["loss"] < 1
    assert is_marked(record(out, 0, "short"))
    assert record(out, 0, "long").is_file()
    assert (out / "trials" / "0000").is_dir()
    assert capfd.readouterr() == ("", "")  # Ray would say on standard output that a worker died


@needs_ray
@pytest.mark.slow
def test_the_next_rung_goes_on_from_the_store(engine: RayEngine, out: Path) -> None:
    engine.submit(request(out, 1, "dense", "short"))
    assert outcomes(engine, 1)[1].error is None
    mark(record(out, 1, "short"))
    engine.submit(request(out, 1, "dense", "short"))
    result = outcomes(engine, 1)[1].result
    assert result is not None
    assert result["loss"] == 0.125
    # A new search in the same folder, which has removed the candidates: nothing of the old one is taken.
    (out / "trials" / "0001").rmdir()
    engine.submit(request(out, 1, "dense", "short"))
    result = outcomes(engine, 1)[1].result
    assert result is not None
    assert result["loss"] != 0.125


@needs_ray
@pytest.mark.slow
def test_an_error_is_a_sentence(engine: RayEngine, out: Path) -> None:
    wrong = request(out, 2)
    engine.submit(replace(wrong, recipe={**wrong.recipe, "variants": {"dense": {"from": "nobody"}}}))
    outcome = outcomes(engine, 1)[2]
    assert not outcome.is_lost
    assert outcome.error is not None
    assert outcome.error.startswith("recipe: variants.dense: needs exactly one of ")


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_what_does_not_fit_the_cluster(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no machine of the Ray cluster has 1 CPUs and 1 GPUs for a candidate"):
        RayEngine(object, tmp_path, gpus_per_trial=1)  # type: ignore[arg-type]


@needs_ray
@pytest.mark.slow
def test_a_machine_with_other_sources_is_refused(engine: RayEngine, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_is_checked", False)
    monkeypatch.setattr(ray_cluster, "_versions", lambda: ("3.10.1", "0.0.1", "00000000"))
    wanted = r"has torchshrink .* the one that searches has torchshrink 0.0.1 \(sources 00000000\) on Python 3.10.1"
    with pytest.raises(ShrinkError, match=wanted):
        engine.submit(request(out, 3))


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("where_the_loss_is")
def test_a_killed_machine_is_lost_and_another_goes_on(nodes: RayNodes, engine: RayEngine, out: Path) -> None:
    go = out / "go on"
    for number in (4, 5):
        engine.submit(request(out, number, until=go))
    until(lambda: record(out, 4, "short").is_file() and record(out, 5, "short").is_file())
    on = {number: nodes.node_of(nodes.workers(f"candidate {number}")[0]) for number in (4, 5)}
    assert sorted(on.values()) == [0, 1]  # one on each
    (lost,) = (number for number, node in on.items() if node == 1)
    nodes.kill(1)
    go.touch()
    found = outcomes(engine, 2)
    assert found[lost].is_lost
    assert found[lost].error in ("its machine is gone", "the worker died")  # whichever Ray notices first
    assert found[9 - lost].result is not None
    until(lambda: engine.slots == 1)
    mark(record(out, lost, "short"))
    engine.submit(request(out, lost, until=go))
    assert outcomes(engine, 1)[lost].error is None
    assert is_marked(record(out, lost, "short"))


def job(tmp_path: Path, **changes: Any) -> ray_cluster._Job:
    settings = {"url": f"file://{tmp_path}", "name": "x", "inputs": (), "data": None, "imports": "", "threads": 1}
    return ray_cluster._Job(**{**settings, "versions": ray_cluster._versions(), **changes})


def test_a_step_is_in_the_store_before_the_next_begins(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies_after_a_step(_request: Request, _bridge: object, steps: Steps) -> None:
        steps.run("make:short", 1, lambda: ({}, []))
        raise SystemExit

    monkeypatch.setattr(ray_cluster, "attempt", dies_after_a_step)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit):
        ray_cluster._rung(request(out, 6), object, job(tmp_path, threads=torch.get_num_threads()))  # type: ignore[arg-type]
    assert (tmp_path / "x" / ".steps" / "make.short.json").is_file()


def complain(tmp_path: Path, **changes: Any) -> tuple[type[ShrinkError], str] | None:
    return ray_cluster._complaint(job(tmp_path, **changes))


def test_what_a_machine_complains_about(tmp_path: Path) -> None:
    assert complain(tmp_path) is None
    assert complain(tmp_path, data=str(tmp_path)) is None
    missing = complain(tmp_path, data=f"{tmp_path}/cells")
    assert missing == (DataError, f"has no {tmp_path}/cells: the data must have the same path on all machines")
    kind, text = complain(tmp_path, inputs=("dense.safetensors",)) or (None, "")
    assert kind is OutputError
    assert "all machines must reach the same under it" in text


def test_a_cluster_that_is_not_there() -> None:
    with pytest.raises(ShrinkError, match=r"there is no Ray cluster at 127.0.0.1:\d+ \(.*refused\)"):
        ray_cluster._connect(None, f"127.0.0.1:{free_port()}")


def test_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"ray is not installed: pip install 'torchshrink\[ray\]'"):
        RayEngine(object, tmp_path)  # type: ignore[arg-type]
