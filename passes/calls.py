"""How graphs spell convolutions, max pools and norms: every target, with the names of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

aten = torch.ops.aten

CONV_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
CONV_TRANSPOSE_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
#: target → (spatial dimensions, transposed, the functional form that a rewrite calls)
CONVS: dict[Any, tuple[int, bool, Callable[..., torch.Tensor]]] = {
    **{fn: (dims, False, fn) for dims, fn in enumerate((F.conv1d, F.conv2d, F.conv3d), start=1)},
    **{fn: (n, True, fn) for n, fn in enumerate((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), start=1)},
    **{
        target: (dims, False, fn)
        for dims, op, fn in ((1, aten.conv1d, F.conv1d), (2, aten.conv2d, F.conv2d), (3, aten.conv3d, F.conv3d))
        for target in (op.default, op.padding)
    },
    aten.conv_transpose1d.default: (1, True, F.conv_transpose1d),
    aten.conv_transpose2d.input: (2, True, F.conv_transpose2d),
    aten.conv_transpose3d.input: (3, True, F.conv_transpose3d),
}
MAX_POOL_ARGUMENTS = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
MAX_POOLS: dict[Any, int] = {
    **{fn: dims for dims, fn in enumerate((F.max_pool1d, F.max_pool2d, F.max_pool3d), start=1)},
    **{fn: dims for dims, fn in enumerate((torch.max_pool1d, torch.max_pool2d, torch.max_pool3d), start=1)},
    **{
        fn: dims
        for dims, fn in enumerate(
            (F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices), start=1
        )
    },
    aten.max_pool1d.default: 1,
    aten.max_pool2d.default: 2,
    aten.max_pool3d.default: 3,
    aten.max_pool2d_with_indices.default: 2,
    aten.max_pool3d_with_indices.default: 3,
}
MAX_POOL_MODULES: dict[type[nn.Module], int] = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}
_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_ATEN_NORM = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled")
FUNCTIONAL_NORMS: dict[Any, tuple[str, ...]] = {
    F.batch_norm: _NORM,
    torch.batch_norm: _ATEN_NORM,
    aten.batch_norm.default: _ATEN_NORM,
}
WITH_INDICES = {
    aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
    F.max_pool1d_with_indices,
    F.max_pool2d_with_indices,
    F.max_pool3d_with_indices,
}


def spatial(value: Any, dims: int) -> tuple[int, ...]:
    """An integer or a sequence as one integer a side."""
    if isinstance(value, int):
        return (value,) * dims
    sides = tuple(int(side) for side in value)
    return sides * dims if len(sides) == 1 else sides


def bound_arguments(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    """Positional and keyword arguments of a call under one set of names."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}
