"""The page of a run: report.html, one file that needs nothing else."""

from torchshrink.html.page import page

__all__ = ["page"]
