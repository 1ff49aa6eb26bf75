"""Models run eagerly in low-mode, held to numbers worked out by hand and to the naive conv."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracle import EagerLowMode, RecordConvShapes, buffers_restored
from oracle_kernels import naive_conv, naive_pool_kernel, pooled_padding
from torch import Tensor, nn


def row(*values: float) -> Tensor:
    """One 1-D kernel or signal of shape (1, 1, K)."""
    return torch.tensor([[values]], dtype=torch.float64)


class TwoConvs(nn.Module):
    """A stem of one tap that multiplies by 2, then the taps 1, 2, 3, 4, 5."""

    def __init__(self, padding: int | str) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 1, 3, padding=1, bias=False, dtype=torch.float64)
        self.conv = nn.Conv1d(1, 1, 5, padding=padding, bias=False, dtype=torch.float64)
        self.stem.weight.data = row(0, 2, 0)
        self.conv.weight.data = row(1, 2, 3, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.stem(x).relu())


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (2, [27.0, 47.0, 67.0, 87.0, 107.0, 57.0]),
        ("same", [27.0, 47.0, 67.0, 87.0, 107.0, 57.0]),
        (0, [67.0, 87.0]),
        ("valid", [67.0, 87.0]),
    ],
)
def test_eager_low_mode_pools_all_but_the_stem(padding: int | str, expected: list[float]) -> None:
    """Ŵ = (1.5, 3.5, 5) slides over twice 1 … 6: first 3.5 · 2 + 5 · 4 = 27, then 1.5 · 2 + 3.5 · 4 + 5 · 6 = 47."""
    model = TwoConvs(padding)
    with EagerLowMode(2) as mode:
        result = model(row(1, 2, 3, 4, 5, 6))
    assert result.flatten().tolist() == expected
    (pooled,) = mode.pooled_kernels.values()
    assert pooled.tolist() == [[[1.5, 3.5, 5.0]]]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [
        ((5, 5), (1, 1), (2, 2), (1, 1), 1),
        ((5, 3), (2, 1), (0, 1), (1, 2), 2),
        ((4, 7), (3, 2), (1, 0), (1, 1), 1),
        ((2, 6), (1, 2), (0, 3), (2, 1), 4),
    ],
)
def test_eager_low_mode_is_the_naive_conv_with_the_pooled_kernel(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stem = nn.Conv2d(1, 4, 1, dtype=torch.float64)
        conv = nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups, dtype=torch.float64)
        images = torch.randn(1, 1, 9, 11, dtype=torch.float64)
    with EagerLowMode(2):
        result = conv(stem(images))
    pooled = naive_pool_kernel(conv.weight, 2)
    pairs = tuple((side, side) for side in padding)
    pairs = pooled_padding(pairs, kernel, tuple(pooled.shape[2:]), dilation)
    expected = naive_conv(
        stem(images), pooled, conv.bias, stride=stride, padding=pairs, dilation=dilation, groups=groups
    )
    torch.testing.assert_close(result, expected)
    assert result.shape == conv(stem(images)).shape


def test_eager_low_mode_collects_the_gradient_of_the_pooled_kernel() -> None:
    model = TwoConvs(0)
    with EagerLowMode(2) as mode:
        model(row(1, 2, 3, 4, 5, 6)).sum().backward()
    pooled = mode.pooled_kernels[id(model.conv.weight)]
    assert pooled.grad is not None and pooled.grad.tolist() == [[[10.0, 14.0, 18.0]]]
    assert model.conv.weight.grad is None
    with EagerLowMode(2, leaves=False):
        model(row(1, 2, 3, 4, 5, 6)).sum().backward()
    assert model.conv.weight.grad is not None and model.conv.weight.grad.tolist() == [[[5.0, 5.0, 7.0, 7.0, 18.0]]]


def test_eager_low_mode_moves_the_taps_of_a_kernel_that_stays_as_large() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Conv1d(1, 1, 3, padding=1), nn.Conv1d(1, 1, 1)).double()
    with EagerLowMode(2, rounding="cover", transform="linear") as mode:
        result = model(row(1, 2, 3, 4))
    stem, conv, last = model
    moved = conv.weight @ torch.tensor([[0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(result, last(F.conv1d(stem(row(1, 2, 3, 4)), moved, conv.bias, padding=1)))
    assert set(mode.pooled_kernels) == {id(conv.weight)}


@pytest.mark.parametrize(("ratio", "transform"), [(2, "avg"), (1, "linear")])
def test_eager_low_mode_leaves_other_kernels_that_stay_as_large(ratio: int, transform: str) -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Conv1d(1, 1, 3))
    with EagerLowMode(ratio, rounding="cover", transform=transform) as mode:
        model(torch.randn(1, 1, 5))
    assert not mode.pooled_kernels


def test_eager_low_mode_never_takes_a_depthwise_conv_to_one_tap() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 5, groups=4))
    with EagerLowMode(2) as mode:
        assert model(torch.randn(1, 2, 9, 9)).shape == (1, 4, 3, 3)
    assert set(mode.pooled_kernels) == {id(model[2].weight)}


def test_eager_low_mode_keeps_convs_without_overlap() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 2, stride=2), nn.Conv2d(4, 4, (1, 3), stride=(1, 2)))
    with EagerLowMode(2) as mode:
        assert model(torch.randn(1, 2, 8, 8)).shape == (1, 4, 4, 1)
    assert set(mode.pooled_kernels) == {id(model[2].weight)}


def test_eager_low_mode_pools_the_stem_and_patchifying_convs_with_all() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 2, stride=2), nn.Conv2d(4, 4, 3, groups=4))
    with EagerLowMode(2, pool_convs="all") as mode:
        assert model(torch.randn(1, 2, 8, 8)).shape == (1, 4, 1, 1)
    assert set(mode.pooled_kernels) == {id(model[0].weight), id(model[1].weight)}


@pytest.mark.parametrize("drop_maxpools", ["none", "all"])
def test_eager_low_mode_drops_maxpools(drop_maxpools: str) -> None:
    model = nn.Sequential(nn.MaxPool1d(2), nn.MaxPool1d(3, 1))
    with EagerLowMode(2, drop_maxpools=drop_maxpools):
        result = model(row(1, 2, 3, 4, 5, 6))
    assert result.flatten().tolist() == ([6.0] if drop_maxpools == "none" else [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])


def test_eager_low_mode_keeps_the_size_of_a_transposed_conv() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.ConvTranspose1d(1, 1, 3, 1, 1, bias=False)).double()
    model[0].weight.data = row(1)
    model[1].weight.data = row(1, 2, 6)
    with EagerLowMode(2):
        assert model(row(1, 2, 3)).tolist() == [[[3.0, 6.0, 9.0]]]


def test_eager_low_mode_keeps_a_transposed_conv_that_would_leave_holes() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.ConvTranspose1d(1, 1, 3, 2), nn.ConvTranspose1d(1, 1, 5, 2, 2, 1))
    with EagerLowMode(2) as mode:
        assert model(torch.randn(1, 1, 3)).shape == (1, 1, 14)
    assert set(mode.pooled_kernels) == {id(model[2].weight)}


def test_buffers_restored() -> None:
    model = nn.BatchNorm1d(2)
    with buffers_restored(model):
        model(torch.randn(4, 2))
        assert model.num_batches_tracked == 1
    assert model.num_batches_tracked == 0
    assert model.running_mean is not None and model.running_mean.tolist() == [0.0, 0.0]


def test_record_conv_shapes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 5, 2, stride=2, padding=1))
    with RecordConvShapes() as record:
        model(torch.randn(1, 3, 8, 6))
    assert record.shapes == [(1, 2, 6, 4), (1, 5, 4, 3)]
