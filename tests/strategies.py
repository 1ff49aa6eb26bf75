"""Hypothesis strategies that draw whole random CNNs, as plain data that prints, and ordinary modules built from it.

``cnn_specs()`` draws a ``CNNSpec``; ``build_cnn(spec)`` makes the module, the same one every time. Every drawn model
runs on maps of ``spec.size`` and of a half and a third of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

CONVS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_FUNCTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED_CONV_FUNCTIONS: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
TRANSPOSED_CONVS: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAXPOOLS: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
MAXPOOL_FUNCTIONS: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
GLOBAL_POOLS: dict[int, type[nn.Module]] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
BATCHNORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
ZERO_PADS: dict[int, type[nn.Module]] = {1: nn.ZeroPad1d, 2: nn.ZeroPad2d, 3: nn.ZeroPad3d}

Pairs = tuple[tuple[int, int], ...]


# The data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConvSpec:
    """One conv. ``padding`` in pairs (before, after) is an explicit pad in front of a conv without padding."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: int | tuple[int, ...] | str | Pairs
    groups: int = 1
    bias: bool = True
    padding_mode: str = "zeros"
    functional: bool = False
    transposed: bool = False
    output_padding: tuple[int, ...] = ()


@dataclass(frozen=True)
class UnitSpec:
    """Conv, norm and activation, or with ``norm_first`` norm, activation and conv."""

    conv: ConvSpec
    norm: str = "none"
    activation: str = "none"
    norm_first: bool = False


@dataclass(frozen=True)
class MaxPoolSpec:
    kernel: tuple[int, ...]
    stride: int
    padding: int
    ceil_mode: bool = False
    functional: bool = False


@dataclass(frozen=True)
class ResidualSpec:
    body: tuple[UnitSpec, ...]
    shortcut: UnitSpec | None
    activation: str


@dataclass(frozen=True)
class ConcatSpec:
    branches: tuple[tuple[UnitSpec, ...], ...]


@dataclass(frozen=True)
class TwiceSpec:
    """One module, called on its own output."""

    unit: UnitSpec


@dataclass(frozen=True)
class TiedSpec:
    """Two units whose convs hold one and the same kernel."""

    units: tuple[UnitSpec, UnitSpec]


NodeSpec = UnitSpec | MaxPoolSpec | ResidualSpec | ConcatSpec | TwiceSpec | TiedSpec


@dataclass(frozen=True)
class CNNSpec:
    stages: tuple[tuple[NodeSpec, ...], ...]
    channels: int
    features: int
    classes: int
    size: tuple[int, ...]
    head: str
    seed: int

    @property
    def dims(self) -> int:
        return len(self.size)


# The modules ---------------------------------------------------------------------------------------------------------


class FunctionalConv(nn.Module):
    """A conv that is a call with the module's own parameters, as many a repository writes it."""

    def __init__(self, spec: ConvSpec, padding: Any) -> None:
        super().__init__()
        functions = TRANSPOSED_CONV_FUNCTIONS if spec.transposed else CONV_FUNCTIONS
        self.function = functions[len(spec.kernel)]
        self.arguments = {"stride": spec.stride, "padding": padding, "dilation": spec.dilation, "groups": spec.groups}
        if spec.transposed:
            self.arguments["output_padding"] = spec.output_padding
            shape = (spec.inputs, spec.outputs // spec.groups, *spec.kernel)
        else:
            shape = (spec.outputs, spec.inputs // spec.groups, *spec.kernel)
        bound = 1 / math.sqrt(spec.inputs // spec.groups * math.prod(spec.kernel))
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(spec.outputs).uniform_(-bound, bound)) if spec.bias else None

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight, self.bias, **self.arguments)


class FunctionalPad(nn.Module):
    def __init__(self, amounts: list[int]) -> None:
        super().__init__()
        self.amounts = amounts

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.amounts)


class FunctionalMaxPool(nn.Module):
    def __init__(self, dims: int, **arguments: Any) -> None:
        super().__init__()
        self.dims, self.arguments = dims, arguments

    def forward(self, x: Tensor) -> Tensor:
        return MAXPOOL_FUNCTIONS[self.dims](x, **self.arguments)


class FunctionalReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module | None, activation: str) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut
        self.activation = nn.Sequential(*build_activation(activation))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.activation(self.body(x) + shortcut)


