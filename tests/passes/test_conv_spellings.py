"""Every spelling of a convolution, pooled: its output size is the unpooled one's, its values are those of a formula."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle_kernels import naive_pool_kernel, pad_flat
from timm.layers import Conv2dSame, ScaledStdConv2d, StdConv2d
from tiny import named
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lowmode_fx import LowModeConfig, build_pair

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.usefixtures("double_precision"),
]


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# Every spelling ------------------------------------------------------------------------------------------------------


class Call(nn.Module):
    """A convolution as a function, with the arguments that the call spells."""

    def __init__(self, weight: Tensor, bias: Tensor | None, call: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.weight, self.bias)


#: module or function, (images), then stride, (before, after) padding of the *pooled* conv, dilation, groups
CONVS: dict[str, tuple[Any, tuple[int, ...], Any, Any, Any, int]] = {
    "Conv1d 5": (lambda: nn.Conv1d(3, 4, 5, padding=2), (11,), 1, [(1, 1)], 1, 1),
    "Conv2d 5x5": (lambda: nn.Conv2d(3, 4, 5, padding=2), (9, 8), 1, [(1, 1)] * 2, 1, 1),
    "Conv2d 7x7 stride 2": (lambda: nn.Conv2d(3, 4, 7, 2, 3), (9, 8), 2, [(1, 1)] * 2, 1, 1),
    "Conv3d 3x5x1": (
        lambda: nn.Conv3d(3, 2, (3, 5, 1), padding=(1, 2, 0)), (4, 6, 3), 1, [(0, 0), (1, 1), (0, 0)], 1, 1,
    ),
    "1x7": (lambda: nn.Conv2d(3, 4, (1, 7), padding=(0, 3)), (5, 9), 1, [(0, 0), (1, 1)], 1, 1),
    "without padding, a crop": (lambda: nn.Conv2d(3, 4, 3), (9, 8), 1, [(-1, -1)] * 2, 1, 1),
    "even, an uneven crop": (lambda: nn.Conv2d(3, 4, 4, 2, 1), (9, 8), 2, [(0, -1)] * 2, 1, 1),
    "dilated": (lambda: nn.Conv2d(3, 4, 5, padding=1, dilation=2), (12, 11), 1, [(-1, -1)] * 2, 2, 1),
    "dilated by side": (
        lambda: nn.Conv2d(3, 4, 3, padding=(3, 0), dilation=(3, 1)), (9, 8), 1, [(0, 0), (-1, -1)], 1, 1,
    ),
    "stride 3": (lambda: nn.Conv2d(3, 4, 5, 3, 2), (11, 9), 3, [(1, 1)] * 2, 1, 1),
    "grouped": (lambda: nn.Conv2d(3, 6, 5, padding=2, groups=3), (9, 8), 1, [(1, 1)] * 2, 1, 3),
    "no bias": (lambda: nn.Conv2d(3, 4, 3, padding=1, bias=False), (9, 8), 1, [(0, 0)] * 2, 1, 1),
    "same": (lambda: nn.Conv2d(3, 4, 5, padding="same"), (9, 8), 1, [(1, 1)] * 2, 1, 1),
    "same, even": (lambda: nn.Conv2d(3, 4, 4, padding="same"), (9, 8), 1, [(0, 0)] * 2, 1, 1),
    "same, even, dilated": (lambda: nn.Conv2d(3, 4, 6, padding="same", dilation=3), (9, 8), 1, [(3, 3)] * 2, 3, 1),
    "valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid"), (9, 8), 1, [(-1, -1)] * 2, 1, 1),
    "F.conv1d": (
        lambda: Call(torch.randn(4, 3, 3), None, lambda x, w, b: F.conv1d(x, w, b, 1, 1)), (9,), 1, [(0, 0)], 1, 1,
    ),
    "F.conv2d, positional": (
        lambda: Call(torch.randn(4, 3, 5, 5), torch.randn(4), lambda x, w, b: F.conv2d(x, w, b, (2, 1), (2, 0))),
        (9, 8), (2, 1), [(1, 1), (-1, -1)], 1, 1,
    ),
    "F.conv2d, keywords only": (
        lambda: Call(
            torch.randn(6, 1, 5, 5), torch.randn(6),
            lambda x, w, b: F.conv2d(groups=3, padding=2, dilation=2, stride=1, bias=b, weight=w, input=x),
        ),
        (9, 8), 1, [(0, 0)] * 2, 2, 3,
    ),
    "F.conv2d, defaults": (
        lambda: Call(torch.randn(4, 3, 3, 3), None, lambda x, w, b: F.conv2d(x, w)), (9, 8), 1, [(-1, -1)] * 2, 1, 1,
    ),
    "F.conv2d, same by name": (
        lambda: Call(torch.randn(4, 3, 3, 3), None, lambda x, w, b: F.conv2d(x, w, padding="same")),
        (9, 8), 1, [(0, 0)] * 2, 1, 1,
    ),
    "torch.conv2d, lists of one": (
        lambda: Call(torch.randn(4, 3, 5, 5), torch.randn(4), lambda x, w, b: torch.conv2d(x, w, b, [2], [2], [1])),
        (9, 8), 2, [(1, 1)] * 2, 1, 1,
    ),
    "torch.convolution": (
        lambda: Call(
            torch.randn(4, 3, 5, 5), torch.randn(4),
            lambda x, w, b: torch.convolution(x, w, b, [2, 1], [2, 0], [1, 1], False, [0, 0], 1),
        ),
        (9, 8), (2, 1), [(1, 1), (-1, -1)], 1, 1,
    ),
    "aten.convolution": (
        lambda: Call(
            torch.randn(6, 1, 5), None,
            lambda x, w, b: torch.ops.aten.convolution.default(x, w, b, [1], [2], [2], False, [0], 3),
        ),
        (12,), 1, [(0, 0)], 2, 3,
    ),
    "aten.conv2d": (
        lambda: Call(torch.randn(4, 3, 5, 5), None, lambda x, w, b: torch.ops.aten.conv2d(x, w, padding=[2, 2])),
        (9, 8), 1, [(1, 1)] * 2, 1, 1,
    ),
    "F.conv3d": (
        lambda: Call(torch.randn(2, 3, 3, 3, 3), torch.randn(2), lambda x, w, b: F.conv3d(x, w, bias=b, padding=1)),
        (4, 5, 3), 1, [(0, 0)] * 3, 1, 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVS)
def test_a_spelling_of_a_convolution(name: str) -> None:
    make, sides, stride, padding, dilation, groups = CONVS[name]
    model = make()
    pair = build_pair(model, torch.zeros(2, 3, *(2 * side for side in sides)), LowModeConfig(pool_convs="all"))
    assert len(pair.report.pooled) == 1
    images = torch.randn(2, 3, *sides)
    found = pair.low(images)
    assert found.shape == model(images).shape
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(sides)]
    padded = F.pad(images, pad_flat(tuple(padding)))
    kernel = naive_pool_kernel(model.weight, 2)
    assert_equal(found, conv(padded, kernel, model.bias, stride, 0, dilation, groups))


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_padding_mode(mode: Any) -> None:
    model = nn.Conv2d(3, 4, 5, padding=2, padding_mode=mode)
    pair = build_pair(model, torch.zeros(2, 3, 18, 16), LowModeConfig(pool_convs="all"))
    images = torch.randn(2, 3, 9, 8)
    padded = F.pad(images, [2, 2, 2, 2], mode=mode)[..., 1:-1, 1:-1]
    assert_equal(pair.low(images), F.conv2d(padded, naive_pool_kernel(model.weight, 2), model.bias))
    assert pair.low(images).shape == model(images).shape


def test_padding_by_hand_on_one_side() -> None:
    model = named(pad=nn.ZeroPad2d((0, 1, 0, 1)), conv=nn.Conv2d(3, 4, 3, stride=2))
    pair = build_pair(model, torch.zeros(2, 3, 16, 16), LowModeConfig(pool_convs="all"))
    images = torch.randn(2, 3, 8, 8)
    found = pair.low(images)
    assert found.shape == model(images).shape == (2, 4, 4, 4)
    centres = images[..., 1::2, 1::2]  # the 3×3 windows start at 0, 2, 4, 6 and so are centred on 1, 3, 5, 7
    assert_equal(found, F.conv2d(centres, model.conv.weight.mean((2, 3), keepdim=True), model.conv.bias))


# Kernels that are computed -------------------------------------------------------------------------------------------


def test_a_weight_norm_parametrization() -> None:
    model = parametrizations.weight_norm(nn.Conv2d(3, 4, 5, padding=2))
    with torch.no_grad():
        model.parametrizations.weight.original0.mul_(1.7)
    pair = build_pair(model, torch.zeros(2, 3, 16, 16), LowModeConfig(pool_convs="all"))
    images = torch.randn(2, 3, 8, 8)
    length, direction = model.parametrizations.weight.original0, model.parametrizations.weight.original1
    kernel = length * direction / direction.square().sum((1, 2, 3), keepdim=True).sqrt()
    expected = F.conv2d(images, naive_pool_kernel(kernel, 2), model.bias, padding=1)
    found = pair.low(images)
    assert_equal(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found.sin().sum(), [length, direction]),
        torch.autograd.grad(expected.sin().sum(), [length, direction]),
        strict=True,
    ):
        assert_equal(ours, theirs)


def test_an_old_style_weight_norm() -> None:
    with pytest.warns(FutureWarning):
        model = torch.nn.utils.weight_norm(nn.Conv2d(3, 4, 5, padding=2))
    model = named(conv=model)
    pair = build_pair(model, torch.zeros(2, 3, 16, 16), LowModeConfig(pool_convs="all"))
    images = torch.randn(2, 3, 8, 8)
    direction = model.conv.weight_v
    kernel = model.conv.weight_g * direction / direction.square().sum((1, 2, 3), keepdim=True).sqrt()
    assert_equal(pair.low(images), F.conv2d(images, naive_pool_kernel(kernel, 2), model.conv.bias, padding=1))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_an_old_style_weight_norm_is_left_as_it_was() -> None:
    model = named(conv=torch.nn.utils.weight_norm(nn.Conv2d(3, 4, 5, padding=2)))
    build_pair(model, torch.zeros(2, 3, 16, 16), LowModeConfig(pool_convs="all"))
    assert isinstance(model.conv.weight, Tensor)


def standardised(weight: Tensor, eps: float) -> Tensor:
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    return centred / (centred.square().mean((1, 2, 3), keepdim=True) + eps).sqrt()


def test_timms_std_conv() -> None:
    model = StdConv2d(3, 4, 5, stride=1, padding=2, bias=True)
    pair = build_pair(model, torch.zeros(2, 3, 16, 16), LowModeConfig(pool_convs="all"))
    images = torch.randn(2, 3, 8, 8)
    kernel = naive_pool_kernel(standardised(model.weight, 1e-6), 2)
    assert_equal(pair.low(images), F.conv2d(images, kernel, model.bias, padding=1))


def test_timms_scaled_std_conv() -> None:
    model = ScaledStdConv2d(3, 4, 5, stride=2, padding=2, gamma=1.5)
    with torch.no_grad():
        model.gain.uniform_(0.5, 2.0)
    pair = build_pair(model, torch.zeros(2, 3, 16, 16), LowModeConfig(pool_convs="all"))
    images = torch.randn(2, 3, 8, 8)
    # The gain is 1.5 / sqrt(3 · 5 · 5) in full-mode; pooling comes after it.
    kernel = standardised(model.weight, 1e-6) * model.gain * 1.5 / 75**0.5
    assert_equal(pair.low(images), F.conv2d(images, naive_pool_kernel(kernel, 2), model.bias, stride=2, padding=1))


@pytest.mark.parametrize("side", [15, 16])
def test_timms_same_padded_conv_pads_for_the_low_mode_size(side: int) -> None:
    model = Conv2dSame(3, 4, 3, stride=2, bias=True)
    pair = build_pair(model, torch.zeros(2, 3, 2 * side, 2 * side), LowModeConfig(pool_convs="all"))
    images = torch.randn(2, 3, side, side)
    found = pair.low(images)
    assert found.shape == model(images).shape == (2, 4, 8, 8)
    # 15 pixels are padded by (1, 1), so the windows are centred on pixels 0, 2, …; 16 by (0, 1), so on 1, 3, …
    centres = images[..., (side + 1) % 2 :: 2, (side + 1) % 2 :: 2]
    assert_equal(found, F.conv2d(centres, model.weight.mean((2, 3), keepdim=True), model.bias))


# Transposed ----------------------------------------------------------------------------------------------------------


class Convolution(nn.ConvTranspose2d):
    """A transposed convolution that is spelled ``torch.convolution``."""

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        return torch.convolution(
            input, self.weight, self.bias, list(self.stride), list(self.padding), list(self.dilation), True,
            list(self.output_padding), self.groups,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "sides"),
    [
        (nn.ConvTranspose1d(3, 4, 5, stride=2, padding=2, output_padding=1), (7,)),
        (nn.ConvTranspose2d(3, 4, 5, padding=2), (7, 6)),
        (nn.ConvTranspose2d(3, 4, 5, stride=2, padding=2, output_padding=1), (7, 6)),
        (nn.ConvTranspose2d(3, 4, 5, stride=2), (7, 6)),  # a border that the pooled kernel no longer reaches
        (nn.ConvTranspose2d(3, 4, (7, 5), stride=3, padding=(1, 0)), (4, 5)),
        (nn.ConvTranspose2d(3, 6, 5, stride=1, padding=1, dilation=2, groups=3), (7, 6)),
        (nn.ConvTranspose2d(3, 4, 6, stride=2, padding=2, bias=False), (7, 6)),
        (nn.ConvTranspose3d(3, 2, 5, stride=2, padding=2), (3, 4, 3)),
        (Convolution(3, 4, 5, stride=2, padding=2, output_padding=1), (7, 6)),
    ],
    ids=str,
)
def test_transposed_convolutions(model: Any, sides: tuple[int, ...]) -> None:
    model = copy.deepcopy(model).double()
    pair = build_pair(model, torch.zeros(2, 3, *(2 * side for side in sides)), LowModeConfig(pool_convs="all"))
    assert len(pair.report.pooled) == 1
    images = torch.randn(2, 3, *sides)
    found = pair.low(images)
    assert found.shape == model(images).shape
    # As if written on an endless canvas: the pooled kernel's stamp lies in the middle of the whole kernel's.
    conv = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[len(sides)]
    kernel = naive_pool_kernel(model.weight, 2)
    lost = [d * (k - s) for d, k, s in zip(model.dilation, model.kernel_size, kernel.shape[2:], strict=True)]
    canvas = conv(images, kernel, None, model.stride, 0, 0, model.groups, model.dilation)
    margins = [
        (n // 2 - p, n - n // 2 - p + e) for n, p, e in zip(lost, model.padding, model.output_padding, strict=True)
    ]
    expected = F.pad(canvas, pad_flat(tuple(margins)))
    if model.bias is not None:
        expected = expected + model.bias.reshape(-1, *[1] * (images.ndim - 2))
    assert_equal(found, expected)
