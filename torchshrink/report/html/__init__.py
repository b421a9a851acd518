"""The page of a run: report.html, one file that needs nothing else."""

from torchshrink.report.html.page import page

__all__ = ["page"]
