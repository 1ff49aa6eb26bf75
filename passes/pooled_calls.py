"""How a convolution is called with its pooled kernel, so that its output has exactly the size that it had.

Plain arithmetic: a graph pass makes nodes of it, live lowering makes calls.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from passes.calls import ConvCall, Padding
from passes.kernel_math import pooled_padding


class ConvGeometry(NamedTuple):
    """``pad``: what ``F.pad`` does to the input first, if anything (negative amounts crop); ``padding``: what the
    convolution pads itself, as much before as after.
    """

    pad: tuple[int, ...] | None
    padding: tuple[int, ...]


class TransposedGeometry(NamedTuple):
    """``margins``: what ``F.pad`` does to the output of a transposed convolution, if anything.

    Where there are margins the output is padded with what an untouched pixel holds, the bias: so the bias is added
    after, and the convolution has none.
    """

    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    margins: tuple[int, ...] | None


def conv_geometry(call: ConvCall[Any], pooled: tuple[int, ...]) -> ConvGeometry:
    """What the convolution can pad itself stays with it; ``F.pad`` does the rest."""
    padding = tuple(
        pooled_padding(before, after, size, target, dilation)
        for (before, after), size, target, dilation in zip(
            call.padding, call.kernel, pooled, call.dilation, strict=True
        )
    )
    if all(before == after >= 0 for before, after in padding):
        return ConvGeometry(None, tuple(before for before, _ in padding))
    return ConvGeometry(_flat(padding), (0,) * len(padding))


def transposed_geometry(call: ConvCall[Any], pooled: tuple[int, ...]) -> TransposedGeometry:
    """The same for a transposed convolution, whose padding crops the output instead of widening the input.

    The raw output loses d(K−K') pixels; padding and output padding give them back where they can.
    """
    margins = []
    for size, target, dilation, (crop, _), extra in zip(
        call.kernel, pooled, call.dilation, call.padding, call.output_padding, strict=True
    ):
        removed = dilation * (size - target)
        before = removed // 2
        margins.append((before - crop, removed - before - crop + extra))
    limits = [max(stride, dilation) for stride, dilation in zip(call.stride, call.dilation, strict=True)]
    if all(before <= 0 <= after - before < limit for (before, after), limit in zip(margins, limits, strict=True)):
        padding = tuple(-before for before, _ in margins)
        return TransposedGeometry(padding, tuple(after - before for before, after in margins), None)
    zeros = (0,) * len(pooled)
    return TransposedGeometry(zeros, zeros, _flat(tuple(margins)))


def _flat(amounts: Padding) -> tuple[int, ...]:
    """As ``F.pad`` takes them: the last dimension first."""
    return tuple(amount for pair in reversed(amounts) for amount in pair)
