"""What low-mode must compute, written so that it can be checked by reading: plain loops, no graphs, no shared code.

Nothing here imports the packages under test. ``test_oracle.py`` pins every helper to literal numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

Taps = list[tuple[int, ...]]
Padding = tuple[tuple[int, int], ...]
Transform = str | Callable[[Tensor, tuple[int, ...]], Tensor]


# Kernels -------------------------------------------------------------------------------------------------------------


def pooled_length(kernel: int, ratio: int, rounding: str = "ceil") -> int:
    """K' of one spatial dimension: ⌈K/r⌉ or ⌊K/r⌋ (at least 1), less one when even; r = 1 keeps the kernel."""
    if ratio == 1:
        return kernel
    pooled = math.ceil(kernel / ratio) if rounding == "ceil" else max(1, kernel // ratio)
    return pooled - 1 if pooled % 2 == 0 else pooled


def pooled_lengths(kernel: tuple[int, ...], ratio: int, rounding: str = "ceil") -> tuple[int, ...]:
    return tuple(pooled_length(length, ratio, rounding) for length in kernel)


def windows_of(kernel: int, ratio: int, rounding: str = "ceil", transform: str = "avg") -> list[list[int]]:
    """The taps that each pooled tap reads, in one dimension: ``windows_of(5, 2) == [[0, 1], [2, 3], [4]]``."""
    pooled = pooled_length(kernel, ratio, rounding)
    if transform == "center":
        offset = (kernel - pooled) // 2
        return [[offset + index] for index in range(pooled)]
    if transform == "avg" and pooled == math.ceil(kernel / ratio):
        before = (ratio * pooled - kernel) // 2
        padded = [[ratio * index + tap - before for tap in range(ratio)] for index in range(pooled)]
        return [[tap for tap in window if 0 <= tap < kernel] for window in padded]
    starts = [math.floor(index * kernel / pooled) for index in range(pooled)]
    stops = [math.ceil((index + 1) * kernel / pooled) for index in range(pooled)]
    return [list(range(start, stop)) for start, stop in zip(starts, stops, strict=True)]


def _rectangles(kernel: tuple[int, ...], ratio: int, rounding: str, transform: str) -> dict[tuple[int, ...], Taps]:
    """Every pooled tap's index with the taps of its (rectangular) window."""
    sides = [windows_of(length, ratio, rounding, transform) for length in kernel]
    corners = product(*(range(len(side)) for side in sides))
    return {corner: list(product(*(side[i] for side, i in zip(sides, corner, strict=True)))) for corner in corners}


def _tap(weight: Tensor, tap: tuple[int, ...]) -> Tensor:
    """A view of one tap (O, I) of ``weight`` (O, I, *K)."""
    position: Any = (..., *tap)
    return weight[position]


def naive_pool_kernel(
    weight: Tensor, ratio: int, *, rounding: str = "ceil", transform: Transform = "avg", gain: str = "mean"
) -> Tensor:
    """Pool ``weight`` (O, I, *K) to (O, I, *K') one tap at a time, differentiably."""
    kernel = tuple(weight.shape[2:])
    pooled = pooled_lengths(kernel, ratio, rounding)
    rescale = math.prod(kernel) / math.prod(pooled) if gain == "sum" else 1.0
    if not isinstance(transform, str):
        return transform(weight, pooled) * rescale
    rectangles = _rectangles(kernel, ratio, rounding, transform)
    covers = Counter(tap for taps in rectangles.values() for tap in taps)
    values = []
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
    ratio: int,
    *,
    rounding: str = "ceil",
    transform: str = "avg",
    gain: str = "mean",
) -> Tensor:
    """∂L/∂Ŵ · ∂Ŵ/∂W (Eq. 4): each pooled tap's gradient (O, I, *K') goes back to the taps (O, I, *K) it was made of."""
    rectangles = _rectangles(kernel, ratio, rounding, transform)
    covers = Counter(tap for taps in rectangles.values() for tap in taps)
    gradient = pooled_gradient.new_zeros(*pooled_gradient.shape[:2], *kernel)
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


