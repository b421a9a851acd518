"""What `torchshrink run` is to do, as validated YAML."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from torchshrink.errors import RecipeError
from torchshrink.files import atomic, read
from torchshrink.pipeline import plain_yaml
from torchshrink.pipeline.stage_settings import Channels, Clustering, Dense, Pruning, Qat
from torchshrink.pipeline.students import Student, Students
from torchshrink.pipeline.subject import Loss, Model, Strict, TaskChoice
from torchshrink.runtime.processors import HERE, KINDS
from torchshrink.settings import (
    Float,
    Int,
    Natural,
    Positive,
    Sampler,
    Seed,
    Share,
    Threads,
    Training,
    Whole,
)


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the least, {bounds[0]:g}, is more than the greatest, {bounds[1]:g}")
    return bounds


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
    return kind


Processor = Annotated[str, AfterValidator(_known)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
Rates = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]


class Space(Strict):
    """What may vary between candidates; what is left out follows from the sensitivity of each layer.

    Attributes:
        channels: Least and greatest share of the channels to remove.
        stage_spread: How far a stage's share may be from it, up and down; a stage is what computes at one resolution.
        round_to: What the channels that remain in a layer are multiples of.
        sparsity: Least and greatest share of the remaining weights that become zero; less than 0.55 prunes none,
            because it would make no int8 file smaller.
        pattern: How weights are pruned, as `torchshrink.prune.methods.method` names it.
        int8: Trained (``"qat"``) or calibrated (``"ptq"``).
        keep_float: How many of the layers that int8 hurts most may stay float.
        distillation: Share of the loss that the dense model's outputs make in every fine-tuning.
        length: Share of the epochs that are used.
        lr: Least and greatest learning rate of the fine-tuning.
        student: What other architectures may be, taught by the dense model, beside what is pruned from it; ``true`` for
            the built-in shapes.
    """

    channels: Shares | None = None
    stage_spread: Float | None = Field(None, ge=0, le=0.5)
    round_to: tuple[Natural, ...] = Field((4, 8), min_length=1)
    sparsity: Shares | None = None
    pattern: tuple[str, ...] = Field(("magnitude",), min_length=1)
    int8: tuple[Literal["qat", "ptq"], ...] = Field(("qat", "ptq"), min_length=1)
    keep_float: Whole | None = None
    distillation: tuple[Annotated[Float, Field(ge=0, le=1)], ...] = Field((0.0, 0.5), min_length=1)
    length: tuple[Annotated[Float, Field(gt=0, le=1)], ...] = Field((0.5, 1.0), min_length=1)
    lr: Rates = (5e-4, 5e-3)
    student: Students | None = None

    @field_validator("student", mode="before")
    @classmethod
    def _may_be_off(cls, value: Any) -> Any:
        return None if value is False else value


class Search(Strict):
    """How `torchshrink search` works.

    Attributes:
        space: What may vary.
        epochs: Fine-tuning of a candidate that goes all the way.
        qat_epochs: Of its quantization-aware training.
        final_epochs: Fine-tuning of the recommended model.
        final_qat_epochs: Of its quantization-aware training.
        rungs: In how many parts the fine-tuning is done; after each but the last, ``"tpe"`` and ``"halving"`` let only
            the better candidates go on.
        reduction: One of so many goes on; each rung ends at so many times the epochs of the one before.
        sampler: ``"bayesian"`` trains what the front is expected to gain the most from, size and latency being known
            before (see `torchshrink.search.bayesian`); ``"tpe"`` learns from the candidates so far, and trains only
            the better ones on after each rung; ``"halving"`` draws at random, and trains only the better ones on;
            ``"random"`` draws at random and trains each to the end: the search that every other is to be compared
            with; ``"evolution"`` crosses the best so far (NSGA-II), and trains each child to the end.
    """

    space: Space = Field(default_factory=Space)
    epochs: Natural = 18
    qat_epochs: Natural = 4
    final_epochs: Natural = 80
    final_qat_epochs: Natural = 12
    rungs: Int = Field(3, ge=1, le=6)
    reduction: Int = Field(3, ge=2)
    sampler: Sampler = "bayesian"


_STEPS = ("train", "student", "prune", "channels", "cluster", "qat")


class Variant(Strict):
    """One model: where it comes from, the one thing that is done to it, and whether files are made of it.

    Attributes:
        source: The variant above that it starts from; `from` in a file.
        export: False for a step on the way to another variant: no files are made of it.
        train: Train it.
        student: Teach another architecture what it does.
        prune: Set weights to zero.
        channels: Remove channels.
        cluster: Let weights share values.
        qat: Train it for int8, the last step.
    """

    source: str | None = Field(None, alias="from")
    export: bool = True
    train: Dense | None = None
    student: Student | None = None
    prune: Pruning | None = None
    channels: Channels | None = None
    cluster: Clustering | None = None
    qat: Qat | None = None

    @property
    def steps(self) -> dict[str, Training]:
        """What is done, by its key."""
        named = {name: getattr(self, name) for name in _STEPS}
        return {name: step for name, step in named.items() if step is not None}

    @model_validator(mode="after")
    def _has_one_step(self) -> Variant:
        names = ", ".join(self.steps)
        if len(self.steps) != 1:
            raise ValueError(f"needs exactly one of {', '.join(_STEPS)}; has {names or 'none'}")
        if self.source is None and self.train is None:
            raise ValueError(f"'{names}' needs a 'from': the variant that it starts from")
        return self


class Measuring(Strict):
    """How files are timed.

    Attributes:
        threads: That a runtime computes with.
        runs: Inferences of each file, in turns with those of the others.
    """

    threads: Threads = 1
    runs: Int = Field(50, ge=5, le=1_000_000)


def _default_variants() -> dict[str, Variant]:
    return {
        "dense": Variant(train=Dense()),
        "pruned": Variant.model_validate({"from": "dense", "prune": {"amount": 0.8}}),
        "pruned-qat": Variant.model_validate({"from": "pruned", "qat": {}}),
    }


class Recipe(Strict):
    """The whole job; every value has a default.

    Attributes:
        version: Of the format.
        data: A folder, a `.npz` or `.csv` file, `synthetic:cells`, or `module:callable`; see Data.
        seed: Of everything that is drawn at random.
        validation: Share of the training data that picks the best epoch.
        augment: Flips, rotations and noise; or `module:callable`, called with (inputs, truths, generator).
        task: What the data is for, where it does not say so itself.
        model: The architecture, and weights to start from.
        loss: The task's own unless given.
        distillation: Share of the loss, in every fine-tuning, that the first trained variant's outputs make.
        fit: `module:callable`, your own training loop, called with (model, task, settings, after_step).
        optimizer: `module:callable`, called with (parameters, lr=..., weight_decay=...); AdamW unless given.
        schedule: `module:callable`, called with (optimizer, steps); one cycle unless given.
        variants: The models to make, each one step from the model or from a variant above it.
        formats: Of the files that are made.
        precisions: Of the files; int8 of a variant without `qat` is calibrated on the training data.
        keep_float: Modules that stay float in int8, by name, or `auto`: as few as cost less than 1 % of what decides.
        portable: Room in int8 weights, so that ONNX Runtime is right on x86 without VNNI too.
        processors: Where int8 files must be right; emulated, with qemu-user: x86-avx2, x86-sse4, arm64.
        measure: How files are timed.
        search: What `torchshrink search` tries; left out, it follows from each layer's sensitivity.
    """

    version: Literal[1] = 1
    data: str = "synthetic:cells"
    seed: Seed = 0
    validation: Float = Field(0.1, gt=0, lt=1)
    augment: bool | str = True
    task: TaskChoice = Field(default_factory=TaskChoice)
    model: Model = Field(default_factory=Model)
    loss: Loss | None = None
    distillation: Float = Field(0.0, ge=0, le=1)
    fit: str | None = None
    optimizer: str | None = None
    schedule: str | None = None
    variants: dict[str, Variant] = Field(default_factory=_default_variants)
    formats: tuple[Literal["onnx", "tflite"], ...] = Field(("onnx", "tflite"), min_length=1)
    precisions: tuple[Literal["fp32", "fp16", "int8"], ...] = Field(("fp32", "fp16", "int8"), min_length=1)
    keep_float: Literal["auto"] | tuple[str, ...] = ()
    portable: bool = True
    processors: tuple[Processor, ...] = Field((HERE,), min_length=1)
    measure: Measuring = Field(default_factory=Measuring)
    search: Search | None = None

    @property
    def imitation(self) -> float:
        """Share of the loss, in every fine-tuning, that the first trained variant's outputs make."""
        return 1.0 if self.loss is not None and self.loss.name == "teacher" else self.distillation

    @field_validator("keep_float", mode="before")
    @classmethod
    def _keeps_named_modules(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "auto":
            raise ValueError(f"{value!r} is neither auto nor a list of modules: write [{value}]")
        return value

    @model_validator(mode="after")
    def _fit_is_the_whole_loop(self) -> Recipe:
        if self.fit is not None and (self.optimizer or self.schedule or self.imitation):
            raise ValueError("fit is the whole training loop: leave out optimizer, schedule, distillation and teacher")
        return self

    @field_validator("variants")
    @classmethod
    def _variants_are_ordered(cls, variants: dict[str, Variant]) -> dict[str, Variant]:
        known: set[str] = set()
        quantized: set[str] = set()
        for name, variant in variants.items():
            if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
                raise ValueError(f"{name!r} becomes a file name: use letters, digits, '-', '_' and '.'")
            if variant.source is not None and variant.source not in known:
                raise ValueError(f"{name!r} comes from {variant.source!r}, which is not defined above it")
            if variant.source in quantized:
                raise ValueError(f"{name!r} comes from {variant.source!r}, which is quantized: qat is the last step")
            for ending in ("-ptq", "-graph"):  # models of a run beside those of its variants
                if name.removesuffix(ending) in variants and name.endswith(ending):
                    raise ValueError(
                        f"{name!r} is what the {ending[1:]} model of {name.removesuffix(ending)!r} is called: rename it"
                    )
            known.add(name)
            if variant.qat is not None:
                quantized.add(name)
        if not variants:
            raise ValueError("there is nothing to do: define at least one variant")
        return variants


def load(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: Naming every key that is wrong, by its path.
    """
    try:
        content = plain_yaml.load(read(path).decode())
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}: {error.strerror}") from error
    except ValueError as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds no settings: `torchshrink run --init {path}` writes a recipe to start from")
    return parse(content, str(path))


def parse(content: dict[str, Any], name: str = "recipe") -> Recipe:
    """Validate settings; ``name`` is what the error calls them. Raises as `load`."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = [f"{'.'.join(str(key) for key in item['loc'])}: {_problem(item)}" for item in error.errors()]
        raise RecipeError(f"{name}: " + "; ".join(problems)) from None


def trust_pickle(recipe: Recipe) -> Recipe:
    """Return a recipe whose checkpoint may be a pickle, which runs any code that its author put in."""
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"allow_pickle": True})})


def dump(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain data that `parse` reads back."""
    return recipe.model_dump(mode="json", by_alias=True, exclude_none=True)


def save(recipe: Recipe, path: Path) -> None:
    """Write a recipe as YAML, headed by the command that runs it."""
    text = yaml.safe_dump(dump(recipe), sort_keys=False)
    with atomic(path) as temporary:
        temporary.write_text(f"# Run with: torchshrink run {path.name}\n{text}")


def template(name: Path) -> str:
    """Return the default recipe with a comment on every setting, headed by the command that runs it as ``name``."""
    text = Path(__file__).with_name("recipe.yaml").read_text()
    return text.replace("torchshrink run recipe.yaml", f"torchshrink run {name}", 1)


def _problem(item: Any) -> str:
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        schema = Recipe.model_json_schema()
        known = [key for part in (schema, *schema["$defs"].values()) for key in part["properties"]]
        near = difflib.get_close_matches(str(item["loc"][-1]), known, 1)
        return f"unknown key, did you mean {near[0]}?" if near else "unknown key"
    message: str = item["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
