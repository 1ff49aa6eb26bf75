"""Work on weights is counted separately: no figure depends on how many images a ladder was built with."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec_modules import build_cnn, draw_images
from strategies import cnn_specs, low_mode_kwargs
from tiny import named
from torch import Tensor, nn

from lowmode_fx import FlopReport, LowModeConfig, build_pair, count_flops, count_step_flops
from lowmode_fx.counting.large_kernels import large_kernels
from lowmode_fx.counting.report import LayerFlops
from lowmode_fx.counting.step import count_forward_macs

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 16


def report_of(model: nn.Module, batch: int = 2, **options: Any) -> FlopReport:
    front_end = options.pop("front_end", "auto")
    example = torch.zeros(batch, 3, SIDE, SIDE)
    return count_flops(build_pair(model, example, LowModeConfig(**options), front_end=front_end))


class Standardised(nn.Conv2d):
    """A convolution of a kernel that is standardised by ``batch_norm``, as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


@pytest.mark.parametrize("front_end", ["fx", "export"])
@pytest.mark.parametrize("batch", [2, 5])
def test_standardised_weights_by_hand(batch: int, front_end: str) -> None:
    """fvcore counts four macs for each value of a norm without weights, of 4·6·9 values here."""
    model = named(stem=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4), body=Standardised(4, 6, 3, padding=1))
    report = report_of(model, batch, front_end=front_end)
    maps = {"full": SIDE**2, "low": SIDE**2 // 4}
    assert report.macs == {"full": maps["full"] * (12 + 4 * 6 * 9), "low": maps["low"] * (12 + 4 * 6)}
    assert [(row.name, dict(row.macs), row.kind) for row in report.weights] == [
        ("all batch_norm", {"low": 4 * 4 * 6 * 9, "full": 4 * 4 * 6 * 9}, "other")
    ]
    assert report.other_macs == {mode: 5 * 4 * count for mode, count in maps.items()}  # the norm of maps has weights
    assert report.step_macs(9)["full"] == 9 * report.total_macs["full"] + 4 * 4 * 6 * 9


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_kernels_pooled_by_a_product_by_hand(batch: int) -> None:
    """7×7 to 5×5 by one product, (6·4, 49) · (49, 25), whatever the batch; twice that more in the backward."""
    model = named(stem=nn.Conv2d(3, 4, 1), body=nn.Conv2d(4, 6, 7, padding=3))
    options = LowModeConfig(kernel_transform="linear", rounding="cover")
    pair = build_pair(model, torch.zeros(batch, 3, SIDE, SIDE), options)
    report, (kernel,) = count_flops(pair), {layer.low for layer in count_flops(pair).layers} - {"1×1"}
    taps = {"5×5": 25, "3×3": 9}[kernel]
    assert report.weight_macs == {"low": 24 * 49 * taps, "full": 0}
    assert report.macs == {"full": 256 * (12 + 24 * 49), "low": 64 * (12 + 24 * taps)}
    assert report.macs == report.total_macs
    assert count_forward_macs(pair) == (report.macs["full"], report.macs["low"])
    full, low = (2 * (2 * side * 12 + 3 * side * 24 * k) for side, k in ((256, 49), (64, taps)))
    assert count_step_flops(pair) == (full, low)
    # The matrix needs no gradient, so the backward of the product is one product.
    assert count_step_flops(pair, batch_size=10) == (10 * full, 10 * low + 2 * 2 * 24 * 49 * taps)


def test_a_batch_is_a_positive_number() -> None:
    report = FlopReport(("low", "full"), (), {})
    with pytest.raises(ValueError, match="batch_size"):
        report.step_macs(0)


class Queries(nn.Module):
    """Learned queries, projected for every image, and a table that is projected once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.query, self.table = nn.Parameter(torch.zeros(1, 5, 4)), nn.Parameter(torch.zeros(7, 4))
        self.project, self.look_up = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(self.stem(x)).flatten(2)
        queries = self.project(self.query.expand(x.shape[0], -1, -1))
        return queries @ maps + self.look_up(self.table).sum()


@pytest.mark.parametrize("front_end", ["fx", "live"])
def test_a_token_that_is_repeated_for_every_image_counts_per_image(front_end: str) -> None:
    report = report_of(Queries(), 3, front_end=front_end)
    rows = {layer.name: layer.full_macs for layer in report.layers}
    assert rows["all linear"] == 5 * 4 * 4
    assert [(row.name, row.full_macs) for row in report.weights] == [("all linear", 7 * 4 * 4)]


class Written(nn.Module):
    """A map that starts empty and is written to, image by image, before it is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.blank = nn.Parameter(torch.zeros(4, 6))
        self.head = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        held = self.blank * 1.0
        held.select(1, 0).copy_(self.body(self.stem(x)).mean((0, 2, 3)))
        return self.head(held)


@pytest.mark.parametrize("front_end", ["fx", "live"])
def test_work_on_a_tensor_that_images_are_written_to_counts_per_image(front_end: str) -> None:
    report = report_of(Written(), 4, front_end=front_end)
    assert report.weights == ()
    assert next(layer.full_macs for layer in report.layers if layer.name == "all linear") == 4 * 6 * 6 / 4


class OfWeights(nn.Module):
    """A convolution of a parameter, whose result every image is multiplied by."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.mask, self.smooth = nn.Parameter(torch.zeros(1, 1, 8, 8)), nn.Conv2d(1, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x)) * self.smooth(self.mask).mean()


@pytest.mark.parametrize("batch", [1, 4])
def test_a_convolution_of_weights_is_a_row_per_step(batch: int) -> None:
    report = report_of(OfWeights(), batch, keep_convs=["smooth"])
    assert [(row.name, row.full, row.full_macs) for row in report.weights] == [("smooth", "5×5", 64 * 25)]
    assert [layer.name for layer in report.layers] == ["stem", "body"]


def test_large_kernels_are_those_that_images_pass() -> None:
    """A convolution of weights has no row among those per image, and shifts none of them."""

    class Large(OfWeights):
        def __init__(self) -> None:
            super().__init__()
            self.smooth = nn.Conv2d(1, 1, 9, padding=4)
            self.body = nn.Conv2d(4, 4, 7, padding=3, groups=4)

        def forward(self, x: Tensor) -> Tensor:
            return self.stem(x) * self.smooth(self.mask).mean() + self.body(self.stem(x))

    pair = build_pair(Large(), torch.zeros(2, 3, SIDE, SIDE), LowModeConfig(pool_convs="large"))
    found = large_kernels(pair, count_flops(pair))
    assert found is not None and dict(found.counts) == {"7×7": 1}
    assert found.share == 49 * 4 / (2 * 12 + 49 * 4)


def test_nfnets_figure_does_not_depend_on_the_batch() -> None:
    model = timm.create_model("nf_resnet26")
    reports = [
        count_flops(build_pair(model, torch.zeros(batch, 3, 64, 64), LowModeConfig(kernel_ratio=1))) for batch in (1, 3)
    ]
    assert reports[0] == reports[1]
    kernels = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Conv2d))
    norms = [row.full_macs for row in reports[0].weights if row.name == "all batch_norm"]
    assert kernels <= norms[0] <= 5 * kernels and reports[0].other_macs["full"] < norms[0]


@given(spec=cnn_specs(), sizes=st.tuples(st.integers(1, 2), st.integers(3, 4)), kwargs=low_mode_kwargs())
@settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_headline_and_rest_add_up_to_the_total_for_any_batch(spec: Any, sizes: tuple[int, int], kwargs: Any) -> None:
    model = build_cnn(spec)
    reports = []
    for size in sizes:
        pair = build_pair(model, draw_images(spec, 1, size), LowModeConfig(**kwargs))
        reports.append(count_flops(pair))
    one, other = reports
    assert (one.macs, one.weight_macs, one.free) == (other.macs, other.weight_macs, other.free)
    for report in reports:
        for mode in report.modes:
            assert report.macs[mode] + report.other_macs[mode] == report.total_macs[mode]
            assert report.total_macs[mode] == sum(layer.macs[mode] for layer in report.layers)
        kinds = [layer.kind for layer in report.layers]
        assert kinds == sorted(kinds, reverse=True)  # products first


def test_a_count_in_words() -> None:
    rows = (
        LayerFlops("a", {"low": "1×1", "full": "3×3"}, {"low": 10**6, "full": 4 * 10**6}),
        LayerFlops("all batch_norm", {}, {"low": 10**6, "full": 10**6}, "other"),
    )
    lines = [
        "4.00 Mmacs full, 1.00 Mmacs low, low / full = 0.2500 (per image, forward: convolutions, linear layers and "
        "matrix products; flops are 2 × macs)",
        "with norms and the rest: 5.00 Mmacs full, 2.00 Mmacs low, low / full = 0.4000",
    ]
    assert str(FlopReport(("low", "full"), rows, {})).splitlines() == lines
    weights = (LayerFlops("all matmul", {}, {"low": 3 * 10**6, "full": 0}),)
    lines.append("on weights, once a step: 0.00 Mmacs full, 3.00 Mmacs low")
    assert str(FlopReport(("low", "full"), rows, {}, weights)).splitlines() == lines
