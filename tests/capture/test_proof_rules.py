"""Layouts of results by rule, for every operator that has one: they are those of torch, and so are refusals."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from layouts import empty, layout
from torch import Tensor

from lowmode_fx.capture.proof import rules
from lowmode_fx.capture.proof.results import Results
from passes.torch_internals import fake_tensor_mode_without_kernels

pytestmark = pytest.mark.usefixtures("one_thread")
aten = torch.ops.aten
Make = Callable[[torch.dtype], Tensor]

LAYOUTS: dict[str, Make] = {
    "row-major": lambda dtype: empty(2, 3, 4, 6, dtype=dtype),
    "channels last": lambda dtype: empty(2, 3, 4, 6, dtype=dtype, memory_format=torch.channels_last),
    "one pixel": lambda dtype: empty(2, 3, 1, 1, dtype=dtype),
    "one channel": lambda dtype: empty(2, 1, 4, 6, dtype=dtype),
    "expanded": lambda dtype: empty(2, 3, 1, 1, dtype=dtype).expand(2, 3, 4, 6),
    "one image for all": lambda dtype: empty(1, 3, 4, 6, dtype=dtype).expand(2, 3, 4, 6),
    "with gaps": lambda dtype: empty(2, 3, 4, 12, dtype=dtype)[..., ::2],
    "turned": lambda dtype: empty(2, 3, 6, 4, dtype=dtype).transpose(2, 3),
    "overlapping": lambda dtype: empty(200, dtype=dtype).as_strided((2, 3, 4, 6), (30, 10, 3, 1)),
    "a vector": lambda dtype: empty(6, dtype=dtype),
    "a number": lambda dtype: empty(dtype=dtype),
    "nothing": lambda dtype: empty(2, 3, 0, 6, dtype=dtype),
    "of doubles": lambda _: empty(2, 3, 4, 6, dtype=torch.float64),
}
DIMS: tuple[list[int] | None, ...] = ([2, 3], [-1], [0, -2], [2, -2], [4], [], None)


def check(func: Any, make: Callable[[], tuple[Any, ...]]) -> bool:
    """Whether a rule answers. A result is asked for twice, as it is when its layout is known."""
    mode = fake_tensor_mode_without_kernels()
    results = Results(mode)
    with mode:
        ruled = rules.by_rule(func, make()) is not None
        try:
            expected = layout(func(*make()))
        except (RuntimeError, IndexError) as error:
            assert not ruled, f"torch refuses: {error}"
            return False
        for _ in range(2):
            args = make()
            result = results.of(func, args, {}, "of this kind")
            assert layout(result) == expected
            assert (result is args[0]) == (func in rules.IN_PLACE)
    return ruled


def calls(func: Any, dtype: torch.dtype) -> Iterator[Callable[[], tuple[Any, ...]]]:
    """Calls of a pointwise operator or a reduction with tensors of each layout, alone and beside others."""
    if func in rules.REDUCTIONS:
        for make, dims, keep in itertools.product(LAYOUTS.values(), DIMS, (True, False)):
            yield lambda make=make, dims=dims, keep=keep: (make(dtype), dims, keep)
        return
    kinds = [str(argument.type) for argument in func._schema.arguments if not argument.has_default_value()]
    numbers: list[tuple[Any, ...]] = [(3,), (0.5,), (True,), (2j,)] if kinds[-1] == "number" else [()]
    usual = LAYOUTS["row-major"]
    for make, number in itertools.product(LAYOUTS.values(), numbers):
        pairs = [(make, usual), (usual, make), (make, make)] if kinds.count("Tensor") == 2 else [(make,)]
        for makers in pairs:
            yield lambda makers=makers, number=number: (*(each(dtype) for each in makers), *number)


@pytest.mark.parametrize("func", [*rules.POINTWISE, *rules.IN_PLACE, *rules.REDUCTIONS], ids=str)
def test_results_by_rule_are_those_of_torch(func: Any) -> None:
    answered = [check(func, make) for make in calls(func, torch.float32)]
    assert any(answered) and not all(answered)


@pytest.mark.parametrize("func", [aten.add.Tensor, aten.relu_.default, aten.sum.dim_IntList], ids=str)
def test_whole_numbers_have_no_rules(func: Any) -> None:
    for make in calls(func, torch.int64):
        if not any(isinstance(each, Tensor) and each.is_floating_point() for each in make()):
            assert not check(func, make)


@pytest.mark.parametrize("func", (aten.add.Tensor, aten.mul.Tensor, aten.add_.Tensor), ids=str)
def test_a_second_argument_may_be_a_number(func: Any) -> None:
    for make in LAYOUTS.values():
        for number in (3, 0.5, True, 2j):
            check(func, lambda: (make(torch.float32), number))  # noqa: B023


SHAPES = {
    "3x3": ((2, 4, 8, 7), (6, 4, 3, 3), 1),
    "depthwise": ((2, 4, 8, 7), (4, 1, 5, 3), 4),
    "1x1": ((2, 4, 8, 7), (6, 4, 1, 1), 1),
    "one pixel": ((2, 4, 1, 1), (6, 4, 1, 1), 1),
    "one channel": ((2, 1, 8, 7), (1, 1, 3, 3), 1),
    "larger than the images": ((2, 4, 2, 2), (6, 4, 5, 5), 1),
    "of other channels": ((2, 4, 8, 7), (6, 3, 3, 3), 1),
    "of a wrong number of groups": ((2, 4, 8, 7), (5, 2, 3, 3), 2),
    "along one side": ((2, 4, 8), (6, 4, 3), 1),
    "without a batch": ((4, 8, 7), (6, 4, 3, 3), 1),
}
FORMATS = (torch.contiguous_format, torch.channels_last)


def of(shape: tuple[int, ...], memory_format: torch.memory_format, dtype: torch.dtype) -> Tensor:
    return empty(*shape, dtype=dtype, memory_format=memory_format if len(shape) == 4 else torch.contiguous_format)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_convolutions_by_rule_are_those_of_torch(name: str, transposed: bool) -> None:
    images_shape, weight_shape, groups = SHAPES[name]
    count = len(weight_shape) - 2
    answered = []
    for memory_format, other, dtype, stride, dilation, biased in itertools.product(
        FORMATS, FORMATS, (torch.float32, torch.bfloat16), (1, 2), (1, 2), (None, (), (5,), (weight_shape[0],))
    ):
        options = ([stride] * count, [1] * count, [dilation] * count, transposed, [0] * count, groups)

        def make() -> tuple[Any, ...]:
            images, weight = of(images_shape, memory_format, dtype), of(weight_shape, other, dtype)  # noqa: B023
            return images, weight, None if biased is None else empty(*biased, dtype=dtype), *options  # noqa: B023

        answered.append(check(aten.convolution.default, make))
    fits = name in ("3x3", "depthwise", "1x1", "one pixel", "one channel")
    assert any(answered) == (fits and not transposed)


@pytest.mark.parametrize("name", ["3x3", "depthwise", "1x1", "one pixel", "one channel"])
def test_gradients_of_convolutions_by_rule_are_those_of_torch(name: str) -> None:
    images_shape, weight_shape, groups = SHAPES[name]
    answered = []
    for memory_format, other, dtype, stride, bias in itertools.product(
        FORMATS, FORMATS, (torch.float32, torch.bfloat16), (1, 2), (None, [weight_shape[0]])
    ):
        options = ([stride] * 2, [1, 1], [1, 1], False, [0, 0], groups)
        for mask in ([True, True, bias is not None], [False, True, False], [True, False, False]):

            def make() -> tuple[Any, ...]:
                images, weight = of(images_shape, memory_format, dtype), of(weight_shape, other, dtype)  # noqa: B023
                gradient = torch.empty_like(aten.convolution.default(images, weight, None, *options))  # noqa: B023
                return gradient, images, weight, bias, *options, mask  # noqa: B023

            answered.append(check(aten.convolution_backward.default, make))
    assert any(answered)


BATCH_NORMS = list(
    itertools.product(
        [(2, 3, 4, 5), (2, 3), (2, 3, 7)],
        [torch.float32, torch.bfloat16],
        [torch.contiguous_format, torch.channels_last],
        [True, False],
    )
)


@pytest.mark.parametrize(("shape", "dtype", "memory_format", "training"), BATCH_NORMS)
def test_batch_norms_by_rule_are_those_of_torch(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format, training: bool
) -> None:
    if memory_format is torch.channels_last and len(shape) != 4:
        memory_format = torch.contiguous_format
    mode = fake_tensor_mode_without_kernels()
    results = Results(mode)
    with mode:
        images, of_channels = empty(*shape, dtype=dtype, memory_format=memory_format), empty(3)
        for weight in (of_channels, None, of_channels.to(dtype)):
            args = (images, weight, weight, of_channels, of_channels, training, 0.1, 1e-5)
            expected = aten.native_batch_norm.default(*args)
            found = results.of(aten.native_batch_norm.default, args, {}, ("forward", str(weight)))
            assert layout(found) == layout(expected)
            saved = expected[1:]
            for mask in ([True, True, True], [True, False, False]):
                mask = [mask[0], *(each and weight is not None for each in mask[1:])]
                back = (images, images, weight, of_channels, of_channels, *saved, training, 1e-5, mask)
                expected_back = aten.native_batch_norm_backward.default(*back)
                found = results.of(aten.native_batch_norm_backward.default, back, {}, ("back", str(weight), str(mask)))
                assert layout(found) == layout(expected_back)
