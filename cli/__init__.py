"""The command line."""

from torchshrink.cli.app import main

__all__ = ["main"]
