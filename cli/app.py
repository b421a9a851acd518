"""The ``torchshrink`` program: its commands, and how errors become exit codes."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from torchshrink.cli import (
    bench,
    bundle,
    convert,
    doctor,
    inspection,
    options,
    predict,
    report,
    run,
    search,
    train,
    verify,
)
from torchshrink.cli.commands import Commands, add
from torchshrink.cli.console import NoReaderError, errors, interruptible, listen, results_alone, show
from torchshrink.errors import RecipeError, ShrinkError, missing_extra
from torchshrink.parallel.launch import count, problem
from torchshrink.usercode import ended, place, told

_STDERR = 2
_SHARED = ("train", "prune", "qat")  # what several processes do together
_TRAINING = (*_SHARED, "run", "sweep", "search")

app = typer.Typer(
    name="torchshrink",
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        show(f"torchshrink {version('torchshrink')}")
        raise typer.Exit


@app.callback()
def program(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a trained PyTorch model smaller, faster and less memory-hungry, and prove it."""
    listen(_level(verbose, quiet))


def _level(verbose: bool, quiet: bool) -> int:
    if verbose and quiet:
        raise typer.BadParameter("says the opposite of --verbose", param_hint="--quiet")
    return logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one line on stderr and an exit code; add what every command can say more or less of."""

    @functools.wraps(function)
    def call(debug: bool = False, verbose: bool = False, quiet: bool = False, **arguments: Any) -> None:
        try:
            if verbose or quiet:  # else it may have been said before the command
                listen(_level(verbose, quiet))
            _check_folder()
            _check_processes(function.__name__)
            with results_alone():
                function(**arguments)
        except KeyboardInterrupt:
            resumes = function.__name__ in ("run", "sweep", "search")
            errors.print("interrupted" + (": the same command goes on where it stopped" if resumes else ""))
            raise typer.Exit(130) from None
        except (typer.Exit, typer.Abort, typer.BadParameter, NoReaderError):  # of the last, typer ends without a word
            raise
        except ShrinkError as error:
            _explain(f"error: {error}", debug)
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            _explain(f"error: {error}", debug)
            raise typer.Exit(3) from None
        except SystemExit as error:
            _explain(f"error: code that was called ended the program: {ended(error)}", debug)
            raise typer.Exit(3) from None
        except Exception as error:
            code, text = _unexpected(error)
            _explain(text, debug)
            raise typer.Exit(code) from None

    own = inspect.signature(function, eval_str=True)  # typer does not evaluate a signature that was set
    added = {"verbose": options.Verbose, "quiet": options.Quiet, "debug": options.Debug}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in added.items()
    ]
    call.__signature__ = own.replace(parameters=[*own.parameters.values(), *parameters])  # type: ignore[attr-defined]
    call.__annotations__ = {**function.__annotations__, **added}
    return call


def _unexpected(error: Exception) -> tuple[int, str]:
    """Return the exit code and the text for what is no error of ours: the user's code, the memory, or a defect."""
    if isinstance(error, ModuleNotFoundError) and (missing := missing_extra(error)) is not None:
        return missing.exit_code, f"error: {missing}"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return 3, f"error: there is not enough memory: {told(error)}"
    if place(error) is not None:
        return 3, f"error: your code raised {told(error)} (--debug shows all of it)"
    return 1, f"internal error: {type(error).__name__}: {error} (--debug shows where)"


def _check_folder() -> None:
    """Refuse to work where nothing can be read or written: libraries end the process over it, without a word."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise RecipeError("the current folder was deleted: change to another one") from None


def _check_processes(name: str) -> None:
    """Refuse to do the same work in several processes, and to wait for some that were never launched."""
    if count() > 1 and name not in _SHARED:
        raise RecipeError(f"{name} works in one process, {count()} were launched: launch {', '.join(_SHARED)}")
    if name in _TRAINING and (fault := problem()):
        raise RecipeError(f"{fault}: start with torchrun or accelerate launch, or unset LOCAL_RANK")


def _explain(text: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    errors.print(" ".join(text.split()), style="red")


def _add(function: Callable[..., None], example: str, panel: str | None = None) -> None:
    add(function, guarded, f"Example: {example}", panel)


_MAKE, _LOOK, _SHIP = "Make a model smaller", "Look into models and files", "Ship files"

_add(run.run, "torchshrink run --data ../data/nuclei --out runs/nuclei", _MAKE)
_add(run.sweep, "torchshrink sweep dense.safetensors --data ../data/nuclei --sparsity 50,80,90 --channels 50", _MAKE)
_add(
    search.search, "torchshrink search --data ../data/nuclei --max-size 40kB --max-loss-increase 0.01 --hours 1", _MAKE
)
_add(train.train, "torchshrink train --data synthetic:cells --out dense.safetensors --epochs 10", _MAKE)
_add(train.student, "torchshrink student dense.safetensors --widths 8,8,8 --merge add --out small.safetensors", _MAKE)
_add(
    train.prune,
    "torchshrink prune dense.safetensors --data synthetic:cells --amount 0.8 --out pruned.safetensors",
    _MAKE,
)
_add(train.qat, "torchshrink qat pruned.safetensors --data synthetic:cells --out int8.safetensors", _MAKE)
_add(train.ptq, "torchshrink ptq dense.safetensors --data synthetic:cells --out int8.safetensors", _MAKE)
_add(inspection.inspect, "torchshrink inspect dense.safetensors --data synthetic:cells --plot layers.png", _LOOK)
_add(bench.bench, "torchshrink bench dense.tflite int8.tflite --threads 1 --runs 100", _LOOK)
_add(bench.compare, "torchshrink compare dense.safetensors --out sizes", _LOOK)
_add(report.report, "torchshrink report runs/nuclei", _LOOK)
_add(doctor.doctor, "torchshrink doctor", _LOOK)
_add(convert.export, "torchshrink export int8.safetensors --precision int8 --out model.onnx", _SHIP)
_add(convert.convert, "torchshrink convert int8.safetensors --precision int8 --sparse --out model.tflite", _SHIP)
_add(verify.verify, "torchshrink verify model.tflite --against int8.safetensors --data synthetic:cells", _SHIP)
_add(predict.predict, "torchshrink predict model.tflite --data ../data/images --out masks", _SHIP)
_add(bundle.bundle, "torchshrink bundle model.tflite --out production --server", _SHIP)


def _keep_docstrings() -> None:
    """Start again as Python starts by itself where ``-OO`` took the texts of --help, and what libraries live on."""
    if sys.flags.optimize >= 2:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONOPTIMIZE"}
        os.execve(sys.executable, [sys.executable, "-P", "-m", "torchshrink.cli", *sys.argv[1:]], kept)


def _open_standard_streams() -> None:
    """Let no file get the number of a standard stream that is closed: what libraries print would end up in it."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(handle)


def main() -> None:
    """Run the program."""
    _keep_docstrings()
    _open_standard_streams()
    interruptible()
    warnings.showwarning = _show_warning
    try:
        app()
    except OSError as error:  # of what shows --help, or an error: a full disk
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show what is to be known in one line, without the place in our sources."""
    errors.print(f"warning: {' '.join(str(message).split())}", style="yellow")
