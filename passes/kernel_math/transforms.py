"""Kernel transforms: from a kernel ``(F, C, *K)`` with one to three spatial sides to a smaller one, ``(F, C, *K')``.

All but custom ones are linear in the kernel, with one matrix per side (``multiply_sides``), so gradients reach it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from passes.choices import Gain
from passes.kernel_math.matrix import Side, kernel_of, multiply_sides
from passes.ratios import RatioLike, side_ratios

#: ``(kernel (F, C, *K), pooled size K') -> (F, C, *K')``, differentiable.
KernelTransform = Callable[[Tensor, tuple[int, ...]], Tensor]


def average_kernel(
    weight: Tensor, pooled: tuple[int, ...], ratio: RatioLike, gain: Gain = "mean", adaptive: bool = False
) -> Tensor:
    """Average pooling of a kernel ``(F, C, *K) → (F, C, *K')``, per side (§2.2.2).

    ``gain="mean"``: each tap is the mean of its window. ``gain="sum"``: each original tap is shared equally among the
    windows that cover it, so the sum over the taps is preserved exactly. ``gain="norm"``: see ``gains``.
    """
    ratios = side_ratios(ratio, len(pooled))
    sides: list[Side] = []
    # Sides with a single tap left: one sum over all of them, whose gradient is a single fill.
    whole = [
        dim for dim, (size, target) in enumerate(zip(kernel_of(weight), pooled, strict=True), 2) if target == 1 != size
    ]
    if whole:
        taps = math.prod([weight.shape[dim] for dim in whole])
        weight = weight.sum(whole, keepdim=True) * (1 / taps if gain == "mean" else 1.0)
    for size, target, side_ratio in zip(kernel_of(weight), pooled, ratios, strict=True):
        sides.append(None if target == size else ("average", (size, target, side_ratio, gain, adaptive)))
    return multiply_sides(weight, pooled, tuple(sides))


def center_kernel(weight: Tensor, pooled: tuple[int, ...], gain: Gain = "mean") -> Tensor:
    """The central K' taps of a kernel ``(F, C, *K) → (F, C, *K')``, times ``_tap_ratio`` by ``gain``."""
    scale = _tap_ratio(weight, pooled, gain)
    for dim, (size, target) in enumerate(zip(weight.shape[2:], pooled, strict=True), start=2):
        weight = weight.narrow(dim, (size - target) // 2, target)
    return weight if scale == 1.0 else weight * scale


def linear_kernel(weight: Tensor, pooled: tuple[int, ...], ratio: RatioLike) -> Tensor:
    """The kernel whose effect on a downsampled map is that of ``weight`` on the map: ``(F, C, *K) → (F, C, *K')``.

    A tap between two taps of the pooled kernel, which are r pixels apart, is shared between them by its distance, as in
    linear interpolation; a tap beyond the last goes to the last. So if K' covers K (``"cover"``), convolving a map with
    Ŵ gives every r-th pixel of convolving its linear interpolation with W. With dilation d pooled taps are d pixels of
    the map apart, and that holds if the map is linear between them. The sum of the taps is preserved.
    """
    ratios = side_ratios(ratio, len(pooled))
    return multiply_sides(
        weight,
        pooled,
        tuple(
            ("linear", (size, target, side_ratio)) if size > 1 else None
            for size, target, side_ratio in zip(kernel_of(weight), pooled, ratios, strict=True)
        ),
    )


def bicubic_kernel(weight: Tensor, pooled: tuple[int, ...], gain: Gain = "mean") -> Tensor:
    """The kernel resized as an image, ``(F, C, *K) → (F, C, *K')``, by antialiased cubic interpolation."""
    return multiply_sides(
        weight,
        pooled,
        tuple(
            None if target == size else ("bicubic", (size, target, gain))
            for size, target in zip(kernel_of(weight), pooled, strict=True)
        ),
    )


def pi_resize_kernel(weight: Tensor, pooled: tuple[int, ...], ratio: RatioLike, dilation: tuple[int, ...]) -> Tensor:
    """The kernel of K' taps whose response to a downsampled map is nearest to ``weight``'s to the map, downsampled.

    ``(F, C, *K) → (F, C, *K')``, by least squares over maps like natural images (``pi_resize``). The sum of the taps is
    preserved. ``dilation``: of the convolution, one per side.
    """
    ratios = side_ratios(ratio, len(pooled))
    return multiply_sides(
        weight,
        pooled,
        tuple(
            ("pi_resize", (size, target, side_ratio, step)) if size > 1 else None
            for size, target, side_ratio, step in zip(kernel_of(weight), pooled, ratios, dilation, strict=True)
        ),
    )


def custom_kernel(weight: Tensor, pooled: tuple[int, ...], transform: KernelTransform, gain: Gain = "mean") -> Tensor:
    """A custom transform ``(F, C, *K) → (F, C, *K')``; times ``_tap_ratio`` by ``gain``.

    Raises ``ValueError`` if the result is not a tensor, has another shape, or gives a trained kernel no gradient.
    """
    result = transform(weight, pooled)
    expected = (*weight.shape[:2], *pooled)
    if not isinstance(result, Tensor) or tuple(result.shape) != expected:
        found = tuple(result.shape) if isinstance(result, Tensor) else f"a {type(result).__name__}"
        raise ValueError(
            f"kernel_transform {getattr(transform, '__name__', transform)!r} turned a kernel of shape "
            f"{tuple(weight.shape)} into {found}; give one that returns {expected}"
        )
    if weight.requires_grad and torch.is_grad_enabled() and not result.requires_grad:
        raise ValueError(
            f"kernel_transform {getattr(transform, '__name__', transform)!r} gives the kernel no gradient; compute its "
            "result from the kernel by differentiable operators, without detach() and no_grad()"
        )
    scale = _tap_ratio(weight, pooled, gain)
    return result if scale == 1.0 else result * scale


def _tap_ratio(weight: Tensor, pooled: tuple[int, ...], gain: Gain) -> float:
    """1, ∏K / ∏K' for the sum, and its root for the norm: as if the remaining taps represented all of them."""
    ratio = math.prod(weight.shape[2:]) / math.prod(pooled)
    return {"mean": 1.0, "sum": ratio, "norm": math.sqrt(ratio)}[gain]
