"""Recipes: defaults, what is refused and how, and the documentation that the template is."""

import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchshrink.errors import RecipeError
from torchshrink.pipeline import recipe
from torchshrink.pipeline.assemble import resolve
from torchshrink.pipeline.recipe import Search
from torchshrink.settings import Training

TRAIN: dict[str, Any] = {"train": {}}


def variants(**content: Any) -> dict[str, Any]:
    return {"variants": {name.replace("_", "-"): value for name, value in content.items()}}


def error_of(content: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe.parse(content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults() -> None:
    found = recipe.parse({})
    assert found == recipe.Recipe()
    assert (found.version, found.data, found.seed, found.validation) == (1, "synthetic:cells", 0, 0.1)
    assert list(found.variants) == ["dense", "pruned", "pruned-qat"]
    assert found.variants["dense"].train == recipe.Dense(epochs=30, lr=0.003, batch_size=16, weight_decay=1e-4)
    assert found.variants["pruned"].source == "dense"
    assert found.variants["pruned"].prune == recipe.Pruning(
        amount=0.8, method="magnitude", schedule="polynomial", epochs=20, lr=0.002
    )
    assert found.variants["pruned-qat"].source == "pruned"
    assert found.variants["pruned-qat"].qat == recipe.Qat(epochs=10, lr=0.0005)


def test_recipes_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        recipe.Recipe().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("value", ["auto", ["head"], ["head", "encoder.0"], []])
def test_what_stays_float(value: str | list[str]) -> None:
    found = recipe.parse({"keep_float": value})
    assert found.keep_float == (value if value == "auto" else tuple(value))
    assert recipe.parse(recipe.dump(found)) == found


def test_processors_that_nobody_knows() -> None:
    assert "processors.1: 'sparc' is not one of here, x86-avx2, x86-sse4, arm64" in error_of(
        {"processors": ["here", "sparc"]}
    )
    assert "processors: " in error_of({"processors": []})


def test_a_name_is_not_a_list() -> None:
    message = "keep_float: 'head' is neither auto nor a list of modules: write [head]"
    assert message in error_of({"keep_float": "head"})


# --- The template


def test_template_is_the_default_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.template(path))
    assert recipe.load(path) == recipe.Recipe()


def test_template_names_the_command_that_runs_it() -> None:
    assert "Run with: torchshrink run my.yaml" in recipe.template(Path("my.yaml")).splitlines()[0]


def test_template_shows_every_setting() -> None:
    """With its commented lines taken in, nothing is missing and everything is accepted."""
    text = recipe.template(Path("x"))
    searching = ("search:", "  space:", "  epochs:", "  final_epochs:")
    loop = ("optimizer:", "schedule:", "fit:")
    for line in ("checkpoint:", "loss:", "  name:", "  settings:", "distillation:", *loop, *searching):
        assert f"# {line}" in text
        text = text.replace(f"# {line}", line)
    content = yaml.safe_load(text)
    assert set(content) == set(recipe.Recipe.model_fields)
    assert content.pop("fit")  # which is all of the loop, and goes with none of its parts
    assert set(content["variants"]["dense"]["train"]) == {field.name for field in fields(Training)}
    for variant in ("slim", "slim-clustered"):
        assert f"# {variant}:" in text  # every kind of step is shown
    assert set(content["variants"]["pruned"]["prune"]) >= {"amount", "method", "schedule"}
    assert set(content["measure"]) == set(recipe.Measuring.model_fields)
    assert recipe.parse(content).loss == recipe.Loss(
        name="focal_tversky", settings={"alpha": 0.7, "beta": 0.3, "gamma": 0.75}
    )
    assert recipe.parse(content).model.checkpoint == "model.safetensors"
    search = recipe.parse(content).search
    assert search is not None
    assert (search.epochs, search.final_epochs) == (Search().epochs, Search().final_epochs)
    assert recipe.Variant.model_validate({"train": {}, "export": False}).export is False


# --- Round trips


FULL: dict[str, Any] = {
    "version": 1,
    "data": "folder",
    "seed": 7,
    "validation": 0.25,
    "augment": False,
    "model": {"factory": "m:f", "arguments": {"widths": [4, 8]}, "checkpoint": "a.pt"},
    "loss": {"name": "dice", "settings": {"smooth": 0.5}},
    "distillation": 0.25,
    "variants": {
        "base": {"train": {"epochs": 1, "lr": 0.5, "patience": 2, "precision": "bf16"}},
        "thin": {"from": "base", "prune": {"amount": 0.3, "method": "layer", "schedule": "rewind", "epochs": 0}},
        "slim": {"from": "thin", "channels": {"target_macs": 0.5, "ignore": ["head"], "rounds": 2}},
        "few": {"from": "slim", "cluster": {"count": 8}},
        "again": {"from": "slim", "train": {"reinitialize": True}},
        "int8": {"from": "few", "qat": {"epochs": 1}},
    },
    "formats": ["onnx"],
    "precisions": ["int8"],
    "measure": {"threads": 2, "runs": 5},
}


@pytest.mark.parametrize("content", [{}, FULL])
def test_dump_and_parse(content: dict[str, Any]) -> None:
    found = recipe.parse(content)
    dumped = recipe.dump(found)
    assert recipe.parse(dumped) == found
    assert yaml.safe_load(yaml.safe_dump(dumped)) == dumped
    assert dumped["variants"][list(dumped["variants"])[1]]["from"] == next(iter(dumped["variants"]))


def test_every_given_value_is_dumped() -> None:
    def assert_holds(dumped: Any, given: Any) -> None:
        if isinstance(given, dict):
            for key, value in given.items():
                assert_holds(dumped[key], value)
        else:
            assert dumped == given

    assert_holds(recipe.dump(recipe.parse(FULL)), FULL)


def test_no_file_allows_pickles(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: {checkpoint: a.pt, allow_pickle: true}")
    with pytest.raises(RecipeError, match=r"model\.allow_pickle: only the command line can allow it"):
        recipe.load(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text("model: {checkpoint: a.pt, allow_pickle: false}")  # as 0.1.0 writes recipes
    found = recipe.trust_pickle(recipe.load(tmp_path / "r.yaml"))
    assert found.model.allow_pickle
    assert recipe.parse(recipe.dump(found)) == recipe.load(tmp_path / "r.yaml")  # what is written allows none


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    recipe.save(recipe.parse(FULL), path)
    assert path.read_text().splitlines()[0] == "# Run with: torchshrink run r.yaml"
    assert recipe.load(path) == recipe.parse(FULL)


# --- Errors


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({"epochs": 3}, "epochs"),
        ({"model": {"widths": [4]}}, "model.widths"),
        ({"measure": {"thread": 1}}, "measure.thread"),
        (variants(dense={"train": {"epoch": 3}}), "variants.dense.train.epoch"),
        (variants(dense=TRAIN, thin={"from": "dense", "prune": {"sparsity": 0.5}}), "variants.thin.prune.sparsity"),
        (variants(dense=TRAIN, q={"from": "dense", "qat": {"amount": 0.5}}), "variants.q.qat.amount"),
        (variants(dense={"train": {}, "convert": {}}), "variants.dense.convert"),
    ],
)
def test_unknown_keys_are_named_by_their_path(content: dict[str, Any], path: str) -> None:
    assert f"{path}: unknown key" in error_of(content)


def test_all_errors_at_once() -> None:
    message = error_of(
        {
            "colour": "red",
            "seed": -1,
            "validation": 1,
            "formats": ["onnx", "coreml"],
            "variants": {"dense": {"train": {"lr": 0, "epoch": 1}}, "thin": {"prune": {"amount": 1}}},
        }
    )
    parts = ("colour: unknown key", "seed: ", "validation: ", "formats.1: ", "variants.dense.train.lr: ",
             "variants.dense.train.epoch: unknown key, did you mean epochs?",
             "variants.thin.prune.amount: ")  # fmt: skip
    assert [part for part in parts if part not in message] == []
    assert message.startswith("recipe: ")
    assert message.count(";") >= len(parts) - 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("lr: 2e-5", 2e-5), ("lr: 1E-3", 1e-3), ("lr: 2.0e-5", 2e-5), ("lr: .5", 0.5), ("lr: 1", 1.0)],
)
def test_pyyaml_reads_some_numbers_as_text(text: str, expected: float) -> None:
    if text == "lr: 2e-5":
        assert yaml.safe_load(text) == {"lr": "2e-5"}
    found = recipe.parse(variants(dense={"train": yaml.safe_load(text)})).variants["dense"].train
    assert found is not None
    assert isinstance(found.lr, float)
    assert found.lr == expected


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"lr": 0}, "lr"),
        ({"lr": -1e-3}, "lr"),
        ({"lr": "fast"}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": float("inf")}, "lr"),
        ({"epochs": -1}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"weight_decay": float("inf")}, "weight_decay"),
        ({"precision": "fp16"}, "precision"),
    ],
)
def test_values_out_of_range(settings: dict[str, Any], key: str) -> None:
    assert f"variants.dense.train.{key}: " in error_of(variants(dense={"train": settings}))


