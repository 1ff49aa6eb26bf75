"""Arithmetic of low-mode kernels: pooled sizes, kernel transforms, and padding. There are no graphs here.

A kernel has shape ``(F, C, *K)`` with one to three spatial sizes ``K``; channels and filter counts never change. A
ratio r is any number ≥ 1, for one side or, in functions of whole kernels, for all sides or per side.

Source: Poulos, Nouri, Moshovos, "Training CNNs faster with Dynamic Input and Kernel Downsampling", §2.2.2.
"""

from passes.choices import Gain, Rounding
from passes.kernel_math.bicubic import bicubic_rows
from passes.kernel_math.linear import linear_rows
from passes.kernel_math.matrix import multiply_sides
from passes.kernel_math.pi_resize import pi_resize_rows
from passes.kernel_math.sizes import conv_output_size, pooled_padding, pooled_size, same_padding
from passes.kernel_math.transforms import (
    KernelTransform,
    average_kernel,
    bicubic_kernel,
    center_kernel,
    custom_kernel,
    linear_kernel,
    pi_resize_kernel,
)
from passes.kernel_math.windows import adaptive_windows, choose_windows, paper_windows, tap_weights

__all__ = [
    "Gain",
    "KernelTransform",
    "Rounding",
    "adaptive_windows",
    "average_kernel",
    "bicubic_kernel",
    "bicubic_rows",
    "center_kernel",
    "choose_windows",
    "conv_output_size",
    "custom_kernel",
    "linear_kernel",
    "linear_rows",
    "multiply_sides",
    "paper_windows",
    "pi_resize_kernel",
    "pi_resize_rows",
    "pooled_padding",
    "pooled_size",
    "same_padding",
    "tap_weights",
]
