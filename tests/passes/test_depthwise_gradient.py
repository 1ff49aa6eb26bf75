"""Depthwise convolutions with gradients by products: the values are torch's, and the gradients but for rounding."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import passes.pooled_calls
from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, build_pair
from passes import depthwise_gradient
from passes.depthwise_gradient import depthwise_conv2d, has_many_taps, is_faster, kernel_gradient

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
double = torch.float64
#: Images, channels and sides from which on products pay.
IMAGES, CHANNELS, SMALL = 64, 12, (8, 8)


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
    assert torch.autograd.gradcheck(function, given, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, given)


def test_many_pairs_of_pixels_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, grad = (random_tensor(3, 5, 6, 6, dtype=double, seed=seed) for seed in range(2))
    arguments = (5, 5), (1, 1), (2, 2), (1, 1)
    whole = kernel_gradient(maps, grad, *arguments)
    calls: list[int] = []
    one = depthwise_gradient._gradient

    def noted(input: Tensor, *given: Any) -> Tensor:
        calls.append(input.shape[1])
        return one(input, *given)

    monkeypatch.setattr(depthwise_gradient, "_gradient", noted)
    for most, parts in ((2 * 36 * 36, [2, 2, 1]), (36, [1] * 5)):
        calls.clear()
        monkeypatch.setattr(depthwise_gradient, "_MOST_PAIRS", most)
        torch.testing.assert_close(kernel_gradient(maps, grad, *arguments), whole, rtol=0, atol=1e-12)
        assert calls == parts


def test_autocast_decides_the_dtype() -> None:
    maps, weight = random_tensor(IMAGES, CHANNELS, *SMALL), trained(CHANNELS, 1, 7, 7, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert is_faster(maps, weight, CHANNELS)
        assert not is_faster(maps.double(), weight, CHANNELS)
        maps.requires_grad_()
        expected = F.conv2d(maps, weight, None, (1, 1), (3, 3), (1, 1), CHANNELS)
        result = depthwise_conv2d(maps, weight, None, (1, 1), (3, 3), (1, 1))
    assert result.dtype is torch.bfloat16
    assert torch.equal(result, expected)
    wanted = torch.autograd.grad(expected.float().square().sum(), [maps, weight])
    found = torch.autograd.grad(result.float().square().sum(), [maps, weight])
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], rtol=0, atol=0.01 * float(wanted[1].abs().max()))
    with torch.autocast("cpu", torch.float16):
        assert not is_faster(maps.detach(), weight, CHANNELS)


def test_a_backward_pass_keeps_the_precision_of_its_forward() -> None:
    maps, weight = random_tensor(16, 3, *SMALL), trained(3, 1, 7, 7, seed=1)
    result = depthwise_conv2d(maps, weight, None, (1, 1), (3, 3), (1, 1)).square().sum()
    (outside,) = torch.autograd.grad(result, weight, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (inside,) = torch.autograd.grad(result, weight)
    assert torch.equal(inside, outside)


def test_a_wrong_dtype_is_refused_as_torch_does() -> None:
    given = trained(16, 3, *SMALL), trained(3, 1, 7, 7), trained(3, dtype=double)
    with pytest.raises(RuntimeError, match="should be the same"):
        depthwise_conv2d(*given, (1, 1), (3, 3), (1, 1))


class _Recorded(Tensor):
    pass


def test_where_it_is_not_faster_or_not_known_the_convolution_is_torchs() -> None:
    weight = trained(CHANNELS, 1, 7, 7)
    maps = random_tensor(IMAGES, CHANNELS, *SMALL)
    assert is_faster(maps, weight, CHANNELS)
    assert has_many_taps(F.conv2d, weight)
    for other in (trained(3, 3, 7, 7), trained(3, 1, 3, 3)):
        assert not has_many_taps(F.conv2d, other)
    assert not has_many_taps(F.conv1d, weight)
    large = random_tensor(IMAGES, CHANNELS, 14, 14)
    refused: dict[str, tuple[Tensor, Tensor]] = {
        "larger maps": (random_tensor(IMAGES, CHANNELS, 24, 24), weight),
        "large maps, where torch is faster": (large.contiguous(memory_format=torch.channels_last), weight),
        "few images": (random_tensor(4, 32 * CHANNELS, *SMALL), trained(32 * CHANNELS, 1, 7, 7)),
        "little work": (maps[:, :3], trained(3, 1, 7, 7)),
        "several kernels a channel": (maps, trained(2 * CHANNELS, 1, 7, 7)),
        "frozen kernels": (maps, weight.detach()),
        "double precision": (maps.double(), trained(CHANNELS, 1, 7, 7, dtype=double)),
        "other precisions": (maps.double(), weight),
        "subclasses": (maps.as_subclass(_Recorded), weight),
        "other devices": (maps.to("meta"), weight.to("meta")),
        "an image without a batch": (maps[0], weight),
    }
    found = {name: is_faster(input, kernel, input.shape[-3]) for name, (input, kernel) in refused.items()}
    assert found == dict.fromkeys(refused, False)
    assert is_faster(large, weight, CHANNELS)
    wide = trained(CHANNELS, 1, 15, 15)
    few = random_tensor(16, CHANNELS, 16, 16).contiguous(memory_format=torch.channels_last)
    assert is_faster(few, wide, CHANNELS) and not is_faster(few, wide[..., :13, :13], CHANNELS)
    with torch.no_grad():
        assert not is_faster(maps, weight, CHANNELS)


# In low steps --------------------------------------------------------------------------------------------------------


class Mixer(nn.Module):
    """A depthwise 13×13 convolution on maps of 16×16 or, in low steps, on 8×8: 7×7 if it is pooled."""

    def __init__(self, padding: str | int | tuple[int, int] = "same", taps: int | tuple[int, int] = 13) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 2, 2)
        self.mix = nn.Conv2d(CHANNELS, CHANNELS, taps, padding=padding, groups=CHANNELS)
        self.head = nn.Linear(CHANNELS, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.mix(self.stem(x)))
        return self.head(x.mean((2, 3)))


POOLED, KEPT = LowModeConfig(kernel_transform="bicubic"), LowModeConfig(kernel_ratio=1)
images = random_tensor(IMAGES, 3, 32, 32)


def low_net(model: nn.Module, config: LowModeConfig = POOLED, compile: bool = False) -> LowModeModel:
    return LowModeModel(build_pair(model, images[:2], config), BernoulliSchedule(p=1), compile=compile)


def gradients(model: nn.Module, config: LowModeConfig, compile: bool = False) -> dict[str, Tensor]:
    """Of one low step."""
    net = low_net(model, config, compile)
    net.zero_grad()
    F.cross_entropy(net.run("low", images), torch.arange(IMAGES) % 4).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@contextlib.contextmanager
def noted_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The sides of the maps and kernels whose gradients are products."""
    calls: list[tuple[int, ...]] = []

    def noted(input: Tensor, weight: Tensor, *given: Any) -> Tensor:
        calls.append((*input.shape[2:], *weight.shape[2:]))
        return depthwise_conv2d(input, weight, *given)

    with monkeypatch.context() as patch:
        for user in (passes.pooled_calls, depthwise_gradient):
            patch.setattr(user, "depthwise_conv2d", noted)
        yield calls


