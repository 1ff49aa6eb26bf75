"""A loss that can't be recorded is computed in Python, between a replayed forward and a replayed backward pass."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowmode_fx import BernoulliSchedule, LowModeModel, TrainStep, build_pair
from lowmode_fx.runtime.captured.complaints import UncapturedWarning
from tests.runtime.recorder import Recorder, recording
from tests.runtime.runs import IMAGES, OPTIONS, SGD, STEPS, GraphKind, Net, Run, batches, build, heat, same


class Waiting:
    """Reads its loss at each step."""

    def __init__(self) -> None:
        self.seen = 0.0

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(outputs, labels)
        return loss * (1.0 if loss.item() > 1.5 else 0.5)


class Counting(Waiting):
    """Grows with each step."""

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        self.seen += 2.0**-5
        return F.cross_entropy(outputs, labels) * (1 + self.seen)


class Drawing(Waiting):
    """Smooths labels by as much as it draws."""

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, label_smoothing=random.random() / 2)


CAUSES = {
    Waiting: r"waits for the device \(.*test_step_in_parts.py:\d+\)",
    Counting: "changes seen|changes 'seen'",
    Drawing: "draws random numbers on the host",
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Waiting, each) for each in ("plain", "clipped", "three batches a step, clipped", "bf16", "fp16")]
    + [(Counting, "plain"), (Drawing, "plain")],
)
def test_forward_and_backward_stay_captured(graphs: GraphKind, kind: type[Waiting], options: str) -> None:
    def train(make: Callable[..., Run]) -> Run:
        random.seed(4)
        net = build(low_weight=0.5)
        return make(net=net, criterion=kind(), **OPTIONS[options]).train(graphs.batches(3 * STEPS))

    with pytest.warns(
        UncapturedWarning, match=f"the loss and the optimizer step run in Python.*{CAUSES[kind]}"
    ) as told:
        ours = train(graphs.captured)
    assert graphs.told(told) == 1
    assert same(ours, train(graphs.loop))
    accumulate = OPTIONS[options].get("accumulate", 1)
    assert (ours.step.uncaptured, ours.step.captures) == (None, 2 * accumulate)
    assert ours.step.loss_outside == ours.step.optimizer_outside != None  # noqa: E711
    assert ours.recorder.replays > STEPS


def test_what_changes_counts_from_the_next_step_here_too(graphs: GraphKind) -> None:
    def between(run: Run, place: int) -> None:
        if place == STEPS:
            heat(run)

    with pytest.warns(UncapturedWarning):
        ours = graphs.captured(criterion=Waiting()).train(graphs.batches(2 * STEPS), between)
    assert same(ours, graphs.loop(criterion=Waiting()).train(graphs.batches(2 * STEPS), between))
    assert ours.recorder.captures == 4


def test_a_loss_keeps_what_it_is_given(graphs: GraphKind) -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
        kept.append((outputs.detach(), labels))
        loss = F.cross_entropy(outputs, labels)
        return loss * (1.0 if loss.item() > 1.5 else 0.5)

    data = graphs.batches()
    with pytest.warns(UncapturedWarning):
        run = graphs.captured(criterion=criterion).train(data)
    assert run.recorder.replays
    assert all(torch.equal(labels, given) for (_, labels), (_, given) in zip(kept, data, strict=True))
    assert len({float(outputs.sum()) for outputs, _ in kept}) == STEPS


class Pair(Net):
    """Two outputs."""

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        outputs = super().forward(x)
        return outputs, outputs * 2


def pair_net() -> LowModeModel:
    torch.manual_seed(0)
    return LowModeModel(build_pair(Pair(), torch.zeros(IMAGES)), BernoulliSchedule(0.5, seed=3), compile=False)


@pytest.mark.parametrize("used", [1, 2])
def test_outputs_that_get_no_gradient_leave_the_step_uncaptured(graphs: GraphKind, used: int) -> None:
    def criterion(outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        loss = F.cross_entropy(outputs[0], labels)
        if used == 2:
            loss = loss + F.cross_entropy(outputs[1], labels)
        return loss * (1.0 if loss.item() > 1.5 else 0.5)

    with pytest.warns(UncapturedWarning) as told:
        ours = graphs.captured(net=pair_net(), criterion=criterion).train(graphs.batches())
    assert graphs.told(told) == 1
    assert same(ours, graphs.loop(net=pair_net(), criterion=criterion).train(graphs.batches()))
    assert (ours.step.uncaptured is None) == (used == 2) == (ours.recorder.replays > 0)


def test_a_loss_that_uses_the_network_leaves_the_step_uncaptured(graphs: GraphKind) -> None:
    class Penalty(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
            loss = F.cross_entropy(outputs, labels) + 0.01 * self.model.get_parameter("fc.weight").square().sum()
            return loss * (1.0 if loss.item() > 1.5 else 0.5)

    def train(make: Callable[..., Run]) -> Run:
        net = build()
        return make(net=net, criterion=Penalty(net.ladder.model)).train(graphs.batches())

    with pytest.warns(UncapturedWarning, match="training steps run uncaptured.*waits for the device"):
        ours = train(graphs.captured)
    assert same(ours, train(graphs.loop))
    assert ours.recorder.replays == 0


def refusing(outputs: Tensor, labels: Tensor) -> Tensor:
    """Can't be recorded, which the rehearsal doesn't show."""
    loss = F.cross_entropy(outputs, labels)
    if recording():
        loss.item()
    return loss


def test_a_loss_that_only_the_recording_refuses(graphs: GraphKind) -> None:
    """Draws, memory and streams are as if it had never been tried, and another step is captured after it."""
    with pytest.warns(UncapturedWarning, match="the loss and the optimizer step .* can't be recorded: ") as told:
        ours = graphs.captured(criterion=refusing).train(graphs.batches(2 * STEPS))
    assert graphs.told(told) == 1
    assert same(ours, graphs.loop(criterion=refusing).train(graphs.batches(2 * STEPS)))
    assert (ours.step.uncaptured, ours.step.captures) == (None, 2)
    assert ours.recorder.replays > STEPS
    another = graphs.captured().train(graphs.batches())
    assert another.step.optimizer_outside is None
    assert (another.step.captures, another.recorder.replays) == (2, STEPS - 4)
    assert same(another, graphs.loop().train(graphs.batches()))


def test_a_module_of_ones_own_is_captured_in_parts() -> None:
    torch.manual_seed(0)
    model = Net()
    with pytest.warns(UncapturedWarning):
        step = TrainStep(model, Waiting(), SGD(model.parameters()), graphs=Recorder())
        for batch in batches(8):
            step(*batch)
    assert step.captures == 1


class Aux(Net):
    """Two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.aux, self.leaves = nn.Linear(8, 5), False

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        maps = F.relu(self.body(F.relu(self.norm(self.stem(x))))).mean((2, 3))
        if self.leaves:
            self.reg = maps.square().mean()
        return self.fc(maps), self.aux(maps)