class Concat(nn.Module):
    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Twice(nn.Module):
    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.shared(x))


class RandomCNN(nn.Module):
    def __init__(self, spec: CNNSpec) -> None:
        super().__init__()
        self.stages = nn.Sequential(*(nn.Sequential(*map(build_node, stage)) for stage in spec.stages))
        self.pool = GLOBAL_POOLS[spec.dims](1) if spec.head == "module" else None
        self.dims = spec.dims
        self.classifier = nn.Linear(spec.features, spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x)
        x = x.mean(tuple(range(2, 2 + self.dims))) if self.pool is None else self.pool(x).flatten(1)
        return self.classifier(x)


def build_cnn(spec: CNNSpec) -> RandomCNN:
    """The module of ``spec`` in float64 and train mode, with weights that depend on ``spec.seed`` only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model = RandomCNN(spec)
        for module in model.modules():
            if isinstance(module, nn.GroupNorm | nn.modules.batchnorm._BatchNorm) and module.affine:
                # Away from zero: a channel that is constant must not leave rounding noise at a ReLU's kink.
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(0.1, 0.5).mul_(torch.randint(0, 2, module.bias.shape) * 2 - 1)
    return model.double().train()


def draw_images(spec: CNNSpec, ratio: int = 1, batch: int = 3) -> Tensor:
    """Images (N, C, *⌈size/ratio⌉) in float64 that depend on ``spec.seed`` only."""
    size = [math.ceil(length / ratio) for length in spec.size]
    return torch.randn(
        batch, spec.channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(spec.seed + ratio)
    )


def build_node(node: NodeSpec) -> nn.Module:
    match node:
        case UnitSpec():
            return build_unit(node)
        case MaxPoolSpec(kernel, stride, padding, ceil_mode, functional):
            dims = len(kernel)
            if functional:
                return FunctionalMaxPool(dims, kernel_size=kernel, stride=stride, padding=padding, ceil_mode=ceil_mode)
            return MAXPOOLS[dims](kernel, stride, padding, ceil_mode=ceil_mode)
        case ResidualSpec(body, shortcut, activation):
            return Residual(build_branch(body), None if shortcut is None else build_unit(shortcut), activation)
        case ConcatSpec(branches):
            return Concat([build_branch(branch) for branch in branches])
        case TwiceSpec(unit):
            return Twice(build_unit(unit))
        case TiedSpec(units):
            first, second = map(build_unit, units)
            holders = [
                next(m for m in unit if getattr(m, "weight", torch.empty(0)).dim() > 2) for unit in (first, second)
            ]
            holders[1].weight = holders[0].weight
            return nn.Sequential(first, second)


def conv_of(unit: nn.Sequential) -> nn.Module:
    """The module of a unit that holds a kernel."""
    return next(part for part in unit if getattr(part, "weight", torch.empty(0)).dim() > 2)


def build_branch(units: tuple[UnitSpec, ...]) -> nn.Module:
    return build_unit(units[0]) if len(units) == 1 else nn.Sequential(*map(build_unit, units))


def build_unit(spec: UnitSpec) -> nn.Module:
    channels = spec.conv.inputs if spec.norm_first else spec.conv.outputs
    after = [*build_norm(spec.norm, channels, len(spec.conv.kernel)), *build_activation(spec.activation)]
    conv = build_conv(spec.conv)
    return nn.Sequential(*((*after, *conv) if spec.norm_first else (*conv, *after)))


def build_conv(spec: ConvSpec) -> list[nn.Module]:
    dims = len(spec.kernel)
    if spec.transposed and not spec.functional:
        transposed = TRANSPOSED_CONVS[dims](
            spec.inputs,
            spec.outputs,
            spec.kernel,
            spec.stride,
            spec.padding,
            spec.output_padding,
            spec.groups,
            spec.bias,
            spec.dilation,
        )
        return [transposed]
    pads: list[nn.Module] = []
    padding: Any = spec.padding
    if isinstance(padding, tuple) and isinstance(padding[0], tuple):
        flat = [amount for pair in reversed(padding) for amount in pair]
        pads, padding = [FunctionalPad(flat) if spec.functional else ZERO_PADS[dims](tuple(flat))], 0
    if spec.functional:
        return [*pads, FunctionalConv(spec, padding)]
    conv = CONVS[dims](
        spec.inputs,
        spec.outputs,
        spec.kernel,
        spec.stride,
        padding,
        spec.dilation,
        spec.groups,
        spec.bias,
        spec.padding_mode,
    )
    return [*pads, conv]


def build_norm(norm: str, channels: int, dims: int) -> list[nn.Module]:
    match norm:
        case "batch":
            return [BATCHNORMS[dims](channels)]
        case "batch_cumulative":
            return [BATCHNORMS[dims](channels, momentum=None)]
        case "batch_untracked":
            return [BATCHNORMS[dims](channels, track_running_stats=False)]
        case "group":
            return [nn.GroupNorm(2 if channels % 2 == 0 else 1, channels)]
    return []


def build_activation(activation: str) -> list[nn.Module]:
    match activation:
        case "relu":
            return [nn.ReLU()]
        case "relu_inplace":
            return [nn.ReLU(inplace=True)]
        case "relu_functional":
            return [FunctionalReLU()]
        case "silu":
            return [nn.SiLU()]
    return []


# The drawing ---------------------------------------------------------------------------------------------------------


class _Drawing:
    """One model in the making. ``small`` is the smallest map that it will see at this place."""

    def __init__(
        self,
        draw: st.DrawFn,
        size: tuple[int, ...],
        channels: int,
        *,
        convs: int,
        max_kernel: int,
        smooth: bool,
        cumulative: bool,
    ) -> None:
        self.draw, self.channels, self.convs_left, self.max_kernel = draw, channels, convs, max_kernel
        self.smooth, self.cumulative = smooth, cumulative
        self.kernels = st.sampled_from([size for size in (1, 2, 3, 4, 5, 6, 7, 3, 5, 7) if size <= max_kernel])
        self.dims = len(size)
        self.small = tuple(math.ceil(length / 3) for length in size)

    def one_in(self, times: int) -> bool:
        return self.draw(st.integers(1, times)) == times

    def per_dim(self, values: st.SearchStrategy[int], *, differ: int) -> tuple[int, ...]:
        """The same value in every dimension, or one time in ``differ`` one for each."""
        if self.one_in(differ):
            return tuple(self.draw(values) for _ in range(self.dims))
        return (self.draw(values),) * self.dims

    def node(self, *, first: bool, transposed: bool) -> NodeSpec:
        kinds = ["unit", "unit", "residual", "concat"]
        kinds += ["tied"] if self.convs_left > 1 else []
        if not first:
            kinds += ["twice"]
            kinds += ["maxpool"] * 2 if min(self.small) >= 3 and not self.smooth else []
            kinds += ["transposed"] * 3 if transposed and max(self.small) <= 14 else []
        match self.draw(st.sampled_from(kinds)):
            case "residual":
                return self.residual()
            case "concat":
                return self.concat()
            case "twice":
                return TwiceSpec(self.unit(keep_size=True, outputs=self.channels, stride=(1,) * self.dims))
            case "tied":
                return self.tied()
            case "maxpool":
                return self.maxpool()
            case "transposed":
                return self.norm_and_activation(self.transposed_conv())
        return self.unit()

    def unit(
        self,
        *,
        keep_size: bool = False,
        outputs: int | None = None,
        stride: tuple[int, ...] | None = None,
        final: bool = False,
        kernels: st.SearchStrategy[int] | None = None,
    ) -> UnitSpec:
        return self.norm_and_activation(self.conv(keep_size, outputs, stride, kernels), final=final)

    def norm_and_activation(self, conv: ConvSpec, *, final: bool = False) -> UnitSpec:
        norms = ["batch"] * 6 + ["group", "group", "none", "none", "batch_untracked"]
        norm = self.draw(st.sampled_from([*norms, *(["batch_cumulative"] * 3 if self.cumulative else [])]))
        norm_first = not final and self.one_in(6)
        activation = "none" if final else self.activation(inplace=not norm_first)
        return UnitSpec(conv, norm, activation, norm_first)

    def activation(self, *, inplace: bool) -> str:
        kinked = ["relu", "relu_functional", *(["relu_inplace"] if inplace else [])]
        return self.draw(st.sampled_from(["silu"] if self.smooth else [*kinked, "silu"]))

    def conv(
        self,
        keep_size: bool,
        outputs: int | None = None,
        stride: tuple[int, ...] | None = None,
        kernels: st.SearchStrategy[int] | None = None,
    ) -> ConvSpec:
        """Draw a conv, count it and move ``small`` and ``channels`` behind it."""
        self.convs_left -= 1
        kernel = self.per_dim(self.kernels if kernels is None else kernels, differ=4)
        dilation = self.per_dim(st.sampled_from([1, 1, 2]), differ=6)
        if stride is None:
            stride = self.stride()
        groups, outputs = self.groups(outputs)
        functional = self.one_in(4)
        padding = self.free_padding(kernel, stride, dilation)
        if keep_size or min(_sizes(self.small, kernel, stride, dilation, padding)) < 1:
            padding = self.keeping_padding(kernel, stride, dilation)
        modes = ["zeros"] if functional else self.padding_modes(kernel, dilation, padding)
        spec = ConvSpec(
            self.channels,
            outputs,
            kernel,
            stride,
            dilation,
            padding,
            groups=groups,
            bias=self.draw(st.booleans()),
            padding_mode=self.draw(st.sampled_from(modes)),
            functional=functional,
        )
        self.small = _sizes(self.small, kernel, stride, dilation, padding)
        self.channels = outputs
        return spec

    def stride(self) -> tuple[int, ...]:
        if min(self.small) >= 4 and self.one_in(3):
            return self.per_dim(st.sampled_from([2, 2, 1]), differ=4)
        return (1,) * self.dims

    def groups(self, outputs: int | None) -> tuple[int, int]:
        """(groups, outputs), outputs as given or drawn."""
        if self.one_in(5):  # depthwise
            multiples = [n for n in (1, 2) if n * self.channels <= 8] or [1]
            wanted = outputs if outputs is not None else self.channels * self.draw(st.sampled_from(multiples))
            if wanted % self.channels == 0:
                return self.channels, wanted
        wanted = outputs if outputs is not None else self.draw(st.integers(2, 8))
        divisors = [n for n in range(1, 9) if self.channels % n == 0 and wanted % n == 0]
        return (self.draw(st.sampled_from(divisors)) if self.one_in(4) else 1), wanted

    def free_padding(self, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Any:
        spans = [step * (length - 1) for length, step in zip(kernel, dilation, strict=True)]
        forms = ["integer", "tuple", "pairs", "crop"] + (["same", "valid"] if set(stride) == {1} else [])
        match self.draw(st.sampled_from(forms)):
            case "integer":
                return self.draw(st.integers(0, min(spans) // 2 + 1))
            case "tuple":
                return tuple(self.draw(st.integers(0, span // 2 + 1)) for span in spans)
            case "pairs":
                return tuple((self.draw(st.integers(0, span)), self.draw(st.integers(0, span))) for span in spans)
            case "crop":
                return tuple((self.draw(st.integers(-1, 1)), self.draw(st.integers(-1, span))) for span in spans)
            case form:
                return form

    def keeping_padding(self, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Any:
        """d(K−1) in all: the output is ⌈L / stride⌉, whatever the kernel."""
        spans = [step * (length - 1) for length, step in zip(kernel, dilation, strict=True)]
        forms = ["before", "after"] + (["same"] if set(stride) == {1} else [])
        if all(span % 2 == 0 for span in spans):
            forms += ["tuple", "tuple", "integer" if len(set(spans)) == 1 else "tuple"]
        match self.draw(st.sampled_from(forms)):
            case "integer":
                return spans[0] // 2
            case "tuple":
                return tuple(span // 2 for span in spans)
            case "before":
                return tuple((span - span // 2, span // 2) for span in spans)
            case "after":
                return tuple((span // 2, span - span // 2) for span in spans)
        return "same"

    def padding_modes(self, kernel: tuple[int, ...], dilation: tuple[int, ...], padding: Any) -> list[str]:
        """The padding modes that torch allows here, zeros much the likeliest."""
        if padding == "valid" or (isinstance(padding, tuple) and isinstance(padding[0], tuple)):
            return ["zeros"]
        widest = [max(pair) for pair in _pairs(padding, kernel, dilation)]
        modes = ["zeros"] * 8 + ["replicate"]
        if all(pad < length for pad, length in zip(widest, self.small, strict=True)):
            modes += ["reflect", "circular"]
        return modes

    def transposed_conv(self) -> ConvSpec:
        self.convs_left -= 1
        kernel = self.per_dim(st.integers(1, min(5, self.max_kernel)), differ=4)
        stride = self.per_dim(st.sampled_from([1, 2]), differ=4)
        dilation = self.per_dim(st.sampled_from([1, 1, 2]), differ=6)
        groups, outputs = self.groups(None)
        padding, extra, sizes = [], [], []
        for length, taps, jump, step in zip(self.small, kernel, stride, dilation, strict=True):
            whole = (length - 1) * jump + step * (taps - 1) + 1
            padding.append(self.draw(st.integers(0, min(step * (taps - 1), (whole - 1) // 2))))
            extra.append(self.draw(st.integers(0, max(jump, step) - 1)))
            sizes.append(whole - 2 * padding[-1] + extra[-1])
        spec = ConvSpec(
            self.channels,
            outputs,
            kernel,
            stride,
            dilation,
            tuple(padding),
            groups=groups,
            bias=self.draw(st.booleans()),
            functional=self.one_in(3),
            transposed=True,
            output_padding=tuple(extra),
        )
        self.small, self.channels = tuple(sizes), outputs
        return spec

    def maxpool(self) -> MaxPoolSpec:
        kernel, padding = self.draw(st.sampled_from([(2, 0), (3, 1), (3, 0)]))
        stride = self.draw(st.sampled_from([2, 2, 1]))
        self.small = tuple((length + 2 * padding - kernel) // stride + 1 for length in self.small)
        return MaxPoolSpec((kernel,) * self.dims, stride, padding, self.draw(st.booleans()), self.draw(st.booleans()))

    def tied(self) -> TiedSpec:
        """Two convs of one kernel that may differ in all else: stride, padding, dilation, bias, norm."""
        first = self.unit(keep_size=True, outputs=self.channels)
        kernels, groups = first.conv.kernel, first.conv.groups
        second = self.unit(keep_size=True, outputs=self.channels)
        conv = replace(second.conv, kernel=kernels, groups=groups)
        padding = tuple(
            (span - span // 2, span // 2)
            for span in (step * (taps - 1) for taps, step in zip(kernels, conv.dilation, strict=True))
        )
        return TiedSpec((first, replace(second, conv=replace(conv, padding=padding, padding_mode="zeros"))))

    def branch(self, stride: tuple[int, ...], outputs: int | None, *, final: bool) -> tuple[UnitSpec, ...]:
        """One or two size-keeping units, the stride on the first."""
        if self.convs_left > 1 and self.draw(st.booleans()):
            opening = self.unit(keep_size=True, stride=stride)
            return (opening, self.unit(keep_size=True, outputs=outputs, stride=(1,) * self.dims, final=final))
        return (self.unit(keep_size=True, outputs=outputs, stride=stride, final=final),)

    def residual(self) -> ResidualSpec:
        small, inputs, stride = self.small, self.channels, self.stride()
        body = self.branch(stride, inputs if self.draw(st.booleans()) else None, final=True)
        if set(stride) == {1} and self.channels == inputs and not self.one_in(4):
            return ResidualSpec(body, None, self.activation(inplace=True))
        outputs, self.small, self.channels = self.channels, small, inputs
        kernels = st.sampled_from([1, 1, 1, 2, 3])
        shortcut = self.unit(keep_size=True, outputs=outputs, stride=stride, final=True, kernels=kernels)
        return ResidualSpec(body, shortcut, self.activation(inplace=True))

    def concat(self) -> ConcatSpec:
        small, inputs, stride = self.small, self.channels, self.stride()
        branches, outputs = [], 0
        for _ in range(self.draw(st.integers(2, 3))):
            self.small, self.channels = small, inputs
            branches.append(self.branch(stride, self.draw(st.integers(2, 3)), final=False))
            outputs += self.channels
        self.channels = outputs
        return ConcatSpec(tuple(branches))


def _pairs(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> Pairs:
    """Any form of padding as (before, after) pairs."""
    if padding == "same":
        spans = [step * (length - 1) for length, step in zip(kernel, dilation, strict=True)]
        return tuple((span // 2, span - span // 2) for span in spans)
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if isinstance(padding, int):
        return ((padding, padding),) * len(kernel)
    return tuple(pad if isinstance(pad, tuple) else (pad, pad) for pad in padding)


def _sizes(
    lengths: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], padding: Any
) -> tuple[int, ...]:
    return tuple(
        (length + before + after - step * (taps - 1) - 1) // jump + 1
        for length, taps, jump, step, (before, after) in zip(
            lengths, kernel, stride, dilation, _pairs(padding, kernel, dilation), strict=True
        )
    )


def units_of(node: NodeSpec) -> list[UnitSpec]:
    match node:
        case UnitSpec():
            return [node]
        case ResidualSpec(body, shortcut):
            return [*body, *([] if shortcut is None else [shortcut])]
        case ConcatSpec(branches):
            return [unit for branch in branches for unit in branch]
        case TwiceSpec(unit):
            return [unit]
        case TiedSpec(units):
            return list(units)
    return []


def convs_of(spec: CNNSpec) -> list[ConvSpec]:
    return [unit.conv for stage in spec.stages for node in stage for unit in units_of(node)]


def _is_surely_pooled(conv: ConvSpec) -> bool:
    """Dense at every ratio and rounding, as long as another conv feeds it."""
    overlaps = any(taps > jump for taps, jump in zip(conv.kernel, conv.stride, strict=True))
    return overlaps and not conv.transposed and (conv.groups == 1 or conv.groups < conv.inputs)


@st.composite
def cnn_specs(
    draw: st.DrawFn,
    dims: int = 2,
    *,
    transposed: bool = False,
    max_size: int | None = None,
    smooth: bool = False,
    cumulative: bool = False,
) -> CNNSpec:
    """Whole CNNs on ``dims``-dimensional maps, with at least one conv behind the stem that any ratio above 1 pools.

    ``transposed`` adds transposed convs, ``cumulative`` batch norms with ``momentum=None``. ``smooth`` leaves out what
    has kinks (ReLU, maxpool), where finite differences mean nothing.
    """
    lowest, highest, convs, max_kernel = {1: (24, 40, 8, 7), 2: (24, 40, 8, 7), 3: (9, 14, 4, 5)}[dims]
    highest = highest if max_size is None else max_size
    size = tuple(draw(st.integers(min(lowest, highest), highest)) for _ in range(dims))
    channels = draw(st.integers(1, 4))
    drawing = _Drawing(draw, size, channels, convs=convs, max_kernel=max_kernel, smooth=smooth, cumulative=cumulative)
    stages: list[tuple[NodeSpec, ...]] = []
    for _ in range(draw(st.integers(1, 3))):
        stage: list[NodeSpec] = []
        for _ in range(draw(st.integers(1, 3))):
            if drawing.convs_left > 1:
                stage.append(drawing.node(first=not stages and not stage, transposed=transposed))
        if stage:
            stages.append(tuple(stage))
    behind_the_stem = [unit for node in [node for stage in stages for node in stage][1:] for unit in units_of(node)]
    if not any(_is_surely_pooled(unit.conv) for unit in behind_the_stem):
        taps, ones = (3,) * dims, (1,) * dims
        conv = ConvSpec(drawing.channels, 4, taps, ones, ones, padding=1)
        stages.append((UnitSpec(conv, "batch", "silu"),))
        drawing.channels = 4
    return CNNSpec(
        stages=tuple(stages),
        channels=channels,
        features=drawing.channels,
        classes=draw(st.integers(2, 4)),
        size=size,
        head=draw(st.sampled_from(["module", "mean"])),
        seed=draw(st.integers(0, 2**16)),
    )


def corner_taps(weight: Tensor, pooled_size: tuple[int, ...]) -> Tensor:
    """A kernel transform of a user's own: the first taps of each dimension."""
    corner: Any = (..., *(slice(0, length) for length in pooled_size))
    return weight[corner]


def low_mode_kwargs(*, pooling: bool = False) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of ``LowModeConfig``; ``pooling=True`` leaves out those that keep every kernel."""
    return st.fixed_dictionaries(
        {
            "ratio": st.sampled_from([2, 3]),
            "kernel_ratio": st.sampled_from([None, 2, 3] if pooling else [None, 2, 3, 1]),
            "rounding": st.sampled_from(["ceil", "floor"]),
            "kernel_transform": st.sampled_from(["avg", "adaptive", "center", corner_taps]),
            "gain": st.sampled_from(["mean", "sum"]),
            "batchnorm": st.sampled_from(["isolate", "share"]),
            "pool_convs": st.sampled_from(["dense", "all"]),
            "drop_maxpools": st.sampled_from(["none", "all"]),
        }
    )
