"""The tuner and the probe: right where the answer is known; the model left alone; caps and reasons."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lowmode_fx import LowModeConfig, LowModeModel, Mode, build_pair, capture, gradient_agreement
from lowmode_fx.cli.tuning_tables import plot_probe, probe_text, tuning_table
from lowmode_fx.lowering.lower import pair_of
from lowmode_fx.tuning import search as search_module
from lowmode_fx.tuning.candidate import Candidate
from lowmode_fx.tuning.candidates import Choice, families, graph_signature, stages, try_pair
from lowmode_fx.tuning.costs import MeasuredCost
from lowmode_fx.tuning.decide import Wanted, decide
from lowmode_fx.tuning.ladder_plan import Chosen, choose, ramp
from lowmode_fx.tuning.plan import Plan, make_plan
from lowmode_fx.tuning.result import Tuning
from lowmode_fx.tuning.search import Search
from lowmode_fx.tuning.sensitivity import ModelProbe, SiteProbe, probe_sites
from lowmode_fx.tuning.trial_order import trial_runs
from lowmode_fx.tuning.trials import Probe, momentum_of, progress_now
from lowmode_fx.tuning.tried_ratios import MOST_POOLED, default_ratios
from lowmode_fx.tuning.tune import tune
from passes.ratios import largest_ratio


class Coloured:
    """Eight batches of 16×16 images whose class is their mean colour: any resolution shows it."""

    def __init__(self, batches: int = 8, size: int = 32) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batches = []
        for _ in range(batches):
            labels = torch.randint(0, 3, (size,), generator=generator)
            colour = F.one_hot(labels, 3).float()[:, :, None, None]
            images = 0.8 * colour + 0.5 * torch.randn(size, 3, 16, 16, generator=generator)
            self.batches.append((images, labels))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)


def block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def small_model(kernel: int = 5, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [block(3, 8, 3), block(8, 8, kernel), block(8, 16, kernel, 2), block(16, 16, kernel)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


def slow(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.002, momentum=0.9)


def quick_tune(model: nn.Module, loader: Any = None, **options: Any) -> Tuning:
    settings: dict[str, Any] = {"epochs": 10, "optimizer": sgd, "measure": "macs", "run_steps": 16, "ratios": (2, 1)}
    return tune(model, loader or Coloured(), **settings | options)


@pytest.fixture(scope="module")
def tuning() -> Tuning:
    return quick_tune(small_model())


def test_every_family_is_measured_once(tuning: Tuning) -> None:
    names = [candidate.name for candidate in tuning.candidates]
    families_found = {name for name in names if ":" not in name}
    # 5×5 at r = 2 goes to 3×3 by "ceil" and by "cover": the same pair, measured once.
    assert families_found == {
        "r = 2, kernels kept",
        "r = 2, kernels resampled (cover)",
        "r = 2, kernels averaged",
        "r = 2, large kernels resized",
        "whole images, kernels averaged",
    }
    assert any("only maps of 16×16" in name for name in names)
    costs = {each.name: each.cost for each in tuning.candidates}
    assert costs["r = 2, kernels resampled (cover)"] < costs["r = 2, kernels kept"] < 0.3
    assert costs["whole images, kernels averaged"] > costs["r = 2, kernels averaged"]


def test_an_image_of_one_colour_needs_no_resolution(tuning: Tuning) -> None:
    assert tuning.time < 0.8
    assert tuning.schedule.low_probability(0) == 1 and tuning.schedule.low_probability(tuning.epochs - 1) == 0
    tried = [candidate for candidate in tuning.candidates if candidate.trial_gains]
    assert tried[0].config == tuning.config
    assert len({(each.name, each.weight) for each in tuning.candidates}) == len(tuning.candidates)
    assert all(candidate.trial_gains[-1] <= 1 for candidate in tried)
    assert any("in 3 trial runs its gain was" in reason for reason in tuning.reasons)
    # The last maps of 8×8 keep 4×4 at r = 2.
    assert not any("note" in reason for reason in tuning.reasons)


def test_low_steps_without_gain_are_not_chosen() -> None:
    """The class is the sign of a checkerboard of one pixel, of which the mean of four pixels has nothing."""
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    data = Coloured()
    generator = torch.Generator().manual_seed(3)
    for number, (images, _) in enumerate(data.batches):
        labels = torch.randint(0, 2, (len(images),), generator=generator)
        signs = (labels * 2.0 - 1)[:, None, None, None]
        noise = 0.3 * torch.randn(images.shape, generator=generator)
        data.batches[number] = (signs * board.expand_as(images) + noise, labels)
    config = LowModeConfig(input_method="area")
    settings: dict[str, Any] = {"epochs": 10, "optimizer": slow, "measure": "macs", "run_steps": 24, "ratios": (2,)}
    tuning = tune(small_model(classes=2), data, config=config, **settings)
    assert tuning.time == 1 and tuning.schedule.low_probability(0) == 0
    assert "train in full-mode" in tuning.reasons[-1]


def test_the_model_is_left_as_it_was() -> None:
    model = small_model().eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    quick_tune(model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not model.training and all(value.grad is None for value in model.parameters())


def test_what_is_chosen_survives_json(tuning: Tuning) -> None:
    again = Tuning.from_dict(json.loads(tuning.to_json()))
    assert (again.config, again.schedule, again.low_weight) == (tuning.config, tuning.schedule, tuning.low_weight)
    assert (again.epochs, again.time, again.reasons) == (tuning.epochs, tuning.time, tuning.reasons)
    told = "not a result of `lowmode-fx tune`: 'config' is missing or has the wrong type"
    with pytest.raises(ValueError, match=told):
        Tuning.from_dict({})


def test_the_table_shows_the_choice_and_why(tuning: Tuning) -> None:
    text = tuning_table(tuning)
    assert tuning.candidates[0].name in text.splitlines()[1]
    assert tuning.reasons[-1] in text


def test_the_cap_on_time_is_reported_and_the_control_has_a_trial_run_even_so() -> None:
    tuning = quick_tune(small_model(), seconds=1e-3)
    assert [candidate.name for candidate in tuning.candidates if candidate.trial_gains] == ["r = 2, kernels kept"]
    told = "the advice rests on 1 of 6 candidates: the time was up before the others; give more seconds"
    assert told in tuning.reasons[:2]
    late = r"tuning took \d+ s instead of seconds=0.001: the least is a full run of 8 steps and one mode's trial run"
    assert any(re.fullmatch(late, reason) for reason in tuning.reasons)


def test_small_images_keep_their_kernels_unless_they_are_asked_for() -> None:
    """Whole runs that began with pooled kernels at r = 8/3 ended lower than their trial runs promised."""
    of_default, asked = (
        {each.name for each in families(LowModeConfig(), ("8/3", 2), False, most)} for most in (MOST_POOLED, 4)
    )
    assert {name for name in of_default if "8/3" in name} == {"r = 8/3, kernels kept"}
    assert len([name for name in asked if "8/3" in name]) > 4
    assert {name for name in of_default if "8/3" not in name} == {name for name in asked if "8/3" not in name}
    four = quick_tune(small_model(), ratios=None, modes=4)
    assert "r = 8/3, kernels kept" in {each.name for each in four.candidates}
    assert not any("8/3" in each.name and each.config.pools_kernels for each in four.candidates)


def test_maps_of_one_pixel_are_told() -> None:
    """Pooled by a stride of 8, the last maps of 16×16 images are 2×2, and 1×1 in low-mode."""
    model = nn.Sequential(block(3, 8, 3), block(8, 8, 3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    found = quick_tune(model, ratios=(2,))
    assert any(reason.startswith("note: the 2×2 map at 1.0 becomes 1×1") for reason in found.reasons)


def test_what_there_was_no_time_for_is_told(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("no time" in reason or "time was up" in reason for reason in tuning.reasons)
    try_choice, looked_at = Search.try_choice, []

    def up_after_the_families(self: Search, choice: Choice) -> Candidate | None:
        looked_at.append(choice)
        self.deadline = 0 if choice.family else self.deadline
        return try_choice(self, choice)

    monkeypatch.setattr(Search, "try_choice", up_after_the_families)
    cut = quick_tune(small_model())
    assert [choice.family != "" for choice in looked_at[:7]] == [False] * 6 + [True]
    told = (
        f"the time was up before all parts of {looked_at[6].family!r} were tried; give more seconds to see if they pay"
    )
    assert told in cut.reasons


def test_trial_runs_that_there_was_no_time_for_are_told(tuning: Tuning) -> None:
    each = {each.config.kernel_transform + str(each.config.kernel_ratio): each for each in tuning.candidates}
    search: Any = SimpleNamespace(
        candidates=list(each.values()),
        surely_priced=lambda candidate: candidate,
        trial_run=lambda candidate, steps, weight: candidate,
    )
    kinds = {(it.config.ratio, it.config.downsample_input, it.config.pools_kernels) for it in each.values()}
    told = f"the advice rests on trial runs of 1 of {len(kinds)} candidates: there was no time for the others"
    lines = trial_runs(search, Wanted(10, 0.5, 2, 1.0, 0), 16, 0.0, lambda what: None)
    assert len(kinds) > 1 and lines == [f"{told}; give more seconds"]


def test_progress_is_reported() -> None:
    told: list[tuple[str, float]] = []
    quick_tune(small_model(), ratios=(2,), on_progress=lambda what, share: told.append((what, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1
    stages = [what for what, _ in itertools.groupby(what for what, _ in told)]
    assert len(stages) == len(set(stages)) < len(told)
    kinds = [kind for kind, _ in itertools.groupby(stage.split()[0] for stage in stages)]
    assert kinds == ["reading", "short", "measuring", "trial"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0 is too small; give an int of at least 1"),
        ({"tail": 2}, "tail=2 is not a share; give a number from 0 to 1"),
        ({"seconds": 0}, "seconds=0 is out of range; give a number above 0"),
        ({"measure": "joules"}, "measure='joules' is unknown; give 'time' or 'macs'"),
        ({"autocast": torch.float16}, "autocast=torch.float16 would need a gradient scaler; give torch.bfloat16"),
        ({"ratios": (5,)}, r"ratios=\(5,\) is out of range; give numbers from 1 to 4, such as 2, 4/3"),
        ({"modes": 1}, "modes=1 is too small; give an int of at least 2"),
        ({"time_budget": 0}, "time_budget=0 is out of range; give a number above 0, at most 1"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick_tune(small_model(), **options)


def test_a_data_set_instead_of_a_loader() -> None:
    dataset = TensorDataset(torch.zeros(8, 3, 16, 16), torch.zeros(8, dtype=torch.long))
    give = (
        r"is of type TensorDataset; give batches of it, as torch\.utils\.data\.DataLoader\(dataset, 64, shuffle=True\)"
    )
    with pytest.raises(TypeError, match=f"^loader {give}$"):
        tune(small_model(), dataset, epochs=3)  # type: ignore[arg-type]
    pair = build_pair(small_model(), torch.zeros(2, 3, 16, 16))
    with pytest.raises(TypeError, match=f"^batch {give}$"):
        gradient_agreement(pair, dataset, F.cross_entropy)  # type: ignore[arg-type]
    gradient_agreement(pair, DataLoader(dataset, 4, shuffle=True), F.cross_entropy)


def test_a_loader_without_a_length_and_one_that_is_too_short() -> None:
    with pytest.raises(ValueError, match="loader has no length; give steps_per_epoch"):
        tune(small_model(), iter(Coloured()), epochs=3)
    with pytest.raises(ValueError, match="can be used only once; give a list or a DataLoader"):
        tune(small_model(), iter(Coloured()), epochs=3, steps_per_epoch=8)
    with pytest.raises(
        ValueError, match=r"a batch is of type tuple of 3; give \(inputs, targets\), or a mapping of all key"
    ):
        tune(small_model(), [(torch.zeros(4, 3, 16, 16), 1, 2)] * 4, epochs=3)  # type: ignore[list-item]
    with pytest.raises(
        ValueError, match=r"Sequential\.forward\(input\) does not take these arguments: .*give all arguments"
    ):
        tune(small_model(), [{"image": torch.zeros(4, 3, 16, 16)}] * 4, epochs=3)
    with pytest.raises(ValueError, match="loader has 1 batches; give at least two"):
        tune(small_model(), Coloured(1), epochs=3)


def test_a_model_with_nothing_to_pool_is_still_served_by_resolution() -> None:
    model = nn.Sequential(block(3, 8, 3), block(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    tuning = quick_tune(model, ratios=(2,))
    assert tuning.config.effective_kernel_ratio == 1
    assert {each.name for each in tuning.candidates} == {"r = 2, kernels kept"}


def test_a_model_with_its_loss_inside_is_tuned_on_the_batches_that_it_takes() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small_model()

        def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.body(pixel_values)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    batches = [{"labels": labels, "pixel_values": images} for images, labels in Coloured()]
    inside = quick_tune(WithLoss(), batches, criterion=lambda output, _: output["loss"], ratios=(2,), run_steps=8)
    outside = quick_tune(small_model(), ratios=(2,), run_steps=8)
    assert inside.to_dict() == outside.to_dict()
    ours, theirs = (
        {each.name: each.trial_gains for each in found.candidates if ":" not in each.name}
        for found in (inside, outside)
    )
    assert ours == theirs and any(ours.values())


# Ladders -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ladder_tuning() -> Tuning:
    return quick_tune(small_model(), ratios=None, modes=3)


def test_a_ladder_is_planned_from_what_was_measured(ladder_tuning: Tuning) -> None:
    names = [candidate.name for candidate in ladder_tuning.candidates if candidate.trial_gains]
    assert {"r = 2, kernels kept", "r = 4/3, kernels kept"} <= set(names)
    sides = [largest_ratio(config.ratio) for config in ladder_tuning.configs]
    assert sides == sorted(sides, reverse=True)
    assert any("plain ramp" in reason for reason in ladder_tuning.reasons)
    assert ladder_tuning.time <= 0.95


def test_a_tuned_ladder_trains(ladder_tuning: Tuning) -> None:
    model = small_model()
    ladder = ladder_tuning.build(model, torch.zeros(2, 3, 16, 16))
    net = LowModeModel(ladder, ladder_tuning.schedule, low_weight=ladder_tuning.low_weight, compile=False)
    modes = [net.mode_at(step, epoch) for step, epoch in enumerate(range(ladder_tuning.epochs))]
    places = [net.modes.index(mode) for mode in modes]
    assert places == sorted(places) and modes[-1] is Mode.FULL
    net(torch.randn(4, 3, 16, 16)).sum().backward()


def test_a_tuned_ladder_survives_json(ladder_tuning: Tuning) -> None:
    again = Tuning.from_dict(json.loads(ladder_tuning.to_json()))
    assert (again.configs, again.schedule, again.epochs) == (
        ladder_tuning.configs,
        ladder_tuning.schedule,
        ladder_tuning.epochs,
    )


def measured(name: str, ratio: Any, cost: float, gain: float) -> Candidate:
    config = LowModeConfig(ratio=ratio, kernel_ratio=1)
    plan = make_plan([], 10)
    return Candidate(name, config, cost, (), plan, 1.0, ((gain, gain),), gain=lambda x: gain)


def test_a_cheaper_mode_first_then_a_more_expensive_one() -> None:
    halved, nearly = measured("halved", 2, 0.25, 0.7), measured("nearly", "4/3", 0.6, 0.95)
    chosen = choose([nearly, halved], 20, 0.51, 3)  # a longer tail than a plain ramp's
    assert [each.name for each in chosen.candidates] == ["halved", "nearly"]
    assert chosen.plan.share == pytest.approx(1 - 0.2, abs=0.003)
    assert chosen.time < min(choose([each], 20, 0.5, 2).time for each in (halved, nearly))
    plain = ramp([nearly, halved], 20, 0.5)
    assert plain is not None and plain.whole_time >= chosen.whole_time
    assert ramp([halved], 20, 0.5) is None


def test_a_mode_that_does_not_pay_is_left_out() -> None:
    chosen = choose([measured("halved", 2, 0.25, 0.7), measured("dear", "4/3", 0.97, 0.95)], 20, 0.5, 3)
    assert [each.name for each in chosen.candidates] == ["halved"]


def test_whole_epochs_come_as_far_and_no_further() -> None:
    """7.5 low epochs at a gain of 0.5 and 6.25 full ones: eight low ones gain a quarter of a full one more."""
    candidate = measured("halved", 2, 0.25, 0.5)
    chosen = Chosen((candidate,), Plan((7.5, 6.25), 0.8, 0.375), 10)
    assert chosen.whole_epochs() == [8, 6]
    assert Chosen((candidate,), Plan((7.9, 6.25), 0.8, 0.375), 10).whole_epochs() == [8, 7]
    assert Chosen((candidate,), Plan((8.0, 0.05), 0.8, 0.375), 10).whole_epochs() == [8, 1]
    assert chosen.whole_time == 8 * 0.25 + 6


def test_a_budget_is_kept_and_as_much_as_it_allows_is_reached() -> None:
    tried = [measured("halved", 2, 0.25, 0.7), measured("nearly", "4/3", 0.6, 0.95)]
    whole, half = (choose(tried, 20, 0.5, 3, budget) for budget in (1.0, 0.3))
    assert whole.reached == 20
    # In whole epochs the run takes no longer, and less only by a part of an epoch.
    assert 0.3 * 20 - 1 < half.whole_time <= 0.3 * 20
    assert half.reached == pytest.approx(0.3 * 20 / whole.plan.time, rel=0.1)  # gains are the same all along


def test_a_budget_below_one_epoch_is_that_of_part_of_one() -> None:
    chosen = choose([measured("halved", 2, 0.25, 0.7)], 2, 0.5, 2, time_budget=0.1)
    assert chosen.time == pytest.approx(0.2, rel=0.01)


@pytest.mark.parametrize(("budget", "exceeded"), [(0.1, True), (0.63, False), (0.7, False)])
def test_a_budget_that_whole_epochs_exceed_is_told(budget: float, exceeded: bool) -> None:
    search: Any = SimpleNamespace(
        candidates=[measured("halved", 2, 0.25, 0.7)], left_out=[], refused={}, growth_told=[], lr_rule="linear"
    )
    result = decide(search, Wanted(2, 0.5, 2, budget, seed=0), [], seen=0.5)
    told = [each for each in result.reasons if "for it has whole epochs" in each]
    assert (result.time > budget) == exceeded == bool(told)
    if exceeded:
        expected = f"takes {result.time:.1%} of the time, for it has whole epochs, more than time_budget=0.1; give more"
        assert expected in told[0]


def test_the_plain_ramp_is_no_plan_where_it_breaks_the_rules() -> None:
    tried = [measured("halved", 2, 0.3, 0.8), measured("nearly", "4/3", 0.6, 0.95)]
    low, middle, _ = choose(tried, 30, 0.9, 3).whole_epochs()
    assert low * 0.8 <= 0.1 * 30 + 0.8 and middle > low  # a tenth of the progress may be at r = 2
    weak = [measured("halved", 2, 0.05, 0.2), measured("nearly", "4/3", 0.1, 0.3)]
    assert sum(choose(weak, 30, 0.5, 3).whole_epochs()[:-1]) <= 1.5 * 30 + 1


def test_the_plain_ramp_is_never_faster() -> None:
    for gains in itertools.product((1.0, 0.8, 0.5), (1.0, 0.9)):
        tried = [measured("halved", 2, 0.25, gains[0]), measured("nearly", "4/3", 0.6, gains[1])]
        plain, chosen = ramp(tried, 20, 0.5), choose(tried, 20, 0.5, 3)
        assert plain is not None and chosen.whole_time <= plain.whole_time + 0.01 * 20, gains


def test_of_four_modes_the_ramp_from_the_smallest_images_is_tried_too() -> None:
    smallest = measured("smallest", "8/3", 0.15, 0.75)
    tried = [smallest, measured("halved", 2, 0.25, 0.8), measured("nearly", "4/3", 0.6, 0.95)]
    plain, chosen = ramp(tried, 20, 0.5, 4), choose(tried, 20, 0.5, 4)
    assert plain is not None and [each.name for each in plain.candidates] == ["smallest", "halved", "nearly"]
    low, whole = plain.plan.epochs, sum(plain.plan.epochs)
    assert [each / whole for each in low] == pytest.approx([0.3, 0.4, 0.1, 0.2])
    assert pytest.approx(20 / whole, rel=1e-3) == 0.3 * 0.75 + 0.4 * 0.8 + 0.1 * 0.95 + 0.2
    assert chosen.whole_time <= plain.whole_time + 0.01 * 20
    assert ramp(tried[1:], 20, 0.5, 4) is None
    assert len(choose(tried, 20, 0.5, 3).candidates) <= 2


def test_the_ratios_of_the_ramps_are_tried_where_a_plan_may_have_as_many_modes() -> None:
    assert default_ratios(2) == (2, 1)
    assert default_ratios(3) == (2, 1, Fraction(4, 3))
    assert default_ratios(4) == default_ratios(9) == (2, 1, Fraction(4, 3), Fraction(8, 3))


# Its parts -----------------------------------------------------------------------------------------------------------


def test_a_trial_run_of_full_mode_itself_gains_one() -> None:
    probe = Probe(small_model(), Coloured(), F.cross_entropy, sgd)
    probe.run((24,))
    same, _ = try_pair(probe.captured, LowModeConfig(downsample_input=False, kernel_ratio=1))
    assert same is not None
    assert probe.trial_run(same, 24) == pytest.approx(1, abs=0.1)
    assert probe.trial_run(same, 24, weight=1e-6) < 0.3  # low steps that move nothing


def test_the_full_run_ends_at_the_given_step() -> None:
    probe = Probe(small_model(), Coloured(), F.cross_entropy, sgd)
    assert probe.run((4, 16), on_step=lambda step: step < 7) == 7
    assert [point.step for point in probe.points] == [4, 7]


def test_gains_by_gradients_are_the_same_now_and_at_a_point() -> None:
    probe = Probe(small_model(), Coloured(), F.cross_entropy, sgd)
    probe.run((8,))
    pair = pair_of(probe.captured, LowModeConfig())
    (at_point,) = probe.progress(pair)
    assert progress_now(pair, list(Coloured())[:6], F.cross_entropy, 0.9).gain == pytest.approx(at_point.gain, rel=1e-4)


@pytest.mark.parametrize("epochs", [1, 2, 3, 10])
def test_a_plan_of_whole_epochs_saves_time_or_stays_full(epochs: int) -> None:
    tuned = quick_tune(small_model(), epochs=epochs)
    shares = [tuned.schedule.low_probability(epoch) for epoch in range(tuned.epochs)]
    assert tuned.time <= 0.95 or (tuned.time == 1 and tuned.epochs == epochs and not any(shares))


def test_dense_prediction_needs_outputs_of_full_size_and_is_reported_so() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(block(3, 8, 3), block(8, 8, 5), nn.Conv2d(8, 3, 1))
    pixels = [(images, labels[:, None, None].expand(-1, 16, 16).contiguous()) for images, labels in Coloured()]
    options: dict[str, Any] = {"epochs": 4, "optimizer": sgd, "measure": "time", "run_steps": 8, "ratios": (2,)}
    way_out = r"give config=LowModeConfig\(restore_output=True\)"
    with pytest.raises(ValueError, match=f"r = 2, kernels kept can't be measured: .* {way_out}"):
        tune(model, pixels, **options)
    assert tune(model, pixels, config=LowModeConfig(restore_output=True), **options).candidates


class Witness(nn.Module):
    """Notes the type that autocast has at each forward; ``None`` where it is off."""

    seen: ClassVar[set[torch.dtype | None]] = set()

    def forward(self, images: Tensor) -> Tensor:
        autocast = torch.is_autocast_enabled("cpu")
        self.seen.add(torch.get_autocast_dtype("cpu") if autocast else None)
        return images


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_everything_is_measured_under_the_autocast_of_the_run(
    autocast: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Witness, "seen", set())
    criteria: set[torch.dtype | None] = set()

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        criteria.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return F.cross_entropy(outputs, targets)

    model = nn.Sequential(Witness(), *small_model())
    options = {"measure": "time", "criterion": criterion, "autocast": autocast, "ratios": (2,), "run_steps": 8}
    tuned = quick_tune(model, **options)
    assert tuned.candidates and any(each.trial_gains for each in tuned.candidates)
    assert criteria == {autocast}
    assert autocast in Witness.seen and Witness.seen <= {autocast, None}  # tracing itself runs without


def test_autocast_rounds_gradients_and_no_more() -> None:
    gradients = []
    for autocast in (None, torch.bfloat16):
        probe = Probe(small_model(), Coloured(), F.cross_entropy, sgd, kept=2, autocast=autocast)
        pair = pair_of(probe.captured, LowModeConfig())
        gradients.append(probe.low_gradients(pair)[0])
    exact, rounded = gradients
    assert exact.dtype == rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert F.cosine_similarity(exact, rounded, dim=0) > 0.99


def test_stages_by_the_size_of_their_maps() -> None:
    pair = build_pair(small_model(), torch.zeros(2, 3, 16, 16), LowModeConfig())
    assert stages(pair) == {"16×16": ("1.0",), "8×8": ("2.0", "3.0")}


def test_families_and_graph_signatures() -> None:
    choices = list(families(LowModeConfig(batchnorm="share"), (2, 1), stem_maxpool=True))
    assert len({choice.name for choice in choices}) == len(choices) == 12
    assert all(choice.config.batchnorm == "share" for choice in choices)
    by_two = [choice for choice in families(LowModeConfig(), (4,), stem_maxpool=False) if "by 2" in choice.name]
    assert [(choice.config.ratio, choice.config.kernel_ratio) for choice in by_two] == [(4, 2)]
    model = small_model()
    captured = capture(model, torch.zeros(2, 3, 16, 16))
    pairs = [try_pair(captured, choice.config)[0] for choice in choices[:4]]
    kept, cover, ceil, averaged = (graph_signature(pair) for pair in pairs if pair)
    assert cover == ceil and len({kept, cover, averaged}) == 3


def test_a_network_with_large_kernels_has_them_resized() -> None:
    torch.manual_seed(0)
    deep = [layer for _ in range(3) for layer in (nn.Conv2d(8, 8, 9, 1, 4, groups=8), nn.BatchNorm2d(8), nn.ReLU())]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    found = quick_tune(nn.Sequential(block(3, 8, 3), *deep, *head), ratios=(2,))
    assert found.time < 0.8 and found.config.pools_kernels
    costs = {each.name: each.cost for each in found.candidates}
    assert costs["r = 2, large kernels resized"] < 0.6 * costs["r = 2, kernels kept"]
    pair = build_pair(small_model(9), torch.zeros(2, 3, 16, 16), found.config)
    assert {(change.before, change.after) for change in pair.report.pooled} <= {("9×9", "5×5")}


def test_a_network_of_3x3_kernels_has_none_to_resize() -> None:
    """Its large kernels resized are all of them kept, and so they are not measured again."""
    found = quick_tune(small_model(3), ratios=(2,), run_steps=8)
    names = {candidate.name for candidate in found.candidates}
    assert "r = 2, kernels kept" in names and not any("large" in name for name in names)
    large = next(choice for choice in families(LowModeConfig(), (2,), False) if "large" in choice.name)
    for kernel, alike in ((3, True), (5, False)):
        captured = capture(small_model(kernel), torch.zeros(2, 3, 16, 16))
        pairs = [try_pair(captured, config)[0] for config in (large.config, LowModeConfig(kernel_ratio=1))]
        ours, kept = (graph_signature(pair) for pair in pairs if pair)
        assert (ours == kept) is alike


def test_momentum_of_optimizers() -> None:
    parameters = [nn.Parameter(torch.zeros(1))]
    assert momentum_of(torch.optim.SGD(parameters, lr=1, momentum=0.8)) == 0.8
    assert momentum_of(torch.optim.AdamW(parameters, betas=(0.7, 0.9))) == 0.7
    assert momentum_of(torch.optim.Adagrad(parameters)) == 0


def test_the_probe_of_sites(tmp_path: Any) -> None:
    probe = Probe(small_model(), Coloured(), F.cross_entropy, sgd, kept=3)
    probe.run((8,))
    seen: list[str] = []
    found = probe_sites(probe, LowModeConfig(), lambda name, total: seen.append(name))
    assert [site.name for site in found.sites] == seen == ["1.0", "2.0", "3.0"]
    assert [(site.kernel, site.pooled) for site in found.sites] == [("5×5", "3×3")] * 3
    # What all save together is what they save one by one.
    assert sum(site.saved for site in found.sites) == pytest.approx(found.kept_macs - found.pooled_macs, rel=1e-6)
    assert -1 <= found.pooled <= 1 and found.step == 8
    table = probe_text("small", found)
    assert "1.0" in table and "█" in table
    assert json.loads(probe_text("small", found, "json"))["sites"][0]["name"] == "1.0"
    assert len(probe_text("small", found, "csv").splitlines()) == 4
    with pytest.raises(ValueError, match="format='xml' is unknown; give 'table', 'json' or 'csv'"):
        probe_text("small", found, "xml")
    plot_probe("small", found, tmp_path / "probe.png")
    assert (tmp_path / "probe.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_site_loses_reads_as_a_loss(tmp_path: Path) -> None:
    """The sign says what happens to agreement: less is worse. The data keep what is lost."""
    sites = (SiteProbe("a", "5×5", "3×3", 0.4, 0.2, 0.01), SiteProbe("b", "5×5", "3×3", 0.2, -0.1, 0.01))
    probe = ModelProbe(8, 0.5, 0.3, 0.6, 0.25, 0.1, sites)
    rows = [line.split() for line in probe_text("small", probe).splitlines()[-2:]]
    assert rows == [
        ["a", "5×5", "3×3", "40.00%", "█" * 24, "−0.200", "0.010", "░" * 24],
        ["b", "5×5", "3×3", "20.00%", "█" * 12, "+0.100", "0.010", "█" * 12],
    ]
    assert probe_text("small", probe, "csv").splitlines()[1] == "a,5×5,3×3,0.4,0.2"
    plot_probe("small", probe, tmp_path / "both.png")
    plot_probe("small", replace(probe, sites=sites[:1]), tmp_path / "lost.png")
    green, vermillion = ((0x00, 0x9E, 0x73), (0xD5, 0x5E, 0x00))
    seen = {name: shown_colours(tmp_path / f"{name}.png") for name in ("both", "lost")}
    assert {green, vermillion} <= seen["both"] and green not in seen["lost"] and vermillion in seen["lost"]


def shown_colours(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as picture:
        return {colour for count, colour in picture.convert("RGB").getcolors(1 << 24) or () if count > 200}


def test_a_pooled_site_that_changes_nothing_loses_nothing() -> None:
    """Kernels with the same value in every tap of a window: averaging and convolving a constant map agree."""
    probe = Probe(small_model(), Coloured(), F.cross_entropy, sgd, kept=2)
    probe.run((1,))
    found = probe_sites(probe, LowModeConfig(kernel_transform="linear"))
    again = probe_sites(probe, LowModeConfig(kernel_transform="linear"))
    assert found == again  # measuring moves nothing


def test_a_low_mode_that_diverges_gains_nothing() -> None:
    probe = Probe(small_model(), Coloured(), F.cross_entropy, sgd)
    probe.run((16,))
    pair, _ = try_pair(probe.captured, LowModeConfig(kernel_ratio=1))
    assert pair is not None
    assert probe.trial_run(pair, 12, weight=float("nan")) <= 0
    assert probe.trial_run(pair, 12) > 0


def test_measured_batches_are_not_trained_on() -> None:
    data = Coloured(batches=10)
    probe = Probe(small_model(), data, F.cross_entropy, sgd, kept=4)
    seen: list[int] = []
    handle = probe.model.register_forward_pre_hook(
        lambda module, inputs: seen.append(next(i for i, (x, _) in enumerate(data.batches) if x is inputs[0]))
    )
    for _ in probe._train([None] * 14):
        pass
    handle.remove()
    assert seen == [4, 5, 6, 7, 8, 9] * 2 + [4, 5]


def test_costs_that_are_not_sure_are_timed_for_longer_before_trial_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plan rests on is timed in 25 rounds where five differ by more than 3 % of it; the others are left."""
    rounds: list[int] = []

    def noisy(*args: Any, rounds_taken: list[int] = rounds, **options: Any) -> MeasuredCost:
        rounds_taken.append(options.get("rounds", 5))
        return MeasuredCost(0.3, 0.02) if rounds_taken[-1] == 5 else MeasuredCost(0.4, 0.001)

    monkeypatch.setattr(search_module, "step_cost", noisy)
    found = quick_tune(small_model(), ratios=(2,), measure="time")
    tried = [each for each in found.candidates if each.trials]
    assert tried and all((each.cost, each.cost_error) == (0.4, 0.001) for each in tried)
    left = [each for each in found.candidates if not each.trials]
    assert left and all(each.cost == 0.3 for each in left) and rounds.count(25) == 2  # kept, and the best pooled
    rounds.clear()
    monkeypatch.setattr(search_module, "step_cost", lambda *args, **options: MeasuredCost(0.3, 0.001))
    assert all(each.cost == 0.3 for each in quick_tune(small_model(), ratios=(2,), measure="time").candidates)
