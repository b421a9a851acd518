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
Measure = Literal["size", "latency", "rss", "arena", "loss_increase"]
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
    """Of each input channel, in the units of the raw data."""
    std: list[Finite]
    """The same."""
    raw: NotRequired[str]
    """What the raw data is, such as ``uint8 / 255``."""


@_declared
class Direction(TypedDict):
    """Of a metric."""

    higher_is_better: bool
    """Otherwise lower is."""
    unit: str
    """Empty for a plain number."""


@_declared
class Budget(TypedDict):
    """How much worse than the dense model a file may be in what decides."""

    amount: Finite
    """At least 0."""
    is_share: bool
    """Of the dense model's figure, or else in its units."""


@_declared
class Task(TypedDict):
    """The data that files were checked and scored on."""

    name: str
    """Of the data."""
    train: Count
    """Samples that were trained on."""
    validation: Count
    """Samples that picked the best epoch."""
    test: Count
    """Samples that the figures are of."""
    input: list[Count]
    """``[1, C, *size]``."""
    output: list[Count]
    """``[1, K, *size]``."""
    loss: str
    """Its name."""
    seed: int
    """Of everything drawn at random."""
    threads: Size
    """That training computed with."""
    class_names: list[str]
    """In the order of the outputs."""
    normalization: Normalization
    """What inputs went through before the model."""
    kind: NotRequired[Kind]
    """What a truth is."""
    metrics: NotRequired[dict[str, Direction]]
    """By name, which way is better."""
    decides: NotRequired[str]
    """The metric, or ``loss``, that files are judged by."""
    budget: NotRequired[Budget | None]
    """What a file may lose and still be recommended."""
    constant: NotRequired[dict[str, float]]
    """Loss and metrics of the best answer that is the same for every input, on the test set."""
    note: NotRequired[str]
    """What was seen in the data that its user should know."""


@_declared
class Environment(TypedDict):
    """Where the figures were measured."""

    python: str
    """Its version."""
    system: str
    """The operating system."""
    processor: str
    """As it names itself."""
    cores: int | None
    """Logical ones."""
    packages: dict[str, str | None]
    """Their versions; null for one that is not installed."""
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
    """Of all runs."""
    p90: Positive
    """Of all runs, the 90th percentile."""
    threads: Size
    """That the runtime computed with."""
    runs: Size
    """Timed inferences."""


@_declared
class Parity(TypedDict):
    """How far a file's outputs are from those of the PyTorch model that it was made from."""

    reference: str | None
    """The model that it was compared with; null for one that is a reference itself."""
    max_abs: float
    """The largest difference of any output."""
    mean_abs: float
    """The mean difference."""
    lsb_match: float | None
    """Share of the outputs within one step of int8, in [0, 1]; null for files that are not int8."""
    passed: bool
    """Whether the file computes what it should; one that does not is deleted."""
    reason: NotRequired[str]
    """Why it failed, or empty."""


@_declared
class TensorNoise(TypedDict):
    """How far a tensor of an int8 graph is from that of the module that the graph was made of."""

    name: str
    """Of the module of the model that returns it, or of an output."""
    is_output: bool
    """Whether it is an output of the model."""
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
    """Whether it computes there what it should."""
    max_abs: float
    """The largest difference of any output."""


@_declared
class End(TypedDict):
    """What a file takes or gives."""

    name: str
    """Of the tensor."""
    type: str
    """Of its numbers, such as ``int8``."""
    shape: list[int | str]
    """As the file has it: channels last in TFLite; a word where any size is taken."""
    scale: NotRequired[float]
    """Of int8 codes: a value is ``(code - zero_point) * scale``."""
    zero_point: NotRequired[int]
    """See ``scale``."""


@_declared
class Ends(TypedDict):
    """All that a file takes and gives."""

    inputs: list[End]
    """In the file's order."""
    outputs: list[End]
    """In the file's order."""


