"""Steps that write to their batch run uncaptured: a replay would write to a copy of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowmode_fx import TrainStep
from lowmode_fx.runtime.captured.complaints import UncapturedWarning
from tests.runtime.recorder import Recorder


class Halving(nn.Module):
    """Halves its images in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        images.mul_(0.5)
        return self.conv(images)


def writing_loss(output: Tensor, target: Tensor) -> Tensor:
    loss = F.mse_loss(output, target.clone())
    target.mul_(0.5)
    return loss


def plain() -> nn.Module:
    return nn.Conv2d(3, 3, 3, padding=1)


def images(count: int = 3) -> list[Tensor]:
    return [torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(count)]


def losses(make: Callable[[], nn.Module], criterion: Any, same: bool, graphs: Recorder | None) -> list[float]:
    """Twelve steps on three batches, which are used again; ``same``: the images are the targets, too."""
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125, fused=True)
    step = TrainStep(model, criterion, optimizer, graphs=graphs, capture=graphs is not None)
    inputs, targets = images(), images()[::-1]
    batches = [(x, x if same else y) for x, y in zip(inputs, targets, strict=True)]
    return [step(x, y).item() for x, y in itertools.islice(itertools.cycle(batches), 12)]


@pytest.mark.parametrize(
    ("make", "criterion", "same"),
    [
        (Halving, F.mse_loss, False),
        (Halving, F.mse_loss, True),
        (plain, writing_loss, False),
        (Halving, writing_loss, False),
    ],
)
def test_a_step_that_writes_to_its_batch_runs_uncaptured(
    make: Callable[[], nn.Module], criterion: Any, same: bool
) -> None:
    recorder = Recorder()
    with pytest.warns(UncapturedWarning, match="writes to the batch that it is given, in place; give it a copy"):
        ours = losses(make, criterion, same, recorder)
    assert ours == losses(make, criterion, same, None) and recorder.captures == 0


@pytest.mark.parametrize("same", [False, True])
def test_batches_that_are_only_read_are_replayed(same: bool) -> None:
    recorder = Recorder()
    assert losses(plain, F.mse_loss, same, recorder) == losses(plain, F.mse_loss, same, None)
    assert recorder.replays == 10


@pytest.mark.parametrize(
    "change",
    [
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: setattr(torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
        lambda: torch.backends.cuda.enable_flash_sdp(False),
    ],
)
def test_other_precisions_are_captured_anew(change: Callable[[], None]) -> None:
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), matmul.allow_bf16_reduced_precision_reduction
    flash = torch.backends.cuda.flash_sdp_enabled()
    recorder = Recorder()
    model = plain()
    step = TrainStep(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.125, fused=True), graphs=recorder)
    try:
        for place in range(12):
            if place == 6:
                change()
            step(*images(2))
        assert recorder.captures == 2
    finally:
        torch.set_float32_matmul_precision(before[0])
        matmul.allow_bf16_reduced_precision_reduction = before[1]
        torch.backends.cuda.enable_flash_sdp(flash)
