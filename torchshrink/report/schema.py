"""What report.json holds: what other programs may rely on, published as docs/report.schema.json.

A new key is one line here. ``NotRequired`` says that reports of an earlier version lack it; keys that are not declared,
as a later version may write them, are kept and not looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic wants it before Python 3.12

from torchshrink.errors import DataError
from torchshrink.settings import Kind

SCHEMA = 1

Format = Literal["torch", "onnx", "tflite", "h5"]
Measure = Literal["size", "latency", "rss", "loss_increase"]
State = Literal["finished", "stopped", "infeasible", "failed", "open"]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[int, Field(gt=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

_declared = with_config(ConfigDict(extra="allow", strict=True, use_attribute_docstrings=True))


@_declared
class Normalization(TypedDict):
    """What was done to the raw inputs: ``(raw - mean) / std`` for each channel."""

    mean: list[Finite]
    std: list[Finite]
    raw: NotRequired[str]
    """What the raw data is, such as ``uint8 / 255``."""


@_declared
class Direction(TypedDict):
    """Of a metric."""

    higher_is_better: bool
    unit: str


@_declared
class Budget(TypedDict):
    """How much worse than the dense model a file may be in what decides."""

    amount: Finite
    is_share: bool
    """Of the dense model's figure, or else in its units."""


@_declared
class Task(TypedDict):
    """The data that files were checked and scored on."""

    name: str
    train: Count
    validation: Count
    test: Count
    input: list[Count]
    """``[1, C, *size]``."""
    output: list[Count]
    """``[1, K, *size]``."""
    loss: str
    seed: int
    threads: Size
    class_names: list[str]
    normalization: Normalization
    kind: NotRequired[Kind]
    metrics: NotRequired[dict[str, Direction]]
    decides: NotRequired[str]
    """The metric, or ``loss``, that files are judged by."""
    budget: NotRequired[Budget | None]
    constant: NotRequired[dict[str, float]]
    """Loss and metrics of the best answer that is the same for every input, on the test set."""
    note: NotRequired[str]
    """What was seen in the data that its user should know."""


@_declared
class Environment(TypedDict):
    """Where the figures were measured."""

    python: str
    system: str
    processor: str
    cores: int | None
    packages: dict[str, str | None]
    instructions: NotRequired[list[str]]
    """Of the processor, those that decide how int8 is computed: ``AVX2``, ``dotprod``."""
    int8_dot_products: NotRequired[bool]
    """Whether one of them multiplies and adds int8 in 32 bits at once, which is what makes int8 fast."""
    command: NotRequired[str]
    """What made the run, ready to be pasted."""


@_declared
class Latency(TypedDict):
    """Of one inference at batch 1, in ms."""

    median: Positive
    p90: Positive
    threads: Size
    runs: Size


@_declared
class Parity(TypedDict):
    """How far a file's outputs are from those of the PyTorch model that it was made from."""

    reference: str | None
    """The model that it was compared with; null for one that is a reference itself."""
    max_abs: float
    mean_abs: float
    lsb_match: float | None
    """Share of the outputs within one step of int8, in [0, 1]; null for files that are not int8."""
    passed: bool
    reason: NotRequired[str]


@_declared
class TensorNoise(TypedDict):
    """How far a tensor of an int8 graph is from that of the module that the graph was made of."""

    name: str
    """Of the module of the model that returns it, or of an output."""
    is_output: bool
    snr_db: Finite | None
    """Signal to noise; null where nothing differs."""
    reason: str
    """Of what has too little: what its values make likely."""
    cure: str
    """What helps."""
    alone_db: NotRequired[Finite | None]
    """The same of a module that alone computes in int8, on inputs in float: the noise that it adds itself."""


@_declared
class Shown(TypedDict):
    """How a file compares on one kind of processor: here over the test set, elsewhere for one input."""

    passed: bool
    max_abs: float


@_declared
class End(TypedDict):
    """What a file takes or gives."""

    name: str
    type: str
    shape: list[int | str]
    """As the file has it: channels last in TFLite; a word where any size is taken."""
    scale: NotRequired[float]
    """Of int8 codes: a value is ``(code - zero_point) * scale``."""
    zero_point: NotRequired[int]


@_declared
class Ends(TypedDict):
    """All that a file takes and gives."""

    inputs: list[End]
    outputs: list[End]


