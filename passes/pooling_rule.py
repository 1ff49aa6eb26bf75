"""Which kernels low-mode pools, and to what size: one rule for a graph's sites and a model's calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from passes.calls import ConvCall
from passes.choices import Gain, NamedConvs, NamedTransform, Rounding
from passes.kernel_math import (
    KernelTransform,
    average_kernel,
    bicubic_kernel,
    center_kernel,
    custom_kernel,
    linear_kernel,
    pi_resize_kernel,
    pooled_size,
)
from passes.patterns import matches
from passes.ratios import RatioLike, SideRatio, largest_ratio, plain_ratio, ratio_text, side_ratios
from passes.spelling import setting
from passes.wording import sides

#: A kernel with this many taps on some side is large.
LARGE = 5
#: Transforms that depend on the ratio, and so also rewrite a kernel that keeps its size: its taps move closer.
RESAMPLING = ("linear", "pi_resize")
NOT_TRACED = "inside a module that is not traced"
DEFORMABLE = "deformable: each of its taps has its own offset"
#: Also the key in the meta data of a node that stands there.
CUSTOM_FUNCTION = "inside a custom autograd.Function, whose backward is for the full kernel"
UNTRAINED = "no trained parameter reaches it"


@dataclass(frozen=True)
class PoolingRule:
    """How kernels shrink by ``ratio``, and which kernels.

    A ratio per side leaves convolutions with another number of sides unchanged. transform: ``"linear"`` and
    ``"pi_resize"`` also rewrite a kernel that keeps its size: its taps move closer. pool_convs: ``"dense"`` (windows
    overlap, K > stride; not the stem; no depthwise conv to a single tap), ``"all"`` (also the stem and patchifying
    convs; still no depthwise conv to a single tap), ``"large"`` (the dense ones with ``LARGE`` taps on some side), or
    globs over module names, which are pooled without further conditions. keep_convs: globs that are kept whatever
    ``pool_convs`` says.
    """

    ratio: RatioLike
    rounding: Rounding = "ceil"
    transform: NamedTransform | KernelTransform = "avg"
    gain: Gain = "mean"
    pool_convs: NamedConvs | Sequence[str] = "dense"
    keep_convs: Sequence[str] = ()
    custom: KernelTransform | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", plain_ratio(self.ratio))  # it is an argument of calls, which become code
        if callable(self.transform):
            object.__setattr__(self, "custom", bind_transform(self.transform, self.gain))

    @property
    def named(self) -> str | None:
        """``pool_convs`` if it names a set; ``None`` if it is globs."""
        return self.pool_convs if isinstance(self.pool_convs, str) else None

    def pooled(self, kernel: Sequence[int]) -> tuple[int, ...]:
        """K' of each side of a kernel; K itself if the ratio is for another number of sides."""
        return tuple(pooled_size(size, ratio, self.rounding) for size, ratio in self._sides(kernel))

    def _sides(self, kernel: Sequence[int]) -> list[tuple[int, SideRatio]]:
        """Each side of a kernel with its ratio, 1 if it has none."""
        ratios = side_ratios(self.ratio, len(kernel)) if self._is_for(kernel) else (1,) * len(kernel)
        return list(zip(kernel, ratios, strict=True))

    def _is_for(self, kernel: Sequence[int]) -> bool:
        return not isinstance(self.ratio, tuple) or len(self.ratio) == len(kernel)

    def reason_to_keep(self, call: ConvCall[Any], name: str, *, stem: bool, trained: bool) -> str | None:
        """Why the kernel of this call stays whole; ``None`` if it is pooled.

        ``name``: of the site. ``stem``: it reads the image. ``trained``: a trainable parameter reaches the kernel.
        """
        pooled, stride, named = self.pooled(call.kernel), call.stride, self.named
        shrinks = any(size > 1 and ratio != 1 for size, ratio in self._sides(call.kernel))
        resampled = self.transform in RESAMPLING and shrinks
        if not self._is_for(call.kernel):
            return f"{sides(call.kernel)} has another number of sides than the ratio {ratio_text(self.ratio)}"
        if pooled == call.kernel and not resampled:
            return self._reason_of_size(call.kernel)
        if any(matches(name, pattern) for pattern in self.keep_convs):
            return f"kept by {setting('keep_convs')}"
        if named is None:
            chosen = any(matches(name, pattern) for pattern in self.pool_convs)
            return None if chosen else f"not in {setting('pool_convs')}"
        if not trained:
            return UNTRAINED
        if call.depthwise and math.prod(pooled) == 1:
            return "depthwise: one tap would be left, a scale without spatial extent"
        if call.transposed and any(k < s for k, s in zip(pooled, stride, strict=True)):
            return f"transposed: {sides(pooled)} taps at stride {sides(stride)} leave holes in the output"
        if named == "large" and max(call.kernel) < LARGE:
            return f"{sides(call.kernel)} is not large: fewer than {LARGE} taps a side"
        if named != "all" and stem:
            return "stem: it reads the image"
        if named != "all" and all(k <= s for k, s in zip(call.kernel, stride, strict=True)):
            return f"windows do not overlap ({sides(call.kernel)} at stride {sides(stride)})"
        if resampled and call.transposed and max(stride) > 1:
            return "transposed with a stride: its taps belong to output phases, which resampling would mix"
        return None

    def _reason_of_size(self, kernel: Sequence[int]) -> str:
        """Why a kernel keeps its size: it has a single tap, r is 1, or K' is rounded to K."""
        if max(kernel) > 1 and largest_ratio(self.ratio) == 1:
            return f"kept: {setting('kernel_ratio')} is 1"
        if any(size > 1 and ratio != 1 for size, ratio in self._sides(kernel)):
            return f"{sides(kernel)} by {ratio_text(self.ratio)} is rounded to {sides(kernel)}"
        return f"{sides(kernel)} has nothing to pool"

    def kernel_call(
        self, pooled: tuple[int, ...], dilation: tuple[int, ...]
    ) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        """The function that makes the pooled kernel, and its arguments after the kernel."""
        if self.transform == "center":
            return center_kernel, (pooled, self.gain)
        if self.transform == "linear":
            return linear_kernel, (pooled, self.ratio)
        if self.transform == "bicubic":
            return bicubic_kernel, (pooled, self.gain)
        if self.transform == "pi_resize":
            return pi_resize_kernel, (pooled, self.ratio, dilation)
        if self.custom is not None:
            return self.custom, (pooled,)
        return average_kernel, (pooled, self.ratio, self.gain, self.transform == "adaptive")


def bind_transform(transform: KernelTransform, gain: Gain) -> KernelTransform:
    """A custom transform, checked and scaled, as the target of a node, whose arguments must be plain data."""

    def custom_transform(weight: Tensor, pooled: tuple[int, ...]) -> Tensor:
        return custom_kernel(weight, pooled, transform, gain)

    custom_transform.users_name = getattr(transform, "__name__", repr(transform))  # type: ignore[attr-defined]
    return custom_transform
