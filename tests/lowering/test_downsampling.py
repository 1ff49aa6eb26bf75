"""Downsampling against naive loops in float64, literal answers, borders, dtypes, compilation, wording of errors."""

import itertools
import math
import pickle
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from lowmode_fx.lowering.downsampling import DOWNSAMPLING_METHODS, downsample, downsampled_sides
from lowmode_fx.lowering.resampling import gaussian_taps

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12)

every_method = pytest.mark.parametrize("method", ["gaussian", "bilinear", "area"])
every_device = pytest.mark.parametrize("device", DEVICES)


# Against naive loops --------------------------------------------------------------------------------------------------


def contributions(side: int, low: int, ratio: Fraction, method: str, place: int) -> list[tuple[int, float]]:
    """The input pixels of one dimension, and their weights, that make output pixel ``place``: the oracle's rule."""
    scale, whole = Fraction(side, low), ratio.denominator == 1
    if method == "gaussian":
        sigma = math.sqrt(ratio**2 - 1) / 2
        if sigma == 0:
            return [(place, 1.0)]
        centre, reach = ratio * place, math.ceil(3 * sigma)
        near = range(math.ceil(centre - reach), math.floor(centre + reach) + 1)
        found = [(min(max(at, 0), side - 1), math.exp(-(float(at - centre) ** 2) / (2 * sigma**2))) for at in near]
    elif method == "bilinear" and (whole or ratio <= 2):
        position = max((place + Fraction(1, 2)) * scale - Fraction(1, 2), Fraction(0))
        left = math.floor(position)
        found = [(left, float(1 - (position - left))), (min(left + 1, side - 1), float(position - left))]
    elif method == "bilinear":
        distances = [abs(at + Fraction(1, 2) - (place + Fraction(1, 2)) * scale) for at in range(side)]
        found = [(at, float(1 - distance / scale)) for at, distance in enumerate(distances) if distance < scale]
    elif whole:
        found = [(at, 1.0) for at in range(math.floor(place * scale), math.ceil((place + 1) * scale))]
    else:
        inside = [min((place + 1) * scale, Fraction(at + 1)) - max(place * scale, Fraction(at)) for at in range(side)]
        found = [(at, float(part)) for at, part in enumerate(inside) if part > 0]
    total = math.fsum(weight for _, weight in found)
    return [(at, weight / total) for at, weight in found]


def naive(images: np.ndarray, ratios: Sequence[Fraction], low: Sequence[int], method: str) -> np.ndarray:
    """(N, C, *spatial) by loops over every output pixel and every product of its contributions."""
    pixels = np.moveaxis(images, (0, 1), (-2, -1))
    sides = images.shape[2:]
    result = np.zeros((*low, *images.shape[:2]))
    for index in np.ndindex(*low):
        lines = [contributions(*dim, method, place) for *dim, place in zip(sides, low, ratios, index, strict=True)]
        for sources in itertools.product(*lines):
            weight = math.prod(weight for _, weight in sources)
            result[index] += weight * pixels[tuple(pixel for pixel, _ in sources)]
    return np.moveaxis(result, (-2, -1), (0, 1))


def ceilings(sides: Sequence[int], ratios: Sequence[Fraction]) -> tuple[int, ...]:
    return tuple(math.ceil(side / ratio) for side, ratio in zip(sides, ratios, strict=True))


#: Few phases (4/3, 5/2) and many (13/11, 30/29): both ways to work the Gaussian out.
FRACTIONS = [Fraction(text) for text in ("4/3", "3/2", "5/4", "7/4", "5/2", "7/3", "13/11", "30/29", "29/9")]


@st.composite
def random_images(draw: st.DrawFn) -> np.ndarray:
    """(2, 3, *spatial), small enough for the naive loops."""
    dims = draw(st.integers(1, 3))
    sides = draw(st.tuples(*[st.integers(2, (40, 11, 6)[dims - 1])] * dims))
    return np.random.default_rng(draw(st.integers(0, 99))).normal(size=(2, 3, *sides))