@_declared
class Row(TypedDict):
    """One verified file."""

    name: str
    """Unique in a run: ``pruned-qat/tflite-int8-sparse``."""
    variant: str
    """The recipe's name of the model."""
    architecture: NotRequired[str]
    """The class of the variant's model; of a built-in student, its shape."""
    format: Format
    """Of the file."""
    precision: str
    """``fp32``, ``fp16`` (weights) or ``int8``."""
    path: str
    """Of the file, in the run's folder."""
    bytes: Size
    """Of the file."""
    gzip_bytes: Count
    """Of the file when gzip has packed it."""
    entropy_bytes: Count | None
    """The fewest that any coding of single weights needs."""
    params: Count
    """Numbers that the file stores."""
    nonzero: Count
    """Those that are not zero."""
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
    """How far it is from its source."""
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
    road: NotRequired[str]
    """The tool that converted a TFLite file: ``onnx2tf``, or ``litert-torch`` where that one refused."""
    keep_float: NotRequired[list[str]]
    """Modules that were kept in float."""
    latency_ms: Latency
    """Taken in turns with the other files."""
    peak_rss_mb: Positive
    """Of a fresh process that loads the file and runs it once."""
    runtime_rss_mb: float
    """Of the same process before it opened the file."""
    model_rss_mb: float
    """The difference."""
    arena_bytes: NotRequired[Count]
    """What TensorFlow Lite Micro needs beside the file, of a search for microcontrollers."""


@_declared
class Layer(TypedDict):
    """What a layer holds and computes for one sample."""

    name: str
    """As PyTorch names the module."""
    params: Count
    """Its numbers."""
    nonzero: Count
    """Those that are not zero."""
    macs: Count
    """Multiply-accumulates of one sample."""


@_declared
class Failure(TypedDict):
    """A file that failed verification and was deleted, or a variant that could not be made."""

    name: str
    """Of the file or variant."""
    path: str | None
    """Where the file was, in the run's folder."""
    reason: str
    """A sentence."""
    parity: Parity | None
    """Of a file that was compared."""
    bytes: NotRequired[Count]
    """Of a file that failed."""


@_declared
class Rung(TypedDict):
    """A look at a candidate in training."""

    epochs: Finite
    """Trained so far."""
    loss_increase: float
    """Validation loss above the dense model's."""


@_declared
class Trial(TypedDict):
    """One candidate of a search; null for what was never known."""

    number: int
    """From 0, in the order of their beginning."""
    state: State
    """What became of it; infeasible: dropped untrained."""
    settings: dict[str, Any]
    """What was drawn."""
    rungs: list[Rung]
    """Looks while it trained."""
    size: float | None
    """Bytes of the exported file."""
    latency: float | None
    """In ``latency_unit``."""
    rss: float | None
    """Peak memory of a fresh process, in MB."""
    arena: NotRequired[float | None]
    """Bytes, of a search for microcontrollers."""
    loss_increase: float | None
    """Validation loss above the dense model's."""
    estimated: dict[str, float] | None
    """What it was expected to cost before it was trained."""
    violations: dict[Measure, float]
    """By how much limits were exceeded, as shares of them."""
    seconds: float
    """That it took."""
    at: NotRequired[float | None]
    """When it ended, in seconds of the search."""
    reason: str | None
    """Why it ended early or failed."""


@_declared
class Limits(TypedDict, total=False):
    """What was asked for: bytes, ms or times the dense file's latency, MB, bytes, loss above the dense model's."""

    size: Positive
    """Bytes."""
    latency: Positive
    """In ``latency_unit``."""
    rss: Positive
    """MB."""
    arena: Positive
    """Bytes."""
    loss_increase: Finite
    """Validation loss above the dense model's."""


@_declared
class Search(TypedDict):
    """What ``torchshrink search`` tried and found."""

    limits: Limits
    """What was asked for."""
    latency_unit: Literal["ratio", "ms"]
    """Of the dense file's latency, or ms."""
    objectives: list[Measure]
    """What is made as small as possible."""
    target: str
    """The runtime that measures."""
    sampler: str
    """What draws candidates."""
    seed: int
    """Of everything drawn at random."""
    seconds: float
    """That the search took."""
    dense: dict[str, float]
    """The dense file's costs."""
    trials: list[Trial]
    """Every candidate."""
    front: list[int]
    """Numbers of trials within every limit that no other beats."""
    recommended: int | None
    """The number of a trial, or null."""
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
    """Of the format."""
    task: Task
    """The data."""
    environment: Environment
    """The machine."""
    rows: list[Row]
    """The verified files."""
    layers: NotRequired[dict[str, list[Layer]]]
    """By variant."""
    failed: list[Failure]
    """What is not among them, and why."""
    search: NotRequired[Search]
    """Of ``torchshrink search`` alone."""


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
