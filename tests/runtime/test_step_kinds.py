"""Which kinds of steps are recorded: several shapes of batches side by side, again after changes, within a budget."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lowmode_fx import TrainStep
from lowmode_fx.runtime.captured.arithmetic import Batch
from lowmode_fx.runtime.captured.budget import FREE_ROUNDS, PAID_BACK, Budget
from lowmode_fx.runtime.captured.complaints import UncapturedWarning
from lowmode_fx.runtime.captured.differences import difference
from lowmode_fx.runtime.captured.signature import flatten
from tests.runtime.recorder import Recorder
from tests.runtime.runs import SGD, STEPS, Net, Run, batches, build, same

Data = list[tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def no_other_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncapturedWarning)
        yield


def recorded(*args: Any, **options: Any) -> Run:
    return Run(*args, graphs=Recorder(), **options)


def in_turn(count: int, *sizes: int) -> Data:
    """Batches of these numbers of images in turn."""
    sources = {size: iter(batches(count, size)) for size in sizes}
    return [next(sources[size]) for size in islice(cycle(sizes), count)]


def resolutions(count: int, *sides: int) -> Data:
    return [
        (F.interpolate(images, (side, side)), labels)
        for (images, labels), side in zip(batches(count), cycle(sides), strict=False)
    ]


# Shapes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"accumulate": 3, "clip_grad_norm": 0.5}], ids=str)
def test_shapes_that_take_turns_are_each_recorded_once(options: dict[str, Any]) -> None:
    """Two batches of one size, then two of another: within an accumulated step, in all orders."""
    data = in_turn(96, 4, 4, 3, 3)
    ours, loop = recorded(**options).train(data), Run(**options).train(data)
    assert same(ours, loop)
    assert ours.step.uncaptured is None
    kinds = 2 * 2 * options.get("accumulate", 1)  # modes, sizes, and batches of a step
    assert ours.recorder.captures == ours.step.captures == kinds
    assert ours.recorder.replays > 96 - 5 * kinds
    assert ours.recorder.forgotten == 0


class Branching(Net):
    """Leaves out a layer for batches of three, whose weights get no gradient from them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if len(x) == 4 else self.fc(F.relu(self.stem(x)).mean((2, 3)))


def reading(outputs: Tensor, labels: Tensor) -> Tensor:
    """A loss that can't be recorded."""
    loss = F.cross_entropy(outputs, labels)
    return loss * (1.0 if loss.item() > 1.5 else 0.5)


