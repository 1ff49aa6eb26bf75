"""Downsample images for low-mode: each side shrinks to ⌈side / ratio⌉ (§2.2.1 of arXiv 1910.06548).

The functions keep no state, draw no random numbers and take plain arguments, so the same code runs on the device,
inside a compiled or captured step, and in the workers of a loader.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lowmode_fx.lowering.resampling import METHODS, Terms
from lowmode_fx.utils.validation import as_choice
from passes.errors import OptionError
from passes.ratios import RatioLike, plain_ratio, ratio_terms, ratio_text, side_ratios
from passes.spelling import setting

__all__ = ["DOWNSAMPLING_METHODS", "downsample", "downsampled_sides"]

DOWNSAMPLING_METHODS = tuple(METHODS)

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def downsample(
    images: Tensor,
    ratio: RatioLike | None = None,
    method: str = "gaussian",
    spatial_dims: int | None = None,
    *,
    sides: Sequence[int] | None = None,
    size_multiple: int = 1,
) -> Tensor:
    """Downsample images: each spatial side shrinks to ⌈side / ratio⌉ (§2.2.1).

    The methods are:

    - ``"gaussian"`` (the paper's preferred method): a Gaussian blur, then every ratio-th row and column, from the
      first. Output pixel i lies at ``ratio * i``, on the grid of a convolution of stride ``ratio``; for a fractional
      ratio that is often between two input pixels. An input pixel at distance d has the weight ``exp(-d² / 2σ²)``,
      normalised over d up to ⌈3σ⌉; see ``gaussian_taps`` for σ. Borders are replicated, so a constant stays constant
      and a side may be shorter than the blur.
    - ``"bilinear"``: linear interpolation between the two nearest pixels of each dimension, without a blur, at the
      centres of equal cells. A whole ``ratio > 2`` skips pixels and aliases. For fractional ratios above 2 an input
      pixel at distance d has the weight ``max(0, 1 - d / s)``, normalised inside the image, where s is side / low side.
    - ``"area"``: the mean of the cell that each output pixel covers, all cells being equal. For a whole ratio, partly
      covered pixels count in full (adaptive average pooling); otherwise they count by the covered part.

    Args:
        images: ``(N, C, *spatial)`` with 1 to 3 spatial dimensions, of a floating dtype. Half precisions are computed
            in float32 and rounded once; autocast has no effect.
        ratio: Any number ≥ 1, such as 2, ``4 / 3`` or ``"4/3"``, or one per side, such as ``(1, 2)``. 1 returns
            ``images`` itself.
        method: ``"gaussian"``, ``"bilinear"`` or ``"area"``.
        spatial_dims: Number of spatial dimensions, by default ``images.ndim - 2``. Give it for unbatched images: ``(C,
            H, W)`` needs ``spatial_dims=2``.
        sides: Sides of the result in pixels, instead of a ratio, which is then exactly side / low side.
        size_multiple: Round sides that shrink to a multiple; see ``downsampled_sides``. Where this changes a side, its
            ratio is side / low side.

    Returns:
        The downsampled images ``(N, C, *⌈spatial / ratio⌉)``, with the dtype and on the device of ``images``.

    Raises:
        TypeError: ``images`` is not a floating tensor (scale uint8 first, ``images.float() / 255``), or the ratio is
            not a number.
        ValueError: The method is unknown, the ratio is below 1 or above a side, the sides are not inside the images, or
            the rank does not fit.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = str(images.dtype) if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images is of type {kind}; give a tensor with a floating dtype "
            "(for uint8: images.float() / 255, and the normalisation that full-mode uses)"
        )
    as_choice("method", method, DOWNSAMPLING_METHODS)
    dims = images.ndim - 2 if spatial_dims is None else spatial_dims
    if dims not in (1, 2, 3) or images.ndim - dims not in (1, 2):
        raise ValueError(
            f"images of shape {tuple(images.shape)} don't fit spatial_dims={dims}; give (N, C, *spatial) with 1 to 3 "
            "spatial dimensions, or (C, *spatial) with spatial_dims, such as spatial_dims=2 for (C, H, W)"
        )
    low, ratios = _plan(images.shape[-dims:], ratio, sides, size_multiple)
    if all(p == q for p, q in ratios):
        return images
    exact = images if images.dtype in (torch.float32, torch.float64) else images.float()
    batched = exact if images.ndim == dims + 2 else exact.unsqueeze(0)
    result = METHODS[method](batched, ratios, low)
    if any(q > 1 for _, q in ratios):  # whole ratios keep the layout by themselves
        result = result.contiguous(memory_format=_layout(batched))
    return result.reshape(*images.shape[:-dims], *low).to(images.dtype)


