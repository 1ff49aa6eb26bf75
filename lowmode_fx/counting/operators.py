"""Operators that count as zero multiply-adds, each kind with its reason, and operators that must be counted."""

from __future__ import annotations

_ELEMENTWISE = """
    add add_ sub sub_ rsub mul mul_ div div_ neg abs pow square sqrt rsqrt exp log log1p expm1 sin cos tan
    sigmoid sigmoid_ tanh tanh_ relu relu_ relu6 relu6_ leaky_relu leaky_relu_ elu elu_ selu selu_ celu gelu
    silu silu_ mish mish_ hardswish hardswish_ hardsigmoid hardsigmoid_ hardtanh hardtanh_ softplus softsign
    prelu threshold threshold_ erf clamp clamp_ clamp_min clamp_min_ clamp_max reciprocal where maximum minimum
    lerp addcmul floor ceil round sign logical_not logical_and logical_or bitwise_not floor_divide remainder
    fmod masked_fill masked_fill_ copysign glu log_sigmoid sigmoid_backward lt le gt ge eq ne __and__ __or__
    exp_ floor_ trunc frac atan2 log2 isnan isinf nan_to_num logsumexp square_ sqrt_ rsqrt_ pow_ neg_ abs_ round_
    addcdiv hypot sinc sinh cosh asin acos atan asinh acosh atanh erfc erfinv log10 exp2 sgn logit xlogy logaddexp
    softshrink hardshrink tanhshrink rrelu isfinite float_power true_divide
"""
_REDUCTION = """
    mean sum amax amin max min softmax log_softmax _softmax norm linalg_vector_norm var std var_mean std_mean
    cumsum prod any all argmax argmin topk sort cosine_similarity normalize frobenius_norm cumprod cummax cummin
    median mode quantile kthvalue count_nonzero logcumsumexp linalg_norm aminmax nansum nanmean diff _weight_norm
"""
_LOSS = """
    cross_entropy_loss nll_loss nll_loss2d nll_loss_nd mse_loss l1_loss smooth_l1_loss huber_loss kl_div
    binary_cross_entropy binary_cross_entropy_with_logits soft_margin_loss multi_margin_loss multilabel_margin_loss
    margin_ranking_loss hinge_embedding_loss cosine_embedding_loss triplet_margin_loss poisson_nll_loss
"""
_POOLING = """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d adaptive_avg_pool1d adaptive_avg_pool3d max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices unfold im2col col2im fold max_unpool2d
"""
_MOVEMENT = """
    pad reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    constant_pad_nd flip roll repeat repeat_interleave expand_as tile meshgrid pixel_shuffle pixel_unshuffle
    channel_shuffle index_select take_along_dim scatter scatter_ scatter_add embedding clone fill_ zero_ copy_
    unflatten movedim moveaxis swapaxes view_as reshape_as rot90 tril triu diagonal diag one_hot bucketize
    searchsorted upsample_nearest1d upsample_nearest3d upsample_linear1d upsample_trilinear3d upsample_bicubic2d
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa native_channel_shuffle alias lift_fresh hstack vstack concat
    block_diag tensor_split ravel cartesian_prod empty_like new_ones new_tensor ones_like rand rand_like randn
    randn_like randint linspace scalar_tensor zeros_like resize_ set_ detach_ real imag view_as_complex
    view_as_real complex polar outer fft_fftshift fft_ifftshift fft_fftfreq fft_rfftfreq _shape_as_tensor
    unsafe_chunk unsafe_split unsafe_split_with_sizes numpy_T swapdims as_strided index_add index_fill index_copy
    masked_select masked_scatter squeeze_ t_ column_stack dstack atleast_2d broadcast_to diag_embed argsort
"""
_ALGEBRA = "matrix_H mT mH adjoint"
_RANDOM = (
    "bernoulli bernoulli_ dropout_ alpha_dropout feature_dropout feature_alpha_dropout uniform_ normal_ multinomial"
)

_PRODUCTS = """
    _convolution mm bmm addmm baddbmm addbmm addmv mv dot matmul einsum lstm gru rnn_tanh rnn_relu
    fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_rfft2 fft_hfft fft_ihfft
"""

_BESIDE = """
    batch_norm layer_norm group_norm instance_norm rms_norm adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d
    grid_sampler bilinear_sampling fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2
    fft_fftn fft_ifftn fft_rfftn fft_irfftn
"""

_REASONS = {
    "elementwise: no multiply-add per weight": _ELEMENTWISE,
    "reduction: additions and comparisons": _REDUCTION,
    "a loss: no multiply-add per weight": _LOSS,
    "pooling: additions and comparisons": _POOLING,
    "moves or interpolates values": _MOVEMENT,
    "a view of a matrix": _ALGEBRA,
    "random mask": _RANDOM,
}
#: operator → why it counts as zero
FREE_OPS: dict[str, str] = {f"aten::{name}": why for why, names in _REASONS.items() for name in names.split()}
#: operators that must be counted: without a handle, the count fails
COMPUTE_OPS = frozenset(f"aten::{name}" for name in _PRODUCTS.split())
#: counted, but not part of published figures: norms, interpolation and sampling, average pools, Fourier transforms
BESIDE_OPS = frozenset(_BESIDE.split())
