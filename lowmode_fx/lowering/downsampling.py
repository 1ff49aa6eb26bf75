"""Low-mode's images: each side cut to ⌈side / ratio⌉ (§2.2.1 of arXiv 1910.06548).

The functions keep no state and draw no random number, so they serve on the device, inside a compiled step, and in the
workers of a loader alike.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DOWNSAMPLING_METHODS", "downsample", "downsampled_sides", "gaussian_taps"]


def downsample(images: Tensor, ratio: int, method: str = "gaussian", spatial_dims: int | None = None) -> Tensor:
    """Images with each spatial side cut to ⌈side / ratio⌉, in their own dtype and on their own device.

    ``images`` is ``(N, C, *spatial)`` with 1 to 3 spatial dimensions, of a floating dtype; ``spatial_dims`` says how
    many, by default ``images.ndim - 2``. One more than the channels is what an unbatched image needs said:
    ``(C, H, W)`` with ``spatial_dims=2``. ``ratio=1`` gives ``images`` itself back. Half precisions are worked out in
    float32 and rounded once; autocast changes nothing.

    ``method`` is one of

    - ``"gaussian"``: Gaussian blur, then every ratio-th row and column, from the first (the paper's preferred method).
      Output pixel i lies on input pixel ``ratio * i``, the grid of a convolution of stride ``ratio``. The blur is
      worked out at the kept pixels only. See ``gaussian_taps`` for its width. Borders are replicated, so that
      a constant stays constant and a side may be shorter than the blur.
    - ``"bilinear"``: linear interpolation between the two nearest pixels of each dimension, without a blur; for
      ``ratio > 2`` it skips pixels, and aliases. Output pixels lie on the centres of equal cells.
    - ``"area"``: the mean of the cell that each output pixel covers (adaptive average pooling).

    Raises ``TypeError`` for images that are no floating tensor (scale uint8 first, ``images.float() / 255``) or a ratio
    that is no int, and ``ValueError`` for an unknown method, a ratio below 1 or above a side, and a rank that
    does not fit.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = str(images.dtype) if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images is of type {kind}; give a tensor of a floating dtype "
            "(for uint8: images.float() / 255, and the normalisation that full-mode uses)"
        )
    if method not in _DOWNSAMPLERS:
        raise ValueError(f"method={method!r} is unknown; give one of {', '.join(map(repr, DOWNSAMPLING_METHODS))}")
    dims = images.ndim - 2 if spatial_dims is None else spatial_dims
    if dims not in (1, 2, 3) or images.ndim - dims not in (1, 2):
        raise ValueError(
            f"images of shape {tuple(images.shape)} do not have spatial_dims={dims}; give (N, C, *spatial) with 1 to 3 "
            "spatial dimensions, or (C, *spatial) and say how many, such as spatial_dims=2 for (C, H, W)"
        )
    sides = downsampled_sides(images.shape[-dims:], ratio)
    if ratio == 1:
        return images
    exact = images if images.dtype in (torch.float32, torch.float64) else images.float()
    batched = exact if images.ndim == dims + 2 else exact.unsqueeze(0)
    return _DOWNSAMPLERS[method](batched, ratio, sides).reshape(*images.shape[:-dims], *sides).to(images.dtype)


def downsampled_sides(sides: Sequence[int], ratio: int) -> tuple[int, ...]:
    """The sides, in pixels, of an image of ``sides`` after ``downsample``: ⌈side / ratio⌉ each.

    Raises ``TypeError`` when ``ratio`` is no int, ``ValueError`` when it is below 1 or above a side.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int):
        raise TypeError(f"ratio={ratio!r} is of type {type(ratio).__name__}; give an int of at least 2")
    if ratio < 1:
        raise ValueError(f"ratio={ratio} is too small; give an int of at least 2 (1 leaves the images as they are)")
    if ratio > min(sides):
        raise ValueError(
            f"ratio={ratio} leaves nothing of images with sides {tuple(sides)}; give at most {min(sides)}, the "
            "shortest side, or larger images"
        )
    return tuple(-(-side // ratio) for side in sides)


def gaussian_taps(ratio: int) -> list[float]:
    """The blur's weights for ``ratio`` (at least 2), one dimension, an odd number that sums to 1.

    Its standard deviation is ``sqrt(ratio**2 - 1) / 2`` pixels (0.87 for ratio 2, 1.94 for 4), cut at three of them.
    A pixel is taken to be a sample of a scene blurred by an aperture of 0.5 pixels (the camera blur that SIFT assumes);
    the blur adds the variance that gives the low-mode image the same aperture in its own, larger pixels:
    ``0.5**2 + sigma**2 == (0.5 * ratio)**2``. So low-mode images are as sharp, per pixel, as the full-mode ones that
    the shared parameters also see, ratio 1 needs no blur, and ratio 2 twice blurs as ratio 4 does. For ratio 2 the
    finest pattern, +1 -1 +1 …, which elimination alone would turn into a constant, is down to 5 %. A standard deviation
    of ``(ratio - 1) / 2``, also in use, leaves 57 % of it.
    """
    sigma = 0.5 * math.sqrt(ratio**2 - 1)
    radius = math.ceil(3 * sigma)
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _gaussian(images: Tensor, ratio: int, sides: tuple[int, ...]) -> Tensor:
    # A weighted sum of strided slices, one dimension after the other. Against strided depthwise convolutions this is
    # faster on a CPU, makes no tensor of weights (which a GPU would wait for), is not rounded to TF32 or by autocast,
    # is the same code for 1 to 3 dimensions, and fuses into one kernel when compiled.
    taps = gaussian_taps(ratio)
    images = F.pad(images, [len(taps) // 2] * (2 * len(sides)), mode="replicate")
    for dim, side in enumerate(sides, start=2):
        span = ratio * (side - 1) + 1
        slices = [_every(images.narrow(dim, start, span), dim, ratio) for start in range(len(taps))]
        images = slices[0] * taps[0]
        for tap, values in zip(taps[1:], slices[1:], strict=True):
            images = torch.add(images, values, alpha=tap)
    return images


def _every(images: Tensor, dim: int, ratio: int) -> Tensor:
    return images[(slice(None),) * dim + (slice(None, None, ratio),)]


def _bilinear(images: Tensor, ratio: int, sides: tuple[int, ...]) -> Tensor:
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(sides)]
    return F.interpolate(images, size=list(sides), mode=mode, align_corners=False, antialias=False)


def _area(images: Tensor, ratio: int, sides: tuple[int, ...]) -> Tensor:
    return F.interpolate(images, size=list(sides), mode="area")


_DOWNSAMPLERS: dict[str, Callable[[Tensor, int, tuple[int, ...]], Tensor]] = {
    "gaussian": _gaussian,
    "bilinear": _bilinear,
    "area": _area,
}

DOWNSAMPLING_METHODS = tuple(_DOWNSAMPLERS)
