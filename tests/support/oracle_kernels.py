"""Pooled kernels and their geometry, tap by tap in plain loops, so that they can be checked by reading.

Nothing here imports the packages under test. ``test_oracle_kernels.py`` pins every helper to literal numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from typing import Any

import torch
from torch import Tensor

Taps = list[tuple[int, ...]]
Shares = dict[tuple[int, ...], float]
Padding = tuple[tuple[int, int], ...]
#: Of one side, and of all sides at once or one a side.
SideRatio = int | Fraction
Ratio = SideRatio | tuple[SideRatio, ...]
Transform = str | Callable[[Tensor, tuple[int, ...]], Tensor]


# Kernels -------------------------------------------------------------------------------------------------------------


def pooled_length(kernel: int, ratio: SideRatio, rounding: str = "ceil") -> int:
    """K' of one spatial dimension: ⌈K/r⌉ or ⌊K/r⌋ (at least 1), less one when even; r = 1 keeps the kernel.

    ``"cover"``: taps are added on both sides of the middle one until the outermost two, r pixels apart each, are as
    far apart as those of K are, or until there are K.
    """
    if ratio == 1:
        return kernel
    if rounding == "cover":
        pooled = 1
        while ratio * (pooled - 1) < kernel - 1:
            pooled += 2
        return min(pooled, kernel)
    pooled = math.ceil(kernel / ratio) if rounding == "ceil" else max(1, kernel // ratio)
    return pooled - 1 if pooled % 2 == 0 else pooled


def pooled_lengths(kernel: tuple[int, ...], ratio: Ratio, rounding: str = "ceil") -> tuple[int, ...]:
    return tuple(pooled_length(*side, rounding) for side in _sides(kernel, ratio))


def _sides(kernel: tuple[int, ...], ratio: Ratio) -> list[tuple[int, SideRatio]]:
    """Each side of the kernel with its ratio."""
    ratios = ratio if isinstance(ratio, tuple) else (ratio,) * len(kernel)
    return list(zip(kernel, ratios, strict=True))


def windows_of(kernel: int, ratio: SideRatio, rounding: str = "ceil", transform: str = "avg") -> list[list[int]]:
    """The taps that each pooled tap reads, in one dimension: ``windows_of(5, 2) == [[0, 1], [2, 3], [4]]``."""
    pooled = pooled_length(kernel, ratio, rounding)
    if transform == "center":
        offset = (kernel - pooled) // 2
        return [[offset + index] for index in range(pooled)]
    if transform == "avg" and ratio == int(ratio) and pooled == math.ceil(kernel / ratio):
        ratio = int(ratio)
        before = (ratio * pooled - kernel) // 2
        padded = [[ratio * index + tap - before for tap in range(ratio)] for index in range(pooled)]
        return [[tap for tap in window if 0 <= tap < kernel] for window in padded]
    starts = [math.floor(index * kernel / pooled) for index in range(pooled)]
    stops = [math.ceil((index + 1) * kernel / pooled) for index in range(pooled)]
    return [list(range(start, stop)) for start, stop in zip(starts, stops, strict=True)]


def _rectangles(kernel: tuple[int, ...], ratio: Ratio, rounding: str, transform: str) -> dict[tuple[int, ...], Taps]:
    """Every pooled tap's index with the taps of its (rectangular) window."""
    sides = [windows_of(*side, rounding, transform) for side in _sides(kernel, ratio)]
    corners = product(*(range(len(side)) for side in sides))
    return {corner: list(product(*(side[i] for side, i in zip(sides, corner, strict=True)))) for corner in corners}


def linear_shares(kernel: int, ratio: SideRatio, rounding: str = "ceil") -> list[list[float]]:
    """How much of each tap each pooled tap gets, in one dimension: ``linear_shares(3, 2)[tap][index]``.

    Places are in pixels from the kernel's centre; pooled taps lie r pixels apart.
    """
    pooled = pooled_length(kernel, ratio, rounding)
    places = [ratio * Fraction(2 * index - pooled + 1, 2) for index in range(pooled)]
    shares = [[0.0] * pooled for _ in range(kernel)]
    for tap in range(kernel):
        place = Fraction(2 * tap - kernel + 1, 2)
        if place <= places[0]:
            shares[tap][0] = 1.0
        elif place >= places[-1]:
            shares[tap][-1] = 1.0
        else:
            right = next(index for index in range(pooled) if places[index] > place)
            shares[tap][right] = float((place - places[right - 1]) / ratio)
            shares[tap][right - 1] = float((places[right] - place) / ratio)
    return shares


def _linear_parts(kernel: tuple[int, ...], ratio: Ratio, rounding: str) -> dict[tuple[int, ...], Shares]:
    """Every pooled tap's index with the taps that it is made of and its share of each."""
    sides = [linear_shares(*side, rounding) for side in _sides(kernel, ratio)]
    corners = product(*(range(len(side[0])) for side in sides))
    parts: dict[tuple[int, ...], Shares] = {corner: {} for corner in corners}
    for corner, tap in product(parts, product(*map(range, kernel))):
        share = math.prod(side[t][i] for side, t, i in zip(sides, tap, corner, strict=True))
        if share:
            parts[corner][tap] = share
    return parts


def _tap(weight: Tensor, tap: tuple[int, ...]) -> Tensor:
    """A view of one tap (O, I) of ``weight`` (O, I, *K)."""
    position: Any = (..., *tap)
    return weight[position]


