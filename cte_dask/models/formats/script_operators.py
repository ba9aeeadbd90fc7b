"""The operators that a TorchScript archive may use without trust: they compute, and no more.

What is not listed is unknown and needs ``trust: true``. Not listed are operators that reach files
(`aten::save`, `aten::from_file`), other processes (`prim::rpc_async`, `c10d`), profilers and the
generator of random numbers; that show memory of others (`aten::set_`, `aten::as_strided`,
`aten::_unsafe_index`); that differentiate; and whatever a library beside torch adds. An in-place
form (``relu_``) counts as its operator. Names are those of torch 2.13; a name that is new in a
later torch is unknown until somebody has read what it does.
"""

from __future__ import annotations

import re

__all__ = ["CLASSES", "computes"]

_TENSORS = """
abs absolute add addbmm addcdiv addcmul addmm addmv addr adjoint affine_grid_generator alias all
allclose amax amin aminmax angle any arange argmax argmin argsort argwhere as_tensor baddbmm
bernoulli bincount block_diag bmm broadcast_tensors broadcast_to bucketize cartesian_prod cat
cdist ceil chunk clamp clamp_max clamp_min clip clone column_stack combinations complex concat
concatenate conj conj_physical contiguous copy copysign corrcoef count_nonzero cov cross cummax
cummin cumprod cumsum cumulative_trapezoid deg2rad detach diag diag_embed diagflat diagonal diff
dist div divide dot dsplit dstack einsum empty empty_like eq equal erf erfc erfinv exp exp2
expand expand_as expm1 eye fill flatten flip fliplr flipud float_power floor floor_divide fmax
fmin fmod frac frobenius_norm full full_like gather ge ger greater greater_equal gt heaviside
histc hsplit hstack hypot imag index index_add index_copy index_fill index_put index_reduce
index_select inner inverse isclose isfinite isin isinf isnan isneginf isposinf isreal item kron
kthvalue ldexp le lerp less less_equal lgamma linspace log log10 log1p log2 logaddexp logaddexp2
logcumsumexp logdet logical_and logical_not logical_or logical_xor logit logspace logsumexp lt
mH mT masked_fill masked_scatter masked_select matmul matrix_exp matrix_power max maximum mean
median meshgrid min minimum mm mode moveaxis movedim msort mul multiply mv nan_to_num nanmean
nanmedian nanquantile nansum narrow ne neg negative new_empty new_full new_ones new_zeros
nonzero nonzero_numpy norm normal not_equal nuclear_norm numel numpy_T one_hot ones ones_like
outer permute pinverse polar positive pow prod put quantile rad2deg rand rand_like randint
randint_like randn randn_like randperm ravel real reciprocal remainder renorm repeat
repeat_interleave reshape reshape_as resolve_conj resolve_neg result_type roll rot90 round
row_stack rsqrt rsub scalar_tensor scatter scatter_add scatter_reduce searchsorted select
select_scatter sgn sigmoid sign signbit sinc slice slice_scatter softmax sort split
split_with_sizes sqrt square squeeze stack std std_mean sub subtract sum sum_to_size svd
swapaxes swapdims t take take_along_dim tensor tensor_split tensordot tile topk trace transpose
trapezoid trapz tril tril_indices triu triu_indices true_divide trunc unbind unflatten unfold
uniform unique_consecutive unique_dim unique_dim_consecutive unsafe_chunk unsafe_split
unsafe_split_with_sizes unsqueeze vander var var_mean vdot view view_as view_as_complex
view_as_real vsplit vstack where xlogy zero zeros zeros_like _shape_as_tensor _unique _unique2
acos acosh arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh cos
cosh sin sinh tan tanh bartlett_window blackman_window hamming_window hann_window kaiser_window
istft stft atleast_1d atleast_2d atleast_3d cholesky cholesky_inverse cholesky_solve det qr
slogdet bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor
__and__ __iand__ __ilshift__ __ior__ __irshift__ __ixor__ __lshift__ __or__ __rshift__ __xor__
"""

