"""Batches that grow as images shrink, in the tuner: priced first, then tried, then planned with."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calls import Network, images, labels
from torch import Tensor, nn

from lowmode_fx import DeviceLoader, LowModeConfig, LowModeModel, Mode
from lowmode_fx.capture.inputs import model_inputs
from lowmode_fx.lowering.lower import pair_of
from lowmode_fx.lowering.networks import network
from lowmode_fx.runtime.batch_growth import BatchGrowth
from lowmode_fx.tuning import search as search_module
from lowmode_fx.tuning.batches import Call, joined, read_batches
from lowmode_fx.tuning.candidate import Candidate
from lowmode_fx.tuning.costs import MeasuredCost, StepKind, step_cost
from lowmode_fx.tuning.decide import Wanted, decide
from lowmode_fx.tuning.growth import grown_batch
from lowmode_fx.tuning.ladder_plan import ramp
from lowmode_fx.tuning.plan import make_plan
from lowmode_fx.tuning.result import Tuning
from lowmode_fx.tuning.trials import Probe
from lowmode_fx.tuning.tune import tune
from tests.runtime.recorder import Recorder
from tests.tuning.test_tune import Coloured, sgd, small_model

KEPT = LowModeConfig(ratio=2, kernel_ratio=1)
FOUR = BatchGrowth({Mode.LOW: 4.0})


class Depth(Network):
    def forward(self, x: Tensor, depth: Tensor) -> Tensor:
        return self.logits(x) + depth.mean((1, 2, 3))[:, None]


def calls(count: int, size: int = 6) -> list[Call]:
    """Batches of images with a depth map each, whose targets are in a mapping."""
    model = Depth()
    batches = [((images(size, n), images(size, n + 9)[:, :1]), {"y": labels(size) + n}) for n in range(count)]
    inputs, _ = model_inputs(model, batches[0][0], "x")
    return read_batches(batches, inputs, model)


@pytest.mark.parametrize("length", [18, 14, 7])
def test_batches_are_joined_in_order_and_cut(length: int) -> None:
    parts = calls(3)
    whole = joined(parts, length)
    assert whole is not None and whole.images == length
    for place in range(2):
        assert torch.equal(whole.leaves[place], torch.cat([each.leaves[place] for each in parts])[:length])
    assert torch.equal(whole.targets["y"], torch.cat([each.targets["y"] for each in parts])[:length])


def test_what_has_no_item_an_image_is_not_joined() -> None:
    first, second = calls(2)
    assert joined([first, replace(second, targets=3)], 8) is None
    assert joined([first, replace(second, targets={"y": torch.tensor(1.0)})], 8) is None
    other = replace(second, leaves=(second.leaves[0][..., :4], second.leaves[1]))
    assert joined([first, other], 8) is None  # images of another size
    assert joined([replace(each, targets=None) for each in (first, second)], 8) is not None


def test_values_without_an_item_an_image_are_joined_where_they_are_alike() -> None:
    """Boxes of all images in one tensor would stand for four times as many."""
    first, second = calls(2)

    def with_boxes(call: Call, boxes: Tensor) -> Call:
        return replace(call, leaves=(*call.leaves, boxes))

    boxes = torch.arange(9.0)
    alike = joined([with_boxes(each, boxes) for each in (first, second)], 8)
    assert alike is not None and torch.equal(alike.leaves[2], boxes)
    assert joined([with_boxes(first, boxes), with_boxes(second, boxes + 1)], 8) is None
    assert joined([with_boxes(first, boxes), with_boxes(second, boxes[:4])], 8) is None


@pytest.mark.parametrize(("multiplier", "size"), [(4.0, 24), (16 / 9, 10), (1.0, 6)])
def test_a_larger_batch_repeats_images_where_there_are_too_few(multiplier: float, size: int) -> None:
    parts = calls(2)
    batch = grown_batch(parts, BatchGrowth({Mode.LOW: multiplier}))
    assert batch is not None and batch.images == size
    again = torch.cat([each.leaves[0] for each in itertools.islice(itertools.cycle(parts), math.ceil(multiplier))])
    assert torch.equal(batch.leaves[0], again[:size])


class NoNorm(nn.Module):
    """A model without state beside its weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 5, padding=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(F.relu(self.conv(x)).mean((2, 3)))
        return found


