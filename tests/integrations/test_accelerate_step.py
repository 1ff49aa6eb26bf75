"""Accelerate's steps as one call: the bits of its loop, on a CPU and where steps are recorded and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset
from trainers import assert_same, make, network

from lowmode_fx import BernoulliSchedule, UncapturedWarning
from tests.runtime.recorder import Recorder

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'lowmode-fx[accelerate]'")

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType

from lowmode_fx.integrations.accelerate import captured_step, prepare

pytestmark = pytest.mark.usefixtures("one_thread")

#: Of an epoch: odd, so that its last batch is a step of its own where two are accumulated.
BATCHES, EPOCHS = 9, 4
IMAGES = torch.randn(4 * BATCHES, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4 * BATCHES) % 4 + 1
RECORDED = pytest.mark.parametrize("recorded", [False, True], ids=["run", "recorded"])


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Accelerate's state is the process's: each test has its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Run:
    """A training with Accelerate: the loop by hand, or with whole steps."""

    def __init__(
        self,
        net: Any = None,
        *,
        whole: bool,
        recorded: bool = False,
        fused: bool = True,
        clip: float | None = None,
        criterion: Callable[[Any, Any], Tensor] = F.cross_entropy,
        labels: Tensor = LABELS,
        precision: str | None = None,
        accumulation: int = 1,
    ) -> None:
        GradientState._reset_state()
        AcceleratorState._reset_state(reset_partial_state=True)
        half = precision == "fp16"
        self.accelerator = Accelerator(
            cpu=True, mixed_precision=None if half else precision, gradient_accumulation_steps=accumulation
        )
        if half:  # Accelerate keeps it to GPUs
            self.accelerator.state._mixed_precision = "fp16"
            self.accelerator.native_amp = True
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        self.net = make() if net is None else net
        self.raw = torch.optim.SGD(self.net.parameters(), lr=0.125, momentum=0.9, fused=fused)
        scheduler = StepLR(self.raw, 5, gamma=0.5)
        batches = DataLoader(TensorDataset(IMAGES, labels), batch_size=4)
        objects = (self.net, self.raw, batches, scheduler)
        prepared = self.accelerator.prepare(*objects) if net is not None else prepare(self.accelerator, *objects)
        self.trained, self.optimizer, self.batches, self.scheduler = prepared
        self.clip, self.criterion = clip, criterion
        self.recorder = Recorder() if recorded else None
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.modes: list[str] = []
        self.step: Any = None
        if whole:
            options = {"clip_grad_norm": clip, "graphs": self.recorder}
            self.step = captured_step(self.accelerator, self.trained, criterion, self.optimizer, **options)

    def train(self, epochs: int = EPOCHS, first: int = 0) -> Run:
        for epoch in range(first, epochs):
            if hasattr(self.net, "set_epoch"):
                self.net.set_epoch(epoch)
            for images, labels in self.batches:
                with self.accelerator.accumulate(self.trained):
                    loss = self.by_hand(images, labels) if self.step is None else self.step(images, labels)
                    self.scheduler.step()
                self.losses.append(loss.item())
                self.rates.append(self.raw.param_groups[0]["lr"])
                self.modes.append(str(getattr(self.net, "last_mode", None)))
        return self

    def by_hand(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = self.criterion(self.trained(images), labels)
        self.accelerator.backward(loss)
        if self.clip is not None and self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(self.trained.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def is_same_as(self, other: Run) -> None:
        """The same bits, also of what Accelerate saves."""
        assert (self.losses, self.rates, self.modes) == (other.losses, other.rates, other.modes)
        assert_same(self.net.state_dict(), other.net.state_dict())
        ours, theirs = ([state["momentum_buffer"] for state in run.raw.state.values()] for run in (self, other))
        assert len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))
        assert self.optimizer.step_was_skipped == other.optimizer.step_was_skipped
        if self.accelerator.scaler is not None:
            assert self.accelerator.scaler.state_dict() == other.accelerator.scaler.state_dict()


@RECORDED
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_whole_steps_are_its_loop(accumulation: int, clip: float | None, recorded: bool) -> None:
    options: dict[str, Any] = {"accumulation": accumulation, "clip": clip}
    ours = Run(whole=True, recorded=recorded, **options).train()
    ours.is_same_as(Run(whole=False, **options).train())
    assert {"low", "full"} == set(ours.modes)
    assert ours.net.step == EPOCHS * -(-BATCHES // accumulation)
    if ours.recorder is not None:
        assert ours.step.uncaptured is ours.step.optimizer_outside is None
        # Each kind of step runs three times before: a mode, and a place among the batches of an optimizer step.
        places = {1: 1, 2: 3, 3: 3}[accumulation]
        assert ours.recorder.replays >= EPOCHS * BATCHES - 1 - 2 * 2 * places


def test_a_mode_may_begin_with_the_last_batch_of_an_epoch() -> None:
    """Which is an optimizer step of its own, not the first of two batches."""
    schedule = BernoulliSchedule(p=0.5, seed=47)
    ours = Run(make(schedule), whole=True, recorded=True, accumulation=2).train()
    assert ours.modes.index(ours.modes[BATCHES - 1]) == BATCHES - 1
    assert ours.recorder is not None and ours.recorder.replays >= EPOCHS * BATCHES - 1 - 2 * 2 * 3
    ours.is_same_as(Run(make(schedule), whole=False, accumulation=2).train())


@RECORDED
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_its_precision(precision: str, recorded: bool) -> None:
    ours = Run(whole=True, recorded=recorded, precision=precision, clip=0.5).train()
    ours.is_same_as(Run(whole=False, precision=precision, clip=0.5).train())
    assert ours.losses != Run(whole=False, clip=0.5).train().losses
    assert ours.recorder is None or (ours.step.uncaptured is None and ours.recorder.replays > 25)


def test_its_autocast_goes_around_the_call() -> None:
    kinds: list[Any] = []

    def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
        kinds.append((outputs.dtype, (outputs @ outputs.T).dtype))
        return F.cross_entropy(outputs, labels)

    run = Run(whole=True, precision="bf16", criterion=criterion)
    run.step(IMAGES[:4], LABELS[:4])
    with run.accelerator.autocast():
        run.step(IMAGES[:4], LABELS[:4])
    assert kinds == [(torch.float32, torch.float32), (torch.float32, torch.bfloat16)]


def infinite_below_zero(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels.abs()) / (labels >= 0).all()


@RECORDED
@pytest.mark.parametrize("accumulation", [1, 2])
def test_schedulers_wait_where_the_scaler_skips(accumulation: int, recorded: bool) -> None:
    labels = LABELS.clone()
    labels[-4:] *= -1  # of the last batch
    options: dict[str, Any] = {"precision": "fp16", "criterion": infinite_below_zero, "labels": labels, "fused": False}
    options["accumulation"] = accumulation
    with pytest.warns(UncapturedWarning, match="make it with fused") if recorded else nullcontext():
        ours = Run(whole=True, recorded=recorded, **options)
    ours.train().is_same_as(Run(whole=False, **options).train())
    steps = -(-BATCHES // accumulation) - 1
    assert ours.net.step == EPOCHS * steps and ours.optimizer.step_was_skipped
    assert ours.rates[-1] == 0.125 / 2 ** (EPOCHS * steps // 5)
    assert ours.recorder is None or ours.recorder.replays > 10


@RECORDED
def test_a_fused_optimizers_skipped_step_is_told_too(recorded: bool) -> None:
    labels = LABELS.clone()
    labels[-4:] *= -1
    options: dict[str, Any] = {"precision": "fp16", "criterion": infinite_below_zero, "labels": labels}
    seen = []
    ours = Run(whole=True, recorded=recorded, **options)
    ours.scheduler.step = lambda: seen.append(ours.accelerator.optimizer_step_was_skipped)
    ours.train()
    assert seen == ([False] * (BATCHES - 1) + [True]) * EPOCHS
    assert ours.recorder is None or (ours.step.optimizer_outside is None and ours.recorder.replays > 25)


@pytest.mark.parametrize("loaded_first", [False, True])
@RECORDED
def test_a_loaded_state_goes_on_bit_for_bit(tmp_path: Path, recorded: bool, loaded_first: bool) -> None:
    options: dict[str, Any] = {"whole": True, "recorded": recorded, "precision": "fp16", "clip": 0.5}
    whole = Run(**options).train(2)
    whole.accelerator.save_state(str(tmp_path))
    steps = whole.net.step
    whole.train(EPOCHS, first=2)
    other = Run(**options)
    if not loaded_first:  # steps of another run are captured already
        other.train(2)
    other.accelerator.load_state(str(tmp_path))
    assert (other.net.step, other.net.epoch) == (steps, 1)
    other.losses, other.rates, other.modes = whole.losses[:steps], whole.rates[:steps], whole.modes[:steps]
    other.train(EPOCHS, first=2).is_same_as(whole)


@RECORDED
def test_a_model_without_low_mode(recorded: bool) -> None:
    ours = Run(network(), whole=True, recorded=recorded, precision="bf16", accumulation=2).train()
    ours.is_same_as(Run(network(), whole=False, precision="bf16", accumulation=2).train())
    assert ours.recorder is None or ours.recorder.replays > 25


def test_what_a_step_can_not_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(whole=True)

    def refused(message: str, net: Any = run.trained, optimizer: Any = run.optimizer) -> None:
        with pytest.raises(ValueError, match=message):
            captured_step(run.accelerator, net, F.cross_entropy, optimizer)

    refused(r"^LowModeModel is not prepared; give what accelerator\.prepare returned$", net=make())
    refused(r"^SGD is not prepared; give what accelerator\.prepare returned$", optimizer=run.raw)
    monkeypatch.setattr(run.accelerator.state, "distributed_type", DistributedType.FSDP)
    refused(r"^captured_step does not take Accelerate's steps in FSDP; call accelerator\.backward and optimizer\.step$")
    monkeypatch.undo()
    monkeypatch.setattr(run.accelerator.state, "_mixed_precision", "fp8")
    refused(r"^captured_step does not take Accelerate's steps in fp8 \(NO\); call")


def test_another_number_of_batches_to_accumulate_needs_another_step() -> None:
    run = Run(whole=True)
    run.accelerator.gradient_accumulation_steps = 4
    with pytest.raises(ValueError, match=r"was 1 when the step was made, and is 4 now; make another step$"):
        run.step(IMAGES[:4], LABELS[:4])