_LAYERS = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d
_adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d
avg_pool2d avg_pool3d fractional_max_pool2d fractional_max_pool3d max_pool1d
max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices
max_unpool2d max_unpool3d _convolution _convolution_mode conv1d conv2d conv3d conv_tbc
conv_transpose1d conv_transpose2d conv_transpose3d convolution bilinear linear embedding
embedding_bag batch_norm group_norm instance_norm layer_norm native_batch_norm native_group_norm
native_layer_norm norm_except_dim rms_norm _weight_norm celu elu gelu glu hardshrink hardsigmoid
hardswish hardtanh leaky_relu log_sigmoid log_softmax mish prelu relu relu6 rrelu selu silu
softplus softshrink threshold _log_softmax _softmax alpha_dropout dropout feature_alpha_dropout
feature_dropout native_dropout cosine_similarity pairwise_distance pdist
_native_multi_head_attention _nested_tensor_from_mask _nested_tensor_from_mask_left_aligned
to_padded_tensor _transformer_encoder_layer_fwd scaled_dot_product_attention gru gru_cell lstm
lstm_cell rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell channel_shuffle native_channel_shuffle
pixel_shuffle pixel_unshuffle col2im im2col grid_sampler grid_sampler_2d grid_sampler_3d
__interpolate __upsample __upsample_bilinear __upsample_nearest upsample_bicubic2d
upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa
_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d constant_pad_nd
pad pad_sequence _pad_circular reflection_pad1d reflection_pad2d reflection_pad3d
replication_pad1d replication_pad2d replication_pad3d dequantize
fake_quantize_per_channel_affine fake_quantize_per_tensor_affine int_repr q_per_channel_axis
q_per_channel_scales q_per_channel_zero_points q_scale q_zero_point qscheme quantize_per_channel
quantize_per_tensor quantize_per_tensor_dynamic
"""

_TYPES_AND_DEVICES = """
to data fix get_device cpu cuda type_as device can_cast promote_types is_complex is_contiguous
is_floating_point is_leaf is_nonzero is_same_size is_signed is_scripting is_autocast_enabled
is_grad_enabled set_grad_enabled requires_grad_ element_size size stride storage_offset dim Bool
Complex ComplexImplicit Float FloatImplicit Int IntImplicit ScalarImplicit Size
"""

# of Python: numbers, lists, dicts and texts
_PYTHON = """
Delete __contains__ __derive_index __getitem__ __is__ __isnot__ __not__ __range_length
__round_to_zero_floordiv _infer_size _list_to_tensor _set_item _tensor_to_list _unwrap_optional
degrees divmod factorial fabs floordiv gamma gcd mathremainder modf radians range append bin
capitalize center chr clear count dict endswith extend find format get hex index insert isalnum
isalpha isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper
items join keys len list ljust lower lstrip oct ord partition percentFormat pop popitem remove
replace reverse rfind rindex rjust rpartition rsplit rstrip setdefault sorted splitlines
startswith str strip swapcase title update upper values warn zfill
"""

_ATEN = frozenset(" ".join((_TENSORS, _LAYERS, _TYPES_AND_DEVICES, _PYTHON)).split())

# mathematics throughout, in every torch there has been
_ATEN_FAMILIES = re.compile(r"(fft|linalg|special)_[a-z0-9_]+")

# of the language itself: attributes of tensors, and the nodes of a graph
_LANGUAGE = """
abs awaitable_nowait data device dtype id index is_cpu is_cuda is_meta is_mkldnn is_mps
is_nested is_quantized is_sparse is_xla is_xpu itemsize layout max min name nbytes rangelist
requires_grad tolist type unchecked_cast unchecked_unwrap_optional CallFunction CallMethod
Constant ConstantChunk CreateObject DictConstruct EnumName EnumValue Enter Exit Function GetAttr
If IfThenElse ListConstruct ListUnpack Loop ModuleContainerIndex NumToTensor Print
RaiseException SetAttr StringIndex TupleConstruct TupleIndex TupleSlice TupleUnpack
Uninitialized isinstance
"""

_PRIM = frozenset(_LANGUAGE.split())

_QUANTIZED = re.compile(
    r"(add|mul|cat|matmul)(_scalar)?(_relu)?|(batch|group|instance|layer)_norm(\d?d)?(_relu)?"
    r"|celu|clamp|dropout|elu|hardswish|leaky_relu|max_pool[12]d|prelu|relu6|sigmoid|softmax"
    r"|threshold|conv(_transpose)?[123]d(_add)?(_relu)?(_dynamic)?"
    r"|(conv(_transpose)?[123]d|linear)_(prepack|unpack)(_fp16)?"
    r"|linear(_leaky)?(_relu|_tanh)?(_dynamic)?(_fp16)?"
    r"|quantized_(lstm|gru)_cell_dynamic"
)

CLASSES = frozenset(
    f"__torch__.torch.classes.{name}"
    for name in (
        "quantized.Conv2dPackedParamsBase",
        "quantized.Conv3dPackedParamsBase",
        "quantized.LinearPackedParamsBase",
        "rnn.CellParamsBase",
    )
)
"""The classes in C++ that archives may make objects of: the packed weights of quantised layers."""


def computes(operator: str) -> bool:
    """Tell whether an operator is known to compute only.

    Parameters
    ----------
    operator
        Its name with its namespace, such as ``aten::conv2d``.

    Examples
    --------
    >>> computes("aten::relu_"), computes("aten::save"), computes("mine::conv2d")
    (True, False, False)
    """
    namespace, _, name = operator.partition("::")
    if namespace == "prim":
        return name in _PRIM
    if namespace == "quantized":
        return _QUANTIZED.fullmatch(name) is not None
    # x.relu_() is relu; of __and__ and others the ends belong to the name
    plain = name if name.endswith("__") else name.removesuffix("_")
    known = not {name, plain}.isdisjoint(_ATEN) or _ATEN_FAMILIES.fullmatch(plain) is not None
    return namespace == "aten" and known
