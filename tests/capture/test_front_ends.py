"""Tracing: the front ends, and what is said of a model or an input that none of them can follow."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from tiny import IMAGES, Tiny
from torch import Tensor, nn

from lowmode_fx import BernoulliSchedule, LowModeModel, TraceError, build_pair, count_flops


@pytest.mark.parametrize(("asked", "served"), [("auto", "fx"), ("fx", "fx"), ("export", "export"), ("live", "live")])
def test_the_front_end_that_is_asked_for_serves(asked: Any, served: str) -> None:
    pair = build_pair(Tiny(), torch.zeros(IMAGES), front_end=asked)
    assert (pair.report.front_end, pair.report.front_end_failures) == (served, ())
    assert [(change.site, change.after) for change in pair.report.pooled] == [("blocks.2", "1×1")]


@pytest.mark.parametrize("name", ["export", "live"])
def test_front_ends_compute_the_same(name: Any) -> None:
    model, images = Tiny(), torch.randn(2, 3, 8, 8)
    model.drop.p = 0.0
    first, second = (build_pair(model, torch.zeros(IMAGES), front_end=each).low(images) for each in ("fx", name))
    torch.testing.assert_close(first, second)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return self.body(self.stem(x))


class BranchingOnSize(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x if x.shape[-1] > 4 else -x))


def test_auto_falls_back_to_export_and_says_why() -> None:
    pair = build_pair(BranchingOnSize(), torch.zeros(IMAGES))
    assert pair.report.front_end == "export"
    (failure,) = pair.report.front_end_failures
    assert re.fullmatch(
        r"fx: symbolically traced variables cannot be used as inputs to control flow "
        r"\(line \d+ of test_front_ends\.py\)",
        failure,
    )
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(pair.full(images), pair.model(images))


@pytest.mark.parametrize("front_end", ["fx", "export"])
def test_a_model_that_a_front_end_can_not_trace(front_end: Any) -> None:
    with pytest.raises(TraceError) as error:
        build_pair(Branching(), torch.zeros(IMAGES), front_end=front_end)
    message = str(error.value)
    assert message.startswith("Branching can't be traced on (2, 3, 16, 16) of torch.float32: ")
    fx = "fx: symbolically traced variables cannot be used as inputs to control flow (line"
    assert (fx in message, "export: Could not guard on data-dependent" in message) == {
        "fx": (True, False),
        "export": (False, True),
    }[front_end]
    assert "of test_front_ends.py)" in message and "leaf_modules=" in message and "\n" not in message


def test_a_model_that_nothing_can_trace_runs_itself() -> None:
    model = Branching()
    pair = build_pair(model, torch.ones(IMAGES))
    assert (pair.report.front_end, pair.live) == ("live", True)
    assert [change.site for change in pair.report.pooled] == ["body"]
    net = LowModeModel(pair, BernoulliSchedule(1.0), compile=False)
    for images in (torch.ones(IMAGES), -torch.ones(IMAGES)):  # both ways, whichever the graph was recorded on
        low = pair.downsample(images)
        low = -low if low.sum() > 0 else low
        maps = F.conv2d(low, model.stem.weight, model.stem.bias, padding=1)
        expected = F.conv2d(maps, model.body.weight.mean((2, 3), keepdim=True), model.body.bias)
        torch.testing.assert_close(net(images), expected)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_nfnet"])
def test_a_run_that_is_written_down_gives_what_symbolic_tracing_gives(name: str) -> None:
    model, example = timm.create_model(name, num_classes=4), torch.randn(2, 3, 64, 64)
    traced, recorded = (build_pair(model, example, front_end=front_end) for front_end in ("auto", "live"))
    assert (traced.report.front_end, recorded.report.front_end) == ("fx", "live")
    for one, other in zip(traced.report.passes, recorded.report.passes, strict=True):
        ours, theirs = ({(each.site, each.before, each.after) for each in report.changes} for report in (one, other))
        assert ours == theirs
    first, second = count_flops(traced), count_flops(recorded)
    assert (first.full_macs, first.low_macs) == (second.full_macs, second.low_macs)


class Clamping(nn.Module):
    """Trains otherwise than its trace: a part without gradients, which torch.fx drops."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        with torch.no_grad():
            shift = self.body(x)
        return self.body(x) - shift.mean()


