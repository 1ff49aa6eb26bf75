"""Calls of convolutions, max pools and norms in one normal form, for a graph's nodes and for a running model.

The variants of a target (function, ATen operator, positional or keyword arguments, ``padding="same"``) end here. The
result has one form, whether its values are nodes or tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from passes.kernel_math import same_padding

aten = torch.ops.aten

#: A node of a graph, or a tensor: an argument of a call.
Value = TypeVar("Value")
#: (before, after) for each spatial side.
Padding = tuple[tuple[int, int], ...]

CONV_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
CONV_TRANSPOSE_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_ANY_CONV_ARGUMENTS = (
    *("input", "weight", "bias", "stride", "padding", "dilation"),
    *("transposed", "output_padding", "groups"),
)
#: (transposed, spatial dimensions) → the functional form that a rewrite uses
_CONV_FUNCTIONS: dict[tuple[bool, int], Callable[..., Tensor]] = {
    (False, 1): F.conv1d,
    (False, 2): F.conv2d,
    (False, 3): F.conv3d,
    (True, 1): F.conv_transpose1d,
    (True, 2): F.conv_transpose2d,
    (True, 3): F.conv_transpose3d,
}


def _operator(packet: Any) -> tuple[Any, ...]:
    """Every target that calls one of ATen's operators: the packet, its function, its overloads."""
    overloads = (getattr(packet, name) for name in packet.overloads() if name != "out" and not name.endswith("_out"))
    return (packet, packet._op, *overloads)


#: target → names of its arguments; ``torch.convolution`` has an argument for transposed convolutions
CONVS: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), CONV_ARGUMENTS),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), CONV_TRANSPOSE_ARGUMENTS),
    **{each: CONV_ARGUMENTS for op in (aten.conv1d, aten.conv2d, aten.conv3d) for each in _operator(op)},
    **{
        each: CONV_TRANSPOSE_ARGUMENTS
        for op in (aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
        for each in _operator(op)
    },
    **dict.fromkeys((torch.convolution, *_operator(aten.convolution)), _ANY_CONV_ARGUMENTS),
}
MAX_POOL_ARGUMENTS = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_POOLS_WITH_INDICES: dict[Any, int] = {
    **{
        fn: dims
        for dims, fn in enumerate(
            (F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices), start=1
        )
    },
    **{
        each: dims
        for dims, op in enumerate(
            (aten.max_pool1d_with_indices, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices), start=1
        )
        for each in _operator(op)
    },
}
#: target → spatial dimensions
MAX_POOLS: dict[Any, int] = {
    **{fn: dims for dims, fn in enumerate((F.max_pool1d, F.max_pool2d, F.max_pool3d), start=1)},
    **{fn: dims for dims, fn in enumerate((torch.max_pool1d, torch.max_pool2d, torch.max_pool3d), start=1)},
    **{
        each: dims
        for dims, op in enumerate((aten.max_pool1d, aten.max_pool2d, aten.max_pool3d), start=1)
        for each in _operator(op)
    },
    **_POOLS_WITH_INDICES,
}
MAX_POOL_MODULES: dict[type[nn.Module], int] = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}

AVG_POOL_ARGUMENTS = (
    *("input", "kernel_size", "stride", "padding"),
    *("ceil_mode", "count_include_pad", "divisor_override"),
)
#: target → spatial dimensions
AVG_POOLS: dict[Any, int] = {
    **{fn: dims for dims, fn in enumerate((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), start=1)},
    **{
        each: dims
        for dims, op in enumerate((aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d), start=1)
        for each in _operator(op)
    },
}
AVG_POOL_MODULES: dict[type[nn.Module], int] = {nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3}
#: spatial dimensions → the function that pools a whole map, with the size 1
GLOBAL_MAX_POOLS: dict[int, Callable[..., Any]] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}
GLOBAL_AVG_POOLS: dict[int, Callable[..., Any]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}

_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_ATEN_NORM = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled")
_INSTANCE_NORM = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
_ATEN_INSTANCE_NORM = (
    *("input", "weight", "bias", "running_mean", "running_var"),
    *("use_input_stats", "momentum", "eps", "cudnn_enabled"),
)
#: target → names of its arguments
FUNCTIONAL_NORMS: dict[Any, tuple[str, ...]] = {
    F.batch_norm: _NORM,
    F.instance_norm: _INSTANCE_NORM,
    **dict.fromkeys((torch.batch_norm, *_operator(aten.batch_norm)), _ATEN_NORM),
    **dict.fromkeys((torch.native_batch_norm, *_operator(aten.native_batch_norm)), _ATEN_NORM),
    **dict.fromkeys((torch.instance_norm, *_operator(aten.instance_norm)), _ATEN_INSTANCE_NORM),
}


