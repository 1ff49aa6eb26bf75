"""The size of a pooled kernel, and the padding that preserves the output of its convolution (§2.2.2)."""

from __future__ import annotations

from passes.choices import Rounding
from passes.ratios import SideRatio, ratio_terms


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


def pooled_padding(before: int, after: int, size: int, pooled: int, dilation: int) -> tuple[int, int]:
    """Padding of one side for the pooled kernel: P − d(K−1) + d(K'−1) in total, aligned at the kernel's centre.

    Negative padding is a crop. The output of the pooled convolution then has exactly the unpooled one's size. If
    d(K−K') is odd, the centre is between two pixels and the odd pixel is removed at the end.
    """
    removed = dilation * (size - pooled)
    return before - removed // 2, after - (removed - removed // 2)


def conv_output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Output size of one side of a convolution with ``padding`` pixels in total."""
    return (size + padding - dilation * (kernel - 1) - 1) // stride + 1


def same_padding(kernel: int, dilation: int) -> tuple[int, int]:
    """The padding before and after one side for torch's ``padding="same"`` (stride 1)."""
    total = dilation * (kernel - 1)
    return total // 2, total - total // 2
