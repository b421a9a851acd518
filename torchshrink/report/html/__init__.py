"""The page of a run: report.html, one file that needs nothing else."""

from torchshrink.report.html.page import page, side_by_side

__all__ = ["page", "side_by_side"]