@dataclass(frozen=True)
class ConvCall(Generic[Value]):
    """One convolution: input ``(N, C, *S)``, kernel ``(F, C / groups, *K)`` (transposed: ``(C, F / groups, *K)``).

    ``function`` is the functional form for this number of dimensions. ``padding`` is (before, after) for each spatial
    side. ``groups`` is passed on as it is: a node if it is computed (one kernel per image), whose value on the example
    is ``group_count``.
    """

    function: Callable[..., Tensor]
    transposed: bool
    input: Value
    weight: Value
    bias: Value | None
    weight_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    dilation: tuple[int, ...]
    groups: int | Value
    group_count: int
    output_padding: tuple[int, ...]

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight_shape[2:]

    @property
    def in_channels(self) -> int:
        return self.weight_shape[0] if self.transposed else self.weight_shape[1] * self.group_count

    @property
    def depthwise(self) -> bool:
        return self.group_count > 1 and self.group_count == self.in_channels


@dataclass(frozen=True)
class MaxPoolCall(Generic[Value]):
    """One max pool of ``(N, C, *S)``; ``with_indices`` if it also returns the indices."""

    input: Value
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    with_indices: bool


def conv_call(
    target: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    shape_of: Callable[[Any], tuple[int, ...] | None],
    count_of: Callable[[Any], int] = int,
) -> ConvCall[Any] | None:
    """The convolution that ``target(*args, **kwargs)`` calls; ``None`` if it is none, or its kernel's shape is unknown.

    ``shape_of``: the shape of a kernel, node or tensor. ``count_of``: the number of groups for a ``groups`` that is not
    an int.
    """
    names = CONVS.get(target)
    if names is None:
        return None
    given = named_arguments(names, args, kwargs)
    shape = shape_of(given["weight"])
    if shape is None:
        return None
    dims = len(shape) - 2
    transposed = given.get("transposed", "output_padding" in names and "transposed" not in names)
    dilation = spatial(given.get("dilation", 1), dims)
    groups = given.get("groups", 1)
    return ConvCall(
        function=_CONV_FUNCTIONS[bool(transposed), dims],
        transposed=bool(transposed),
        input=given["input"],
        weight=given["weight"],
        bias=given.get("bias"),
        weight_shape=tuple(shape),
        stride=spatial(given.get("stride", 1), dims),
        padding=_padding(given.get("padding", 0), shape[2:], dilation),
        dilation=dilation,
        groups=groups,
        group_count=groups if isinstance(groups, int) else count_of(groups),
        output_padding=spatial(given.get("output_padding", 0), dims),
    )


def _padding(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> Padding:
    if padding == "same":
        return tuple(same_padding(size, step) for size, step in zip(kernel, dilation, strict=True))
    return tuple((side, side) for side in spatial(0 if padding == "valid" else padding, len(kernel)))


def max_pool_call(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> MaxPoolCall[Any] | None:
    """The max pool that ``target(*args, **kwargs)`` calls; ``None`` if it is not one."""
    dims = MAX_POOLS.get(target)
    if dims is None:
        return None
    given = named_arguments(MAX_POOL_ARGUMENTS, args, kwargs)
    return as_max_pool(given, dims, with_indices=target in _POOLS_WITH_INDICES)


def as_max_pool(given: Mapping[str, Any], dims: int, with_indices: bool = False) -> MaxPoolCall[Any]:
    """A max pool from its arguments by name, as in a call or a module."""
    kernel, stride = spatial(given["kernel_size"], dims), given.get("stride")
    return MaxPoolCall(
        input=given["input"],
        kernel=kernel,
        stride=spatial(stride, dims) if stride else kernel,
        with_indices=with_indices or bool(given.get("return_indices", False)),
    )


def spatial(value: Any, dims: int) -> tuple[int, ...]:
    """An integer or a sequence as one integer per side."""
    if isinstance(value, int):
        return (value,) * dims
    sides = tuple(int(side) for side in value)
    return sides * dims if len(sides) == 1 else sides


def named_arguments(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Positional and keyword arguments by name."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def bound_arguments(node: fx.Node, names: Sequence[str]) -> dict[str, Any]:
    """Positional and keyword arguments of a node's call by name."""
    return named_arguments(names, node.args, node.kwargs)