@pytest.mark.parametrize(("rule", "factor"), [("linear", 4.0), ("sqrt", 2.0), ("none", 1.0)])
def test_a_trial_run_of_larger_batches_is_that_of_a_loop(rule: Any, factor: float) -> None:
    """Two low steps of four batches, at four times the rate, then four full ones of one batch: the same weights."""
    data = list(Coloured(14, 8))
    probe = Probe(NoNorm(), data, F.cross_entropy, sgd, kept=2)
    probe.run((12,))
    pair = pair_of(probe.captured, KEPT)
    probe.trial_run(pair, 12, growth=BatchGrowth({Mode.LOW: 4.0}, rule))  # 8 batches in low steps

    model = NoNorm()
    twin = pair_of(Probe(model, data, F.cross_entropy, sgd, kept=2).captured, KEPT)
    optimizer = sgd(twin.model.parameters())
    source = itertools.cycle(data[2:])
    low, full = (network(twin, mode, downsample=True) for mode in (Mode.LOW, Mode.FULL))
    for forward, count in [(low, 4)] * 2 + [(full, 1)] * 4:
        x, y = map(torch.cat, zip(*itertools.islice(source, count), strict=True))
        optimizer.param_groups[0]["lr"] = 0.02 * (factor if count > 1 else 1.0)
        optimizer.zero_grad()
        F.cross_entropy(forward(x), y).backward()
        optimizer.step()
    for ours, theirs in zip(probe.model.parameters(), twin.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_gain_is_that_of_as_many_images() -> None:
    """Where four images teach no more than one does, a quarter of the steps gain a quarter."""
    steps: list[int] = []

    class Counting(Probe):
        def loss(self) -> float:
            return 1.0 / (1 + len(steps))

    def counted(parameters: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, lr=0.0)
        optimizer.register_step_post_hook(lambda *_: steps.append(1))
        steps.clear()
        return optimizer

    probe = Counting(NoNorm(), list(Coloured(40, 4)), F.cross_entropy, counted, kept=2)
    probe.run((36,))
    pair = pair_of(probe.captured, KEPT)
    gains = []
    for growth in (BatchGrowth({}), FOUR):
        steps.clear()
        gains.append(probe.trial_run(pair, 36, growth=growth))
    assert gains[0] == pytest.approx(1.0, abs=0.1) and gains[1] == pytest.approx(0.25, abs=0.05)


def test_the_cost_of_larger_batches_is_timed_on_them_captured_too() -> None:
    seen: set[tuple[Mode, int]] = set()

    def criterion(output: Tensor, targets: Tensor) -> Tensor:
        seen.add((Mode.LOW if len(output) > 8 else Mode.FULL, len(output)))
        return F.cross_entropy(output, targets)

    probe = Probe(NoNorm(), list(Coloured(4, 8)), criterion, sgd, kept=2)
    pair, larger = pair_of(probe.captured, KEPT), grown_batch(probe.batches, FOUR)
    for graphs in (None, Recorder()):
        seen.clear()
        cost, _ = step_cost(pair, probe.batches[0], criterion, StepKind(sgd, graphs=graphs), rounds=2, low_batch=larger)
        assert cost > 0 and seen == {(Mode.FULL, 8), (Mode.LOW, 32)}


def launches(pair: Any, batch: Call, *args: Any, low_batch: Call | None = None, **kwargs: Any) -> MeasuredCost:
    """Prices of a device that waits for launches: a step of small images costs the same, however many there are."""
    return MeasuredCost(0.5, 0.01)


def work(pair: Any, batch: Call, *args: Any, low_batch: Call | None = None, **kwargs: Any) -> MeasuredCost:
    """Prices by work: in proportion to the images."""
    return MeasuredCost(0.5 * (low_batch or batch).images / batch.images, 0.01)


def without_memory(pair: Any, batch: Call, *args: Any, low_batch: Call | None = None, **kwargs: Any) -> MeasuredCost:
    if low_batch is not None:
        raise torch.OutOfMemoryError
    return MeasuredCost(0.5, 0.01)


def tuned(monkeypatch: pytest.MonkeyPatch, prices: Any, **options: Any) -> Tuning:
    monkeypatch.setattr(search_module, "step_cost", prices)
    given: dict[str, Any] = {"ratios": (2,), "batch_multiplier": "pixels", "lr_rule": "linear"}
    return tune(small_model(3), Coloured(26), epochs=10, optimizer=sgd, run_steps=24, **given | options)


def test_larger_batches_are_planned_where_small_images_leave_the_device_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tuned(monkeypatch, launches)
    grown = next(each for each in found.candidates if each.growth.grows and each.weight == 1)
    assert grown.name == "r = 2, kernels kept, 4 × the images a step"
    assert grown.cost == 0.125 and grown.cost_error == 0.0025
    assert len(grown.trials) == 3  # of the plan
    assert (found.batch_multiplier, found.lr_rule) == (4.0, "linear")
    told = f"{grown.name}: on as many images, low steps cost 0.12 ± 0.00 of a full one; in 3 trial runs its gain was "
    assert any(reason.startswith(told) for reason in found.reasons)
    again = Tuning.from_dict(json.loads(found.to_json()))
    assert (again.batch_multiplier, again.lr_rule) == (4.0, "linear")

    net = LowModeModel(
        found.build(small_model(3), torch.zeros(2, 3, 16, 16)),
        found.schedule,
        batch_multiplier=found.batch_multiplier,
        lr_rule=found.lr_rule,
        compile=False,
    )
    pictures = torch.zeros(64, 3, 16, 16, dtype=torch.uint8)
    loader = DeviceLoader(pictures, torch.zeros(64, dtype=torch.long), batch_size=8, net=net)
    net.set_epoch(0)
    assert [len(x) for x, _ in loader] == [32, 32]


def test_larger_batches_are_not_tried_where_they_save_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tuned(monkeypatch, work)
    assert not any(each.growth.grows for each in found.candidates) and found.batch_multiplier == 1
    told = (
        "r = 2, kernels kept: batches of 4 × the images were not tried, for as many images then cost 0.50 ± 0.00 of a "
        "full step, and 0.50 ± 0.01 in batches of the same size"
    )
    assert told in found.reasons


def test_larger_batches_that_do_not_fit_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tuned(monkeypatch, without_memory)
    assert "r = 2, kernels kept: batches of 4 × the images don't fit in memory" in found.reasons
    assert found.batch_multiplier == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_multiplier": 1}, None),
        ({"measure": "macs"}, "larger batches were not tried, for only timed costs show what they save"),
    ],
)
def test_larger_batches_are_tried_where_asked_for_and_timed(
    options: dict[str, Any], told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tuned(monkeypatch, launches, **options)
    assert not any(each.growth.grows for each in found.candidates)
    assert [reason for reason in found.reasons if "larger batches" in reason] == ([told] if told else [])


class GrowingLater(Coloured):
    """A loader whose later batches have larger images."""

    def __init__(self) -> None:
        super().__init__(26)
        self.batches = [
            (images if number < 12 + number % 2 else F.interpolate(images, size=20), labels)
            for number, (images, labels) in enumerate(self.batches)
        ]


def test_a_trial_run_that_later_batches_do_not_allow_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "step_cost", launches)
    options: dict[str, Any] = {"epochs": 10, "optimizer": sgd, "run_steps": 24, "ratios": (2,)}
    found = tune(small_model(3), GrowingLater(), batch_multiplier="pixels", **options)
    name = "r = 2, kernels kept, 4 × the images a step"
    assert f"{name}: the trial run ended early: batches can't be joined" in found.reasons
    assert found.batch_multiplier == 1


