"""Low-mode strides: values, precedence, and what is refused."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lowmode_fx import LowModeConfig, ModePair, PassError, build_pair

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def model_of(body: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 4, 3, stride=2, padding=1), body=body))


def build(model: nn.Module, strides: Any, **options: Any) -> ModePair:
    config = LowModeConfig(strides=strides, **{"kernel_ratio": 1, **options})
    return build_pair(model, torch.zeros(2, 3, 16, 16), config)


def changed(pair: ModePair) -> dict[str, tuple[str, str]]:
    return {change.site: (change.before, change.after) for change in pair.report.of("set_strides").changes}


def test_a_stride_for_low_mode_only() -> None:
    model = model_of(nn.Conv2d(4, 5, 3, stride=2, padding=1, groups=1, dilation=1))
    pair = build(model, {"stem": 1, "body": (1, 2)})
    assert changed(pair) == {"stem": ("stride 2×2", "stride 1×1"), "body": ("stride 2×2", "stride 1×2")}
    images = torch.randn(2, 3, 8, 8)
    expected = F.conv2d(images, model.stem.weight, model.stem.bias, 1, 1)
    expected = F.conv2d(expected, model.body.weight, model.body.bias, (1, 2), 1)
    assert torch.equal(pair.low(images), expected)
    assert torch.equal(pair.full(images), model(images))


def test_everything_else_of_the_conv_stays() -> None:
    model = model_of(nn.Conv2d(4, 6, 3, stride=3, padding=(2, 1), dilation=2, groups=2, bias=False))
    pair = build(model, {"body": 1})
    images = torch.randn(2, 3, 16, 16)
    expected = F.conv2d(model.stem(images), model.body.weight, None, 1, (2, 1), 2, 2)
    assert torch.equal(pair.low(images), expected)


def test_the_last_glob_that_matches_counts() -> None:
    model = model_of(nn.Conv2d(4, 5, 3, stride=2, padding=1))
    assert changed(build(model, {"*": 1, "body": 3})) == {
        "stem": ("stride 2×2", "stride 1×1"),
        "body": ("stride 2×2", "stride 3×3"),
    }
    assert changed(build(model, {"body": 3, "*": 1}))["body"] == ("stride 2×2", "stride 1×1")


def test_a_new_stride_and_a_pooled_kernel() -> None:
    model = model_of(nn.Conv2d(4, 5, 3, stride=2, padding=1))
    pair = build(model, {"body": 1}, kernel_ratio=None)
    images = torch.randn(2, 3, 8, 8)
    kernel = model.body.weight.mean((2, 3), keepdim=True)
    torch.testing.assert_close(pair.low(images), F.conv2d(model.stem(images), kernel, model.body.bias))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(padding: str) -> None:
    model = model_of(nn.Conv2d(4, 5, 3, padding=padding, dilation=2))
    pair = build(model, {"stem": 1, "body": 2})
    images = torch.randn(2, 3, 16, 16)
    stem = F.conv2d(images, model.stem.weight, model.stem.bias, 1, 1)
    expected = F.conv2d(stem, model.body.weight, model.body.bias, 2, 2 if padding == "same" else 0, dilation=2)
    assert torch.equal(pair.low(images), expected)


@pytest.mark.parametrize(
    ("body", "strides", "message"),
    [
        (
            nn.Conv2d(4, 5, 3),
            {"bdy": 1},
            "strides: 'bdy' matches no convolution; near matches: body (of 2)",
        ),
        (
            nn.Conv2d(4, 5, 3),
            {"body": (1, 1, 1)},
            "strides: body has 2 spatial sides, but 3 strides (1, 1, 1); give one per side",
        ),
        (
            nn.Conv2d(4, 5, 3),
            {"stem": 1, "body": (2,)},
            "strides: body has 2 spatial sides, but 1 strides (2,); give one per side",
        ),
        (
            nn.ConvTranspose2d(4, 5, 3, 2),
            {"body": 1},
            "strides: body is a transposed convolution, whose stride sets its output size; leave it out",
        ),
        (
            nn.Conv2d(4, 5, 4, padding="same"),
            {"body": 2},
            "strides: body pads 'same' with an even kernel, which fixes its stride to 1; leave it out",
        ),
    ],
    ids=["unmatched", "too many", "too few", "transposed", "same"],
)
def test_what_is_refused(body: nn.Module, strides: Any, message: str) -> None:
    with pytest.raises(PassError) as error:
        build(model_of(body), strides)
    assert str(error.value) == message


def test_a_stride_that_breaks_a_join_names_it() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return x + self.body(x)

    with pytest.raises(PassError) as error:
        build(Residual(), {"body": 2})
    assert str(error.value) == (
        "branches don't fit at add: 2×4×8×8 and 2×4×4×4 after body changed; "
        "keep these sites (drop_maxpools, strides), or change every branch alike"
    )


def test_a_map_that_is_too_small_for_a_kernel_is_no_join() -> None:
    model = model_of(nn.Conv2d(4, 5, 3))
    with pytest.raises(PassError, match=r"^low-mode does not fit the model: at conv2d_1 in body, given 2×4×2×2: "):
        build(model, {"stem": 4})


def test_a_map_that_is_too_small_for_a_pooled_kernel_is_no_join() -> None:
    model = model_of(nn.Conv2d(4, 5, 3))
    with pytest.raises(PassError) as error:
        build(model, {"stem": 4}, kernel_ratio=None)
    assert "branches don't fit" not in str(error.value)


def test_a_stride_that_stays_is_no_change() -> None:
    pair = build(model_of(nn.Conv2d(4, 5, 3)), {"*": 2})
    assert changed(pair) == {"body": ("stride 1×1", "stride 2×2")}
