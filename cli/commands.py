"""Commands that are read when they are called: for a list of them, names and first lines are enough."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_from_info
from typer.models import CommandInfo


class Command(TyperCommand):
    """A command of a function, which is asked for its options once they are needed."""

    def __init__(self, name: str, help: str, make: Callable[[], CommandInfo], panel: str | None) -> None:  # noqa: A002
        super().__init__(name, help=help, rich_markup_mode="rich", rich_help_panel=panel)
        self._make = make
        del self.params, self.callback, self.epilog

    def __getattr__(self, name: str) -> Any:
        if name not in ("params", "callback", "epilog"):
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        made = get_command_from_info(self._make(), pretty_exceptions_short=False, rich_markup_mode="rich")
        self.params, self.callback, self.epilog = made.params, made.callback, made.epilog
        return getattr(self, name)

    def format_help(self, *arguments: Any) -> None:
        """Show the help."""
        _load_quickly()
        super().format_help(*arguments)


class Commands(TyperGroup):
    """All commands, in the order in which they were added."""

    added: dict[str, Command] = {}  # noqa: RUF012  # there is one program

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"commands": self.added})

    def format_help(self, *arguments: Any) -> None:
        """Show the list."""
        _load_quickly()
        super().format_help(*arguments)


def add(
    function: Callable[..., None], wrap: Callable[..., Callable[..., None]], epilog: str, panel: str | None
) -> None:
    """Add a command.

    Args:
        function: What it calls; its docstring is the help.
        wrap: What is put around it.
        epilog: What stands below its help.
        panel: Where it stands in the list.
    """

    def make() -> CommandInfo:
        return CommandInfo(callback=wrap(function), epilog=epilog)

    name = function.__name__
    Commands.added[name] = Command(name, inspect.getdoc(function) or "", make, panel)


def _load_quickly() -> None:
    """Load typer's help without what only other settings of it use: Markdown and Pygments, a quarter of its time."""
    unused = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}
    if "typer.rich_utils" in sys.modules or unused.keys() & sys.modules.keys():
        return
    for module, name in unused.items():
        sys.modules[module] = ModuleType(module)
        setattr(sys.modules[module], name, object)
    import typer.rich_utils  # noqa: F401

    for module in unused:
        del sys.modules[module]
