"""The one table of torch's operations: what each does to the signal. The one place to add one.

A row is keyed by the callables themselves. Its name stands for every spelling of it that torch has:
``relu`` for ``torch.relu``, ``torch.relu_``, ``F.relu``, ``Tensor.relu``, ``Tensor.relu_`` and
``nn.ReLU``, ``add`` for ``Tensor.__add__``, ``__radd__``, ``__iadd__`` and ``operator.add``. What
is in no row is opaque, and named.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sigprop.graph import Kind

ALL = 99


@dataclass(frozen=True, eq=False)
class Operation:
    """One row.

    Attributes:
        name: of the row.
        kind: what it does to the signal.
        signals: how many leading arguments carry a signal; the others lend a shape, an index, a
            mask or parameters.
        calls: its spellings; the first is the one that stands for all.
        arguments: names of the arguments after the first, where torch tells none; attributes of its
            modules have the same names.
        expression: whether it may be a step of an elementwise expression.
    """

    name: str
    kind: Kind
    signals: int
    calls: tuple[Callable[..., Any], ...]
    arguments: tuple[str, ...] = ()
    expression: bool = False

    def __repr__(self) -> str:
        return f"{self.name} ({self.kind})"


OPERATIONS: dict[Any, Operation] = {}
"""Rows by callable."""
MODULES: dict[type[nn.Module], Operation] = {}
"""Rows by the module class that computes just that."""
ROWS: dict[str, Operation] = {}
"""Rows by name."""

_HOMES: tuple[Any, ...] = (
    F, torch, torch.Tensor, torch.functional, torch.special, torch._C._nn,
    getattr(torch._C, "_special"),  # noqa: B009  (not known to type checkers)
    torch.linalg, torch.fft, operator, torch._VF,
)  # fmt: skip
_ELSEWHERE = {"torchvision.ops.stochastic_depth.stochastic_depth": "stochastic_depth"}
"""Functions of other packages that torch.fx does not look into."""
_PREFIXES = ("", "_", "special_", "linalg_", "fft_")


def find(func: Any) -> Operation | None:
    """The row of a callable; None: it is in none.

    Example:
        >>> find(torch.relu_), find(torch.Tensor.relu), find(len)
        (relu (activation), relu (activation), None)
    """
    try:
        known = OPERATIONS.get(func)
    except TypeError:  # not hashable
        return None
    if known is None and isinstance(func, FunctionType):
        return ROWS.get(_ELSEWHERE.get(f"{func.__module__}.{func.__name__}", ""))
    if known is None and isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return _of_aten(func)
    return known


def of_module(module: nn.Module) -> Operation | None:
    """The row of a module whose own class, or a base with the same forward, is in one.

    Example:
        >>> of_module(nn.ReLU()), of_module(nn.Sequential())
        (relu (activation), None)
    """
    for cls in type(module).__mro__:
        if cls in MODULES:
            same = type(module).forward is cls.forward
            return MODULES[cls] if same else None
    return None


def spellings(name: str) -> Iterator[Callable[..., Any]]:
    """Every callable of torch that bears a name, in place, as an operator or not."""
    forms = [prefix + name + end for prefix in _PREFIXES for end in ("", "_")]
    forms += [f"__{name}__", f"__i{name}__"]
    for home in _HOMES:
        for form in (*forms, f"i{name}") if home is operator else forms:
            found = getattr(home, form, None)
            if callable(found) and not isinstance(found, type):
                yield found
            elif home is torch.Tensor and hasattr(found, "__get__") and found is not None:
                yield found.__get__


def _words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def _row(
    names: str,
    kind: Kind,
    signals: int = 1,
    *,
    modules: tuple[type[nn.Module], ...] = (),
    arguments: str = "",
    expression: bool = False,
    name: str = "",
) -> None:
    """Add a row; the first of its names is its own, the others are further spellings."""
    calls: dict[Any, None] = {}
    for each in names.split():
        calls.update(dict.fromkeys(spellings(each)))
    for later in ("__rmatmul__", "__radd__", "__rmul__", "__rpow__"):
        if names.split()[0] == later.strip("_")[1:]:
            calls[getattr(torch.Tensor, later)] = None
    own = name or names.split()[0]
    row = Operation(own, kind, signals, tuple(calls), tuple(arguments.split()), expression)
    ROWS[own] = row
    for call in row.calls:
        OPERATIONS.setdefault(call, row)
    MODULES.update(dict.fromkeys(modules, row))


def _rows(names: str, kind: Kind, signals: int = 1, *, expression: bool = False) -> None:
    """Add one row for each name."""
    for each in names.split():
        _row(each, kind, signals, expression=expression)


def _of_aten(func: Any) -> Operation | None:
    """The row of an operator called by ``torch.ops.aten``."""
    single = isinstance(func, torch._ops.OpOverload)
    whole = func.name() if single else func._qualified_op_name
    home, _, name = str(whole).partition("::")
    if home != "aten":
        return None
    name = name.partition(".")[0].rstrip("_")
    homes = (torch, torch._C._nn, torch.Tensor)
    known = (OPERATIONS.get(getattr(home, name, None)) for home in homes)
    return ROWS.get(name) or next((row for row in known if row is not None), None)


# Linear maps: of two arguments that carry data they are products

_CONVOLUTION = "weight bias stride padding dilation groups"
_TRANSPOSED = "weight bias stride padding output_padding groups dilation"
_row("linear", "weight", ALL, modules=(nn.Linear,), arguments="weight bias")
for _d, _plain, _back in (
    (1, nn.Conv1d, nn.ConvTranspose1d),
    (2, nn.Conv2d, nn.ConvTranspose2d),
    (3, nn.Conv3d, nn.ConvTranspose3d),
):
    _row(f"conv{_d}d", "weight", ALL, modules=(_plain,), arguments=_CONVOLUTION)
    _row(f"conv_transpose{_d}d", "weight", ALL, modules=(_back,), arguments=_TRANSPOSED)
_row("matmul mm bmm mv dot inner vdot chain_matmul multi_dot", "weight", ALL, arguments="other")
_row("addmm baddbmm addmv", "weight", ALL, arguments="mat1 mat2")
_row("einsum", "weight", ALL)
_row("bilinear", "opaque", ALL, modules=(nn.Bilinear,))
_rows("dist cdist cosine_similarity pairwise_distance cov corrcoef", "opaque", ALL)

# Activations: each entry by itself. Rows that the table of activations has are read from the call.

_A: dict[str, Any] = {"expression": True}
_row("relu", "activation", modules=(nn.ReLU,), **_A)
_row("relu6", "activation", **_A)
_row("leaky_relu", "activation", modules=(nn.LeakyReLU,), arguments="negative_slope", **_A)
_row("prelu", "activation", modules=(nn.PReLU,), arguments="weight", **_A)
_row("rrelu", "activation", modules=(nn.RReLU,), arguments="lower upper training", **_A)
_row("elu", "activation", modules=(nn.ELU,), arguments="alpha", **_A)
_row("celu", "activation", modules=(nn.CELU,), arguments="alpha", **_A)
_row("selu", "activation", modules=(nn.SELU,), **_A)
_row("gelu", "activation", modules=(nn.GELU,), arguments="approximate", **_A)
_row("silu", "activation", modules=(nn.SiLU,), **_A)
_row("mish", "activation", modules=(nn.Mish,), **_A)
_row("hardswish", "activation", modules=(nn.Hardswish,), **_A)
_row("hardsigmoid", "activation", modules=(nn.Hardsigmoid,), **_A)
_row("hardtanh", "activation", modules=(nn.Hardtanh, nn.ReLU6), arguments="min_val max_val", **_A)
_row("hardshrink", "activation", modules=(nn.Hardshrink,), arguments="lambd", **_A)
_row("softshrink", "activation", modules=(nn.Softshrink,), arguments="lambd", **_A)
_row("tanhshrink", "activation", modules=(nn.Tanhshrink,), **_A)
_row("softplus", "activation", modules=(nn.Softplus,), arguments="beta threshold", **_A)
_row("softsign", "activation", modules=(nn.Softsign,), **_A)
_row("sigmoid expit", "activation", modules=(nn.Sigmoid,), **_A)
_row("logsigmoid log_sigmoid", "activation", modules=(nn.LogSigmoid,), **_A)
_row("tanh", "activation", modules=(nn.Tanh,), **_A)
_row("threshold", "activation", modules=(nn.Threshold,), arguments="threshold value", **_A)
_row("abs absolute fabs", "activation", **_A)
_row("clamp clip clamp_min clamp_max", "activation", arguments="min max", **_A)
_row("pow float_power rpow", "activation", arguments="exponent", **_A)
_rows(
    """
    erf sin square exp expm1 exp2 log log1p log2 log10 sqrt rsqrt reciprocal sign sgn cos tan
    sinh cosh asin arcsin asinh arcsinh acos arccos acosh arccosh atan arctan atanh arctanh erfc
    erfcx erfinv sinc digamma psi lgamma gammaln ndtr ndtri log_ndtr logit entr i0 i0e i1 i1e
    bessel_j0 bessel_j1 bessel_y0 bessel_y1 airy_ai modified_bessel_i0 modified_bessel_i1
    modified_bessel_k0 modified_bessel_k1 scaled_modified_bessel_k0 scaled_modified_bessel_k1
    spherical_bessel_j0 round floordiv floor_divide rfloordiv mod rmod remainder fmod floor ceil
    trunc fix frac nan_to_num polygamma multigammaln mvlgamma deg2rad rad2deg
    """,
    "activation",
    expression=True,
)

# The entries as they are

_row("getitem", "passage", name="getitem")
_rows(
    """
    reshape reshape_as view view_as flatten unflatten ravel squeeze unsqueeze permute transpose
    swapaxes swapdims movedim moveaxis adjoint t alias_copy conj conj_physical resolve_conj
    resolve_neg detach_copy expand expand_as broadcast_to repeat tile repeat_interleave chunk
    split split_with_sizes tensor_split hsplit vsplit dsplit unsafe_chunk unsafe_split
    unsafe_split_with_sizes unbind narrow select index_select take take_along_dim gather
    masked_select diagonal diag diag_embed diagflat flip fliplr flipud roll rot90 unfold
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle pad constant_pad_nd
    atleast_1d atleast_2d atleast_3d as_strided broadcast_tensors meshgrid view_as_real
    view_as_complex real imag T mT H mH data requires_grad_ retain_grad index sort msort
    as_strided_copy diagonal_copy expand_copy narrow_copy permute_copy select_copy slice_copy
    split_copy split_with_sizes_copy squeeze_copy t_copy transpose_copy unbind_copy unfold_copy
    unsqueeze_copy view_copy view_as_real_copy view_as_complex_copy values resize resize_as
    pin_memory grad _grad _base _autocast_to_full_precision _autocast_to_reduced_precision
    dequantize to_dense coalesce slice_inverse reversed
    """,
    "passage",
)
_rows(
    """
    clone contiguous detach positive to type type_as float double half bfloat16 cpu cuda xpu ipu
    mtia chalf cfloat cdouble complex
    """,
    "passage",
    expression=True,
)
for _module, _name in (
    (nn.Identity, "positive"), (nn.Flatten, "flatten"), (nn.Unflatten, "unflatten"),
    (nn.PixelShuffle, "pixel_shuffle"), (nn.PixelUnshuffle, "pixel_unshuffle"),
    (nn.ChannelShuffle, "channel_shuffle"), (nn.Unfold, "unfold"),
    *((getattr(nn, f"{_p}Pad{_d}d"), "pad") for _d in (1, 2, 3)
      for _p in ("Zero", "Constant", "Reflection", "Replication", "Circular")),
):  # fmt: skip
    MODULES[_module] = ROWS[_name]

# Dropout, normalization, pooling

_P = "p training"
_row("stochastic_depth", "dropout", arguments="p mode training")
_row("dropout native_dropout feature_dropout", "dropout", modules=(nn.Dropout,), arguments=_P)
_row("dropout1d", "dropout", modules=(nn.Dropout1d,), arguments=_P)
_row("dropout2d", "dropout", modules=(nn.Dropout2d,), arguments=_P)
_row("dropout3d", "dropout", modules=(nn.Dropout3d,), arguments=_P)
_row("alpha_dropout", "passage", modules=(nn.AlphaDropout,), arguments=_P)  # keeps mean and q
_row("feature_alpha_dropout", "passage", modules=(nn.FeatureAlphaDropout,), arguments=_P)

_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_row(
    "batch_norm native_batch_norm miopen_batch_norm",
    "normalization",
    modules=_BATCH,
    arguments="running_mean running_var weight bias training momentum eps",
)
_row(
    "instance_norm",
    "normalization",
    modules=(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    arguments="running_mean running_var weight bias use_input_stats momentum eps",
)
_row(
    "layer_norm native_layer_norm",
    "normalization",
    modules=(nn.LayerNorm,),
    arguments="normalized_shape weight bias eps",
)
_row("rms_norm", "normalization", modules=(nn.RMSNorm,), arguments="normalized_shape weight eps")
_row(
    "group_norm",
    "normalization",
    modules=(nn.GroupNorm,),
    arguments="num_groups weight bias eps",
)
_row("normalize", "normalization", arguments="p dim eps")

_row("max_pool1d max_pool1d_with_indices", "pooling", modules=(nn.MaxPool1d,))
_row("max_pool2d max_pool2d_with_indices", "pooling", modules=(nn.MaxPool2d,))
_row("max_pool3d max_pool3d_with_indices", "pooling", modules=(nn.MaxPool3d,))
for _d in (1, 2, 3):
    _row(f"avg_pool{_d}d", "pooling", modules=(getattr(nn, f"AvgPool{_d}d"),))
    _row(f"lp_pool{_d}d", "pooling", modules=(getattr(nn, f"LPPool{_d}d"),))
    _row(f"adaptive_avg_pool{_d}d", "pooling", modules=(getattr(nn, f"AdaptiveAvgPool{_d}d"),))
    _row(
        f"adaptive_max_pool{_d}d adaptive_max_pool{_d}d_with_indices",
        "pooling",
        modules=(getattr(nn, f"AdaptiveMaxPool{_d}d"),),
    )
    _row(f"max_unpool{_d}d", "pooling", modules=(getattr(nn, f"MaxUnpool{_d}d"),))
for _d in (2, 3):
    _row(
        f"fractional_max_pool{_d}d fractional_max_pool{_d}d_with_indices",
        "pooling",
        modules=(getattr(nn, f"FractionalMaxPool{_d}d"),),
    )
_row("fold", "pooling", modules=(nn.Fold,))
_row("local_response_norm", "pooling", modules=(nn.LocalResponseNorm,))
_row(
    "interpolate upsample upsample_nearest upsample_bilinear",
    "pooling",
    modules=(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    arguments="size scale_factor mode align_corners",
)
_rows(
    """
    mean nanmean sum sum_to_size nansum prod amax amin aminmax median nanmedian mode kthvalue
    quantile nanquantile std var std_mean var_mean norm vector_norm matrix_norm frobenius_norm
    nuclear_norm norm_except_dim logsumexp topk cumsum cumprod cummax cummin logcumsumexp
    cumulative_trapezoid trapezoid trapz diff trace count_nonzero pdist grid_sample grid_sampler
    grid_sampler_2d grid_sampler_3d renorm gradient hash_tensor index_add scatter_add
    scatter_reduce index_reduce segment_reduce
    """,
    "pooling",
)
_row("softmax", "softmax", modules=(nn.Softmax,), arguments="dim")
_row("softmin", "softmax", modules=(nn.Softmin,), arguments="dim")
_row("log_softmax", "softmax", modules=(nn.LogSoftmax,), arguments="dim")
_row("gumbel_softmax", "softmax")
MODULES[nn.Softmax2d] = ROWS["softmax"]

# Several signals

_A2: dict[str, Any] = {"expression": True}
_row("add", "sum", 2, **_A2)
_row("sub subtract rsub", "sum", 2, **_A2)
_row("mul multiply", "product", 2, **_A2)
_row("div divide true_divide truediv rdiv rtruediv", "product", 2, **_A2)
_row("neg negative", "scale", 1, **_A2)
_row("cat concat concatenate", "concatenation", 1)
_rows("combinations cartesian_prod", "concatenation", ALL)
_rows("stack hstack vstack dstack column_stack row_stack block_diag", "concatenation", ALL)
_row("where", "selection", ALL, **_A2)
_row("maximum fmax", "selection", 2, **_A2)
_row("minimum fmin", "selection", 2, **_A2)
_row("max", "pooling", 2, **_A2)  # of two signals: a selection
_row("min", "pooling", 2, **_A2)
_rows("masked_fill fill heaviside copysign", "selection", ALL, expression=True)
_rows(
    """
    index_fill index_copy index_put masked_scatter scatter select_scatter slice_scatter
    diagonal_scatter as_strided_scatter copy put fill_diagonal set tril triu
    """,
    "selection",
    ALL,
)
_row("setitem", "selection", ALL, **_A2)
_row("glu", "product", 1, modules=(nn.GLU,), arguments="dim")
_rows("outer ger cross kron addr tensordot vecdot", "product", ALL)
_row("scaled_dot_product_attention", "attention", 3)
_row("multi_head_attention_forward", "attention", 3, modules=(nn.MultiheadAttention,))
_row("embedding", "embedding", 1, modules=(nn.Embedding,), arguments="weight")
_row("embedding_bag", "embedding", 1, modules=(nn.EmbeddingBag,), arguments="weight")
_row("lstm", "recurrent", ALL, modules=(nn.LSTM,))
_row("gru", "recurrent", ALL, modules=(nn.GRU,))
_row("rnn_tanh", "recurrent", ALL, modules=(nn.RNN,))
_row("rnn_relu", "recurrent", ALL)
_row("lstm_cell", "recurrent", ALL, modules=(nn.LSTMCell,))
_row("gru_cell", "recurrent", ALL, modules=(nn.GRUCell,))
_row("rnn_tanh_cell", "recurrent", ALL, modules=(nn.RNNCell,))
_row("rnn_relu_cell", "recurrent", ALL)

# Drawn from probabilities that data makes; the same names with ``_`` at the end write noise

ROWS["sample"] = Operation(
    "sample", "opaque", ALL,
    (torch.bernoulli, torch.Tensor.bernoulli, torch.binomial, torch.poisson, torch.normal),
)  # fmt: skip
OPERATIONS.update(dict.fromkeys(ROWS["sample"].calls, ROWS["sample"]))

# No data passes through

_rows(
    """
    gt greater ge greater_equal lt less le less_equal eq ne not_equal isnan isinf isfinite
    isneginf isposinf isreal signbit logical_and logical_or logical_xor logical_not bitwise_and
    bitwise_or bitwise_xor bitwise_not invert and or xor rand ror rxor bool isclose
    """,
    "comparison",
    2,
    expression=True,
)
_rows(
    """
    size shape dim ndim ndimension numel nelement stride len device dtype layout is_cuda is_cpu
    is_xpu is_ipu is_maia is_mps is_mtia is_xla is_vulkan is_mkldnn is_meta is_nested is_sparse
    is_sparse_csr is_quantized is_leaf requires_grad retains_grad itemsize nbytes name output_nr
    grad_fn _grad_fn _version _cdata _backward_hooks _post_accumulate_grad_hooks grad_dtype
    volatile element_size storage_offset storage storage_type untyped_storage data_ptr
    const_data_ptr get_device is_floating_point is_complex is_signed is_conj is_neg is_inference
    is_contiguous is_coalesced is_distributed is_pinned is_shared is_same_size is_set_to is_view
    dim_order sparse_dim dense_dim _dimI _dimV _nnz has_names is_nonzero item tolist numpy array
    __array__ array_wrap __array_wrap__ int long short char byte contains equal allclose any all
    zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_empty
    new_empty_strided new_full new_ones new_tensor new_zeros new bernoulli binomial poisson
    multinomial normal cauchy exponential geometric log_normal uniform random zero argmax argmin
    argsort argwhere nonzero nonzero_static bucketize searchsorted bincount histc histogram
    histogramdd unique unique_consecutive isin one_hot affine_grid affine_grid_generator
    _is_view names format __format__ repr __repr__ __cuda_array_interface__ dlpack __dlpack__
    dlpack_device __dlpack_device__ deepcopy __deepcopy__ reduce_ex __reduce_ex__ setstate
    __setstate__ register_hook register_post_accumulate_grad_hook record_stream share_memory
    backward _clear_non_serializable_cached_data module_load hash __hash__ dir __dir__ __int__
    __float__ __complex__ __index__ __bool__ __len__ __contains__ _nested_tensor_size
    _nested_tensor_storage_offsets _nested_tensor_strides sym_float sym_int sym_max sym_min
    sym_not sym_sqrt sym_sum sym_ite lshift rshift rlshift rrshift bitwise_left_shift
    bitwise_right_shift gcd lcm dsmm __idiv__ batch_norm_stats unravel_index int_repr q_scale
    q_zero_point qscheme q_per_channel_axis q_per_channel_scales q_per_channel_zero_points
    is_sparse_bsr col_indices crow_indices ccol_indices row_indices indices
    """,
    "constant",
    0,
)

WHOLE = frozenset(("int", "long", "short", "char", "byte"))
"""Casts to whole numbers: of a signal they cut what is behind the point."""
OPAQUE = _words(
    """
    addbmm addcdiv addcmul angle apply arctan2 atan2 autocast batch_norm_backward_elemt
    batch_norm_backward_reduce batch_norm_elemt batch_norm_gather_stats
    batch_norm_gather_stats_with_counts batch_norm_update_stats binary_cross_entropy
    binary_cross_entropy_with_logits ccol_indices_copy chebyshev_polynomial_t
    chebyshev_polynomial_u chebyshev_polynomial_v chebyshev_polynomial_w cholesky cholesky_ex
    cholesky_inverse cholesky_solve choose_qparams_optimized coalesced col_indices_copy cond
    conv_tbc convolution cosine_embedding_loss cross_entropy crow_indices_copy ctc_loss det eig
    eigh eigvals eigvalsh fake_quantize_per_channel_affine fake_quantize_per_tensor_affine
    fbgemm_linear_fp16_weight fbgemm_linear_fp16_weight_fp32_activation
    fbgemm_linear_int8_weight fbgemm_linear_int8_weight_fp32_activation
    fbgemm_linear_quantize_weight fbgemm_pack_gemm_matrix_fp16 fbgemm_pack_quantized_matrix fft
    fft2 fftn fftshift frexp fused_moving_avg_obs_fake_quant gammainc gammaincc
    gaussian_nll_loss geqrf hermite_polynomial_h hermite_polynomial_he hfft hfft2 hfftn
    hinge_embedding_loss householder_product hsmm hspmm huber_loss hypot ifft ifft2 ifftn
    ifftshift igamma igammac ihfft ihfft2 ihfftn indices_copy inv inv_ex inverse irfft irfft2
    irfftn istft kl_div l1_loss laguerre_polynomial_l ldexp ldl_factor ldl_factor_ex ldl_solve
    legendre_polynomial_p lerp linear_cross_entropy lobpcg logaddexp logaddexp2 logdet lstsq lu
    lu_factor lu_factor_ex lu_solve lu_unpack map map2 margin_ranking_loss matrix_exp
    matrix_power matrix_rank miopen_convolution miopen_convolution_add_relu
    miopen_convolution_relu miopen_convolution_transpose miopen_depthwise_convolution miopen_rnn
    mse_loss multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss
    native_group_norm native_norm nextafter nll_loss orgqr ormqr pca_lowrank pinv pinverse
    poisson_nll_loss polar qr quantize_per_channel quantize_per_tensor
    quantize_per_tensor_dynamic quantized_batch_norm quantized_gru_cell quantized_lstm_cell
    quantized_max_pool1d quantized_max_pool2d quantized_max_pool3d quantized_rnn_relu_cell
    quantized_rnn_tanh_cell resize_as_sparse rfft rfft2 rfftn row_indices_copy saddmm
    shifted_chebyshev_polynomial_t shifted_chebyshev_polynomial_u shifted_chebyshev_polynomial_v
    shifted_chebyshev_polynomial_w slogdet smm smooth_l1_loss soft_margin_loss solve solve_ex
    solve_triangular sparse_mask sparse_mask_projection sparse_resize sparse_resize_and_clear
    sspaddmm stft svd svd_lowrank svdvals tensorinv tensorsolve to_mkldnn to_sparse
    triangular_solve triplet_margin_loss triplet_margin_with_distance_loss values_copy vander
    xlog1py xlogy zeta
    """
)
"""Overridable functions that are in no row on purpose: what they do to a signal is not known."""
