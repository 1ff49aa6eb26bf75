"""Downsampling against naive loops in float64, literal answers, borders, dtypes, compilation, wording of errors."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowmode_fx.lowering.downsampling import DOWNSAMPLING_METHODS, downsample, downsampled_sides, gaussian_taps

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]

every_method = pytest.mark.parametrize("method", ["gaussian", "bilinear", "area"])
every_device = pytest.mark.parametrize("device", DEVICES)


def contributions(side: int, ratio: int, method: str, place: int) -> list[tuple[int, float]]:
    """The input pixels of one dimension, and their weights, that make output pixel ``place``: the oracle's rule."""
    scale = side / math.ceil(side / ratio)
    if method == "gaussian":
        sigma = math.sqrt(ratio**2 - 1) / 2
        offsets = range(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1)
        weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in offsets]
        total = sum(weights)
        return [
            (min(max(place * ratio + offset, 0), side - 1), weight / total)
            for offset, weight in zip(offsets, weights, strict=True)
        ]
    if method == "bilinear":
        position = max((place + 0.5) * scale - 0.5, 0.0)
        left = int(position)
        return [(left, 1 - (position - left)), (min(left + 1, side - 1), position - left)]
    first, last = math.floor(place * scale), math.ceil((place + 1) * scale)
    return [(pixel, 1 / (last - first)) for pixel in range(first, last)]


def naive(images: np.ndarray, ratio: int, method: str) -> np.ndarray:
    """(N, C, *spatial) by loops over every output pixel and every product of its contributions."""
    pixels = np.moveaxis(images, (0, 1), (-2, -1))
    sides = images.shape[2:]
    result = np.zeros((*(math.ceil(side / ratio) for side in sides), *images.shape[:2]))
    for index in np.ndindex(*result.shape[:-2]):
        lines = [contributions(side, ratio, method, place) for side, place in zip(sides, index, strict=True)]
        for sources in itertools.product(*lines):
            weight = math.prod(weight for _, weight in sources)
            result[index] += weight * pixels[tuple(pixel for pixel, _ in sources)]
    return np.moveaxis(result, (-2, -1), (0, 1))


@every_method
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equals_naive_loops(method: str, data: st.DataObject) -> None:
    dims = data.draw(st.integers(1, 3), label="dims")
    sides = data.draw(st.tuples(*[st.integers(2, (40, 11, 6)[dims - 1])] * dims), label="sides")
    ratio = data.draw(st.integers(2, min(5, *sides)), label="ratio")
    generator = np.random.default_rng(data.draw(st.integers(0, 99), label="seed"))
    images = generator.normal(size=(2, 3, *sides))
    result = downsample(torch.from_numpy(images), ratio, method)
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), naive(images, ratio, method), rtol=0, atol=1e-12)


def line(*values: float) -> Tensor:
    return torch.tensor([[values]], dtype=torch.float64)


def test_gaussian_of_an_impulse() -> None:
    # exp(-k² / 1.5) for k = -3 … 3, divided by their sum, 2.170758: each output pixel meets one tap of each parity.
    taps = [0.001142, 0.032009, 0.236515, 0.460668, 0.236515, 0.032009, 0.001142]
    assert gaussian_taps(2) == pytest.approx(taps, abs=1e-6)
    even = downsample(line(0, 0, 0, 0, 1, 0, 0, 0, 0), 2)
    assert even[0, 0].tolist() == pytest.approx([0, 0.032009, 0.460668, 0.032009, 0], abs=1e-6)
    odd = downsample(line(0, 0, 0, 1, 0, 0, 0, 0), 2)
    assert odd[0, 0].tolist() == pytest.approx([0.001142, 0.236515, 0.236515, 0.001142], abs=1e-6)


def test_gaussian_keeps_pixels_0_and_ratio_and_so_on() -> None:
    ramp = torch.arange(60, dtype=torch.float64).reshape(1, 1, 60)
    assert downsample(ramp, 3)[0, 0, 3:17].tolist() == pytest.approx([3.0 * place for place in range(3, 17)])


def test_gaussian_takes_the_finest_pattern_away() -> None:
    pattern = torch.tensor([1.0, -1.0]).repeat(32).reshape(1, 1, 64)
    inside = downsample(pattern, 2)[0, 0, 4:-4]
    # The mean of the even taps less that of the odd ones; without the blur each value would be 1.
    assert inside.tolist() == pytest.approx([0.04937] * 24, abs=1e-5)