@pytest.mark.parametrize("amount", [-0.1, 1, 1.5, float("nan"), "much"])
def test_amount_out_of_range(amount: Any) -> None:
    message = error_of(variants(dense=TRAIN, thin={"from": "dense", "prune": {"amount": amount}}))
    assert "variants.thin.prune.amount: " in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"thin": {"from": "dense", "prune": {}}, "dense": TRAIN},
            "'thin' comes from 'dense', which is not defined above it",
        ),
        ({"dense": TRAIN, "thin": {"from": "dens", "prune": {}}}, "'thin' comes from 'dens'"),
        ({"dense": {"from": "dense", "qat": {}}}, "'dense' comes from 'dense'"),
        (
            {"dense": {"train": {}, "qat": {}}},
            "needs exactly one of train, student, prune, channels, cluster, qat; has train, qat",
        ),
        ({"dense": {}}, "needs exactly one of train, student, prune, channels, cluster, qat; has none"),
        ({"thin": {"prune": {}}}, "variants.thin: 'prune' needs a 'from'"),
        ({"slim": {"channels": {"amount": 0.5}}}, "variants.slim: 'channels' needs a 'from'"),
        ({"dense": TRAIN, "b": {"from": "dense", "channels": {}}}, "exactly one of amount, amounts"),
        (
            {"dense": TRAIN, "b": {"from": "dense", "channels": {"amount": 0.5, "target_macs": 0.5}}},
            "exactly one of amount, amounts",
        ),
        ({"dense": TRAIN, "b": {"from": "dense", "prune": {"method": "best"}}}, "method 'best': expected one of"),
        ({"dense": TRAIN, "b": {"from": "dense", "prune": {"method": "4:4"}}}, "0 < n < m"),
        (
            {"dense": TRAIN, "b": {"from": "dense", "prune": {"amount": 0.5, "amounts": {"head": 0.5}}}},
            "amount for all layers or amounts by layer, not both",
        ),
        (
            {"dense": TRAIN, "q": {"from": "dense", "qat": {}}, "thin": {"from": "q", "prune": {}}},
            "'thin' comes from 'q', which is quantized: qat is the last step",
        ),
        ({"a/b": TRAIN}, "'a/b' becomes a file name"),
        ({"..": TRAIN}, "'..' becomes a file name"),
        ({"": TRAIN}, "'' becomes a file name"),
        ({}, "define at least one variant"),
    ],
)
def test_contradicting_variants(content: dict[str, Any], message: str) -> None:
    assert message in error_of({"variants": content})


