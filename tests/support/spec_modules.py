"""Ordinary modules built from the specs of random CNNs: ``build_cnn(spec)`` makes the same module every time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from specs import CNNSpec, ConcatSpec, ConvSpec, MaxPoolSpec, NodeSpec, ResidualSpec, TiedSpec, TwiceSpec, UnitSpec
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