def test_a_graph_by_name_that_trains_otherwise_is_refused() -> None:
    with pytest.raises(TraceError, match=r"^the fx graph of Clamping does not train as the model does: .*; leave"):
        build_pair(Clamping(), torch.zeros(IMAGES), front_end="fx")
    assert build_pair(Clamping(), torch.zeros(IMAGES)).live


def test_a_front_end_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"^front_end='jit' is unknown; give 'auto', 'live', "):
        build_pair(Tiny(), torch.zeros(IMAGES), front_end="jit")  # type: ignore[arg-type]


EXAMPLES = [
    (torch.zeros(IMAGES, dtype=torch.float64), "Input type (double) and bias type (float) should be the same"),
]


@pytest.mark.parametrize("front_end", ["auto", "live"])
def test_images_of_other_channels_than_the_model_takes(front_end: Any) -> None:
    with pytest.raises(
        TraceError, match=r"images have 5 channels, but the model takes 3; build the model with in_chans=5$"
    ):
        build_pair(Tiny(), torch.zeros(2, 5, 16, 16), front_end=front_end)


@pytest.mark.parametrize(("example", "complaint"), EXAMPLES)
@pytest.mark.parametrize(
    ("front_end", "start"),
    [
        ("auto", "Tiny fails on {}: "),
        ("fx", "Tiny can't be traced on {}: fx: conv2d does not take {}: "),
        ("live", "Tiny fails on {}: "),
    ],
)
def test_an_example_that_the_model_does_not_take(example: Tensor, complaint: str, front_end: Any, start: str) -> None:
    with pytest.raises(TraceError) as error:
        build_pair(Tiny(), example, front_end=front_end)
    message = str(error.value)
    shape = str(tuple(example.shape))
    assert message.startswith(start.format(f"{shape} of {example.dtype}", shape) + complaint)
    assert message.count(complaint) == 1 and "\n" not in message


def test_the_models_own_complaint_is_reported_once() -> None:
    class Grey(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            assert self.scale.shape[0] == 1, "for grey images"
            return super().forward(x)

    with pytest.raises(TraceError, match=r"^Grey fails on .*: for grey images \(line \d+ of test_front_ends\.py\)$"):
        build_pair(Grey(), torch.zeros(IMAGES))
    with pytest.raises(TraceError, match=r": fx: for grey images \(line \d+ of test_front_ends\.py\); check"):
        build_pair(Grey(), torch.zeros(IMAGES), front_end="fx")


def test_a_model_of_several_inputs() -> None:
    class Pairwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Tiny()

        def forward(self, images: Tensor, others: Tensor, *, scale: float, bias: float = 0.0) -> Tensor:
            return self.body(images) * scale + self.body(others) + bias

    with pytest.raises(
        ValueError,
        match=r"^Pairwise\.forward\(images, others, \*, scale, bias=0\.0\) does not take these arguments: missing",
    ):
        build_pair(Pairwise(), torch.zeros(IMAGES))
    assert build_pair(Pairwise(), torch.zeros(IMAGES), submodule="body").report.model == "Tiny"


KEPT: list[type] = []  # where no build can put anything back


@pytest.mark.parametrize("front_end", ["auto", "live"])
def test_a_forward_hook_never_keeps_what_stands_for_a_tensor(front_end: Any) -> None:
    model, example = Tiny(), torch.zeros(IMAGES)
    handle = model.blocks.register_forward_hook(lambda module, inputs, output: KEPT.append(type(output)))
    build_pair(model, example, front_end=front_end)
    assert set(KEPT) <= {torch.Tensor}
    assert list(model.blocks._forward_hooks) == [handle.id]