def test_one_spelling_per_setting() -> None:
    assert "variants.thin.source: unknown key" in error_of(variants(dense=TRAIN, thin={"source": "dense", "prune": {}}))


@pytest.mark.parametrize("key", ["formats", "precisions"])
def test_something_must_be_exported(key: str) -> None:
    assert f"{key}: " in error_of({key: []})


@pytest.mark.parametrize("version", [0, 2, "one"])
def test_other_versions(version: Any) -> None:
    assert "version: " in error_of({"version": version})


@pytest.mark.parametrize("content", [None, 5, [], "text"])
def test_not_a_mapping(content: Any) -> None:
    assert "valid dictionary" in error_of(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no settings: `torchshrink run --init"),
        (b"# only a comment\n", "holds no settings"),
        (b"- a\n- b\n", "holds no settings"),
        (b"just text", "holds no settings"),
        (b"a: [1, 2", "is not YAML"),
        (b"a:\n\t- b", "is not YAML"),
        (b"\xff\xfe\x00\x80", "is not YAML"),
        (b"x: !!python/object/apply:os.getcwd []", "is not YAML"),
        (b"seed: -1", "seed: "),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"my\.yaml") as caught:
        recipe.load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read recipe .*absent\.yaml: No such file"):
        recipe.load(tmp_path / "absent.yaml")
    with pytest.raises(RecipeError, match="cannot read recipe"):
        recipe.load(tmp_path)


# --- resolve


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Write modules into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


def test_resolve_looks_in_the_current_folder(here: Callable[[str, str], None]) -> None:
    here("core_models_a", "def make():\n    return 42\n")
    path = list(sys.path)
    assert resolve("core_models_a:make", "model")() == 42
    assert sys.path == path


def test_resolve_finds_installed_modules() -> None:
    assert resolve("pathlib:Path", "model") is Path


def test_resolve_keeps_the_path_that_a_module_sets(here: Callable[[str, str], None]) -> None:
    here("core_models_b", "import sys\nsys.path.insert(0, '/added')\ndef make(): pass\n")
    path = list(sys.path)
    resolve("core_models_b:make", "model")
    try:
        assert sys.path == ["/added", *path]
    finally:
        sys.path[:] = path


@pytest.mark.parametrize("reference", ["module", "module:", ":name", "", ":"])
def test_resolve_needs_module_and_name(reference: str) -> None:
    with pytest.raises(RecipeError, match=rf"loss '{reference}': expected MODULE:NAME"):
        resolve(reference, "loss")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "'core_models_c:make' cannot be imported"),
        ("make = 1", "'core_models_c:make' is not callable"),
        ("import no_such_module", "no_such_module"),
        ("def (", "'core_models_c:make' cannot be imported"),  # SyntaxError
        ("1 / 0", "'core_models_c:make' cannot be imported"),
    ],
)
def test_resolve_of_broken_modules(here: Callable[[str, str], None], text: str, message: str) -> None:
    here("core_models_c", text)
    path = list(sys.path)
    with pytest.raises(RecipeError, match="model 'core_models_c:make'") as caught:
        resolve("core_models_c:make", "model")
    assert message in str(caught.value)
    assert sys.path == path


def test_resolve_of_missing_modules() -> None:
    with pytest.raises(RecipeError, match=r"data 'absent\.module:f' cannot be imported: .*No module named 'absent'"):
        resolve("absent.module:f", "data")
