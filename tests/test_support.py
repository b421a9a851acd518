"""What the tests stand on: what is kept is never stale, what is costly is found, thinning loses nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import costs
import kept
import pytest
import thinned
from program import call, launch


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def _make(folder: Path) -> dict[str, Any]:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_text("made")
    return {"path": folder / "deep" / "file", "elsewhere": Path("/elsewhere"), "number": 1}


def test_it_is_made_once_and_everybody_has_a_copy(store: Path, tmp_path: Path) -> None:
    calls = []

    def make(folder: Path) -> dict[str, Any]:
        calls.append(folder)
        return _make(folder)

    for name in ("one", "two"):
        found = kept.keep(store, "thing", make, tmp_path / name)
        assert found == {"path": tmp_path / name / "deep" / "file", "elsewhere": Path("/elsewhere"), "number": 1}
        assert found["path"].read_text() == "made"
        found["path"].write_text("changed by a test")
    assert len(calls) == 1


def test_other_sources_make_it_again(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.keep(store, "thing", _make, tmp_path / "one")
    monkeypatch.setattr(kept, "_world", lambda: "another product")
    assert kept.keep(store, "thing", lambda folder: 2, tmp_path / "two") == 2
    assert len(list((store / "thing").iterdir())) == 1  # the old one is gone


def test_sources_and_packages_count() -> None:
    world = kept._world()
    for part in ("('quantize.py', ", "('program.py', ", "'torch 2"):
        assert part in world


def test_what_was_interrupted_is_made_again(store: Path, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.keep(store, "thing", fail, tmp_path / "one")
    assert kept.keep(store, "thing", _make, tmp_path / "two")["number"] == 1
    assert not (tmp_path / "two" / "half").exists()


def _helper() -> Any:
    return launch("doctor")


def test_what_starts_a_process_is_found_behind_functions() -> None:
    def costly() -> Any:
        return _helper().code

    def cheap() -> Any:
        return call("doctor").code

    assert not costs.COSTLY.isdisjoint(costs.names(costly))
    assert costs.COSTLY.isdisjoint(costs.names(cheap))


def test_costly_tests_are_marked(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        costly = {"keep", "finished", "conversion", "zoo"} & set(getattr(item, "fixturenames", ()))
        assert not costly or item.get_closest_marker("slow"), item.nodeid


JUNIT = """<testsuites><testsuite>
<testcase classname="tests.a.test_b" name="test_c[1-x]" time="0.1"/>
<testcase classname="tests.a.test_b" name="test_c[2]" time="{}"/>
<testcase classname="tests.test_d" name="test_e" time="7.5"/>
</testsuite></testsuites>"""


def test_costs_are_of_the_slowest_case_at_its_fastest(tmp_path: Path) -> None:
    files = [tmp_path / "1.xml", tmp_path / "2.xml"]
    for file, seconds in zip(files, (3.0, 0.5), strict=True):
        file.write_text(JUNIT.format(seconds))
    assert costs.slowest_case(files) == {"tests/a/test_b.py::test_c": 0.5, "tests/test_d.py::test_e": 7.5}


def test_what_took_long_is_slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    item = request.node
    assert not costs.is_costly(item)
    monkeypatch.setattr(costs, "long", lambda: {item.nodeid})
    assert costs.is_costly(item)


def test_a_thinned_product_has_every_combination() -> None:
    found = thinned.product("ab", (1, 2, 3), often=lambda letter, number: letter == "a" or number == 2)
    assert [each.values for each in found] == [(letter, number) for letter in "ab" for number in (1, 2, 3)]
    assert [len(each.marks) for each in found] == [0, 0, 0, 1, 0, 1]


def test_a_call_shows_both_streams_and_ends_as_the_program_does(tmp_path: Path) -> None:
    found = call("run", "--init", "mine.yaml", cwd=tmp_path)
    assert (found.code, (tmp_path / "mine.yaml").is_file()) == (0, True)
    again = call("run", "--init", "mine.yaml", cwd=tmp_path)
    assert again.code == 3
    assert again.stderr.startswith("error: ")
    assert again.stdout == ""
    assert call("--help").stdout.strip()


def test_who_hands_tests_out_imports_no_torch() -> None:
    paths = [str(Path(__file__).parent), str(Path(costs.__file__).parent)]
    code = f"import sys; sys.path[:0] = {paths}; import conftest; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True).stdout == "False\n"
