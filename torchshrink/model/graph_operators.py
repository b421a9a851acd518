"""Which operations a graph in a file may call, and with which arguments.

A file comes from anywhere. Some of PyTorch's operators read and write files (`aten.save`, `aten.from_file`), take
pointers for tensors (packed weights) or look past the end of a tensor's memory, so what may be called is listed here by
name. Left out as well are operators that draw random numbers and those that return memory as they find it.
"""

from __future__ import annotations

import math
import operator
import re
from typing import Any

import torch

LARGEST = 2**31  # elements that one operator may be told to make
_TEXT = re.compile(r"[A-Za-z0-9_,.> -]{0,200}")  # "same", "floor", "bhqd,bhkd->bhqk"
_MAKERS = {
    "arange", "eye", "full", "full_like", "linspace", "new_full", "new_ones", "new_zeros", "one_hot", "ones",
    "ones_like", "scalar_tensor", "tril_indices", "triu_indices", "zeros", "zeros_like",
}  # fmt: skip
_COUNTS = {"end", "n", "m", "num_classes", "row", "col", "start", "steps"}  # arguments of makers that say how much

_BY_THEME = {
    "one number in, one out": (
        "abs absolute acos acosh alias alpha_dropout angle arccos arccosh arcsin arcsinh arctan arctanh asin asinh "
        "atan atanh bitwise_not ceil celu clone conj contiguous copy cos cosh deg2rad detach digamma dropout elu erf "
        "erfc erfinv exp exp2 expm1 feature_alpha_dropout feature_dropout fill fix floor frac gelu glu hardshrink "
        "hardsigmoid hardswish hardtanh i0 imag isfinite isinf isnan isneginf isposinf isreal leaky_relu lgamma "
        "lift_fresh lift_fresh_copy log log10 log1p log2 log_sigmoid log_softmax logical_not logit mish nan_to_num "
        "neg negative positive prelu rad2deg real reciprocal relu relu6 resolve_conj resolve_neg round rrelu rsqrt "
        "selu sgn sigmoid sign signbit silu sin sinc sinh softmax softplus softshrink sqrt square tan tanh threshold "
        "trunc zero"
    ),
    "types": "_to_copy to type_as",
    "two or three numbers in": (
        "add addcdiv addcmul arctan2 atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor "
        "clamp clamp_max clamp_min clip copysign div divide eq float_power floor_divide fmax fmin fmod ge greater "
        "greater_equal gt heaviside hypot isclose ldexp le lerp less less_equal logaddexp logaddexp2 logical_and "
        "logical_or logical_xor lt masked_fill maximum minimum mul multiply ne nextafter not_equal pow remainder rsub "
        "sub subtract true_divide where xlogy"
    ),
    "many numbers in": (
        "all amax amin aminmax any argmax argmin argsort count_nonzero cummax cummin cumprod cumsum diff dist "
        "frobenius_norm kthvalue logcumsumexp logsumexp max mean median min mode msort nanmean nansum norm prod "
        "quantile sort std std_mean sum topk trace unique_consecutive unique_dim var var_mean"
    ),
    "products": (
        "addbmm addmm addmv addr baddbmm bilinear bmm cdist chain_matmul cosine_similarity cross dot einsum inner "
        "kron linear matmul mm mv outer pairwise_distance scaled_dot_product_attention tensordot vdot"
    ),
    "neighbourhoods": (
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
        "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d col2im conv1d "
        "conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution im2col max_pool1d "
        "max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d "
        "max_unpool3d"
    ),
    "normalisation": (
        "_log_softmax _native_batch_norm_legit_no_training _safe_softmax _softmax _weight_norm batch_norm group_norm "
        "instance_norm layer_norm renorm rms_norm"
    ),
    "resizing": (
        "_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d "
        "_upsample_nearest_exact3d affine_grid_generator channel_shuffle constant_pad_nd grid_sampler grid_sampler_2d "
        "grid_sampler_3d pad pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d "
        "replication_pad1d replication_pad2d replication_pad3d upsample_bicubic2d upsample_bilinear2d "
        "upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d"
    ),
    "memory": (
        "_unsafe_view adjoint atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cat chunk "
        "column_stack concat concatenate diag diag_embed diagflat diagonal dsplit dstack expand expand_as flatten "
        "flip fliplr flipud hsplit hstack matrix_H meshgrid mH moveaxis movedim mT narrow numpy_T permute ravel "
        "repeat repeat_interleave reshape reshape_as roll rot90 row_stack split split_with_sizes squeeze stack "
        "swapaxes swapdims t take_along_dim tensor_split tile transpose tril triu unbind unflatten unfold "
        "unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze view view_as view_as_complex view_as_real vsplit "
        "vstack"
    ),
    "elements by their places": (
        "bucketize embedding gather index index_add index_copy index_fill index_put index_select masked_scatter "
        "masked_select nonzero scatter scatter_add scatter_reduce searchsorted select select_scatter slice "
        "slice_scatter take"
    ),
    "layers with a memory": "gru gru_cell lstm lstm_cell rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell",
    "transforms and decompositions": (
        "complex fft_fft fft_fft2 fft_fftn fft_fftshift fft_hfft fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft "
        "fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn hamming_window hann_window inverse istft "
        "linalg_cholesky linalg_cross linalg_det linalg_inv linalg_matmul linalg_matrix_norm linalg_multi_dot "
        "linalg_norm linalg_solve linalg_vecdot linalg_vector_norm matrix_exp matrix_power polar special_erf "
        "special_erfc special_exp2 special_expit special_expm1 special_log1p special_log_softmax special_logit "
        "special_logsumexp special_round special_sinc special_softmax special_xlogy stft"
    ),
    "sizes": "numel sym_numel sym_size",
}
_ATEN = _MAKERS.union(*(names.split() for names in _BY_THEME.values()))
_QUANTIZED = {
    "choose_qparams", "choose_qparams_symmetric", "dequantize_per_channel", "dequantize_per_tensor",
    "fake_quant_per_channel", "quantize_per_channel", "quantize_per_tensor",
}  # fmt: skip
_FUNCTIONS = {
    f"operator.{function.__name__}": function
    for function in (operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.eq)
}


