"""Multiply a kernel by one matrix per side, which is how every named transform works."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from passes.kernel_math.bicubic import bicubic_rows
from passes.kernel_math.gains import Matrix
from passes.kernel_math.linear import linear_rows
from passes.kernel_math.pi_resize import pi_resize_rows
from passes.kernel_math.windows import average_rows
from passes.torch_internals import is_fake, is_jit_tracing

#: Functions that make the matrix of a side, by name: pure functions of plain values.
MATRICES: dict[str, Callable[..., Matrix]] = {
    "average": average_rows,
    "bicubic": bicubic_rows,
    "linear": linear_rows,
    "pi_resize": pi_resize_rows,
}
#: A name of ``MATRICES`` and its arguments, as constants for dynamo; ``None`` for an unchanged side.
Side = tuple[str, tuple[Any, ...]] | None

#: Up to this many entries of a matrix for all sides together, one product is faster than one product per side.
_LARGEST_PRODUCT = 2**15


def multiply_sides(weight: Tensor, pooled: tuple[int, ...], sides: tuple[Side, ...]) -> Tensor:
    """A kernel ``(F, C, *K)`` with each side multiplied by its matrix: ``(F, C, *K')``, in the kernel's dtype.

    Half precisions are computed in float32 and rounded once; autocast has no effect.
    """
    if all(side is None for side in sides):
        return weight
    if weight.is_meta:
        return _product(weight, pooled, sides, _made_anew)
    # Nothing is kept of a trace, or of fakes.
    passing = not torch.compiler.is_dynamo_compiling() and (is_jit_tracing() or is_fake(weight))
    exact = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
    with torch.autocast(weight.device.type, enabled=False):
        return _product(exact, pooled, sides, _made_anew if passing else _constant).to(weight.dtype)


def kernel_of(weight: Tensor) -> tuple[int, ...]:
    """K of each side; plain ints, also when a trace makes tensors of them."""
    return tuple(map(int, weight.shape[2:]))


#: The matrix of some sides, each with its K, in a dtype on a device.
_Maker = Callable[[tuple[tuple[Side, int], ...], torch.dtype, torch.device], Tensor]


def _product(weight: Tensor, pooled: tuple[int, ...], sides: tuple[Side, ...], matrix_of: _Maker) -> Tensor:
    kernel = kernel_of(weight)
    if math.prod(kernel) * math.prod(pooled) <= _LARGEST_PRODUCT:
        matrix = matrix_of(tuple(zip(sides, kernel, strict=True)), weight.dtype, weight.device)
        rows = weight.reshape(-1, math.prod(kernel))
        return torch.mm(rows, matrix).reshape(*weight.shape[:2], *pooled)
    for dim, (side, size) in enumerate(zip(sides, kernel, strict=True), start=2):
        if side is not None:
            matrix = matrix_of(((side, size),), weight.dtype, weight.device)
            weight = torch.matmul(weight.transpose(dim, -1), matrix).transpose(dim, -1)
    return weight.contiguous()


def _made_anew(sides: tuple[tuple[Side, int], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same matrix (∏K, ∏K'), from plain numbers: a constant to a trace."""
    matrix: list[list[float]] = [[1.0]]
    for side, size in sides:
        rows = _rows(side) if side is not None else [[float(row == tap) for tap in range(size)] for row in range(size)]
        matrix = [[left * right for left in above for right in row] for above in matrix for row in rows]
    return torch.tensor([list(column) for column in zip(*matrix, strict=True)], dtype=dtype, device=device)


class _Kept:
    """Cached matrices on their devices, under names that start with ``matrix``."""


_KEPT = _Kept()


@cache
def _kept_name(sides: tuple[tuple[Side, int], ...], dtype: torch.dtype, device: torch.device) -> str:
    """The name in ``_KEPT`` of the matrix (∏K, ∏K') that multiplies the last dimensions of a kernel, flattened."""
    with torch.inference_mode(False), torch.no_grad():
        matrix = torch.ones(1, 1, dtype=torch.float64)
        for side, size in sides:
            rows = torch.eye(size).double() if side is None else torch.tensor(_rows(side), dtype=torch.float64)
            matrix = torch.kron(matrix, rows)
        matrix = matrix.t().contiguous().to(device=device, dtype=dtype)
    name = f"matrix{len(vars(_KEPT))}"
    setattr(_KEPT, name, matrix)
    return name


def _name_of(sides: tuple[tuple[Side, int], ...], dtype: torch.dtype, device: torch.device) -> str:
    return _kept_name(sides, dtype, device)


# dynamo calls it while it traces.
_find_name: Callable[..., str] = torch.compiler.assume_constant_result(_name_of)


def _constant(sides: tuple[tuple[Side, int], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # An attribute: for compiled code it is an input, and a captured step finds it at the same address.
    matrix: Tensor = getattr(_KEPT, _find_name(sides, dtype, device))
    return matrix


def _rows(side: tuple[str, tuple[Any, ...]]) -> Matrix:
    name, arguments = side
    return MATRICES[name](*arguments)
