"""A module under quantization: an exported graph with observers or fake quantization in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink.errors import ModelError
from torchshrink.prune.clusters import Clusters
from torchshrink.quantize import exits, modes
from torchshrink.quantize.fake import FakeInt8
from torchshrink.quantize.observer import StepMinMaxObserver
from torchshrink.quantize.tracing import in_float32

_KEPT = 4  # samples of the last batch, on which `convert` measures


class PreparedModule(nn.Module):
    """What `prepare_qat` and `prepare_ptq` return: it trains, evaluates and saves like any module.

    An exported graph has its mode written into its operations; this wrapper rewrites them on ``train()`` and
    ``eval()``. Weights that are exactly zero when it is made are kept zero by `apply_masks`, those that were clustered
    (`torchshrink.prune.cluster`) are kept equal.

    Args:
        graph: The prepared graph.
        is_qat: True when the graph is to be trained.

    Attributes:
        seen: A few samples of the last batch, one tensor for each input; none before the first.
    """

    seen: tuple[Tensor, ...] = ()

    def __init__(self, graph: GraphModule, is_qat: bool) -> None:
        super().__init__()
        self.graph_module = graph
        self.is_qat = is_qat
        self._frozen_statistics = False
        self._masks = {
            name: parameter.detach() != 0
            for name, parameter in graph.named_parameters()
            if parameter.dim() > 1 and bool((parameter == 0).any())
        }
        self._clusters = Clusters.find(graph)
        self.train(is_qat)

    def forward(self, *inputs: Tensor) -> Any:
        """Run the graph on what the float module takes, with any batch size, and return what it returns."""
        self.seen = tuple(value.detach()[:_KEPT].clone() for value in inputs)
        if self.training and not self._frozen_statistics:
            modes.set_cumulative(self.graph_module)
        try:
            output = self.graph_module(*in_float32(inputs))
            if self.training:
                self._end_step()
        except AssertionError as error:  # torch.export's of a size, torchao's of a range that is none
            if "Guard failed" in str(error):
                shapes = ", ".join(str(list(value.shape)) for value in inputs)
                raise ModelError(
                    f"an input of {shapes} does not fit the example that the model was prepared with "
                    f"({str(error).removeprefix('Guard failed: ')}): only the number of samples may differ"
                ) from error
            if "nan" not in str(error):
                raise
            where = exits.first_not_finite(self.graph_module, in_float32(inputs))
            raise ModelError(
                f"training computes NaN, first in {where}: look for NaN in the data, or a loss that diverged"
            ) from error
        return output

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Let what runs meanwhile be one step of the ranges, which learn from all of it together, and of nothing else.

        Ranges that begin with one batch clip what only another shows, and move by a hundredth in a step.
        """
        was_training = self.training
        if self.is_qat:
            self.eval()
            for module in self._activations():
                module.enable_observer(not self._frozen_statistics)
        try:
            yield
            if self.is_qat:
                self._end_step()
        finally:
            self.train(was_training)

    def _end_step(self) -> None:
        """Let what the next step trains with, and what convert reads from the observer, be the same scale."""
        for module in self._range_learners():
            module.activation_post_process.commit()
            scale, zero_point = module.calculate_qparams()
            module.scale.copy_(scale)
            module.zero_point.copy_(zero_point)

    def _range_learners(self) -> list[Any]:
        """Return the fake quantizers whose ranges still move."""
        return [module for module in self._activations() if module.is_observing]

    def _activations(self) -> list[Any]:
        """Return the fake quantizers of activations; tensors may share one."""
        found = {
            id(module): module
            for module in self.graph_module.modules()
            if isinstance(module, FakeInt8) and isinstance(module.activation_post_process, StepMinMaxObserver)
        }
        return list(found.values())

    def train(self, mode: bool = True) -> PreparedModule:
        """Switch BatchNorm and dropout, and whether ranges move; what is frozen stays so."""
        self.training = mode
        for module in self._activations():
            module.enable_observer(mode and not self._frozen_statistics)
        modes.switch(self.graph_module, mode, self._frozen_statistics)
        return self

    def freeze(self) -> None:
        """Stop activation ranges and BatchNorm statistics; weights then train against what production will use.

        Source: Krishnamoorthi, arXiv:1806.08342, section 3.2.
        """
        self._frozen_statistics = True
        self.train(self.training)

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Set pruned weights back to exactly zero, and clustered ones to a common value; call it after every step."""
        if self._masks:
            parameters = dict(self.graph_module.named_parameters())
            for name, mask in self._masks.items():
                self._masks[name] = mask.to(parameters[name].device)
                parameters[name].mul_(self._masks[name])
        self._clusters.apply()
