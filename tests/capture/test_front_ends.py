"""Tracing: the front ends, and what is said of a model or an input that none of them can follow."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tiny import IMAGES, Tiny
from torch import Tensor, nn

from lowmode_fx import TraceError, build_pair


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


@pytest.mark.parametrize(
    ("front_end", "complaint"),
    [
        ("fx", "fx: symbolically traced variables cannot be used as inputs to control flow (line"),
        ("export", "export: Could not guard on data-dependent"),
    ],
)
def test_a_model_that_a_front_end_cant_trace(front_end: Any, complaint: str) -> None:
    with pytest.raises(TraceError) as error:
        build_pair(Branching(), torch.zeros(IMAGES), front_end=front_end)
    message = str(error.value)
    assert message.startswith(f"Branching can't be traced on (2, 3, 16, 16) of torch.float32; {complaint}")
    assert "of test_front_ends.py)" in message and "leaf_modules=" in message and "\n" not in message


def test_a_model_that_nothing_can_trace_runs_itself_and_the_report_says_why() -> None:
    pair = build_pair(Branching(), torch.zeros(IMAGES))
    assert (pair.report.front_end, pair.live) == ("live", True)
    assert [failure.partition(":")[0] for failure in pair.report.front_end_failures] == ["fx", "export"]
    assert [(change.site, change.after) for change in pair.report.pooled] == [("body", "1×1")]


def test_a_front_end_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"^front_end is 'jit'; allowed: 'auto', 'live', 'fx', 'export'$"):
        build_pair(Tiny(), torch.zeros(IMAGES), front_end="jit")  # type: ignore[arg-type]


EXAMPLES = [
    (torch.zeros(2, 5, 16, 16), "Given groups=1, weight of size [4, 3, 3, 3], expected input[2, 5, 16, 16] to have 3"),
    (torch.zeros(IMAGES, dtype=torch.float64), "Input type (double) and bias type (float) should be the same"),
]


@pytest.mark.parametrize(("example", "complaint"), EXAMPLES)
@pytest.mark.parametrize(
    ("front_end", "start"),
    [("auto", "Tiny fails on {}: "), ("fx", "Tiny can't be traced on {}; fx: conv2d can't take {}: "), ("live", "Tiny fails on {}: ")],
)
def test_an_example_that_the_model_does_not_take(example: Tensor, complaint: str, front_end: Any, start: str) -> None:
    with pytest.raises(TraceError) as error:
        build_pair(Tiny(), example, front_end=front_end)
    message = str(error.value)
    shape = str(tuple(example.shape))
    assert message.startswith(start.format(f"{shape} of {example.dtype}", shape) + complaint)
    assert message.count(complaint) == 1 and "\n" not in message


def test_the_models_own_complaint_is_told_once() -> None:
    class Grey(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            assert self.scale.shape[0] == 1, "for grey images"
            return super().forward(x)

    with pytest.raises(TraceError, match=r"^Grey fails on .*: for grey images \(line \d+ of test_front_ends\.py\)$"):
        build_pair(Grey(), torch.zeros(IMAGES))
    with pytest.raises(TraceError, match=r"; fx: for grey images \(line \d+ of test_front_ends\.py\)\. Check"):
        build_pair(Grey(), torch.zeros(IMAGES), front_end="fx")


def test_a_model_of_several_inputs() -> None:
    class Pairwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Tiny()

        def forward(self, images: Tensor, others: Tensor, *, scale: float, bias: float = 0.0) -> Tensor:
            return self.body(images) * scale + self.body(others) + bias

    with pytest.raises(
        ValueError, match=r"^Pairwise\.forward\(images, others, \*, scale, bias=0\.0\) can't be called so: missing"
    ):
        build_pair(Pairwise(), torch.zeros(IMAGES))
    assert build_pair(Pairwise(), torch.zeros(IMAGES), submodule="body").report.model == "Tiny"
