"""A kernel times a matrix a side: by one product, by a product a side, and in a trace, it is the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from passes.kernel_math import average_kernel, linear_kernel, matrix, multiply_sides, pi_resize_kernel
from passes.kernel_math.linear import linear_rows
from passes.kernel_math.matrix import Side
from passes.torch_internals import fake_tensor_mode

double = torch.float64
SHAPES = [
    ((9,), (5,)),
    ((13, 13), (7, 7)),
    ((51, 5), (25, 3)),
    ((5, 1), (3, 1)),
    ((31, 31), (15, 15)),
    ((5, 7, 3),) * 2,
]


def sides_of(kernel: tuple[int, ...], pooled: tuple[int, ...]) -> tuple[Side, ...]:
    pairs = zip(kernel, pooled, strict=True)
    return tuple(("linear", (size, target, 2)) if size > 1 else None for size, target in pairs)


@pytest.mark.parametrize(("kernel", "pooled"), SHAPES)
def test_it_is_the_product_with_every_matrix(
    kernel: tuple[int, ...], pooled: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.randn(2, 3, *kernel, dtype=double)
    sides, expected = sides_of(kernel, pooled), weight
    for dim, (size, target) in enumerate(zip(kernel, pooled, strict=True), start=2):
        rows = torch.tensor(linear_rows(size, target, 2), dtype=double) if size > 1 else torch.eye(1, dtype=double)
        expected = torch.tensordot(expected, rows, ([dim], [1])).movedim(-1, dim)
    for largest in (0, 10**9):
        monkeypatch.setattr(matrix, "_LARGEST_PRODUCT", largest)
        torch.testing.assert_close(multiply_sides(weight, pooled, sides), expected, rtol=0, atol=1e-12)
        anew = matrix._product(weight, pooled, sides, matrix._made_anew)
        torch.testing.assert_close(anew, expected, rtol=0, atol=1e-12)


def test_sides_that_stay_cost_nothing() -> None:
    weight = torch.randn(2, 1, 5, 5)
    assert multiply_sides(weight, (5, 5), (None, None)) is weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_are_rounded_once(dtype: torch.dtype) -> None:
    weight = torch.randn(8, 1, 9, 9).to(dtype)
    found = pi_resize_kernel(weight, (5, 5), 2, (1, 1))
    assert torch.equal(found, pi_resize_kernel(weight.float(), (5, 5), 2, (1, 1)).to(dtype))


def test_autocast_changes_nothing() -> None:
    weight = torch.randn(8, 1, 9, 9, requires_grad=True)
    expected = linear_kernel(weight, (5, 5), 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_kernel(weight, (5, 5), 2)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_a_first_use_in_inference_mode_leaves_it_to_train_with() -> None:
    weight = torch.randn(2, 1, 11, 11, requires_grad=True)
    with torch.inference_mode():
        pi_resize_kernel(weight, (5, 5), 3, (1, 1))
    pi_resize_kernel(weight, (5, 5), 3, (1, 1)).sum().backward()
    assert weight.grad is not None and weight.grad.isfinite().all()


def test_tensors_without_values_leave_none_behind() -> None:
    """Meta and fake kernels have their shapes; a real one, afterwards, its values."""
    kept = len(vars(matrix._KEPT))
    assert average_kernel(torch.empty(2, 1, 10, 10, device="meta"), (3, 3), 3).shape == (2, 1, 3, 3)
    with fake_tensor_mode():
        assert average_kernel(torch.empty(2, 1, 10, 10), (3, 3), 3).shape == (2, 1, 3, 3)
    assert len(vars(matrix._KEPT)) == kept
    assert average_kernel(torch.ones(2, 1, 10, 10), (3, 3), 3).flatten()[0] == pytest.approx(1)


def test_a_trace_has_the_product_alone_and_the_right_values() -> None:
    """``torch.jit.trace`` serves fvcore, which counts it; how the matrix came about is no part of a step."""
    weight = torch.randn(2, 1, 7, 7)

    def pool(kernel: Tensor) -> Tensor:
        return pi_resize_kernel(kernel, (3, 3), 2, (1, 1))

    traced = torch.jit.trace(pool, weight)
    operators = str(traced.graph)  # type: ignore[attr-defined]
    assert operators.count("aten::mm(") == 1 and "aten::kron" not in operators
    torch.testing.assert_close(traced(weight), pool(weight))


def test_dynamo_holds_the_matrix() -> None:
    """One graph, without a break, that gives the same kernels and gradients."""
    torch._dynamo.reset()
    weight = torch.randn(2, 1, 9, 9, requires_grad=True)

    def pool(kernel: Tensor) -> Tensor:
        return pi_resize_kernel(kernel, (5, 5), 2, (1, 1)) * linear_kernel(kernel, (5, 5), 2)

    compiled = torch.compile(pool, backend="aot_eager", fullgraph=True)
    expected, found = pool(weight), compiled(weight)
    torch.testing.assert_close(found, expected)
    pi_resize_kernel(torch.randn(1, 1, 9, 11), (5, 5), 2, (1, 1))  # another matrix is nothing to what is compiled
    with torch._dynamo.config.patch(error_on_recompile=True):
        torch.testing.assert_close(compiled(weight), expected)
    gradients = [torch.autograd.grad(result.sum(), weight)[0] for result in (expected, found)]
    torch.testing.assert_close(*gradients)