def test_gaussian_twice_by_2_has_the_variance_of_once_by_4() -> None:
    def variance(ratio: int) -> float:
        taps = gaussian_taps(ratio)
        return sum(tap * (place - len(taps) // 2) ** 2 for place, tap in enumerate(taps))

    assert variance(2) + 4 * variance(2) == pytest.approx(variance(4), rel=0.02)


def test_bilinear_of_a_ramp() -> None:
    assert downsample(line(0, 1, 2, 3, 4, 5), 2, "bilinear")[0, 0].tolist() == [0.5, 2.5, 4.5]
    # Cells of 5 / 3 pixels: their centres less half a pixel are 1/3, 2 and 11/3.
    assert downsample(line(0, 1, 2, 3, 4), 2, "bilinear")[0, 0].tolist() == pytest.approx([1 / 3, 2.0, 11 / 3])


def test_area_of_a_ramp() -> None:
    assert downsample(line(0, 1, 2, 3, 4, 5), 3, "area")[0, 0].tolist() == [1.0, 4.0]
    assert downsample(line(0, 1, 2, 3, 4), 2, "area")[0, 0].tolist() == [0.5, 2.0, 3.5]


@every_method
@given(sides=st.lists(st.integers(1, 12), min_size=1, max_size=3), data=st.data())
@settings(max_examples=40, deadline=None)
def test_constants_stay_and_sides_are_ceilings(method: str, sides: list[int], data: st.DataObject) -> None:
    ratio = data.draw(st.integers(1, min(sides)), label="ratio")
    result = downsample(torch.full((2, 1, *sides), -1.7, dtype=torch.float64), ratio, method)
    expected = tuple(math.ceil(side / ratio) for side in sides)
    assert tuple(result.shape) == (2, 1, *expected)
    assert downsampled_sides(sides, ratio) == expected
    torch.testing.assert_close(result, torch.full_like(result, -1.7), rtol=0, atol=1e-14)


@every_method
def test_an_unbatched_image_is_a_batch_of_one(method: str) -> None:
    image = torch.randn(3, 9, 10)
    unbatched = downsample(image, 2, method, spatial_dims=2)
    assert tuple(unbatched.shape) == (3, 5, 5)
    assert torch.equal(unbatched, downsample(image[None], 2, method)[0])
    # Without the keyword the same tensor is three signals of nine channels.
    assert tuple(downsample(image, 2, method).shape) == (3, 9, 5)


@every_method
def test_images_are_left_alone(method: str) -> None:
    images = torch.randn(2, 3, 8, 8)
    before = images.clone()
    downsample(images, 2, method).add_(1)
    assert torch.equal(images, before)
    assert downsample(images, 1, method) is images


@every_device
@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_float32_rounded_once(dtype: torch.dtype, method: str, device: str) -> None:
    images = torch.randn(2, 3, 9, 8).to(device, dtype)
    result = downsample(images, 2, method)
    assert result.dtype == dtype
    assert result.device == images.device
    assert torch.equal(result, downsample(images.float(), 2, method).to(dtype))
    constant = downsample(torch.full_like(images, 0.3), 2, method)
    assert torch.equal(constant, torch.full_like(constant, 0.3))


@every_device
@every_method
def test_autocast_changes_nothing(method: str, device: str) -> None:
    images = torch.randn(2, 3, 16, 16, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        result = downsample(images, 2, method)
    assert result.dtype == torch.float32
    assert torch.equal(result, downsample(images, 2, method))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@every_method
def test_device_and_host_agree(method: str) -> None:
    images = torch.randn(2, 3, 33, 32)
    torch.testing.assert_close(downsample(images.cuda(), 2, method).cpu(), downsample(images, 2, method))


@every_method
def test_channels_last_stays(method: str) -> None:
    images = torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last)
    result = downsample(images, 2, method)
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, downsample(images.contiguous(), 2, method))


@every_method
def test_compiles_to_one_graph_of_any_size(method: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(downsample, backend="aot_eager", fullgraph=True)
    for shape in [(2, 3, 16, 16), (4, 3, 17, 15), (3, 3, 20, 21)]:
        images = torch.randn(shape)
        torch.testing.assert_close(compiled(images, 2, method), downsample(images, 2, method))


@every_method
def test_gradients_reach_the_images(method: str) -> None:
    images = torch.randn(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: downsample(values, 2, method), images)


def test_methods_are_these() -> None:
    assert DOWNSAMPLING_METHODS == ("gaussian", "bilinear", "area")


@pytest.mark.parametrize(
    ("shape", "arguments", "error", "message"),
    [
        ((1, 3, 8, 8), {"ratio": 0}, ValueError, "ratio=0 is too small; give an int of at least 2 (1 leaves"),
        ((1, 3, 8, 8), {"ratio": 2.0}, TypeError, "ratio=2.0 is of type float; give an int of at least 2"),
        ((1, 3, 8, 8), {"ratio": True}, TypeError, "ratio=True is of type bool; give an int of at least 2"),
        (
            (1, 3, 8, 4), {"ratio": 5}, ValueError,
            "ratio=5 leaves nothing of images with sides (8, 4); give at most 4, the shortest side, or larger images",
        ),
        (
            (1, 3, 8, 8), {"ratio": 2, "method": "nearest"}, ValueError,
            "method='nearest' is unknown; give one of 'gaussian', 'bilinear', 'area'",
        ),
        (
            (8, 8), {"ratio": 2}, ValueError,
            "images of shape (8, 8) do not have spatial_dims=0; give (N, C, *spatial) with 1 to 3 spatial dimensions, "
            "or (C, *spatial) and say how many, such as spatial_dims=2 for (C, H, W)",
        ),
        ((8, 8), {"ratio": 2, "spatial_dims": 2}, ValueError, "images of shape (8, 8) do not have spatial_dims=2;"),
        ((1, 3, 8, 8), {"ratio": 2, "spatial_dims": 1}, ValueError, "images of shape (1, 3, 8, 8) do not have spatial"),
    ],
)  # fmt: skip
def test_wording_of_errors(shape: tuple[int, ...], arguments: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match="^" + re.escape(message)):
        downsample(torch.zeros(shape), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_only_floats_are_taken(dtype: torch.dtype) -> None:
    message = f"images is of type {dtype}; give a tensor of a floating dtype (for uint8: images.float() / 255, and"
    with pytest.raises(TypeError, match="^" + re.escape(message)):
        downsample(torch.zeros(1, 3, 8, 8, dtype=dtype), 2)
    with pytest.raises(TypeError, match=r"^images is of type ndarray; give a tensor of a floating dtype"):
        downsample(np.zeros((1, 3, 8, 8)), 2)  # type: ignore[arg-type]
