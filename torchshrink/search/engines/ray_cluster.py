"""Rungs of candidates computed on a Ray cluster, their files in a store that all of its machines reach."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torchshrink
from torchshrink.data.sources import located
from torchshrink.errors import DataError, MissingExtraError, OutputError, RecipeError, ShrinkError
from torchshrink.files import sha256
from torchshrink.pipeline.steps import code_version, digest
from torchshrink.search.engines.local import Outcome, attempt
from torchshrink.search.engines.store import Mirror, MirroredSteps, Store
from torchshrink.search.engines.work import MakeBridge, Request

_ANSWER_S = 600  # in which every machine must have started a worker and imported torchshrink
_REACH_S = 10


@dataclass(frozen=True)
class _Job:
    """What a worker needs besides the request.

    Attributes:
        url: Of the store.
        name: Of the candidate's folder in it.
        inputs: Names in the store of the files that all candidates start from.
        data: A path that must exist; None for data that is made or imported.
        imports: The folder in which the search was started: modules of the user may lie there.
        threads: For PyTorch.
        versions: Of the machine that searches.
    """

    url: str
    name: str
    inputs: tuple[str, ...]
    data: str | None
    imports: str
    threads: int
    versions: tuple[str, str, str]


class RayEngine:
    """Schedules rungs on a Ray cluster.

    Every machine needs the same Python, Ray and torchshrink; modules that the recipe names (``module:factory``) must
    be importable there, and a folder with data must have the same path. Workers fetch what a candidate has so far
    from the store, work in a temporary folder and copy each finished step back: when a worker or its machine dies,
    another goes on from the last finished step. Ray's own retries are off, because the search decides who goes on.

    Args:
        make_bridge: Called in the workers.
        folder: Of the candidates on this machine; only its name and whether a candidate has begun are kept there.
        store_url: Of the artefacts, see `torchshrink.search.engines.store.Store`; by default a folder ``artefacts``
            beside ``folder``, which every machine must then reach under the same path.
        address: ``"auto"`` for the cluster that this machine is part of, ``HOST:PORT`` of the head; None starts Ray on
            this machine alone. A connection that this process has already is used instead.
        slots: Candidates at once; by default as many as fit the cluster, which may grow and shrink.
        cpus_per_trial: Of each candidate, and its PyTorch threads.
        gpus_per_trial: Of each candidate; a fraction shares one.

    Raises:
        MissingExtraError: When Ray is not installed.
        RecipeError: When no machine of the cluster has what a candidate needs.
        OutputError: When the store cannot be used.
        ShrinkError: When the cluster cannot be reached.
    """

    def __init__(
        self,
        make_bridge: MakeBridge,
        folder: Path,
        store_url: str | None = None,
        address: str | None = None,
        slots: int | None = None,
        cpus_per_trial: int = 1,
        gpus_per_trial: float = 0.0,
    ) -> None:
        folder = folder.absolute()
        self._make_bridge, self._folder, self._most = make_bridge, folder, slots
        self._cpus, self._gpus = cpus_per_trial, gpus_per_trial
        self._store = Store(store_url or f"file://{folder.parent / 'artefacts'}")
        self._prefix = f"{folder.parent.name}-{digest(str(folder))[:12]}"
        self._inputs: dict[Path, str] = {}
        self._running: dict[Any, int] = {}
        self._is_checked = False
        self._ray = _load()
        self._is_owner = not self._ray.is_initialized()
        if self._is_owner:
            _connect(self._ray, address)
        if not self._fitting():
            self.close()
            needs = f"{cpus_per_trial} CPUs" + (f" and {gpus_per_trial:g} GPUs" if gpus_per_trial else "")
            raise RecipeError(f"no machine of the Ray cluster has {needs} for a candidate: ask for less for each")

    @property
    def slots(self) -> int:
        """Return how many candidates fit the cluster now; one at least, which waits for a machine if need be."""
        found = sum(self._fitting().values())
        return max(1, found if self._most is None else min(found, self._most))

    def submit(self, request: Request) -> None:
        """Give a request to the cluster.

        Raises:
            DataError: When a machine does not reach the data.
            OutputError: When a machine does not reach the store.
            ShrinkError: When a machine has another torchshrink.
        """
        job, sent = self._prepare(request)
        if not self._is_checked:
            self._check(job)
            self._is_checked = True
        remote = self._ray.remote(_rung).options(
            name=f"candidate {request.number}",
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_retries=0,
            scheduling_strategy="SPREAD",  # candidates on one machine disturb each other's latency
        )
        self._running[remote.remote(sent, self._make_bridge, job)] = request.number

    def wait(self, seconds: float) -> list[Outcome]:
        """Return what has finished, after at most so many seconds."""
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [self._outcome(self._running.pop(reference), reference) for reference in ready]

    def close(self) -> None:
        """Kill what is under way and leave the cluster."""
        for reference in self._running:
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._is_owner:
            self._ray.shutdown()

    def _fitting(self) -> dict[str, int]:
        """Return how many candidates each machine can take, by its id."""
        found = {}
        for node in self._ray.nodes():
            has = node["Resources"]
            count = int(has.get("CPU", 0) // self._cpus)
            if self._gpus:
                count = min(count, int(has.get("GPU", 0) // self._gpus))
            if node["Alive"] and count:
                found[node["NodeID"]] = count
        return found

    def _prepare(self, request: Request) -> tuple[_Job, Request]:
        """Return what a worker gets; the files that it starts from are in the store then."""
        name = f"{self._prefix}/{request.folder.name}"
        if not request.folder.is_dir():  # it begins: what the store holds is of an earlier search
            self._store.remove(name)
            request.folder.mkdir(parents=True)
        checkpoint = Path(request.recipe["model"]["checkpoint"])
        inputs = tuple(self._shared(path) for path in (request.reference, checkpoint))
        path, data = located(str(request.recipe["data"]))
        # The checkpoint's path is part of what identifies the first step: the same, relative one on every machine.
        model = {**request.recipe["model"], "checkpoint": inputs[1]}
        recipe = {**request.recipe, "model": model, "data": data}
        job = _Job(
            url=self._store.url,
            name=name,
            inputs=inputs,
            data=str(path) if path else None,
            imports=str(Path.cwd()),
            threads=self._cpus,
            versions=_versions(),
        )
        return job, replace(request, recipe=recipe, reference=Path(inputs[0]))

    def _shared(self, path: Path) -> str:
        """Return the name of a file in the store, by its content; it is put there the first time."""
        if path not in self._inputs:
            name = f"{self._prefix}/inputs/{sha256(path)[:16]}/{path.name}"
            if self._store.size(name) != path.stat().st_size:
                self._store.put(path, name)
            self._inputs[path] = name
        return self._inputs[path]

    def _check(self, job: _Job) -> None:
        """Ask every machine whether it could work, before candidates fail one after the other."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in self._ray.nodes()}
        probe = self._ray.remote(_complaint)
        asked = {}
        for node in self._fitting():
            strategy = NodeAffinitySchedulingStrategy(node, soft=False)
            asked[probe.options(num_cpus=0, max_retries=2, scheduling_strategy=strategy).remote(job)] = addresses[node]
        answered, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)
        for reference, address in asked.items():
            if reference not in answered:
                raise ShrinkError(f"machine {address} of the Ray cluster did not answer within {_ANSWER_S} s")
            try:
                complaint = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                complaint = (ShrinkError, f"cannot work: {_sentence(error)}")
            if complaint is not None:
                kind, text = complaint
                raise kind(f"machine {address} of the Ray cluster {text}")

    def _outcome(self, number: int, reference: Any) -> Outcome:
        errors = self._ray.exceptions
        lost = {
            errors.OutOfMemoryError: "its machine ran out of memory",
            errors.NodeDiedError: "its machine is gone",
            errors.LocalRayletDiedError: "its machine is gone",
            errors.WorkerCrashedError: "the worker died",
            errors.ObjectLostError: "its result was lost",
            errors.TaskUnschedulableError: "no machine could take it",
        }
        try:
            result, error, is_lost = self._ray.get(reference)
        except tuple(lost) as caught:
            return Outcome(number, error=next(lost[kind] for kind in lost if isinstance(caught, kind)), is_lost=True)
        except errors.RayError as caught:
            return Outcome(number, error=_sentence(caught))
        return Outcome(number, result, error, is_lost)