def assert_equals_naive(images: np.ndarray, ratios: Sequence[Fraction], low: Any, method: str, **how: Any) -> None:
    result = downsample(torch.from_numpy(images), method=method, **how)
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), naive(images, ratios, low, method), rtol=0, atol=1e-12)


@every_method
@settings(max_examples=40, deadline=None)
@given(images=random_images(), data=st.data())
def test_whole_ratios_equal_naive_loops(method: str, images: np.ndarray, data: st.DataObject) -> None:
    sides = images.shape[2:]
    ratio = data.draw(st.integers(2, min(5, *sides)), label="ratio")
    ratios = [Fraction(ratio)] * len(sides)
    assert_equals_naive(images, ratios, ceilings(sides, ratios), method, ratio=ratio)


@every_method
@settings(max_examples=60, deadline=None)
@given(images=random_images(), data=st.data())
def test_any_ratio_of_each_side_equals_naive_loops(method: str, images: np.ndarray, data: st.DataObject) -> None:
    sides = images.shape[2:]
    fitting = [[Fraction(1), Fraction(2), *(each for each in FRACTIONS if each <= side)] for side in sides]
    ratios = data.draw(st.tuples(*map(st.sampled_from, fitting)), label="ratios")
    assert_equals_naive(images, ratios, ceilings(sides, ratios), method, ratio=ratios)


@every_method
@settings(max_examples=60, deadline=None)
@given(images=random_images(), data=st.data())
def test_any_low_sides_equal_naive_loops(method: str, images: np.ndarray, data: st.DataObject) -> None:
    sides = images.shape[2:]
    low = data.draw(st.tuples(*[st.integers(1, side) for side in sides]), label="low")
    ratios = [Fraction(side, short) for side, short in zip(sides, low, strict=True)]
    assert_equals_naive(images, ratios, low, method, sides=low)


@every_method
def test_a_side_that_the_multiple_moves_has_its_own_ratio(method: str) -> None:
    images = np.random.default_rng(0).normal(size=(1, 2, 18, 16))
    # ⌈18 / 2⌉ = 9 becomes 8, a ratio of 9/4; 8 is a multiple of 4 already, and keeps the ratio 2.
    ratios = [Fraction(9, 4), Fraction(2)]
    assert_equals_naive(images, ratios, (8, 8), method, ratio=2, size_multiple=4)


def test_one_pixel_less_than_many() -> None:
    """The Gaussian is then far narrower than the distance to the nearest pixel, and its weights underflow."""
    images = torch.arange(4000, dtype=torch.float64).reshape(1, 1, 4000)
    found = downsample(images, sides=(3999,))[0, 0]
    places = torch.arange(3999, dtype=torch.float64) * (4000 / 3999)
    torch.testing.assert_close(found, places, rtol=0, atol=0.5)


# Whole ratios stay bit for bit ----------------------------------------------------------------------------------------


