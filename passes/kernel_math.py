"""The arithmetic of low-mode kernels: pooled sizes, kernel transforms, the padding rule. No graphs here.

A kernel has shape ``(F, C, *K)`` with one to three spatial sizes ``K``; channels and filter counts never change. A
ratio r is any number ≥ 1, of one side or, where a function takes whole kernels, of all sides at once or one a side.
Source: Poulos, Nouri, Moshovos, "Training CNNs faster with Dynamic Input and Kernel Downsampling", §2.2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, stack

from passes.choices import Gain, Rounding
from passes.ratios import RatioLike, SideRatio, ratio_terms, side_ratios

#: ``(kernel (F, C, *K), pooled size K') -> (F, C, *K')``, differentiable.
KernelTransform = Callable[[Tensor, tuple[int, ...]], Tensor]
#: Half-open ranges of taps, one for each tap of the pooled kernel.
Windows = tuple[tuple[int, int], ...]


def pooled_size(size: int, ratio: SideRatio, rounding: Rounding = "ceil") -> int:
    """K' of one kernel side: ⌈K/r⌉ or ⌊K/r⌋, at least 1, less one when even (§2.2.2: the result is odd).

    ``"cover"``: the smallest odd K' whose taps, r pixels apart, reach as far as the K taps do, and no more than K:
    with r = 2, 3 → 3, 5 → 3, 7 → 5.
    """
    p, q = ratio_terms(ratio)
    if p == q:
        return size
    if rounding == "cover":
        return min(size, 2 * -(-(size - 1) * q // (2 * p)) + 1)
    pooled = -(-size * q // p) if rounding == "ceil" else max(1, size * q // p)
    return pooled - 1 if pooled % 2 == 0 else pooled


def paper_windows(size: int, ratio: int) -> Windows:
    """The paper's windows for one side: r taps (whole), stride r, asymmetric padding whose taps are left out.

    The padding that makes ⌈K/r⌉ whole windows is split before and after, the odd tap after: 5 → 3 with r = 2
    pads one tap after, giving (0, 2), (2, 4), (4, 5).
    """
    count = math.ceil(size / ratio)
    before = (ratio * count - size) // 2
    starts = (index * ratio - before for index in range(count))
    return tuple((max(start, 0), min(start + ratio, size)) for start in starts)


def adaptive_windows(size: int, pooled: int) -> Windows:
    """K' even-handed windows over K taps, as in adaptive average pooling: 7 → 3 gives (0, 3), (2, 5), (4, 7)."""
    return tuple((index * size // pooled, -((-(index + 1) * size) // pooled)) for index in range(pooled))


def choose_windows(size: int, pooled: int, ratio: SideRatio, adaptive: bool) -> Windows:
    """The paper's windows where r is whole and ⌈K/r⌉ of them give the pooled size K', adaptive ones elsewhere."""
    p, q = ratio_terms(ratio)
    if adaptive or q > 1 or math.ceil(size / p) != pooled:
        return adaptive_windows(size, pooled)
    return paper_windows(size, p)


def tap_weights(windows: Windows, size: int, gain: Gain) -> tuple[tuple[float, ...], ...]:
    """The matrix (K', K) that one side is multiplied with: its rows sum to 1 (mean) or its columns do (sum)."""
    rows = [[1.0 if low <= tap < high else 0.0 for tap in range(size)] for low, high in windows]
    if gain == "mean":
        return tuple(tuple(value / sum(row) for value in row) for row in rows)
    cover = [sum(row[tap] for row in rows) for tap in range(size)]
    return tuple(tuple(value / cover[tap] for tap, value in enumerate(row)) for row in rows)


def average_kernel(
    weight: Tensor, pooled: tuple[int, ...], ratio: RatioLike, gain: Gain = "mean", adaptive: bool = False
) -> Tensor:
    """Average pooling of a kernel ``(F, C, *K) → (F, C, *K')``, side by side.

    ``gain="mean"``: each tap is the mean of its window. ``gain="sum"``: each original tap is shared equally among
    the windows that cover it, so the sum over the taps is kept exactly.
    """
    sides = tuple(enumerate(zip(weight.shape[2:], pooled, strict=True), start=2))
    # Sides of which one tap is left: one sum over all of them, whose gradient is a single fill.
    whole = [dim for dim, (size, target) in sides if target == 1 != size]
    if whole:
        taps = math.prod([weight.shape[dim] for dim in whole])
        weight = weight.sum(whole, keepdim=True) * (1 / taps if gain == "mean" else 1.0)
    for (dim, (size, target)), side_ratio in zip(sides, side_ratios(ratio, len(pooled)), strict=True):
        if target not in (1, size):
            windows = choose_windows(size, target, side_ratio, adaptive)
            weight = _combine_taps(weight, dim, windows, tap_weights(windows, size, gain))
    return weight


def _combine_taps(weight: Tensor, dim: int, windows: Windows, rows: tuple[tuple[float, ...], ...]) -> Tensor:
    # Slices and sums, no constant matrix: nothing to keep on a device, and compilers fuse it into one loop.
    taps = []
    for (low, high), row in zip(windows, rows, strict=True):
        if len(set(row[low:high])) == 1:
            taps.append(weight.narrow(dim, low, high - low).sum(dim) * row[low])
        else:
            products = [weight.select(dim, tap) * row[tap] for tap in range(low, high)]
            taps.append(stack(products).sum(0))
    return stack(taps, dim)


def center_kernel(weight: Tensor, pooled: tuple[int, ...], gain: Gain = "mean") -> Tensor:
    """The central K' taps of a kernel ``(F, C, *K) → (F, C, *K')``; ``gain="sum"`` multiplies by ∏K / ∏K'."""
    scale = _tap_ratio(weight, pooled) if gain == "sum" else 1.0
    for dim, (size, target) in enumerate(zip(weight.shape[2:], pooled, strict=True), start=2):
        weight = weight.narrow(dim, (size - target) // 2, target)
    return weight if scale == 1.0 else weight * scale


def linear_kernel(weight: Tensor, pooled: tuple[int, ...], ratio: RatioLike) -> Tensor:
    """The kernel that does on a downsampled map what ``weight`` does on the map itself: ``(F, C, *K) → (F, C, *K')``.

    A tap that lies between two taps of the pooled kernel, which are r pixels apart, is shared between them by its
    distance, as linear interpolation does; one beyond the last goes to the last. So where K' covers K (``"cover"``),
    convolving a map with Ŵ gives every r-th pixel of convolving its linear interpolation with W. With dilation d pooled
    taps lie d pixels of the map apart, and that holds where the map is straight between them. The sum of the taps is
    kept.
    """
    ratios = side_ratios(ratio, len(pooled))
    for dim, (size, target, side_ratio) in enumerate(zip(weight.shape[2:], pooled, ratios, strict=True), start=2):
        if size > 1:
            rows = linear_rows(size, target, side_ratio)
            windows = tuple((_first(row), size - _first(row[::-1])) for row in rows)
            weight = _combine_taps(weight, dim, windows, rows)
    return weight


def linear_rows(size: int, pooled: int, ratio: SideRatio) -> tuple[tuple[float, ...], ...]:
    """The matrix (K', K) of ``linear_kernel`` for one side: its columns sum to 1."""
    p, q = ratio_terms(ratio)
    columns = []
    for tap in range(size):
        # Times q first: a tap that lies on a pooled one is found there exactly, and no other gets a share of it.
        place = min(max((tap - (size - 1) / 2) * q / p + (pooled - 1) / 2, 0.0), pooled - 1.0)
        columns.append([max(0.0, 1 - abs(place - index)) for index in range(pooled)])
    return tuple(zip(*columns, strict=True))


def _first(row: tuple[float, ...]) -> int:
    return next(index for index, value in enumerate(row) if value)


def custom_kernel(weight: Tensor, pooled: tuple[int, ...], transform: KernelTransform, gain: Gain = "mean") -> Tensor:
    """A user's transform ``(F, C, *K) → (F, C, *K')``; ``gain="sum"`` multiplies by ∏K / ∏K'.

    Raises ``ValueError`` where the result is no tensor, or has another shape.
    """
    result = transform(weight, pooled)
    expected = (*weight.shape[:2], *pooled)
    if not isinstance(result, Tensor) or tuple(result.shape) != expected:
        found = tuple(result.shape) if isinstance(result, Tensor) else f"a {type(result).__name__}"
        raise ValueError(
            f"kernel_transform {getattr(transform, '__name__', transform)!r} turned a kernel of shape "
            f"{tuple(weight.shape)} into {found}; give one that returns {expected}"
        )
    return result * _tap_ratio(weight, pooled) if gain == "sum" else result


def _tap_ratio(weight: Tensor, pooled: tuple[int, ...]) -> float:
    return math.prod(weight.shape[2:]) / math.prod(pooled)


def pooled_padding(before: int, after: int, size: int, pooled: int, dilation: int) -> tuple[int, int]:
    """Padding of one side for the pooled kernel: P − d(K−1) + d(K'−1) in all, aligned on the kernel's centre.

    Negative padding is a crop. The output of the pooled conv then has exactly the unpooled conv's size. Where
    d(K−K') is odd the centre falls between two pixels and the odd one is taken off the end.
    """
    removed = dilation * (size - pooled)
    return before - removed // 2, after - (removed - removed // 2)


def conv_output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Output size of one side of a convolution with ``padding`` pixels in all."""
    return (size + padding - dilation * (kernel - 1) - 1) // stride + 1


def same_padding(kernel: int, dilation: int) -> tuple[int, int]:
    """What torch's ``padding="same"`` pads before and after one side (stride 1)."""
    total = dilation * (kernel - 1)
    return total // 2, total - total // 2
