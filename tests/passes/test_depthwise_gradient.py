"""Depthwise convolutions with gradients by products: the values are torch's, and the gradients but for rounding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import passes.pooled_calls
from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, build_pair
from passes.depthwise_gradient import depthwise_conv2d, has_many_taps, is_faster, kernel_gradient

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
double = torch.float64
SMALL = (8, 8)


def random_tensor(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def trained(*shape: int, **options: Any) -> Tensor:
    return random_tensor(*shape, **options).requires_grad_()


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    sides=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    stride=pairs,
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dilation=pairs,
    channels_last=st.booleans(),
)
@quick
def test_the_gradient_of_any_kernel_is_torchs(
    sides: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    channels_last: bool,
) -> None:
    if any(
        side + 2 * around < spacing * (taps - 1) + 1
        for side, around, spacing, taps in zip(sides, padding, dilation, kernel, strict=True)
    ):
        return
    maps, weight = random_tensor(3, 2, *sides, dtype=double), trained(2, 1, *kernel, dtype=double, seed=1)
    if channels_last:
        maps = maps.contiguous(memory_format=torch.channels_last)
    result = F.conv2d(maps, weight, None, stride, padding, dilation, 2)
    grad = random_tensor(*result.shape, dtype=double, seed=2)
    result.backward(grad)
    found = kernel_gradient(maps, grad, kernel, stride, padding, dilation)
    torch.testing.assert_close(found, weight.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_other_gradients_are_torchs_own(bias: bool) -> None:
    maps, weight = trained(16, 3, *SMALL), trained(3, 1, 7, 7, seed=1)
    column = trained(3, seed=2) if bias else None
    given = [each for each in (maps, column) if each is not None]
    expected = F.conv2d(maps, weight, column, (1, 1), (3, 3), (1, 1), 3)
    grad = random_tensor(*expected.shape, seed=3)
    wanted = torch.autograd.grad(expected, [*given, weight], grad)
    result = depthwise_conv2d(maps, weight, column, (1, 1), (3, 3), (1, 1))
    assert torch.equal(result, expected)
    found = torch.autograd.grad(result, [*given, weight], grad)
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1:], wanted[1:], rtol=1e-5, atol=1e-4)


def test_first_and_second_derivatives_are_those_of_differences() -> None:
    given = trained(2, 2, 3, 3, dtype=double), trained(2, 1, 3, 3, dtype=double, seed=1), trained(2, dtype=double)
    function = lambda *given: depthwise_conv2d(*given, (1, 1), (1, 1), (1, 1))  # noqa: E731
    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


def test_autocast_decides_the_dtype() -> None:
    maps, weight = trained(16, 3, *SMALL), trained(3, 1, 7, 7, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert is_faster(maps.detach(), weight, 3)
        expected = F.conv2d(maps, weight, None, (1, 1), (3, 3), (1, 1), 3)
        result = depthwise_conv2d(maps, weight, None, (1, 1), (3, 3), (1, 1))
        assert not is_faster(maps.detach().double(), weight, 3)
    assert result.dtype is torch.bfloat16
    assert torch.equal(result, expected)
    wanted = torch.autograd.grad(expected.float().square().sum(), [maps, weight])
    found = torch.autograd.grad(result.float().square().sum(), [maps, weight])
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], rtol=0, atol=0.01 * float(wanted[1].abs().max()))


class _Recorded(Tensor):
    pass


def test_where_it_is_not_faster_or_not_known_the_convolution_is_torchs() -> None:
    weight = trained(3, 1, 7, 7)
    maps = random_tensor(16, 3, *SMALL)
    assert is_faster(maps, weight, 3)
    assert has_many_taps(F.conv2d, weight)
    for other in (trained(3, 3, 7, 7), trained(3, 1, 3, 3)):
        assert not has_many_taps(F.conv2d, other)
    assert not has_many_taps(F.conv1d, weight)
    refused: dict[str, tuple[Tensor, Tensor, int]] = {
        "large maps": (random_tensor(16, 3, 16, 16), weight, 3),
        "few images": (random_tensor(4, 3, *SMALL), weight, 3),
        "several kernels a channel": (maps, trained(6, 1, 7, 7), 3),
        "frozen kernels": (maps, random_tensor(3, 1, 7, 7), 3),
        "double precision": (maps.double(), trained(3, 1, 7, 7, dtype=double), 3),
        "other precisions": (maps.double(), weight, 3),
        "subclasses": (maps.as_subclass(_Recorded), weight, 3),
        "other devices": (maps.to("meta"), weight.to("meta"), 3),
        "an image without a batch": (maps[0], weight, 3),
    }
    assert {name: is_faster(*given) for name, given in refused.items()} == dict.fromkeys(refused, False)
    with torch.no_grad():
        assert not is_faster(maps, weight, 3)


# In low steps --------------------------------------------------------------------------------------------------------


class Mixer(nn.Module):
    """A depthwise 13×13 convolution on maps of 16×16 or, in low steps, 7×7 on 8×8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 2, 2)
        self.mix = nn.Conv2d(6, 6, 13, padding="same", groups=6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + F.gelu(self.mix(x))).mean((2, 3)))


def gradients(compile: bool, monkeypatch: pytest.MonkeyPatch | None = None) -> dict[str, Tensor]:
    """Of one low step; with a ``monkeypatch``, by torch's convolutions alone."""
    if monkeypatch is not None:
        monkeypatch.setattr(passes.pooled_calls, "is_faster", lambda *given: False)
    torch.manual_seed(0)
    model, images = Mixer(), random_tensor(16, 3, 32, 32)
    config = LowModeConfig(kernel_transform="bicubic")
    net = LowModeModel(build_pair(model, images[:2], config), BernoulliSchedule(p=1), compile=compile)
    F.cross_entropy(net.run("low", images), torch.arange(16) % 4).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_low_steps_have_the_gradients_of_torchs_convolutions(compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    right = passes.pooled_calls.depthwise_conv2d

    def noted(input: Tensor, weight: Tensor, *given: Any) -> Tensor:
        calls.append((*input.shape[2:], *weight.shape[2:]))
        return right(input, weight, *given)

    monkeypatch.setattr(passes.pooled_calls, "depthwise_conv2d", noted)
    found = gradients(compile)
    assert calls == [(8, 8, 7, 7)]
    wanted = gradients(compile, monkeypatch)
    assert found.keys() == wanted.keys() == dict(Mixer().named_parameters()).keys()
    assert all(math.isfinite(float(each.abs().sum())) and each.abs().sum() > 0 for each in found.values())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_transforms_of_functions_go_through_low_steps() -> None:
    torch.manual_seed(0)
    model, images = Mixer(), random_tensor(16, 3, 32, 32)
    net = LowModeModel(build_pair(model, images[:2]), BernoulliSchedule(p=1), compile=False)
    parameters = {name: each.detach() for name, each in net.named_parameters()}

    class Run(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: Tensor) -> Tensor:
            return self.net.run("low", images).square().sum()

    def loss(given: dict[str, Tensor]) -> Tensor:
        result: Tensor = torch.func.functional_call(
            Run(), {f"net.{name}": each for name, each in given.items()}, images
        )
        return result

    slopes = torch.func.grad(loss)(parameters)
    directions = {name: random_tensor(*each.shape, seed=5) for name, each in parameters.items()}
    _, along = torch.func.jvp(loss, (parameters,), (directions,))
    expected = sum((slopes[name] * directions[name]).sum() for name in slopes)
    torch.testing.assert_close(along, expected, rtol=1e-3, atol=1e-3)
