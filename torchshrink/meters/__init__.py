"""Figures of how well outputs match truths: built in through torchmetrics, or the user's own."""

from torchshrink.meters.built_in import BUILT_IN, THRESHOLD, class_scores, dice, iou, metric
from torchshrink.meters.metric import Meter, Metric

__all__ = ["BUILT_IN", "THRESHOLD", "Meter", "Metric", "class_scores", "dice", "iou", "metric"]
