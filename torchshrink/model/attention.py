"""Attention with fewer heads than PyTorch's own allows for its width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FewerHeads(nn.MultiheadAttention):
    """PyTorch's attention after some of its heads were removed: the heads that remain are as wide as they were.

    PyTorch's own computes the width of a head from that of its inputs, and so needs as many heads as it was made with.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments and results are those of `torch.nn.MultiheadAttention`.

        Raises:
            ValueError: When it is to be causal by no mask, as PyTorch's refuses it.
        """
        if is_causal and attn_mask is None:
            raise ValueError("is_causal only says what the mask is: give attn_mask too")
        is_batch = query.dim() == 3
        if not is_batch:
            query, key, value = (given.unsqueeze(0) for given in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (given.transpose(0, 1) for given in (query, key, value))
        queries, keys, values = (
            F.linear(given, weight, bias).view(*given.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
            for given, weight, bias in zip((query, key, value), *self._projections(), strict=True)
        )
        mask = self._mask(attn_mask, key_padding_mask, queries)
        weights = None
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            products = queries * self.head_dim**-0.5 @ keys.transpose(-2, -1)
            weights = F.dropout((products if mask is None else products + mask).softmax(-1), dropout)
            found = weights @ values
        else:
            found = F.scaled_dot_product_attention(queries, keys, values, mask, dropout)
        output: Tensor = self.out_proj(found.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not is_batch:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _projections(self) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        """Return the weights and biases of queries, keys and values."""
        one = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = tuple(self.in_proj_weight.chunk(3)) if self.in_proj_weight is not None else one
        return weights, (None,) * 3 if self.in_proj_bias is None else tuple(self.in_proj_bias.chunk(3))

    def _mask(self, mask: Tensor | None, padding: Tensor | None, queries: Tensor) -> Tensor | None:
        """Return what is added to the products: both masks, or nothing."""
        found = None if mask is None else _added(mask, queries)
        if found is not None and found.dim() == 3:  # one for each sample and head
            found = found.view(-1, self.num_heads, *found.shape[1:])
        if padding is None:
            return found
        padded = _added(padding, queries)[:, None, None]
        return padded if found is None else found + padded


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as numbers to add: where a boolean one is true, nothing is attended to."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))


def take_heads(model: nn.Module, name: str, count: int) -> None:
    """Let an attention of PyTorch's have ``count`` heads, in place; whose weights are the caller's business."""
    module = model.get_submodule(name)
    assert isinstance(module, nn.MultiheadAttention)
    module.__class__ = FewerHeads
    module.num_heads = count
    module._qkv_same_embed_dim = False  # keeps a transformer's layer from computing attention by itself
    for outer in model.modules():
        if isinstance(outer, nn.TransformerEncoder) and module in outer.modules():
            outer.use_nested_tensor = False  # which only a layer that computes by itself understands