def by_torch_alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for user in (passes.pooled_calls, depthwise_gradient):
        monkeypatch.setattr(user, "is_faster", lambda *given: False)
    return monkeypatch


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("model", "config", "expected"),
    [
        (Mixer(), POOLED, [(8, 8, 7, 7)]),
        (Mixer(), KEPT, [(8, 8, 13, 13)]),
        (Mixer((0, 6), (5, 13)), KEPT, [(8, 8, 5, 13)]),
        (Mixer(taps=12), KEPT, []),  # padded by one more pixel on one side
        (Mixer(6, taps=14), POOLED, [(13, 13, 7, 7)]),  # padded by itself, 3 pixels on one side and 2 on the other
    ],
)
def test_low_steps_have_the_gradients_of_torchs_convolutions(
    model: nn.Module,
    config: LowModeConfig,
    expected: list[tuple[int, ...]],
    compile: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with noted_calls(monkeypatch) as calls:
        found = {name: each.clone() for name, each in gradients(model, config, compile).items()}
    assert calls == expected
    by_torch_alone(monkeypatch)
    wanted = gradients(model, config, compile)
    assert found.keys() == wanted.keys() == dict(model.named_parameters()).keys()
    assert all(0 < float(each.abs().sum()) < math.inf for each in found.values())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_evaluation_and_full_steps_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    net = low_net(Mixer())
    with noted_calls(monkeypatch) as calls:
        net.run("full", images).sum().backward()
        with torch.no_grad():
            net.run("low", images)
        net.eval()(images)
    assert calls == []


def test_transforms_of_functions_go_through_low_steps() -> None:
    torch.manual_seed(0)
    net = low_net(Mixer())
    parameters = {name: each.detach().requires_grad_() for name, each in net.named_parameters()}

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


def test_graphs_that_are_saved_hold_torchs_convolution() -> None:
    """Its multiply-adds are counted, and the file needs nothing of this project."""
    low = low_net(Mixer(6), KEPT).ladder.low
    small = images[:, :, ::2, ::2]
    traced = torch.jit.trace(low, small, check_trace=False)
    assert "PythonOp" not in str(traced.graph) and "_convolution" in str(traced.inlined_graph)
    macs = FlopCountAnalysis(low, small).unsupported_ops_warnings(False).by_operator()["conv"]
    assert macs == IMAGES * CHANNELS * (64 * 13 * 13 + 64 * 3 * 4)
    exported = torch.export.export(low, (small,), dynamic_shapes=({0: torch.export.Dim("n", min=2, max=512)},))
    assert any(node.target is torch.ops.aten.conv2d.default for node in exported.graph.nodes)
