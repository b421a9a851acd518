"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Data = Annotated[
    str,
    typer.Option(
        help="A folder: images/ and masks/, a folder for each class, images or WAV files alone, or train/ and test/ of "
        "these; a .npz or .csv, or a folder with train.npz and test.npz; with ?size=96&fit=crop and the like; "
        "synthetic:cells, synthetic:pulses; or module:callable."
    ),
]
NamedData = Annotated[str | None, typer.Option(help="As in train; by default what the checkpoint was made with.")]
RecipeFile = Annotated[Path | None, typer.Argument(help="A recipe; without one, the built-in U-Net and data.")]
ModelFile = Annotated[
    Path, typer.Argument(help="A checkpoint: .safetensors, .pt, .pth, .ckpt, or a Hugging Face folder.")
]
Factory = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="module:factory that builds the model, timm:NAME or torchvision:NAME; not needed for the built-in U-Net.",
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Open .pt2 files, and .pt files that hold more than tensors: they can run any code their author put in.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Import whatever the recipe names (module:callable), which runs its code; without it, only what Python "
        "files of the current folder define.",
    ),
]
KeepFloat = Annotated[
    str | None,
    typer.Option(
        help="Modules that stay float, by name, separated by commas; or auto: as few as needed for int8 to cost less "
        "than 1 % of the validation loss."
    ),
]
Portable = Annotated[
    bool,
    typer.Option(
        "--portable/--no-portable",
        help="Leave room in the weights, so that ONNX Runtime computes the same on x86 without VNNI.",
    ),
]
Epochs = Annotated[int, typer.Option(min=0, help="Passes over the training data.")]
Rate = Annotated[float, typer.Option("--lr", min=0.0, help="Peak learning rate.")]
Batch = Annotated[int, typer.Option(min=1, help="Samples per step, shared by all processes.")]
Track = Annotated[
    Literal["mlflow", "tensorboard"] | None, typer.Option(help="Log settings, curves, figures and files there.")
]
Seed = Annotated[int, typer.Option(min=0, help="Decides everything that is random.")]