class Reference(str):
    """The name of a node whose result is an argument."""

    __slots__ = ()


def name_of(target: Any) -> str | None:
    """Return the name under which an operation stands in files; None when it may not stand there."""
    if isinstance(target, torch._ops.OpOverload):
        name = f"{target.namespace}.{target._opname}.{target._overloadname}"
        return name if _is_listed(target.namespace, target._opname) else None
    name = f"operator.{getattr(target, '__name__', target)}"
    return name if _FUNCTIONS.get(name) is target else None


def find(name: str) -> Any:
    """Return the operation of that name.

    Raises:
        ValueError: When it is not listed, or this PyTorch does not have it.
    """
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    namespace, _, rest = name.partition(".")
    operation, _, overload = rest.partition(".")
    if namespace == "quantized_decomposed":
        from torch.ao.quantization.fx import _decomposed  # noqa: F401  # registers the namespace
    if _is_listed(namespace, operation):
        packet = getattr(getattr(torch.ops, namespace), operation, None)
        if packet is not None and overload in packet.overloads():
            return getattr(packet, overload)
    raise ValueError(f"calls {name!r}, which this version does not allow in a file or this PyTorch does not have")


def check_arguments(target: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Refuse arguments that an operation does not take.

    Args:
        target: What `find` returned.
        args: Positional; a node's result is a `Reference`.
        kwargs: By name.

    Raises:
        ValueError: Naming the argument.
    """
    if not isinstance(target, torch._ops.OpOverload):
        if kwargs or len(args) != 2 or not all(isinstance(value, Reference | int | float) for value in args):
            raise ValueError(f"{target.__name__} takes two numbers or results")
        if target is operator.getitem and not isinstance(args[0], Reference):
            raise ValueError("getitem takes an item of a result")
        return
    arguments = target._schema.arguments
    places = [argument for argument in arguments if not argument.kwarg_only]
    if len(args) > len(places):
        raise ValueError(f"{target} takes {len(places)} arguments by place, not {len(args)}")
    given = dict(zip([argument.name for argument in places], args, strict=False))
    by_name = {argument.name: argument for argument in arguments}
    for key, value in kwargs.items():
        if key not in by_name or key in given:
            raise ValueError(f"{target} does not take {key[:50]!r}")
        given[key] = value
    for name, argument in by_name.items():
        if name not in given:
            if not argument.has_default_value():
                raise ValueError(f"{target} needs {name!r}")
        elif argument.is_out or not _fits(given[name], str(argument.real_type)):
            raise ValueError(f"{target} does not take this as its {name!r}")
        elif not _is_small(given[name], name, target._opname in _MAKERS):
            raise ValueError(f"{target} is told to make more than {LARGEST} elements by {name!r}")


def _is_listed(namespace: str, operation: str) -> bool:
    """Return whether an operation may be called; ``relu_`` is ``relu`` in place."""
    if namespace == "aten":
        return operation in _ATEN or (operation.endswith("_") and operation[:-1] in _ATEN)
    return namespace == "quantized_decomposed" and operation in _QUANTIZED


def _fits(value: Any, kind: str) -> bool:
    """Return whether a value can be an argument of a type that a schema names."""
    if kind.startswith("Optional["):
        return value is None or _fits(value, kind[9:-1])
    if kind.startswith("List["):
        items = value if isinstance(value, list) else [value]  # one number stands for a list of equal ones
        return all(_fits(item, kind[5:-1]) for item in items)
    types = _TYPES.get(kind, ())
    if kind == "str":
        return type(value) is str and _TEXT.fullmatch(value) is not None
    return isinstance(value, types)


_NUMBER = (Reference, bool, int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    "Tensor": _NUMBER,  # exported programs write x * 2 as mul.Tensor(x, 2)
    "number": _NUMBER,
    "float": _NUMBER,
    "int": (Reference, bool, int),
    "bool": (bool,),
    "ScalarType": (torch.dtype,),
    "Layout": (torch.layout,),
    "MemoryFormat": (torch.memory_format,),
    "Device": (torch.device,),
}


def _is_small(value: Any, name: str, is_maker: bool) -> bool:
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return bool(math.prod(max(1, abs(item)) for item in value) <= LARGEST)
    return not (is_maker and name in _COUNTS and isinstance(value, int | float)) or abs(value) <= LARGEST
