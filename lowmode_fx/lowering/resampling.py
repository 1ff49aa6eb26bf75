"""Downsampling methods: ``(images (N, C, *spatial), ratios, low sides) → (N, C, *low sides)``, for floating dtypes.

A ratio is ``(p, q)`` for each side, p / q in lowest terms. Whole ratios (q = 1) have their own, older formulas, whose
results must stay bit for bit what they are.

Nothing here makes a tensor from numbers: a step that is captured as one CUDA graph could not copy it to the device, and
any other step would wait for the copy. Weights are Python floats, or are computed on the device of the images.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from passes.blur import blur_reach, blur_weights
from passes.ratios import SideRatio, ratio_terms

__all__ = ["METHODS", "area", "bilinear", "gaussian", "gaussian_taps"]

Terms = tuple[int, int]

#: A ratio p / q has q phases: output pixels lie at q different places between two input pixels. Up to this many are
#: computed one by one, by slices. With more, as from 300 pixels to 224, gathers take over: a graph of many small
#: slices is slow to run, and slower to compile.
_MOST_PHASES = 8


def gaussian_taps(ratio: SideRatio, offset: float = 0.0) -> list[float]:
    """The blur's weights in one dimension for an output pixel ``offset`` pixels (from 0, below 1) after an input pixel.

    They belong to the input pixels up to ⌈3σ⌉ away, in order, and sum to 1. Their number is odd for offset 0, and even
    otherwise.

    Their standard deviation is ``σ = sqrt(ratio**2 - 1) / 2`` pixels (0.44 for ratio 4/3, 0.87 for 2, 1.94 for 4). A
    pixel is modelled as a sample of a scene blurred by an aperture of 0.5 pixels (the camera blur that SIFT assumes);
    the blur adds the variance that gives the low-mode image the same aperture in its own, larger pixels: ``0.5**2 +
    σ**2 == (0.5 * ratio)**2``. So low-mode images are as sharp, per pixel, as the full-mode images that the shared
    parameters also see, ratio 1 needs no blur, and ratio 2 applied twice blurs as ratio 4 does. For ratio 2 the finest
    pattern, +1 -1 +1 …, which elimination alone would turn into a constant, is reduced to 5 %. A standard deviation of
    ``(ratio - 1) / 2``, also in use, leaves 57 % of it. Below a ratio of about 5/4 the blur is so narrow that an output
    pixel between two input pixels is close to the nearer one.
    """
    return _taps(ratio_terms(ratio), offset)


def _taps(ratio: Terms, offset: float) -> list[float]:
    p, q = ratio
    return blur_weights(p / q, offset)


def _blur(ratio: Terms) -> tuple[float, int]:
    """σ in pixels, and how many whole pixels the blur reaches."""
    p, q = ratio
    return blur_reach(p / q)


def gaussian(images: Tensor, ratios: Sequence[Terms], sides: Sequence[int]) -> Tensor:
    """Gaussian blur at the places ``ratio * i`` of each dimension, one after the other; borders are replicated."""
    by_slices = [p > 1 and q <= _MOST_PHASES for p, q in ratios]
    padding = [_padding(ratio) if slices else (0, 0) for ratio, slices in zip(ratios, by_slices, strict=True)]
    images = _replicate(images, padding, fractional=any(q > 1 for _, q in ratios))
    for dim, (ratio, slices, side) in enumerate(zip(ratios, by_slices, sides, strict=True), start=2):
        if slices:
            images = _blur_by_slices(images, dim, ratio, side)
        elif ratio != (1, 1):
            images = _blur_by_gathers(images, dim, ratio, side)
    return images


def _replicate(images: Tensor, padding: Sequence[tuple[int, int]], fractional: bool) -> Tensor:
    """Images with their border repeated this many times before and after each dimension."""
    if not fractional:
        return F.pad(images, [amount for pair in reversed(padding) for amount in pair], mode="replicate")
    # ``F.pad`` clamps indices. Under the stacked phases of a fractional ratio inductor can't compile these for a GPU
    # (torch 2.11 to 2.14: "The argument '-2 + ((0))' is not comparable").
    for dim, (before, after) in enumerate(padding, start=2):
        shape, last = list(images.shape), images.shape[dim] - 1
        borders = []
        for place, count in ((0, before), (last, after)):
            shape[dim] = count
            borders.append(images.narrow(dim, place, 1).expand(shape))
        images = torch.cat([borders[0], images, borders[1]], dim)
    return images


def _padding(ratio: Terms) -> tuple[int, int]:
    # Every phase gives as many pixels as the first one, so the last may extend further past the border.
    p, q = ratio
    _, radius = _blur(ratio)
    return radius, radius + p * (q - 1) // q


def _blur_by_slices(images: Tensor, dim: int, ratio: Terms, side: int) -> Tensor:
    # Each phase is a weighted sum of strided slices. Unlike strided depthwise convolutions this is fast on a CPU,
    # is not rounded to TF32 or by autocast, is the same code for 1 to 3 dimensions, and fuses into one kernel when
    # compiled; it is faster than gathers, too.
    p, q = ratio
    _, radius = _blur(ratio)
    count = -(-side // q)
    phases = []
    for phase in range(q):
        taps = _taps(ratio, phase * p % q / q)
        start = phase * p // q + 2 * radius + 1 - len(taps)
        slices = [_every(images.narrow(dim, start + tap, p * (count - 1) + 1), dim, p) for tap in range(len(taps))]
        total = slices[0] * taps[0]
        for tap, values in zip(taps[1:], slices[1:], strict=True):
            total = torch.add(total, values, alpha=tap)
        phases.append(total)
    return phases[0] if q == 1 else torch.stack(phases, dim + 1).flatten(dim, dim + 1).narrow(dim, 0, side)


def _every(images: Tensor, dim: int, step: int) -> Tensor:
    return images[(slice(None),) * dim + (slice(None, None, step),)]


def _blur_by_gathers(images: Tensor, dim: int, ratio: Terms, side: int) -> Tensor:
    p, q = ratio
    sigma, radius = _blur(ratio)
    places = torch.arange(side, device=images.device) * p
    reach = torch.arange(-radius, radius + 1, device=images.device)
    distances = (reach[:, None] * q - places % q).double() / q
    exponents = -0.5 * (distances / sigma) ** 2
    weights = exponents.masked_fill(distances.abs() > radius, -torch.inf).softmax(0)
    return _blend(images, dim, places // q - radius, weights)


def _blend(images: Tensor, dim: int, first: Tensor, weights: Tensor) -> Tensor:
    """Output pixel i of one dimension is the sum over t of input pixel ``first[i] + t`` times ``weights[t, i]``."""
    shape = (-1, *(1,) * (images.ndim - 1 - dim))
    last = images.shape[dim] - 1
    total = torch.zeros((), dtype=images.dtype, device=images.device)
    for step, weight in enumerate(weights.to(images.dtype).unbind()):
        pixels = images.index_select(dim, (first + step).clamp(0, last))
        total = torch.addcmul(total, pixels, weight.reshape(shape))
    return total


def bilinear(images: Tensor, ratios: Sequence[Terms], sides: Sequence[int]) -> Tensor:
    """Linear interpolation at the centres of equal cells; antialiased where it would skip pixels and q > 1."""
    skips = [q > 1 and p > 2 * q for p, q in ratios]
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(sides)]
    images = F.interpolate(images, size=_unless(skips, images, sides), mode=mode, align_corners=False)
    for dim, ((p, q), side, skipped) in enumerate(zip(ratios, sides, skips, strict=True), start=2):
        if skipped:
            # In units of 1 / (2 · side) pixels. It is what ``F.interpolate`` calls antialias, which torch 2.14 gets
            # wrong for maps of width 1.
            full = images.shape[dim]
            centres = (2 * torch.arange(side, device=images.device) + 1) * full
            first = (centres - 2 * full - side) // (2 * side)
            places = first + torch.arange(-(-2 * p // q) + 2, device=images.device)[:, None]
            distances = ((2 * places + 1) * side - centres).abs()
            weights = (2 * full - distances).clamp(min=0).double()
            weights = weights.masked_fill((places < 0) | (places >= full), 0.0)
            images = _blend(images, dim, first, weights / weights.sum(0))
    return images


def area(images: Tensor, ratios: Sequence[Terms], sides: Sequence[int]) -> Tensor:
    """The mean of each of equal cells; for q > 1 a pixel counts by the part of it that lies inside the cell."""
    cut = [q > 1 for _, q in ratios]
    images = F.interpolate(images, size=_unless(cut, images, sides), mode="area")
    for dim, ((p, q), side) in enumerate(zip(ratios, sides, strict=True), start=2):
        if q > 1:
            # In units of 1 / side pixels cell i is [i · full, (i + 1) · full), and pixel j [j · side, (j + 1) · side).
            full = images.shape[dim]
            starts = torch.arange(side, device=images.device) * full
            first = starts // side
            pixels = (first + torch.arange(-(-p // q) + 1, device=images.device)[:, None]) * side
            inside = (starts + full).minimum(pixels + side) - starts.maximum(pixels)
            images = _blend(images, dim, first, inside.clamp(min=0).double() / full)
    return images


def _unless(flags: Sequence[bool], images: Tensor, sides: Sequence[int]) -> list[int]:
    """Low sides, and the images' own side if its flag is set: the output size for torch's own operators."""
    return [full if flag else low for flag, full, low in zip(flags, images.shape[2:], sides, strict=True)]


METHODS: dict[str, Callable[[Tensor, Sequence[Terms], Sequence[int]], Tensor]] = {
    "gaussian": gaussian,
    "bilinear": bilinear,
    "area": area,
}
