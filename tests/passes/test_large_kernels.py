"""Large kernels in a graph: which are, parallel branches that keep their place, and every kind of convolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import named
from torch import Tensor, nn

from bench.rep_lk_net import LargeKernelBlock
from lowmode_fx import LowModeConfig, ModePair, build_pair, downsample
from passes.kernel_math import pi_resize_kernel
from passes.kernel_math.pi_resize import pi_resize_rows

pytestmark = pytest.mark.usefixtures("double_precision")

RESIZED: dict[str, Any] = {"pool_convs": "large", "kernel_transform": "pi_resize"}


def pooled(pair: ModePair) -> dict[str, tuple[str, str]]:
    return {change.site: (change.before, change.after) for change in pair.report.pooled}


def depthwise(channels: int, kernel: tuple[int, ...], **options: Any) -> nn.Module:
    padding = tuple(size // 2 for size in kernel)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(kernel)]
    return conv(channels, channels, kernel, padding=padding, groups=channels, **options)


def test_large_takes_five_taps_and_more_on_some_side() -> None:
    model = named(
        stem=nn.Conv2d(3, 4, 7, padding=3),
        three=nn.Conv2d(4, 4, 3, padding=1),
        five=nn.Conv2d(4, 4, 5, padding=2),
        stripe=depthwise(4, (11, 1)),
        dilated=nn.Conv2d(4, 4, 3, padding=4, dilation=4),
        patchify=nn.Conv2d(4, 4, 8, stride=8),
    )
    pair = build_pair(model, torch.zeros(2, 3, 32, 32), LowModeConfig(**RESIZED))
    assert pooled(pair) == {"five": ("5×5", "3×3"), "stripe": ("11×1", "5×1")}
    reasons = {skip.site: skip.reason for skip in pair.report.of("pool_weights").skips}
    assert reasons == {
        "stem": "stem: it reads the image",
        "three": "3×3 is not large: fewer than 5 taps a side",
        "dilated": "3×3 is not large: fewer than 5 taps a side",
        "patchify": "windows do not overlap (8×8 at stride 8×8)",
    }


class Branches(nn.Module):
    """Depthwise kernels over one input, added: a large one, stripes and a small one (SLaK's)."""

    def __init__(self, *kernels: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 1, bias=False)
        self.branches = nn.ModuleList(depthwise(1, kernel, bias=False) for kernel in kernels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        outputs = [branch(y) for branch in self.branches]
        return torch.stack(outputs).sum(0)


@pytest.mark.parametrize("transform", ["avg", "adaptive", "linear", "bicubic", "pi_resize"])
@pytest.mark.parametrize("kernels", [((31, 31), (5, 5)), ((51, 5), (5, 51), (5, 5)), ((13, 13), (7, 3), (3, 3))])
def test_branches_that_are_added_keep_their_place(transform: Any, kernels: Any) -> None:
    """Each answers to an impulse around the impulse itself, symmetric kernels symmetrically."""
    model = Branches(*kernels)
    with torch.no_grad():
        model.first.weight.fill_(1.0)
    config = LowModeConfig(pool_convs="large", kernel_transform=transform)
    pair = build_pair(model, torch.zeros(2, 1, 128, 128), config)
    image = torch.zeros(1, 1, 64, 64)
    image[..., 32, 32] = 1
    for shown in range(len(kernels)):
        with torch.no_grad():
            for place, branch in enumerate(model.branches):
                window = [torch.hann_window(size + 2, False)[1:-1] for size in kernels[place]]
                branch.weight.copy_(torch.outer(*window) * (place == shown))  # type: ignore[operator,union-attr]
        answer = pair.low(image).detach()
        assert answer.shape == image.shape
        around = answer[..., 1:, 1:]  # symmetric about pixel 32
        if transform != "avg":  # the paper's windows are not symmetric where K isn't a multiple of r
            torch.testing.assert_close(around, around.flip(-1, -2), rtol=0, atol=1e-12)
        mass, places = answer.sum(), torch.arange(64.0)
        for dim in (-1, -2):
            centre = (answer * (places if dim == -1 else places[:, None])).sum() / mass
            assert abs(float(centre) - 32) < (0.6 if transform == "avg" else 1e-9)


def test_a_rep_lk_block_in_low_mode_is_its_two_branches_resized() -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 1), LargeKernelBlock(4, 13, 5))
    pair = build_pair(block, torch.zeros(2, 3, 32, 32), LowModeConfig(**RESIZED))
    assert pooled(pair) == {"1.large.0": ("13×13", "7×7"), "1.small.0": ("5×5", "3×3")}
    assert pair.low(torch.randn(2, 3, 16, 16)).shape == (2, 4, 16, 16)
    pair.low(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in block.parameters())


@pytest.mark.parametrize("kernel", [(9,), (5, 51), (7, 7), (5, 3, 7)])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_kind_of_convolution(kernel: tuple[int, ...], groups: int, dilation: int, stride: int) -> None:
    """The low graph's map is the convolution with the resized kernel, of the size that the whole one gives."""
    dims = len(kernel)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    padding = tuple(dilation * (size // 2) for size in kernel)
    first = conv(3, 4, 1)
    large = conv(4, 4, kernel, stride, padding, dilation, groups)
    sides = tuple(max(8, 2 * dilation * size) for size in kernel)
    pair = build_pair(nn.Sequential(first, large), torch.zeros(2, 3, *sides), LowModeConfig(**RESIZED))
    (change,) = pair.report.pooled
    images = torch.randn(2, 3, *(side // 2 for side in sides))
    small = tuple(map(int, change.after.split("×")))
    weight = pi_resize_kernel(large.weight, small, 2, (dilation,) * dims)
    function = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[dims]
    own = tuple(dilation * (size // 2) for size in small)
    expected = function(first(images), weight, large.bias, (stride,) * dims, own, (dilation,) * dims, groups)
    found = pair.low(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert found.shape == large(first(images)).shape


def test_dilated_taps_stay_where_they_are_in_the_image() -> None:
    """The low map of a dilated kernel is near the full map, downsampled; resized as an undilated one it is not."""
    torch.manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(4, 1, 96, 96), 5, 1, 2)
    weight = torch.randn(1, 1, 7, 7)
    wanted = downsample(torch.conv2d(smooth, weight, padding=6, dilation=2), 2)[..., 12:-12, 12:-12]
    errors = []
    for step in (2, 1):
        kernel = pi_resize_kernel(weight, (3, 3), 2, (step, step))
        low = torch.conv2d(downsample(smooth, 2), kernel, padding=2, dilation=2)[..., 12:-12, 12:-12]
        errors.append(float((low - wanted).square().mean() / wanted.square().mean()))
    assert errors[0] < errors[1]
    assert pi_resize_rows(7, 3, 2, 2) != pi_resize_rows(7, 3, 2, 1)