def frozen(images: Tensor, ratio: int, method: str) -> Tensor:
    """Whole ratios as they were before there were others."""
    dims = images.ndim - 2
    sides = [-(-side // ratio) for side in images.shape[2:]]
    if method != "gaussian":
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[dims] if method == "bilinear" else "area"
        return F.interpolate(images, size=sides, mode=mode)
    sigma = 0.5 * math.sqrt(ratio**2 - 1)
    radius = math.ceil(3 * sigma)
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    taps = [weight / math.fsum(weights) for weight in weights]
    images = F.pad(images, [radius] * (2 * dims), mode="replicate")
    for dim, side in enumerate(sides, start=2):
        span = ratio * (side - 1) + 1
        cut = (slice(None),) * dim
        slices = [images.narrow(dim, start, span)[(*cut, slice(None, None, ratio))] for start in range(len(taps))]
        images = slices[0] * taps[0]
        for tap, values in zip(taps[1:], slices[1:], strict=True):
            images = torch.add(images, values, alpha=tap)
    return images


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3, 37), (2, 3, 32, 32), (2, 3, 17, 16), (2, 1, 7, 9, 8)])
def test_whole_ratios_are_bit_for_bit_what_they_were(shape: Sequence[int], dtype: torch.dtype, method: str) -> None:
    images = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for ratio in range(2, min(8, *shape[2:]) + 1):
        expected = frozen(images, ratio, method)
        dims = len(shape) - 2
        for spelled in (ratio, float(ratio), Fraction(ratio), str(ratio), (ratio,) * dims):
            assert torch.equal(downsample(images, spelled, method), expected)
        divisible = all(side % ratio == 0 for side in shape[2:])
        if divisible:
            assert torch.equal(downsample(images, method=method, sides=[side // ratio for side in shape[2:]]), expected)


# Literally ------------------------------------------------------------------------------------------------------------


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


def test_gaussian_of_an_impulse_by_four_thirds() -> None:
    # exp(-18 d² / 7) at the distances d, over their sums: 1.152921 on a pixel, 1.081518 a third of the way to the next.
    on, between = [0.000030, 0.066289, 0.867362, 0.066289, 0.000030], [0.009564, 0.694836, 0.294870, 0.000731]
    assert gaussian_taps(4 / 3) == pytest.approx(on, abs=1e-6)
    assert gaussian_taps("4/3", 1 / 3) == pytest.approx(between, abs=1e-6)
    assert gaussian_taps(Fraction(4, 3), 2 / 3) == pytest.approx(between[::-1], abs=1e-6)
    # Output pixels lie on 0, 4/3, 8/3, 4, 16/3, 20/3 and 8.
    found = downsample(line(0, 0, 0, 0, 1, 0, 0, 0, 0), "4/3")[0, 0].tolist()
    assert found == pytest.approx([0, 0, 0.009564, 0.867362, 0.009564, 0, 0], abs=1e-6)


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


def test_bilinear_of_a_ramp_by_fractions() -> None:
    # Cells of 4/3 pixels: their centres less half a pixel are 1/6, 3/2 and 17/6.
    assert downsample(line(0, 1, 2, 3), 4 / 3, "bilinear")[0, 0].tolist() == pytest.approx([1 / 6, 1.5, 17 / 6])
    # Cells of 5/2: pixels 0.75, 0.25, 1.25 and 2.25 from the first centre weigh 0.7, 0.9, 0.5 and 0.1.
    found = downsample(line(0, 1, 2, 9, 100), 2.5, "bilinear")[0, 0].tolist()
    assert found[0] == pytest.approx((0.9 * 1 + 0.5 * 2 + 0.1 * 9) / 2.2)


def test_antialiasing_is_that_of_torch() -> None:
    images = torch.randn(2, 3, 30, 29, dtype=torch.float64)
    expected = F.interpolate(images, size=(12, 10), mode="bilinear", antialias=True)
    torch.testing.assert_close(downsample(images, (2.5, 2.9), "bilinear"), expected, rtol=0, atol=1e-14)


def test_area_of_a_ramp() -> None:
    assert downsample(line(0, 1, 2, 3, 4, 5), 3, "area")[0, 0].tolist() == [1.0, 4.0]
    assert downsample(line(0, 1, 2, 3, 4), 2, "area")[0, 0].tolist() == [0.5, 2.0, 3.5]
    # Cells of 4/3 pixels: 3/4 and 1/4 of the first two, half and half of the middle ones.
    assert downsample(line(0, 1, 2, 3), 4 / 3, "area")[0, 0].tolist() == pytest.approx([0.25, 1.5, 2.75])


# Sides ----------------------------------------------------------------------------------------------------------------


@every_method
@given(sides=st.lists(st.integers(1, 12), min_size=1, max_size=3), data=st.data())
@settings(max_examples=40, deadline=None)
def test_constants_stay_and_sides_are_ceilings(method: str, sides: list[int], data: st.DataObject) -> None:
    ratio = data.draw(st.fractions(1, min(sides), max_denominator=100), label="ratio")
    result = downsample(torch.full((2, 1, *sides), -1.7, dtype=torch.float64), ratio, method)
    expected = tuple(math.ceil(side / ratio) for side in sides)
    assert tuple(result.shape) == (2, 1, *expected)
    assert downsampled_sides(sides, ratio) == expected
    torch.testing.assert_close(result, torch.full_like(result, -1.7), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("sides", "ratio", "multiple", "expected"),
    [
        ((224, 224), 2, 32, (128, 128)),  # 112 lies between 96 and 128: the larger
        ((224, 224), "4/3", 32, (160, 160)),  # 168
        ((224, 320), "3/2", 32, (160, 224)),  # 150, 214
        ((64, 64), 4, 32, (32, 32)),  # 16: one multiple at least
        ((40, 96), 2, 32, (32, 64)),  # 20, 48
        ((20, 96), "4/3", 32, (20, 64)),  # 15: no side grows
        ((40, 96), (1, 2), 32, (40, 64)),  # and none that stays is rounded
        ((33,), 2, 1, (17,)),
    ],
)
def test_sides_are_rounded_to_the_nearest_multiple(
    sides: tuple[int, ...], ratio: Any, multiple: int, expected: tuple[int, ...]
) -> None:
    assert downsampled_sides(sides, ratio, multiple) == expected
    images = torch.randn(1, 1, *sides)
    assert tuple(downsample(images, ratio, size_multiple=multiple).shape[2:]) == expected


@every_method
def test_a_side_with_ratio_1_is_left_alone(method: str) -> None:
    images = torch.randn(2, 3, 1, 12, dtype=torch.float64)
    found = downsample(images, (1, 2), method)
    assert tuple(found.shape) == (2, 3, 1, 6)
    torch.testing.assert_close(found[:, :, 0], downsample(images[:, :, 0], 2, method), rtol=0, atol=1e-15)


# What images may be ---------------------------------------------------------------------------------------------------


every_kind = pytest.mark.parametrize("ratio", [2, "4/3", "13/11"])  # slices, phases, gathers


@every_kind
@every_method
def test_an_unbatched_image_is_a_batch_of_one(method: str, ratio: Any) -> None:
    image = torch.randn(3, 9, 10)
    unbatched = downsample(image, ratio, method, spatial_dims=2)
    assert tuple(unbatched.shape) == (3, *downsampled_sides((9, 10), ratio))
    assert torch.equal(unbatched, downsample(image[None], ratio, method)[0])
    # Without the keyword the same tensor is three signals of nine channels.
    assert tuple(downsample(image, ratio, method).shape) == (3, 9, *downsampled_sides((10,), ratio))


@every_kind
@every_method
def test_images_are_left_alone(method: str, ratio: Any) -> None:
    images = torch.randn(2, 3, 8, 8)
    before = images.clone()
    downsample(images, ratio, method).add_(1)
    assert torch.equal(images, before)
    assert downsample(images, 1, method) is images
    assert downsample(images, method=method, sides=(8, 8)) is images


@every_device
@every_kind
@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_float32_rounded_once(dtype: torch.dtype, method: str, ratio: Any, device: str) -> None:
    images = torch.randn(2, 3, 9, 8).to(device, dtype)
    result = downsample(images, ratio, method)
    assert result.dtype == dtype
    assert result.device == images.device
    assert torch.equal(result, downsample(images.float(), ratio, method).to(dtype))
    constant = downsample(torch.full_like(images, 0.3), ratio, method)
    assert torch.equal(constant, torch.full_like(constant, 0.3))


@every_device
@every_kind
@every_method
def test_autocast_changes_nothing(method: str, ratio: Any, device: str) -> None:
    images = torch.randn(2, 3, 16, 16, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        result = downsample(images, ratio, method)
    assert result.dtype == torch.float32
    assert torch.equal(result, downsample(images, ratio, method))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@every_kind
@every_method
def test_device_and_host_agree(method: str, ratio: Any) -> None:
    images = torch.randn(2, 3, 33, 32)
    torch.testing.assert_close(downsample(images.cuda(), ratio, method).cpu(), downsample(images, ratio, method))


@every_kind
@every_method
def test_channels_last_stays(method: str, ratio: Any) -> None:
    images = torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last)
    result = downsample(images, ratio, method)
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, downsample(images.contiguous(), ratio, method))
    assert downsample(images.contiguous(), ratio, method).is_contiguous()


# Where it runs --------------------------------------------------------------------------------------------------------


class Operators(TorchDispatchMode):
    """The names of the operators that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(operator.overloadpacket.__name__)
        return operator(*args, **(kwargs or {}))


@every_kind
@every_method
def test_no_constant_is_moved_and_no_value_waited_for(method: str, ratio: Any) -> None:
    """What would stop the capture of a step as a CUDA graph; images without storage have no value to wait for."""
    with Operators() as operators:
        found = downsample(torch.empty(2, 3, 33, 32, device="meta"), ratio, method)
    assert tuple(found.shape[2:]) == downsampled_sides((33, 32), ratio)
    assert not operators.names & {"lift_fresh", "lift_fresh_copy", "_local_scalar_dense", "nonzero"}


@every_kind
@every_method
def test_its_arguments_travel(method: str, ratio: Any) -> None:
    """To the workers of a loader, and as the arguments of a node into the code of a graph."""
    images = torch.randn(2, 3, 16, 16)
    arguments: dict[str, Any] = {"ratio": (1, ratio), "method": method, "size_multiple": 2}
    expected = downsample(images, **arguments)
    assert torch.equal(pickle.loads(pickle.dumps(partial(downsample, **arguments)))(images), expected)
    graph = fx.Graph()
    graph.output(graph.call_function(downsample, (graph.placeholder("images"),), arguments))
    assert torch.equal(fx.GraphModule({}, graph)(images), expected)


@pytest.mark.parametrize(
    ("ratio", "method", "multiple", "dynamic"),
    [
        (4 / 3, "gaussian", 1, False),
        pytest.param(
            *(Fraction(13, 11), "gaussian", 1, False),
            marks=pytest.mark.skipif(OLD, reason="this torch compiles no comparison of fractions that are arguments"),
        ),
        pytest.param((1, 2), "gaussian", 7, True, marks=pytest.mark.slow),
        ((1, "5/2"), "bilinear", 1, True),
        ("4/3", "area", 1, True),
    ],
)
def test_compiles_to_one_graph_for_any_ratio(ratio: Any, method: str, multiple: int, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(downsample, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    images = torch.randn(2, 3, 16, 17)
    expected = downsample(images, ratio, method, size_multiple=multiple)
    torch.testing.assert_close(compiled(images, ratio, method, size_multiple=multiple), expected)


@every_method
def test_compiles_to_one_graph_of_any_size(method: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(downsample, backend="aot_eager", fullgraph=True)
    for shape in [(2, 3, 16, 16), (4, 3, 17, 15), (3, 3, 20, 21)]:
        images = torch.randn(shape)
        torch.testing.assert_close(compiled(images, 2, method), downsample(images, 2, method))


@pytest.mark.parametrize("ratio", [2, "4/3", "13/11", "5/2"])
@every_method
def test_gradients_reach_the_images(method: str, ratio: Any) -> None:
    images = torch.randn(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: downsample(values, ratio, method), images)


# What is refused ------------------------------------------------------------------------------------------------------


def test_methods_are_these() -> None:
    assert DOWNSAMPLING_METHODS == ("gaussian", "bilinear", "area")


@pytest.mark.parametrize(
    ("shape", "arguments", "error", "message"),
    [
        ((1, 3, 8, 8), {"ratio": 0}, ValueError, "ratio=0 is out of range; give a number of at least 1, as 2, 4/3"),
        ((1, 3, 8, 8), {"ratio": True}, TypeError, "ratio=True is of type bool; give a number of at least 1, as 2"),
        (
            (1, 3, 8, 8), {"ratio": (2, 2, 2)}, ValueError,
            "ratio=(2, 2, 2) has 3 sides, but there are 2; give one for all sides, or one per side",
        ),
        (
            (1, 3, 8, 4), {"ratio": 5}, ValueError,
            "ratio=5 is too large for images with sides (8, 4); give at most 4, the shortest side, or larger images, "
            "or ratio=(5, 1), one per side",
        ),
        (
            (1, 3, 1, 128), {"ratio": 4 / 3}, ValueError,
            "ratio='4/3' is too large for images with sides (1, 128); give ratio=(1, '4/3'), one per side",
        ),
        (
            (1, 3, 1, 1), {"ratio": 2}, ValueError,
            "ratio=2 is too large for images with sides (1, 1); give larger images",
        ),
        (
            (1, 3, 8, 8), {}, ValueError,
            "ratio=None, sides=None must be one of the two; give either, as ratio=2 or sides=(112, 112)",
        ),
        ((1, 3, 8, 8), {"ratio": 2, "sides": (4, 4)}, ValueError, "ratio=2, sides=(4, 4) must be one of the two; give"),
        ((1, 3, 8, 8), {"sides": (4,)}, ValueError, "sides=(4,) is out of range; give 2 integers from 1 to (8, 8)"),
        ((1, 3, 8, 8), {"sides": (4, 9)}, ValueError, "sides=(4, 9) is out of range; give 2 integers from 1 to (8, 8)"),
        ((1, 3, 8, 8), {"sides": (0, 4)}, ValueError, "sides=(0, 4) is out of range; give 2 integers from 1 to (8, 8)"),
        ((1, 3, 8, 8), {"ratio": 2, "size_multiple": 0}, ValueError, "size_multiple=0 is out of range; give an int of"),
        (
            (1, 3, 32, 32), {"ratio": 2, "size_multiple": 32}, ValueError,
            "size_multiple=32 leaves images with sides (32, 32) as they are at ratio 2; give a smaller multiple, or",
        ),
        (
            (1, 3, 8, 8), {"ratio": 2, "method": "nearest"}, ValueError,
            "method='nearest' is unknown; give 'gaussian', 'bilinear' or 'area'",
        ),
        (
            (8, 8), {"ratio": 2}, ValueError,
            "images of shape (8, 8) don't fit spatial_dims=0; give (N, C, *spatial) with 1 to 3 spatial dimensions, "
            "or (C, *spatial) with spatial_dims, such as spatial_dims=2 for (C, H, W)",
        ),
        ((8, 8), {"ratio": 2, "spatial_dims": 2}, ValueError, "images of shape (8, 8) don't fit spatial_dims=2;"),
        ((1, 3, 8, 8), {"ratio": 2, "spatial_dims": 1}, ValueError, "images of shape (1, 3, 8, 8) don't fit spatial"),
    ],
)  # fmt: skip
def test_wording_of_errors(shape: tuple[int, ...], arguments: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match="^" + re.escape(message)):
        downsample(torch.zeros(shape), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_only_floats_are_taken(dtype: torch.dtype) -> None:
    message = f"images is of type {dtype}; give a tensor with a floating dtype (for uint8: images.float() / 255, and"
    with pytest.raises(TypeError, match="^" + re.escape(message)):
        downsample(torch.zeros(1, 3, 8, 8, dtype=dtype), 2)
    with pytest.raises(TypeError, match=r"^images is of type ndarray; give a tensor with a floating dtype"):
        downsample(np.zeros((1, 3, 8, 8)), 2)  # type: ignore[arg-type]