@_declared
class Row(TypedDict):
    """One verified file."""

    name: str
    """Unique in a run: ``pruned-qat/tflite-int8-sparse``."""
    variant: str
    architecture: NotRequired[str]
    """The class of the variant's model; of a built-in student, its shape."""
    format: Format
    precision: str
    """``fp32``, ``fp16`` (weights) or ``int8``."""
    path: str
    """Of the file, in the run's folder."""
    bytes: Size
    gzip_bytes: Count
    entropy_bytes: Count | None
    """The fewest that any coding of single weights needs."""
    params: Count
    nonzero: Count
    sparsity: float
    """Share of the parameters that are zero, in [0, 1]."""
    macs: Count
    """Multiply-accumulates of one sample."""
    loss: float
    """Over the test set, computed with the file; NaN is possible."""
    metrics: dict[str, float]
    """The task's, over the whole test set, computed with the file: ``dice`` and ``iou``, of segmentations."""
    confusion: NotRequired[list[list[Count]]]
    """Of a classification: how often each class, by row, was taken for each, by column."""
    ends: NotRequired[Ends]
    """Of an exported file."""
    parity: Parity
    processors: NotRequired[dict[str, Shown]]
    """By kind of processor; ``here`` is the one that made the report, the others are emulated."""
    graph_noise: NotRequired[list[TensorNoise]]
    """Of an int8 file's graph: every tensor that a module returns, in order, then every output."""
    islands: list[str]
    """Operations that compute in float although the file is int8."""
    float_time: NotRequired[float]
    """Share of the time that the islands take, in [0, 1]."""
    matched_ranges: NotRequired[float | None]
    """Share of the int8 activations whose range was learned in PyTorch, in [0, 1]; null where none had to be found."""
    keep_float: NotRequired[list[str]]
    """Modules that were kept in float."""
    latency_ms: Latency
    peak_rss_mb: Positive
    """Of a fresh process that loads the file and runs it once."""
    runtime_rss_mb: float
    """Of the same process before it opened the file."""
    model_rss_mb: float
    """The difference."""


@_declared
class Layer(TypedDict):
    """What a layer holds and computes for one sample."""

    name: str
    params: Count
    nonzero: Count
    macs: Count


@_declared
class Failure(TypedDict):
    """A file that failed verification and was deleted, or a variant that could not be made."""

    name: str
    path: str | None
    reason: str
    parity: Parity | None
    bytes: NotRequired[Count]
    """Of a file that failed."""


@_declared
class Rung(TypedDict):
    """A look at a candidate in training."""

    epochs: Finite
    loss_increase: float


@_declared
class Trial(TypedDict):
    """One candidate of a search; null for what was never known."""

    number: int
    state: State
    settings: dict[str, Any]
    rungs: list[Rung]
    size: float | None
    latency: float | None
    rss: float | None
    loss_increase: float | None
    estimated: dict[str, float] | None
    violations: dict[Measure, float]
    """By how much limits were exceeded, as shares of them."""
    seconds: float
    at: NotRequired[float | None]
    reason: str | None


@_declared
class Limits(TypedDict, total=False):
    """What was asked for: bytes, ms or times the dense file's latency, MB, validation loss above the dense model's."""

    size: Positive
    latency: Positive
    rss: Positive
    loss_increase: Finite


@_declared
class Search(TypedDict):
    """What ``torchshrink search`` tried and found."""

    limits: Limits
    latency_unit: Literal["ratio", "ms"]
    objectives: list[Measure]
    target: str
    sampler: str
    seed: int
    seconds: float
    dense: dict[str, float]
    trials: list[Trial]
    front: list[int]
    """Numbers of trials within every limit that no other beats."""
    recommended: int | None
    nearest: int | None
    """When none is within every limit."""
    binding: Measure | None
    """The limit that is in the way, when none is within every limit."""
    importance: dict[Measure, dict[str, float]]
    """By objective, the share of the differences that each setting explains."""
    hypervolume: list[Annotated[list[float], Field(min_length=2, max_length=2)]]
    """``[seconds, volume]`` after each trial within every limit."""


@_declared
class Report(TypedDict):
    """What a run found."""

    schema: Literal[1]
    task: Task
    environment: Environment
    rows: list[Row]
    layers: NotRequired[dict[str, list[Layer]]]
    """By variant."""
    failed: list[Failure]
    search: NotRequired[Search]


_REPORT = TypeAdapter(Report)


def parse(content: Any, path: Path) -> Report:
    """Return what was read from ``path`` when it is a report.

    Raises:
        DataError: When it is not; names the key.
    """
    try:
        return _REPORT.validate_python(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    what = "is missing" if problem["type"] == "missing" else f"{_words(problem['msg'])}, found {problem['input']!r:.60}"
    raise DataError(f"{path}: {key or 'the report'} {what}: `torchshrink run --out {path.parent}` makes it again")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of report.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_REPORT.json_schema()}


def _words(message: str) -> str:
    return message.replace("Input should", "should").replace("dictionary", "object")