@pytest.mark.parametrize("net", [Net, Branching])
@pytest.mark.parametrize("criterion", [F.cross_entropy, reading])
def test_a_later_batch_follows_a_first_one_of_any_shape(net: type[Net], criterion: Any) -> None:
    """Each of three batches of a step has one of two sizes, drawn anew."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(3, 5, (180,), generator=generator).tolist()
    sources = {size: iter(batches(180, size)) for size in (3, 4)}
    data = [next(sources[size]) for size in sizes]

    def train(graphs: Recorder | None) -> Run:
        torch.manual_seed(0)
        return Run(net=build(net()), criterion=criterion, accumulate=3, graphs=graphs).train(data)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UncapturedWarning)
        ours = train(Recorder())
    told = [str(each.message) for each in caught]
    assert sum("between and after two replays" in each for each in told) == (criterion is reading)
    assert any("batches of one step give gradients to other parameters" in each for each in told) == (net is Branching)
    assert same(ours, train(None))
    assert ours.step.captures >= 10
    assert ours.recorder.replays > (100 if net is Net else 60)


def test_a_ragged_last_batch_is_recorded_when_it_comes_the_third_time() -> None:
    epoch = batches(6) + batches(1, size=3)
    counts = []
    ours, loop = recorded(), Run()
    for _ in range(8):
        ours.train(epoch)
        loop.train(epoch)
        counts.append(ours.step.captures)
    assert same(ours, loop)
    assert counts[1] == 2, "the full batch, in both modes"
    assert counts[-1] == ours.recorder.captures > 2


def test_eleven_resolutions_in_turn_are_all_recorded() -> None:
    data = resolutions(110, *range(8, 19))
    ours, loop = recorded().train(data), Run().train(data)
    assert same(ours, loop)
    assert ours.step.uncaptured is None
    assert ours.step.captures == ours.recorder.captures <= 22
    assert ours.recorder.replays > 50


def test_more_kinds_than_are_kept_do_not_push_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowmode_fx.runtime.captured.room.MOST_RECORDED", 3)
    data = in_turn(80, 2, 3, 4, 5)
    with pytest.warns(UncapturedWarning, match="more than 3 kinds of steps .* take turns: 3 stay captured") as caught:
        ours = recorded().train(data)
    assert len(caught) == 1
    assert same(ours, Run().train(data))
    assert ours.step.captures == ours.recorder.captures == 3
    assert ours.recorder.replays > 20


def test_a_recording_that_is_no_longer_used_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowmode_fx.runtime.captured.room.MOST_RECORDED", 4)
    data = in_turn(30, 2, 3) + in_turn(30, 4, 5) + in_turn(30, 2, 3)
    ours = recorded().train(data)
    assert same(ours, Run().train(data))
    assert ours.step.captures == 4
    assert ours.recorder.captures == 12
    assert len(ours.step._captured._static) == 2, "the memory of batches of the other sizes is given up"  # type: ignore[union-attr]
    assert ours.recorder.forgotten == 0


def test_shapes_that_come_a_few_times_each_are_recorded_until_the_budget_is_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lowmode_fx.runtime.captured.room.MOST_RECORDED", 2)
    torch.manual_seed(0)
    runs = []
    for graphs in (Recorder(), None):
        torch.manual_seed(0)
        net = Net()
        runs.append(TrainStep(net, F.cross_entropy, SGD(net.parameters()), graphs=graphs))
    sizes = [size for size in range(2, 26) for _ in range(4)]
    losses: list[list[Tensor]] = [[], []]
    with pytest.warns(UncapturedWarning, match="more than 2 kinds of steps .* come, each a few times") as caught:
        for step, found in zip(runs, losses, strict=True):
            torch.manual_seed(5)
            found += [step(*batches(1, size)[0]) for size in sizes]
    assert len(caught) == 1
    assert all(map(torch.equal, *losses))
    recorder: Any = runs[0]._captured._runs._graphs  # type: ignore[union-attr]
    assert recorder.captures == FREE_ROUNDS * 2 + 1 < 24


# Batches that are never alike -----------------------------------------------------------------------------------------


def mixed_loss(outputs: Tensor, targets: Any) -> Tensor:
    first, second, share = targets
    return F.cross_entropy(outputs, first) * share + F.cross_entropy(outputs, second) * (1 - share)


def test_a_number_in_the_targets_that_always_differs_is_told() -> None:
    shares = [0.37, 0.91, *torch.rand(118, generator=torch.Generator().manual_seed(2)).tolist()]
    pairs = zip(batches(120), shares, strict=False)
    data: Any = [(images, (labels, labels.flip(0), share)) for (images, labels), share in pairs]
    cause = r"run uncaptured: targets\[2\] is a Python number that changes: 0\.\d+, 0\.\d+; give it as a tensor"
    with pytest.warns(UncapturedWarning, match=cause) as caught:
        ours = recorded(criterion=mixed_loss).train(data)
    assert len(caught) == 1
    assert same(ours, Run(criterion=mixed_loss).train(data))
    as_tensors: Any = [(images, (*labels, torch.tensor(share))) for images, (*labels, share) in data]
    told = recorded(criterion=mixed_loss).train(as_tensors)
    assert told.recorder.replays == 120 - 4


def in_formats(images: Tensor, place: int) -> Tensor:
    strides = (500 * place + 432, 144, 12, 1)
    return torch.zeros(4 * strides[0]).as_strided(images.shape, strides).copy_(images)


def resized(images: Tensor, place: int) -> Tensor:
    return F.interpolate(images, (8 + place // 8, 8 + place % 8))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (in_formats, r"inputs has another memory format each time, strides \(\d+, 144, 12, 1\), \("),
        (resized, r"inputs has another shape each time: \(4, 3, \d+, \d+\), \(4, 3, \d+, \d+\); give a few shapes"),
    ],
)
def test_images_that_always_differ_are_told(change: Callable[[Tensor, int], Tensor], cause: str) -> None:
    data = [(change(images, place), labels) for place, (images, labels) in enumerate(batches(120))]
    with pytest.warns(UncapturedWarning, match=cause) as caught:
        ours = recorded().train(data)
    assert len(caught) == 1
    assert same(ours, Run().train(data))


def test_names_of_what_differs() -> None:
    def told(now: Batch, before: Batch) -> str:
        return difference(flatten(now)[1], flatten(before)[1])

    x, y = torch.zeros(2, 3), torch.zeros(2)
    assert told(Batch((x,), {}, {"a": [y, "b"]}), Batch((x,), {}, {"a": [y, "c"]})) == (
        "targets['a'][1] is a str in Python that changes: 'c', 'b'; give it as a tensor"
    )
    assert told(Batch((x, 2), {}, y), Batch((x, 3), {}, y)).startswith(
        "inputs[1] is a Python number that changes: 3, 2"
    )
    assert told(Batch((), {"x": x}, y), Batch((), {"x": x.long()}, y)).startswith("inputs['x'] has another dtype each")
    assert told(Batch((x,), {}, None), Batch((x,), {}, y)) == "targets is a tensor only now and then; give one always"
    assert told(Batch((x,), {}, (y, y)), Batch((x,), {}, y)).startswith("inputs or targets are built differently")
    both = told(Batch((y,), {}, 0.5), Batch((x,), {}, 0.25))
    assert both == "targets is a Python number that changes: 0.25, 0.5; give it as a tensor"


def test_zeros_of_both_signs_are_told_apart() -> None:
    def signed(outputs: Tensor, targets: Any) -> Tensor:
        labels, share = targets
        return F.cross_entropy(outputs, labels) * (2.0 if str(share) == "-0.0" else 1.0)

    data: Any = [(images, (labels, (0.0, -0.0)[place // 3 % 2])) for place, (images, labels) in enumerate(batches(40))]
    ours = recorded(criterion=signed).train(data)
    assert same(ours, Run(criterion=signed).train(data))
    assert ours.step.captures == 4


# The budget -----------------------------------------------------------------------------------------------------------


def test_what_changes_once_an_epoch_is_captured_again_each_time() -> None:
    """Twelve epochs of 110 steps: a recording of each mode is paid back by 104 replays."""

    def between(run: Run, place: int) -> None:
        run.net.temperature = 1.0 + place // 110

    data = batches(10) * 132
    ours, loop = recorded().train(data, between), Run().train(data, between)
    assert same(ours, loop)
    assert ours.step.uncaptured is None
    assert ours.recorder.captures == 24


@pytest.mark.parametrize("every", [3, 6])
def test_an_optimizer_that_is_loaded_again_and_again_steps_outside(every: int) -> None:
    def between(run: Run, place: int) -> None:
        if place and place % every == 0:
            run.optimizer.load_state_dict(run.optimizer.state_dict())

    with pytest.warns(UncapturedWarning, match="replaced again and again, as by load_state_dict") as caught:
        ours = recorded().train(batches(160), between)
    assert len(caught) == 1
    assert same(ours, Run().train(batches(160), between))
    assert ours.recorder.captures <= 2 * FREE_ROUNDS + 4
    assert ours.recorder.replays > 40, "forward and backward are replayed"
    assert ours.step.uncaptured is None


def test_options_of_a_scaler_that_keep_changing_put_the_optimizer_outside() -> None:
    def between(run: Run, place: int) -> None:
        run.step.scaler.set_growth_interval(100 + place // 4)

    with pytest.warns(UncapturedWarning, match="options of the gradient scaler keep changing") as caught:
        ours = recorded(autocast=torch.float16).train(batches(4 * STEPS), between)
    assert len(caught) == 1
    assert same(ours, Run(autocast=torch.float16).train(batches(4 * STEPS), between))


def test_the_budget_counts_recordings_against_replays() -> None:
    budget = Budget()
    for _ in range(FREE_ROUNDS):
        budget.note_recording(1)
        budget.note_change()
    assert budget.allows()
    budget.note_recording(1)
    assert not budget.allows()
    budget.replays += PAID_BACK
    assert budget.allows()


def test_replays_that_are_long_past_pay_for_nothing_now() -> None:
    budget = Budget()
    budget.replays += 10**6
    changes = 0
    while budget.allows():
        budget.note_change()
        changes += 1
    assert changes == FREE_ROUNDS + 1


def test_each_kind_that_is_recorded_may_be_recorded_again() -> None:
    budget = Budget()
    for _ in range(FREE_ROUNDS):
        for kinds in range(1, 5):
            budget.note_recording(kinds)
        budget.note_change()
    assert budget.allows()
