"""Finished steps are done once, and never trusted when anything about them changed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from torchshrink.pipeline import steps
from torchshrink.pipeline.steps import Steps, digest


class Work:
    """Writes a file and counts its calls."""

    def __init__(self, out: Path, content: str = "content") -> None:
        self.path, self.content, self.calls = out / "files" / "model.bin", content, 0

    def __call__(self) -> tuple[dict[str, Any], list[Path]]:
        self.calls += 1
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(self.content)
        return {"loss": 0.25, "names": ["a"]}, [self.path]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def run(work: Work, inputs: Any = 1, name: str = "make:dense", **settings: Any) -> tuple[dict[str, Any], str, bool]:
    return Steps(work.path.parents[1], **settings).run(name, inputs, work)


def record(work: Work) -> Path:
    (path,) = (work.path.parents[1] / ".steps").iterdir()
    return path


def test_the_second_time_is_free(work: Work) -> None:
    result, stamp, was_done = run(work)
    assert (result, was_done) == ({"loss": 0.25, "names": ["a"]}, False)
    assert run(work) == (result, stamp, True)
    assert work.calls == 1


@pytest.mark.parametrize("inputs", [2, "1", [1], {"lr": 0.1}, None])
def test_other_inputs(work: Work, inputs: Any) -> None:
    _, stamp, _ = run(work)
    _, other, was_done = run(work, inputs)
    assert not was_done
    assert other != stamp
    assert work.calls == 2


def test_the_order_of_settings_does_not_matter(work: Work) -> None:
    run(work, {"a": 1, "b": 2})
    assert run(work, {"b": 2, "a": 1})[2]


def test_other_steps_are_others(work: Work) -> None:
    run(work, name="make:dense")
    assert not run(work, name="make:pruned")[2]
    assert run(work, name="make:dense")[2]


def test_fresh_does_everything_again(work: Work) -> None:
    run(work)
    assert not run(work, is_fresh=True)[2]
    assert work.calls == 2


@pytest.mark.parametrize("change", ["edited", "same size", "deleted", "folder gone"])
def test_changed_outputs(work: Work, change: str) -> None:
    run(work)
    if change == "edited":
        work.path.write_text("something longer")
    elif change == "same size":
        work.path.write_text("CONTENT")
    else:
        work.path.unlink()
    if change == "folder gone":
        work.path.parent.rmdir()
    assert not run(work)[2]
    assert work.path.read_text() == "content"
    assert run(work)[2]


def test_new_outputs_have_a_new_stamp(tmp_path: Path) -> None:
    """The steps that follow must see that a step with the same inputs came out differently."""
    first = run(Work(tmp_path, "one"))[1]
    again = run(Work(tmp_path, "one"), is_fresh=True)[1]
    other = run(Work(tmp_path, "two"), is_fresh=True)[1]
    assert first == again != other


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", "3", '"text"', '{"key": 1}', b"\xff\xfe"])
def test_damaged_records(work: Work, content: str | bytes) -> None:
    run(work)
    record(work).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert not run(work)[2]
    assert work.calls == 2
    assert run(work)[2]


@pytest.mark.parametrize("key", ["key", "outputs", "result", "stamp"])
def test_incomplete_records(work: Work, key: str) -> None:
    run(work)
    content = json.loads(record(work).read_text())
    del content[key]
    record(work).write_text(json.dumps(content))
    assert not run(work)[2]


def test_a_step_that_fails_is_not_done(work: Work) -> None:
    def broken() -> tuple[dict[str, Any], list[Path]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Steps(work.path.parents[1]).run("make:dense", 1, broken)
    assert not run(work)[2]


def test_a_step_that_fails_after_it_was_done_keeps_what_it_had(work: Work) -> None:
    def broken() -> tuple[dict[str, Any], list[Path]]:
        raise RuntimeError

    run(work)
    with pytest.raises(RuntimeError):
        Steps(work.path.parents[1]).run("make:dense", 2, broken)
    assert run(work)[2]


def test_a_changed_program_does_not_trust_old_results(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    run(work)
    monkeypatch.setattr(steps, "code_version", lambda: "another")
    assert not run(work)[2]


def test_code_version_is_the_same_in_every_process() -> None:
    code = "from torchshrink.pipeline import steps; print(steps.code_version())"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == steps.code_version()


def test_digest_tells_contents_apart() -> None:
    contents = [None, 0, 1, "1", [1], [[1]], {"1": 1}, {"1": "1"}, 1.5, [1, 2], [2, 1], Path("/a"), True]
    assert len({digest(content) for content in contents}) == len(contents)
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})


# --- Records that somebody else wrote or changed


def edit(work: Work, change: Any, is_signed: bool = False) -> None:
    content = json.loads(record(work).read_text())
    change(content)
    if is_signed:
        del content["digest"]
        content["digest"] = digest(content)
    record(work).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["result"].update(loss=0.1),
        lambda content: content["result"].update(names=[]),
        lambda content: content["result"].pop("names"),
        lambda content: content.update(outputs={}),
        lambda content: content.update(stamp="0"),
        lambda content: content.update(extra=1),
        lambda content: content.update(digest=None),
        lambda content: content.pop("digest"),
    ],
)
def test_edited_records_are_noticed(work: Work, change: Any) -> None:
    run(work)
    edit(work, change)
    assert not run(work)[2]
    assert run(work)[:1] == ({"loss": 0.25, "names": ["a"]},)


def test_signing_again_would_go_unnoticed(work: Work) -> None:
    """The meta-test: a digest tells of damage, not of who wrote a record."""
    run(work)
    edit(work, lambda content: content["result"].update(loss=0.1), is_signed=True)
    assert run(work)[0]["loss"] == 0.1


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../victim", "files/../../victim", "link", "folder/victim", "", 5, "a\0b"]
)
@pytest.mark.parametrize("where", ["outputs", "result", "deep", "named"])
def test_paths_stay_in_the_folder(tmp_path: Path, name: Any, where: str) -> None:
    out, victim = tmp_path / "run", tmp_path / "victim"
    out.mkdir()
    victim.write_text("precious")
    (out / "link").symlink_to(victim)
    (out / "folder").symlink_to(tmp_path)
    work = Work(out)
    run(work)
    row = {"path": name}
    changes: dict[str, Any] = {
        "outputs": lambda content: content["outputs"].update({str(name): steps.sha256(victim)}),
        "result": lambda content: content["result"].update(row),
        "deep": lambda content: content["result"].update(failed=[{"item": [row]}]),
        "named": lambda content: content["result"].update(artefacts=[{"precision": name}]),
    }
    edit(work, changes[where], is_signed=True)
    assert not run(work)[2]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / ".steps").mkdir()
    os.mkfifo(tmp_path / ".steps" / "a.json")
    assert Steps(tmp_path).run("a", [], lambda: ({"loss": 1.0}, []))[2] is False
