"""What low-mode must compute, on whole models run eagerly: no graphs, no shared code, kernels from plain loops.

Nothing here imports the packages under test. ``test_oracle.py`` pins every helper to literal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from oracle_kernels import Transform, naive_pool_kernel, pad_flat, pooled_lengths, pooled_padding, same_padding
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_CONVS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_TRANSPOSED = {torch.conv_transpose1d: 1, torch.conv_transpose2d: 2, torch.conv_transpose3d: 3}
_MAXPOOLS = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_CONV_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED_NAMES = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


def _per_dim(value: Any, dims: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values


class EagerLowMode(TorchFunctionMode):
    """Runs any module in low-mode without a graph: each conv call is replaced as it happens.

    Inside the context the convs with overlapping windows that some other conv feeds use pooled kernels, or with
    ``pool_convs="all"`` every conv, but a depthwise one never with a single tap, and a transposed one only where its
    taps still reach every output pixel (K' ≥ stride). A kernel whose size stays is left alone, unless ``"linear"``
    moves its taps. ``drop_maxpools="all"`` drops those. ``pooled_kernels`` then maps the identity of each pooled weight
    to its Ŵ: one leaf that collects ∂L/∂Ŵ over all of the weight's calls. Only ``backward`` on the result fills those,
    the pooled weights themselves get no gradient here: see ``naive_kernel_gradient``. With ``leaves=False`` Ŵ stays
    attached to its weight and autograd goes through it.
    """

    def __init__(
        self,
        ratio: int,
        *,
        rounding: str = "ceil",
        transform: Transform = "avg",
        gain: str = "mean",
        pool_convs: str = "dense",
        drop_maxpools: str = "none",
        leaves: bool = True,
    ) -> None:
        super().__init__()
        self.ratio, self.rounding, self.transform, self.gain = ratio, rounding, transform, gain
        self.pools_all, self.drops_maxpools, self.leaves = pool_convs == "all", drop_maxpools == "all", leaves
        self.pooled_kernels: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        fed = any(_is_fed(value) for value in (*args, *kwargs.values()))
        if func in _CONVS:
            call = dict(zip(_CONV_NAMES, args, strict=False)) | kwargs
            result = self._conv(func, _CONVS[func], fed, **call)
        elif func in _TRANSPOSED:
            call = dict(zip(_TRANSPOSED_NAMES, args, strict=False)) | kwargs
            result = self._transposed_conv(func, _TRANSPOSED[func], fed, **call)
        elif func in _MAXPOOLS and self.drops_maxpools:
            result = args[0] if args else kwargs["input"]
        else:
            result = func(*args, **kwargs)
        if fed or func in _CONVS or func in _TRANSPOSED:
            _mark_fed(result)
        return result

    def _conv(
        self,
        func: Any,
        dims: int,
        fed: bool,
        *,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        kernel, jump, step = tuple(weight.shape[2:]), _per_dim(stride, dims), _per_dim(dilation, dims)
        if not self._is_chosen(fed, kernel, jump, groups, input.shape[1]):
            return func(input, weight, bias, stride, padding, dilation, groups)
        if padding == "same":
            pairs = same_padding(kernel, step)
        elif padding == "valid":
            pairs = ((0, 0),) * dims
        else:
            pairs = tuple((amount, amount) for amount in _per_dim(padding, dims))
        pooled = self._pooled_lengths(kernel)
        padded = F.pad(input, pad_flat(pooled_padding(pairs, kernel, pooled, step)))
        return func(padded, self._pooled(weight), bias, stride, 0, dilation, groups)

    def _transposed_conv(
        self,
        func: Any,
        dims: int,
        fed: bool,
        *,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Tensor:
        kernel, jump, step = tuple(weight.shape[2:]), _per_dim(stride, dims), _per_dim(dilation, dims)
        mixes_phases = self.transform == "linear" and max(jump) > 1
        with_holes = any(length < gap for length, gap in zip(self._pooled_lengths(kernel), jump, strict=True))
        if mixes_phases or with_holes or not self._is_chosen(fed, kernel, jump, groups, input.shape[1]):
            return func(input, weight, bias, stride, padding, output_padding, groups, dilation)
        pooled = self._pooled_lengths(kernel)
        # A transposed conv crops its output: what is (before, after) for a conv's input is that for its output.
        pairs = tuple(
            (amount, amount - extra)
            for amount, extra in zip(_per_dim(padding, dims), _per_dim(output_padding, dims), strict=True)
        )
        crops = pooled_padding(pairs, kernel, pooled, step)
        whole = func(input, self._pooled(weight), None, stride, 0, 0, groups, dilation)
        result = F.pad(whole, [-amount for amount in pad_flat(crops)])
        return result if bias is None else result + bias.reshape(-1, *[1] * dims)

    def _is_chosen(
        self, fed: bool, kernel: tuple[int, ...], stride: tuple[int, ...], groups: int, channels: int
    ) -> bool:
        overlaps = any(length > jump for length, jump in zip(kernel, stride, strict=True))
        pooled = self._pooled_lengths(kernel)
        # Taps that stay as many still move where each is shared by distance.
        moves = self.transform == "linear" and self.ratio > 1 and math.prod(kernel) > 1
        depthwise = groups == channels > 1
        if (pooled == kernel and not moves) or (depthwise and math.prod(pooled) == 1):
            return False
        return self.pools_all or (fed and overlaps)

    def _pooled_lengths(self, kernel: tuple[int, ...]) -> tuple[int, ...]:
        return pooled_lengths(kernel, self.ratio, self.rounding)

    def _pooled(self, weight: Tensor) -> Tensor:
        if id(weight) not in self.pooled_kernels:
            pooled = naive_pool_kernel(
                weight, self.ratio, rounding=self.rounding, transform=self.transform, gain=self.gain
            )
            self.pooled_kernels[id(weight)] = pooled.detach().requires_grad_() if self.leaves else pooled
        return self.pooled_kernels[id(weight)]


def _is_fed(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_is_fed(item) for item in value)
    return isinstance(value, Tensor) and getattr(value, "is_fed_by_conv", False)


def _mark_fed(value: Any) -> None:
    if isinstance(value, Tensor):
        value.is_fed_by_conv = True  # type: ignore[attr-defined]
    elif isinstance(value, list | tuple):
        for item in value:
            _mark_fed(item)


@contextmanager
def buffers_restored(model: nn.Module) -> Iterator[None]:
    """Put every buffer (running statistics, counters) back to what it was: what "isolate" promises."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    yield
    for name, buffer in model.named_buffers():
        buffer.copy_(before[name])


class RecordConvShapes(TorchDispatchMode):
    """Collects the output shape of every convolution that runs inside, whatever form it was written in."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.shapes.append(tuple(result.shape))
        return result