def test_batches_that_can_not_be_joined_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "step_cost", launches)

    class Scaled(Coloured):
        def __iter__(self) -> Any:
            return iter([(images, {"y": labels, "scale": 1.0}) for images, labels in self.batches])

    options: dict[str, Any] = {"epochs": 10, "optimizer": sgd, "run_steps": 8, "ratios": (2,)}
    found = tune(
        small_model(3),
        Scaled(),
        criterion=lambda output, targets: F.cross_entropy(output, targets["y"]) * targets["scale"],
        batch_multiplier="pixels",
        **options,
    )
    told = "larger batches were not tried, for batches can't be joined: something has no item an image"
    assert told in found.reasons


def test_a_number_of_images_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuned(monkeypatch, launches, batch_multiplier=2).batch_multiplier == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_multiplier": 0.5}, r"^batch_multiplier=0\.5 is out of range"),
        ({"lr_rule": "cubic"}, r"^lr_rule='cubic' is unknown"),
        (
            {"optimizer": torch.optim.SGD([torch.zeros(1)], lr=0.1)},
            "^optimizer is of type SGD; give a function",
        ),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        tune(small_model(), Coloured(), epochs=2, **options)


def measured(name: str, ratio: Any, cost: float, gain: float, growth: BatchGrowth) -> Candidate:
    config = LowModeConfig(ratio=ratio, kernel_ratio=1)
    trials = ((gain, gain),)
    return Candidate(name, config, cost, (), make_plan([], 10), 1.0, trials, gain=lambda x: gain, growth=growth)


def test_multipliers_of_a_ladder_are_by_mode() -> None:
    plain = [measured("small", 2, 0.4, 0.8, BatchGrowth({})), measured("medium", "4/3", 0.6, 0.98, BatchGrowth({}))]
    grown = measured("small, 4 ×", 2, 0.2, 0.8, FOUR)
    search: Any = SimpleNamespace(
        candidates=[*plain, grown], refused={}, left_out=[], looked_at=2, growth_told=[], lr_rule="sqrt"
    )
    found = decide(search, Wanted(20, 0.5, 3, 1.0, 0), [], 0.2)
    assert found.batch_multiplier == {"r2": 4.0, "r4/3": 1.0} and found.lr_rule == "sqrt"
    assert ramp([grown, *plain], 20, 0.5).candidates == (grown, plain[1])  # type: ignore[union-attr]
    dear = replace(grown, cost=0.45)
    assert ramp([*plain, dear], 20, 0.5).candidates == tuple(plain)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("key", "value"), [("batch_multiplier", "4"), ("batch_multiplier", {}), ("lr_rule", "cubic"), ("lr_rule", None)]
)
def test_a_file_with_wrong_growth_is_refused(key: str, value: Any) -> None:
    search: Any = SimpleNamespace(
        candidates=[measured("small", 2, 0.4, 0.8, FOUR)], refused={}, left_out=[], growth_told=[], lr_rule="none"
    )
    values = decide(search, Wanted(20, 0.5, 2, 1.0, 0), [], 0.2).to_dict()
    assert Tuning.from_dict(values).batch_multiplier == 4.0
    older = {name: each for name, each in values.items() if name not in ("batch_multiplier", "lr_rule")}
    assert Tuning.from_dict(older).batch_multiplier == 1.0
    with pytest.raises(ValueError, match=f"^not a result of `lowmode-fx tune`: its {key} is"):
        Tuning.from_dict(values | {key: value})
