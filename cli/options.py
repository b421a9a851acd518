"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

MOST_RUNS = 1_000_000  # of an inference, which would not end
_MOST_SEED = 4_000_000_000  # of `torchshrink.settings`, which loads pydantic: help must be there at once

# Where an option stands in a long help; what is a command's own stands first, under "Options".
MODEL, TRAINING, INT8, SHOWN = "Model and data", "Training", "Int8", "What is shown"

Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and nothing else.", rich_help_panel=SHOWN)]
Wide = Annotated[
    bool, typer.Option("--wide", help="Show all columns of tables, not only the telling ones.", rich_help_panel=SHOWN)
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say all that is being done, on stderr.", rich_help_panel=SHOWN)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show no progress: only results, warnings, errors.", rich_help_panel=SHOWN)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.", rich_help_panel=SHOWN)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Instead of what the recipe says, such as variants.dense.train.epochs=5; can be repeated.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="A folder: images/ and masks/, a folder for each class, images or WAV files alone, or train/ and test/ of "
        "these; a .npz or .csv, or a folder with train.npz and test.npz; with ?size=96&fit=crop and the like; "
        "synthetic:cells, synthetic:pulses; or module:callable.",
        rich_help_panel=MODEL,
    ),
]
NamedData = Annotated[
    str | None, typer.Option(help="As in train; by default what the checkpoint was made with.", rich_help_panel=MODEL)
]
RecipeFile = Annotated[Path | None, typer.Argument(help="A recipe; without one, the built-in U-Net and data.")]
ModelFile = Annotated[
    Path, typer.Argument(help="A checkpoint: .safetensors, .pt, .pth, .ckpt, or a Hugging Face folder.")
]
Factory = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="module:factory that builds the model, timm:NAME or torchvision:NAME; not needed for the built-in U-Net.",
        rich_help_panel=MODEL,
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Open .pt2 files, and .pt files that hold more than tensors: they can run any code their author put in.",
        rich_help_panel=MODEL,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Import whatever the recipe names (module:callable), which runs its code; without it, only what Python "
        "files of the current folder define.",
        rich_help_panel=MODEL,
    ),
]
Effort = Annotated[
    Literal["none", "ranges", "equalization", "bias", "rounding", "float"],
    typer.Option(
        help="The last step, in this order, that may be taken to reach the budget; none: calibrate only.",
        rich_help_panel=INT8,
    ),
]
Budget = Annotated[
    float,
    typer.Option("--budget-db", help="Signal to noise of the outputs that is enough, in dB.", rich_help_panel=INT8),
]
KeepFloat = Annotated[
    str | None,
    typer.Option(
        help="Modules that stay float, by name, separated by commas; or auto: as few as needed for int8 to cost less "
        "than 1 % of the validation loss.",
        rich_help_panel=INT8,
    ),
]
Portable = Annotated[
    bool,
    typer.Option(
        "--portable/--no-portable",
        help="Leave room in the weights, so that ONNX Runtime computes the same on x86 without VNNI.",
        rich_help_panel=INT8,
    ),
]
Epochs = Annotated[int, typer.Option(min=0, help="Passes over the training data.", rich_help_panel=TRAINING)]
Rate = Annotated[float, typer.Option("--lr", min=0.0, help="Peak learning rate.", rich_help_panel=TRAINING)]
Batch = Annotated[int, typer.Option(min=1, help="Samples per step, shared by all processes.", rich_help_panel=TRAINING)]
Track = Annotated[
    Literal["mlflow", "tensorboard", "wandb", "comet_ml", "aim"] | None,
    typer.Option(help="Log there: losses while it trains, then figures; MLflow and TensorBoard get settings too."),
]
Seed = Annotated[
    int, typer.Option(min=0, max=_MOST_SEED, help="Decides everything that is random.", rich_help_panel=TRAINING)
]


def given(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Return which of some parameters were given on the command line, as their options are called."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [
        option
        for parameter in context.command.params
        for option in parameter.opts
        if (source := sources.get(parameter.name or "")) is not None and source.name == "COMMANDLINE"
    ]