def _load() -> Any:
    """Return the module `ray`, told to keep quiet and to report nothing to anyone."""
    os.environ["RAY_usage_stats_enabled"] = "0"  # noqa: SIM112  # Ray's own spelling; what it starts inherits it
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray is not installed: pip install 'torchshrink[ray]'") from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Join a cluster, or start one on this machine."""
    where = "on this machine" if address is None else f"at {address}"
    if address is not None and ":" in address:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=_REACH_S).close()
        except (OSError, ValueError) as error:
            raise ShrinkError(f"there is no Ray cluster {where} ({error}): give HOST:PORT of its head") from error
    _silence()
    own = {"include_dashboard": False} if address is None else {}
    try:
        # Ray puts the current folder first on the workers' path, where a folder of the same name would be imported.
        with warnings.catch_warnings(), contextlib.chdir(Path(torchshrink.__file__).parents[1]):
            warnings.simplefilter("ignore")
            ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except Exception as error:  # of many kinds
        hint = "; has this machine its token, in RAY_AUTH_TOKEN?" if isinstance(error, ConnectionError) else ""
        raise ShrinkError(f"the Ray cluster {where} cannot be used: {_sentence(error)}{hint}") from error


def _silence() -> None:
    """Keep Ray from printing, on standard output, that a worker died: ``log_to_driver`` does not cover that."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_arguments, **_options: None


def _rung(request: Request, make_bridge: MakeBridge, job: _Job) -> tuple[dict[str, Any] | None, str | None, bool]:
    """Compute a request in a worker; return the result, the error, and whether another worker may do better."""
    import torch

    if complaint := _complaint(job):
        return None, f"its machine {complaint[1]}", True
    if job.imports not in sys.path:
        sys.path.append(job.imports)
    torch.set_num_threads(job.threads)
    with tempfile.TemporaryDirectory(prefix="torchshrink-") as temporary, contextlib.chdir(temporary):
        root = Path(temporary)
        moved = replace(request, folder=root / "candidate", reference=root / request.reference)
        moved.folder.mkdir()
        try:
            store = Store(job.url)
            mirror = Mirror(store, job.name, moved.folder)
            mirror.pull()
            for name in job.inputs:
                if not store.get(name, root / name):
                    return None, f"the artefact store does not hold {name}", True
            result, error = attempt(moved, make_bridge, MirroredSteps(moved.folder, mirror))
            mirror.push()
        except OutputError as caught:
            return None, str(caught), True
        return result, error, False


def _complaint(job: _Job) -> tuple[type[ShrinkError], str] | None:
    """Return why this machine cannot work; None when it can."""
    found, expected = _versions(), job.versions
    if found != expected:
        has, wanted = (f"torchshrink {one[1]} (sources {one[2][:8]}) on Python {one[0]}" for one in (found, expected))
        return ShrinkError, f"has {has}, the one that searches has {wanted}: install the same on all"
    try:
        store = Store(job.url)
        missing = [name for name in job.inputs if store.size(name) is None]
    except ShrinkError as error:
        return type(error), f"does not reach the artefacts: {error}"
    if missing:
        return (
            OutputError,
            f"finds nothing in the artefact store {store.name}: all machines must reach the same under it",
        )
    if job.data is not None and not Path(job.data).exists():
        return DataError, f"has no {job.data}: the data must have the same path on all machines"
    return None


def _versions() -> tuple[str, str, str]:
    """Return the versions of Python and torchshrink and the digest of the sources, which steps depend on."""
    return platform.python_version(), torchshrink.__version__, code_version()


def _sentence(error: Exception) -> str:
    """Return the cause of an error of Ray's in one line."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0] if lines else 'no reason is known'}"[:300]
