"""The libraries that the models come from, imported on first use; none of them is needed by torchshrink."""

from __future__ import annotations

import importlib
import sys
import warnings
from functools import cache
from typing import Any

import torch

# torchvision's compiled part belongs to one build of torch. Its models need none of it, but importing it asks for
# these operators' schemas.
_BOXES = "Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width"
_BACK = "int batch_size, int channels, int height, int width"
_GRADIENT = "Tensor grad, Tensor rois"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align({_BOXES}, int sampling_ratio, bool aligned) -> Tensor",
    f"qroi_align({_BOXES}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward({_GRADIENT}, {_BACK}) -> Tensor",
    f"ps_roi_align({_BOXES}, int sampling_ratio) -> (Tensor, Tensor)",
    f"_ps_roi_align_backward({_GRADIENT}, {_BACK}) -> Tensor",
    f"roi_pool({_BOXES}) -> (Tensor, Tensor)",
    f"_roi_pool_backward({_GRADIENT}, {_BACK}) -> Tensor",
    f"ps_roi_pool({_BOXES}) -> (Tensor, Tensor)",
    f"_ps_roi_pool_backward({_GRADIENT}, {_BACK}) -> Tensor",
    "deform_conv2d(Tensor input, Tensor weight) -> Tensor",
    "_deform_conv2d_backward(Tensor grad) -> (Tensor, Tensor)",
)


@cache
def library(name: str) -> Any:
    """Return a module by its name, such as ``"timm"`` or ``"torchvision.models"``."""
    _declare()
    sys.modules.setdefault("tensorboard", None)  # type: ignore[arg-type]  # MONAI would load TensorFlow with it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@cache
def _declare() -> None:
    declared = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        declared.define(schema)
    _KEPT.append(declared)


_KEPT: list[torch.library.Library] = []  # a schema lives as long as its library