def naive_pool_kernel(
    weight: Tensor, ratio: Ratio, *, rounding: str = "ceil", transform: Transform = "avg", gain: str = "mean"
) -> Tensor:
    """Pool ``weight`` (O, I, *K) to (O, I, *K') one tap at a time, differentiably; ``"linear"`` takes no gain."""
    kernel = tuple(weight.shape[2:])
    pooled = pooled_lengths(kernel, ratio, rounding)
    rescale = math.prod(kernel) / math.prod(pooled) if gain == "sum" else 1.0
    if not isinstance(transform, str):
        return transform(weight, pooled) * rescale
    values = []
    if transform == "linear":
        for parts in _linear_parts(kernel, ratio, rounding).values():
            values.append(torch.stack([share * _tap(weight, tap) for tap, share in parts.items()]).sum(0))
        return torch.stack(values, dim=-1).reshape(*weight.shape[:2], *pooled)
    rectangles = _rectangles(kernel, ratio, rounding, transform)
    covers = Counter(tap for taps in rectangles.values() for tap in taps)
    for taps in rectangles.values():
        if transform == "center":
            values.append(_tap(weight, taps[0]) * rescale)
        elif gain == "sum":
            values.append(torch.stack([_tap(weight, tap) / covers[tap] for tap in taps]).sum(0))
        else:
            values.append(torch.stack([_tap(weight, tap) for tap in taps]).sum(0) / len(taps))
    return torch.stack(values, dim=-1).reshape(*weight.shape[:2], *pooled)


def naive_kernel_gradient(
    pooled_gradient: Tensor,
    kernel: tuple[int, ...],
    ratio: Ratio,
    *,
    rounding: str = "ceil",
    transform: str = "avg",
    gain: str = "mean",
) -> Tensor:
    """∂L/∂Ŵ · ∂Ŵ/∂W (Eq. 4): each pooled tap's gradient (O, I, *K') goes back to the taps (O, I, *K) it was made of."""
    gradient = pooled_gradient.new_zeros(*pooled_gradient.shape[:2], *kernel)
    if transform == "linear":
        for corner, parts in _linear_parts(kernel, ratio, rounding).items():
            for tap, share in parts.items():
                _tap(gradient, tap).add_(share * _tap(pooled_gradient, corner))
        return gradient
    rectangles = _rectangles(kernel, ratio, rounding, transform)
    covers = Counter(tap for taps in rectangles.values() for tap in taps)
    for corner, taps in rectangles.items():
        for tap in taps:
            if transform == "center":
                share = math.prod(kernel) / math.prod(pooled_gradient.shape[2:]) if gain == "sum" else 1.0
            else:
                share = 1 / covers[tap] if gain == "sum" else 1 / len(taps)
            _tap(gradient, tap).add_(share * _tap(pooled_gradient, corner))
    return gradient


# Geometry ------------------------------------------------------------------------------------------------------------


def pooled_padding(
    padding: Padding, kernel: tuple[int, ...], pooled: tuple[int, ...], dilation: tuple[int, ...]
) -> Padding:
    """The (before, after) of each dimension that keeps the output size and the kernel's centre; negative is a crop."""
    result = []
    for (before, after), long, short, step in zip(padding, kernel, pooled, dilation, strict=True):
        lost = step * (long - short)
        result.append((before - math.floor(lost / 2), after - (lost - math.floor(lost / 2))))
    return tuple(result)


def same_padding(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> Padding:
    """What ``padding="same"`` means in torch: d(K−1) in all, the odd one after."""
    totals = [step * (length - 1) for length, step in zip(kernel, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def naive_conv(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, ...],
    padding: Padding,
    dilation: tuple[int, ...],
    groups: int = 1,
) -> Tensor:
    """Cross-correlate ``images`` (N, C, *L) with ``weight`` (O, C/groups, *K), in 1-D or 2-D, one product at a time."""
    samples, channels, *lengths = images.shape
    filters, group_channels, *kernel = weight.shape
    assert len(lengths) in (1, 2) and channels == group_channels * groups, "naive_conv takes 1-D and 2-D maps only"
    sizes = [
        (length + before + after - step * (taps - 1) - 1) // jump + 1
        for length, (before, after), step, taps, jump in zip(lengths, padding, dilation, kernel, stride, strict=True)
    ]
    result = images.new_zeros(samples, filters, *sizes)
    for sample, filter_index, *position in product(range(samples), range(filters), *map(range, sizes)):
        group = filter_index // (filters // groups)
        total = images.new_zeros(()) if bias is None else bias[filter_index].clone()
        for channel, *tap in product(range(group_channels), *map(range, kernel)):
            source = [
                at * jump + t * step - before
                for at, jump, t, step, (before, _) in zip(position, stride, tap, dilation, padding, strict=True)
            ]
            if all(0 <= at < length for at, length in zip(source, lengths, strict=True)):
                pixel = images[(sample, group * group_channels + channel, *source)]
                total = total + pixel * weight[(filter_index, channel, *tap)]
        result[(sample, filter_index, *position)] = total
    return result


def pad_flat(padding: Padding) -> list[int]:
    """The (before, after) pairs in the order in which ``F.pad`` wants them, last dimension first."""
    return [amount for pair in reversed(padding) for amount in pair]