def aux_net() -> LowModeModel:
    torch.manual_seed(0)
    return LowModeModel(build_pair(Aux(), torch.zeros(IMAGES)), BernoulliSchedule(0.5, seed=3), compile=False)


#: Models that a loss knows without holding them.
MODELS: list[nn.Module] = []


class Until:
    """Uses an output, or a weight, in some of its steps only, and reads its loss in all."""

    def __init__(self, net: LowModeModel, what: str) -> None:
        self.weight, self.what, self.calls = net.get_parameter("fc.weight"), what, 0
        MODELS.append(net.ladder.model)

    def __call__(self, outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        self.calls += 1
        first, second = outputs
        if self.what == "writes":
            first[labels == 0] = first[labels == 0] * 0.5
        loss = F.cross_entropy(first, labels)
        if self.what != "the output ends" or self.calls <= STEPS:
            loss = loss + F.cross_entropy(second, labels)
        if self.what == "a weight later" and self.calls > STEPS:
            loss = loss + 0.0625 * self.weight.square().sum()
        if self.what == "what forward left":
            model: Any = MODELS[-1]
            loss = loss + model.reg
        return loss * (1.0 if loss.item() > 1.5 else 0.5)


@pytest.mark.parametrize("what", ["the output ends", "a weight later", "writes", "what forward left"])
def test_a_loss_that_uses_now_more_and_now_less(graphs: GraphKind, what: str) -> None:
    """Momentum and weight decay move a parameter whose gradient is 0, and leave one that has none."""

    def train(make: Callable[..., Run]) -> Run:
        sgd = partial(torch.optim.SGD, lr=0.125, momentum=0.5, weight_decay=2**-6)
        net = aux_net()
        net.ladder.model.leaves = what == "what forward left"
        return make(sgd, net=net, criterion=Until(net, what)).train(graphs.batches(3 * STEPS))

    with pytest.warns(UncapturedWarning):
        ours = train(graphs.captured)
    theirs = train(graphs.loop)
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-5)
    state = theirs.net.state_dict()
    for name, value in ours.net.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-6, msg=name)
    assert bool(ours.recorder.replays) == (what != "what forward left")