def downsampled_sides(sides: Sequence[int], ratio: RatioLike, size_multiple: int = 1) -> tuple[int, ...]:
    """Compute the sides of an image after ``downsample``: ⌈side / ratio⌉ each.

    Args:
        sides: Sides of the image, in pixels.
        ratio: As in ``downsample``.
        size_multiple: For models that halve their maps often: a side that shrinks is rounded to the nearest multiple,
            the larger of two, at least one multiple and never above the side. 224 at a ratio of 2 and a multiple of 32
            becomes 128, at 4 / 3 it becomes 160.

    Returns:
        The low sides, in pixels.

    Raises:
        TypeError: The ratio is not a number.
        ValueError: The ratio is below 1, above a side or for another number of sides, or the multiple is below 1 or
            leaves every side as it is.
    """
    if isinstance(size_multiple, bool) or not isinstance(size_multiple, int) or size_multiple < 1:
        raise OptionError("size_multiple", size_multiple, "is out of range", "give an int of at least 1")
    ratios = [ratio_terms(each) for each in side_ratios(ratio, len(sides))]
    if any(p > q * side for (p, q), side in zip(ratios, sides, strict=True)):
        raise _too_large(sides, ratio)
    low = tuple(-(-side * q // p) for (p, q), side in zip(ratios, sides, strict=True))
    if size_multiple == 1:
        return low
    rounded = tuple(_rounded(*each, size_multiple) for each in zip(sides, low, strict=True))
    if rounded == tuple(sides) != low:
        problem = f"leaves images with sides {tuple(sides)} as they are at ratio {ratio_text(ratio)}"
        raise OptionError("size_multiple", size_multiple, problem, "give a smaller multiple, or larger images")
    return rounded


def _rounded(side: int, low: int, multiple: int) -> int:
    if low == side:
        return side
    nearest = (2 * low + multiple) // (2 * multiple) * multiple
    return min(max(nearest, multiple), side)


def _plan(
    sides: Sequence[int], ratio: RatioLike | None, low: Sequence[int] | None, multiple: int
) -> tuple[tuple[int, ...], tuple[Terms, ...]]:
    """Low sides, and the ratio of each."""
    if (ratio is None) == (low is None):
        raise ValueError(
            f"ratio={ratio!r}, sides={low!r} must be one of the two; give either, as ratio=2 or sides=(112, 112)"
        )
    if ratio is not None:
        found = downsampled_sides(sides, ratio, multiple)
        asked = [ratio_terms(each) for each in side_ratios(ratio, len(sides))]
        pairs = zip(asked, sides, found, strict=True)
        return found, tuple(
            (p, q) if short == -(-side * q // p) else _lowest_terms(side, short) for (p, q), side, short in pairs
        )
    assert low is not None
    found = tuple(low)
    if len(found) != len(sides) or not all(
        isinstance(short, int) and 1 <= short <= side for short, side in zip(found, sides, strict=True)
    ):
        raise ValueError(
            f"sides={found} is out of range; give {len(sides)} integers from 1 to {tuple(sides)}, the images' own"
        )
    return found, tuple(_lowest_terms(side, short) for side, short in zip(sides, found, strict=True))


def _lowest_terms(side: int, low: int) -> Terms:
    # dynamo may treat the sides as symbols. The length of a range specialises them: the weights are for these sides.
    p, q = len(range(side)), len(range(low))
    divisor = math.gcd(p, q)
    return p // divisor, q // divisor


def _too_large(sides: Sequence[int], ratio: RatioLike) -> OptionError:
    # A side of 1 can't shrink by any ratio. If only some sides are too short, the others still can.
    shown, least = plain_ratio(ratio), min(sides)
    ratios = [ratio_terms(each) for each in side_ratios(ratio, len(sides))]
    fitting = tuple(
        each if p <= q * side else 1
        for each, (p, q), side in zip(side_ratios(shown, len(sides)), ratios, sides, strict=True)
    )
    ways = [f"at most {least}, the shortest side", "larger images"] if least > 1 else []
    ways += [f"{setting('ratio', fitting)}, one per side"] if any(each != 1 for each in fitting) else []
    ways = ways or ["larger images"]
    problem = f"is too large for images with sides {tuple(sides)}"
    return OptionError("ratio", shown, problem, f"give {', or '.join(ways)}")


def _layout(images: Tensor) -> torch.memory_format:
    layout = _LAYOUTS.get(images.ndim, torch.contiguous_format)
    return layout if images.is_contiguous(memory_format=layout) else torch.contiguous_format
