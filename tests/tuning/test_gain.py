"""The model of progress: against sampled steps on a quadratic loss, its limits, and the plan that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowmode_fx.tuning.gain import StepProgress, gradient_products, step_progress
from lowmode_fx.tuning.plan import ModeGain, Plan, gain_curve, make_plan, ramp_plan, tail_at

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def noisy(mean: Tensor, noise: float, count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [mean + noise * torch.randn(mean.shape, generator=generator, dtype=mean.dtype) for _ in range(count)]


def expected_fall(gradient: Tensor, steps: list[Tensor], curvature: float) -> float:
    """The best expected fall of ḡ·d η − h ‖d‖² η² / 2 over η, by trying: no formula of the model is used."""
    rates = torch.linspace(0, 4, 4001, dtype=torch.float64) / curvature
    along = sum(float(gradient @ step) for step in steps) / len(steps)
    square = sum(float(step @ step) for step in steps) / len(steps)
    return float((rates * along - rates**2 * curvature * square / 2).max())


def test_gain_and_weight_are_those_of_the_best_steps_on_a_quadratic() -> None:
    true = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    full, low = noisy(true, 0.5, 400, 2), noisy(0.7 * true + 0.6 * other, 0.8, 400, 3)
    progress = step_progress(gradient_products(full, low), momentum=0.0)
    fall = expected_fall(true, low, 2.0) / expected_fall(true, full, 2.0)
    assert progress.gain == pytest.approx(fall, rel=0.03)
    best = [sum(float(true @ d) for d in steps) / sum(float(d @ d) for d in steps) for steps in (low, full)]
    assert progress.weight == pytest.approx(best[0] / best[1], rel=0.03)


def test_equal_gradients_gain_one() -> None:
    full = noisy(torch.ones(20, dtype=torch.float64), 0.3, 6, 0)
    progress = step_progress(gradient_products(full, full))
    assert progress.gain == pytest.approx(1) and progress.weight == pytest.approx(1)
    assert progress.gain_error == pytest.approx(0, abs=1e-12)


@given(st.floats(0.1, 10), st.integers(0, 1000), st.sampled_from([0.0, 0.9]))
@quick
def test_a_longer_gradient_gains_the_same_and_weighs_less(scale: float, seed: int, momentum: float) -> None:
    full = noisy(torch.ones(30, dtype=torch.float64), 0.4, 5, seed)
    low = noisy(torch.ones(30, dtype=torch.float64), 0.6, 5, seed + 1)
    plain = step_progress(gradient_products(full, low), momentum)
    longer = step_progress(gradient_products(full, [scale * each for each in low]), momentum)
    assert longer.gain == pytest.approx(plain.gain, rel=1e-9)
    assert longer.weight == pytest.approx(plain.weight / scale, rel=1e-9)


def test_momentum_forgives_noise_and_not_bias() -> None:
    true = torch.ones(50, dtype=torch.float64)
    aside = torch.cat([torch.ones(25), -torch.ones(25)]).double()
    full = noisy(true, 0.1, 60, 0)
    noisy_low, biased_low = noisy(true, 3.0, 60, 1), noisy(true + 3 * aside, 0.1, 60, 2)

    def gain(low: list[Tensor], momentum: float) -> float:
        return step_progress(gradient_products(full, low), momentum).gain

    assert gain(noisy_low, 0.9) > 3 * gain(noisy_low, 0.0)
    assert gain(biased_low, 0.9) == pytest.approx(gain(biased_low, 0.0), rel=0.05)


def test_a_step_the_wrong_way_gains_nothing() -> None:
    full = noisy(torch.ones(10, dtype=torch.float64), 0.1, 4, 0)
    assert step_progress(gradient_products(full, [-each for each in full])) == StepProgress(0.0, 0.0, 0.0, 0.0)


def test_one_batch_is_refused_and_two_have_no_error() -> None:
    full = noisy(torch.ones(10, dtype=torch.float64), 0.1, 2, 0)
    with pytest.raises(ValueError, match=r"1 batch is too few to estimate the noise of gradients; give at least two"):
        step_progress(gradient_products(full[:1], full[:1]))
    assert math.isnan(step_progress(gradient_products(full, full)).gain_error)


# The plan ------------------------------------------------------------------------------------------------------------


def two_modes(gain: Callable[[float], float], cost: float, epochs: float, tail: float) -> Plan:
    return make_plan([ModeGain(gain, cost, tail)], epochs)


def test_a_constant_gain_up_to_the_tail() -> None:
    plan = two_modes(lambda x: 0.5, 0.25, 20, 0.5)
    assert plan.share == pytest.approx(0.5)
    assert plan.low_epochs == pytest.approx(20) and plan.full_epochs == pytest.approx(10)
    assert plan.time == pytest.approx(0.5 * 0.25 / 0.5 + 0.5)


def test_low_steps_end_where_they_gain_less_than_they_cost() -> None:
    plan = two_modes(lambda x: 1 - x, 0.7, 10, 0.5)
    assert plan.share == pytest.approx(0.3, abs=0.005)
    # ∫ 0.7 / (1 − x) dx up to 0.3, then full steps
    assert plan.time == pytest.approx(-0.7 * math.log(0.7) + 0.7, abs=0.005)


def test_low_steps_that_never_pay() -> None:
    plan = two_modes(lambda x: 0.2, 0.3, 10, 0.5)
    assert (plan.share, plan.low_epochs, plan.full_epochs, plan.time) == (0, 0, 10, 1)


@given(st.floats(0.02, 1), st.floats(0.02, 1), st.floats(0, 1))
@quick
def test_a_plan_never_takes_longer_than_full_mode(gain: float, cost: float, tail: float) -> None:
    plan = two_modes(lambda x: gain, cost, 10, tail)
    assert 0 < plan.time <= 1 + 1e-9
    assert plan.full_epochs >= 10 * tail - 1e-9


def test_the_curve_goes_through_two_points_and_falls() -> None:
    curve = gain_curve([(0.01, 0.8), (0.04, 0.4)])
    assert curve(0.01) == pytest.approx(0.8) and curve(0.04) == pytest.approx(0.4)
    assert curve(0.16) == pytest.approx(0.2)


def test_the_curve_never_rises_nor_passes_one() -> None:
    curve = gain_curve([(0.01, 0.2), (0.04, 0.8)])
    assert curve(0.01) == curve(1.0) == pytest.approx(0.4)
    assert gain_curve([(0.5, 3.0)])(0.1) == 1


def test_never_more_low_epochs_than_the_full_run_has() -> None:
    plan = two_modes(lambda x: 0.2, 0.05, 16, 0.5)
    assert plan.low_epochs == pytest.approx(16) and plan.share == pytest.approx(0.2, abs=0.005)
    assert plan.full_epochs == pytest.approx(16 * 0.8, abs=0.1)


def test_no_gain_anywhere_is_no_gain() -> None:
    assert gain_curve([(0.1, 0.5), (0.2, 0.0)])(0.05) == 0
    assert gain_curve([])(0.5) == 0


# Several low modes ---------------------------------------------------------------------------------------------------

HALVED, NEARLY_FULL = ModeGain(lambda x: 0.8 - 0.6 * x, 0.3, 0.5), ModeGain(lambda x: 0.95 - 0.1 * x, 0.6, 0.125)


def test_modes_follow_each_other_by_their_cost_per_gain() -> None:
    """Halved images pay best while 0.3 / (0.8 − 0.6 x) < 0.6 / (0.95 − 0.1 x), up to their tail at 1/2 at most."""
    plan = make_plan([HALVED, NEARLY_FULL], 20, most_low=10)
    crossing = 0.195 / 0.33  # of the two costs, beyond the tail of halved images
    assert crossing > 0.5
    assert plan.share == pytest.approx(0.875, abs=0.003)
    halved = sum(1 / HALVED.gain((index + 0.5) / 4000) for index in range(2000)) / 4000
    nearly = sum(1 / NEARLY_FULL.gain((index + 0.5) / 4000) for index in range(2000, 3500)) / 4000
    assert plan.epochs == pytest.approx((20 * halved, 20 * nearly, 20 * 0.125), rel=0.01)
    assert plan.time == pytest.approx(0.3 * halved + 0.6 * nearly + 0.125, rel=0.01)


def test_one_more_mode_never_costs_time() -> None:
    alone = [make_plan([mode], 20, most_low=1.5).time for mode in (HALVED, NEARLY_FULL)]
    assert make_plan([HALVED, NEARLY_FULL], 20, most_low=1.5).time < min(alone)


def test_a_mode_that_is_never_best_has_no_epochs() -> None:
    useless = ModeGain(lambda x: 0.2, 0.5, 0.125)
    plan = make_plan([HALVED, useless, NEARLY_FULL], 20, most_low=10)
    assert plan.epochs[1] == 0
    assert plan.time == make_plan([HALVED, NEARLY_FULL], 20, most_low=10).time


def test_modes_never_go_back_to_a_cheaper_one() -> None:
    """The cheap mode that would be best late only is not taken there after the dearer one, unless alone."""
    late, early = ModeGain(lambda x: min(1.0, 0.1 + x), 0.2, 0.0), ModeGain(lambda x: 1.0, 0.5, 0.0)
    plan = make_plan([late, early], 10, most_low=100)
    everything = min(make_plan([late], 10, 100).time, make_plan([early], 10, 100).time)
    assert plan.time <= everything
    assert plan.epochs[0] > 0 or plan.epochs[1] > 0


@given(st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0.2, 3))
@quick
def test_low_epochs_are_never_more_than_allowed(gain: float, cost: float, most: float) -> None:
    modes = [ModeGain(lambda x: gain * (1 - 0.5 * x), cost, 0.25), ModeGain(lambda x: gain, cost + 0.05, 0.1)]
    plan = make_plan(modes, 10, most)
    assert plan.low_epochs <= 10 * most + 1e-6
    assert plan.time <= 1 + 1e-9


def test_a_ramp_takes_what_its_shares_say() -> None:
    """Gains of 1: half the epochs at 0.3, three tenths at 0.6, the rest full."""
    sure = [ModeGain(lambda x: 1.0, 0.3, 0.5), ModeGain(lambda x: 1.0, 0.6, 0.125)]
    plain = ramp_plan(sure, (0.5, 0.3, 0.2), 10)
    assert plain is not None and plain.time == pytest.approx(0.15 + 0.18 + 0.2)
    assert plain.epochs == pytest.approx((5, 3, 2)) and plain.share == pytest.approx(0.8)
    half = [ModeGain(lambda x: 0.5, 0.3, 0.5), ModeGain(lambda x: 0.5, 0.6, 0.125)]  # the run is 1 / 0.6 times as long
    longer = ramp_plan(half, (0.5, 0.3, 0.2), 10)
    assert longer is not None and longer.time == pytest.approx(0.53 / 0.6, rel=0.01)
    assert longer.epochs == pytest.approx((5 / 0.6, 3 / 0.6, 2 / 0.6), rel=0.01)
    assert ramp_plan([ModeGain(lambda x: 0.0, 0.3, 0.5)], (1.0, 0.0), 10) is None


def test_smaller_images_leave_more_of_the_progress_to_larger_ones() -> None:
    assert [tail_at(ratio, 0.5) for ratio in (1, Fraction(4, 3), 2, 3)] == pytest.approx(
        [0, 0.2, 0.5, 0.7222], abs=1e-4
    )
    # With four modes, as the ladder from r = 8/3 did best: less is left at r = 2, the same before and after it.
    assert [tail_at(ratio, 0.35) for ratio in (Fraction(4, 3), 2, Fraction(8, 3), 4)] == pytest.approx(
        [0.2, 0.35, 2 / 3, 0.9833], abs=1e-4
    )
    assert [tail_at(ratio, 0.1) for ratio in (Fraction(4, 3), 2)] == [0.1, 0.1]
    assert tail_at(4, 1.0) == 1