# Whole models, run eagerly -------------------------------------------------------------------------------------------


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
    taps still reach every output pixel (K' ≥ stride). ``drop_maxpools="all"`` drops those. ``pooled_kernels`` then maps
    the identity of each pooled weight to its Ŵ: one leaf that collects ∂L/∂Ŵ over all of the weight's calls.
    Only ``backward`` on the result fills those, the pooled weights themselves get no gradient here: see
    ``naive_kernel_gradient``. With ``leaves=False`` Ŵ stays attached to its weight and autograd goes through it.
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
        with_holes = any(length < gap for length, gap in zip(self._pooled_lengths(kernel), jump, strict=True))
        if with_holes or not self._is_chosen(fed, kernel, jump, groups, input.shape[1]):
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
        depthwise = groups == channels > 1
        if pooled == kernel or (depthwise and math.prod(pooled) == 1):
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


# ResNets by hand -----------------------------------------------------------------------------------------------------


def low_resnet_forward(
    model: nn.Module,
    images: Tensor,
    *,
    pooled: Collection[str],
    drop_stem_maxpool: bool = False,
    isolate: bool = True,
) -> Tensor:
    """A torchvision or timm ResNet in low-mode, layer by layer, on the model's own parameters.

    ``images`` (N, 3, H, W) are downsampled already. ``pooled`` names the convs (``"layer1.0.conv2"``) whose kernels
    are pooled for r = 2: 3×3 → 1×1, and 7×7 → 3×3 for the stem.
    """
    names = {module: name for name, module in model.named_modules()}
    unknown = set(pooled) - set(names.values())
    assert not unknown, f"no such modules: {sorted(unknown)}"

    def conv(module: Any, x: Tensor) -> Tensor:
        if names[module] not in pooled:
            return F.conv2d(x, module.weight, module.bias, module.stride, module.padding)
        if module.kernel_size == (3, 3):
            assert module.padding == (1, 1)
            return F.conv2d(x, module.weight.mean((2, 3), keepdim=True), module.bias, module.stride, padding=0)
        assert module.kernel_size == (7, 7) and module.padding == (3, 3)
        spans = [slice(0, 3), slice(2, 5), slice(4, 7)]
        rows = [torch.stack([module.weight[:, :, row, column].mean((2, 3)) for column in spans], -1) for row in spans]
        return F.conv2d(x, torch.stack(rows, -2), module.bias, module.stride, padding=1)

    def norm(module: Any, x: Tensor) -> Tensor:
        if isolate:
            return F.batch_norm(x, None, None, module.weight, module.bias, training=True, eps=module.eps)
        module.num_batches_tracked += 1
        mean, variance = module.running_mean, module.running_var
        return F.batch_norm(x, mean, variance, module.weight, module.bias, True, module.momentum, module.eps)

    def block(module: Any, x: Tensor) -> Tensor:
        shortcut = x
        if module.downsample is not None:
            shortcut = norm(module.downsample[1], conv(module.downsample[0], x))
        x = F.relu(norm(module.bn1, conv(module.conv1, x)))
        x = norm(module.bn2, conv(module.conv2, x))
        if hasattr(module, "conv3"):
            x = norm(module.bn3, conv(module.conv3, F.relu(x)))
        return F.relu(x + shortcut)

    resnet: Any = model
    x = F.relu(norm(resnet.bn1, conv(resnet.conv1, images)))
    if not drop_stem_maxpool and not isinstance(resnet.maxpool, nn.Identity):
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        for member in layer:
            x = block(member, x)
    return F.linear(x.mean((2, 3)), resnet.fc.weight, resnet.fc.bias)


def resnet_block_convs(model: nn.Module) -> frozenset[str]:
    """The names of the 3×3 convs in the residual blocks: what the paper pools."""
    return frozenset(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and name.startswith("layer")
    )
