"""Everything in which a trace on fake CPU tensors has to be told what CUDA would do.

Sources: PyTorch's aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (which attention kernel),
transformers/attention.cpp (masks and padding before it), cuda/flash_attn/flash_api.cpp and
cuda/attention_backward.cu (their workspaces), ATen/autocast_mode.h (autocast's lists),
ATen/cuda/CublasHandlePool.cpp (cuBLAS), native/Dropout.cpp and native/SoftMax.cpp (fused forms).

Numbers marked "measured" vary with driver and GPU and are defaults that calibration replaces.
"""

from __future__ import annotations

import math

MIB = 1 << 20

# Kernel images and CUDA's own state, outside of the allocator, after the first kernels have run:
# measured values by others lie between 0.3 and 0.6 GiB for one process on Ampere to Hopper.
CONTEXT_BYTES = 500 * MIB
CONTEXT_SPREAD = 150 * MIB

# cuBLAS takes its workspace from the caching allocator at the first product of each thread that
# computes: the main thread's forward and autograd's backward. By compute capability's major.
CUBLAS_WORKSPACE = {"default": 8519680, 9: 33554432}  # ":4096:2:16:8" and 32 MiB from Hopper on
MATRIX_PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm", "addbmm", "_scaled_mm"})

# Operators that CUDA's autocast runs in float32 and CPU's does not (autocast_mode.h: AT_FORALL_FP32).
AUTOCAST_FLOAT32 = (
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p",
    "reciprocal", "rsqrt", "sinh", "tan", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar",
    "softplus", "layer_norm", "native_layer_norm", "rms_norm", "group_norm", "cosine_similarity",
    "poisson_nll_loss", "cosine_embedding_loss", "nll_loss", "nll_loss2d", "hinge_embedding_loss",
    "kl_div", "l1_loss", "smooth_l1_loss", "huber_loss", "mse_loss", "margin_ranking_loss",
    "soft_margin_loss", "binary_cross_entropy_with_logits", "dist", "cdist", "renorm", "logsumexp",
    "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bicubic2d_aa",
    "_upsample_bilinear2d_aa",
)  # fmt: skip
# ... and those that it gives dtype=float32 to (AT_FORALL_FP32_SET_OPT_DTYPE).
AUTOCAST_SETS_DTYPE = (
    "prod",
    "prod.dim_int",
    "softmax.int",
    "log_softmax.int",
    "cumprod",
    "cumsum",
    "sum",
    "sum.dim_IntList",
)


def sdpa_kernel(
    query: tuple[int, ...],
    key: tuple[int, ...],
    value: tuple[int, ...],
    dtype: str,
    mask: bool,
    mask_needs_grad: bool = False,
    causal: bool = False,
    gqa: bool = False,
) -> str:
    """Which kernel CUDA's `scaled_dot_product_attention` takes: "flash", "efficient" or "math".

    Shapes are [batch, heads, tokens, head size]; dtype by its name in torch. Devices from Ampere on
    are assumed. cuDNN's kernel, which Hopper and Blackwell prefer where flash would also do, saves
    the same tensors and is counted as flash.
    """
    half = dtype in ("bfloat16", "float16")
    sizes_agree = query[-1] == key[-1] == value[-1]
    if len(query) != 4:
        return "math"
    square = not causal or query[-2] == key[-2]
    if half and not mask and sizes_agree and query[-1] <= 256 and square:
        return "flash"
    alignment = 8 if half else 4
    aligned = query[-1] % alignment == 0 and value[-1] % alignment == 0 and query[-1] == key[-1]
    fits = half or dtype == "float32"
    if fits and aligned and not gqa and not mask_needs_grad:
        return "efficient"
    return "math"


def attention_workspace(op: str, query: tuple[int, ...], key: tuple[int, ...], half: bool) -> int:
    """Bytes that an attention kernel's backward takes inside itself; 0 for the forward.

    Flash: a float32 accumulator of dq [B, H, T rounded to 128, D rounded to 32] and the row sums
    softmax_d [B, H, T]; with fewer key heads, dk and dv for every query head in the query's dtype.
    Efficient: delta [B, H, T] and, for half precision, a float32 accumulator of dq.
    """
    if "attention_backward" not in op:
        return 0
    b, h, t, d = query
    rounded = math.ceil(t / 128) * 128
    rows = 4 * b * h * rounded
    width = math.ceil(d / 32) * 32
    if "flash" in op or "cudnn" in op:
        expanded = 2 * b * h * key[2] * d * 2 if key[1] != h else 0
        return rows * width + rows + expanded
    return rows + (rows * width if half else 0)
