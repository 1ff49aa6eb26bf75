"""Prices of whole steps, and of the plan's modes compiled: what they hold, and the plan that follows from them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowmode_fx import LowModeConfig, LowModeModel, Mode, capture
from lowmode_fx.lowering.lower import ladder_of, pair_of
from lowmode_fx.lowering.rung_names import rung_names
from lowmode_fx.tuning import compiled_prices, costs, search
from lowmode_fx.tuning.batches import read_batch
from lowmode_fx.tuning.costs import MeasuredCost, StepKind, step_cost, step_costs
from lowmode_fx.tuning.plan import ModeGain, gain_curve, make_plan
from lowmode_fx.tuning.result import Tuning
from lowmode_fx.tuning.tune import tune
from passes.errors import OptionError

X, Y = torch.randn(8, 3, 16, 16), torch.arange(8) % 3
KEPT, SMALLER = LowModeConfig(kernel_ratio=1), LowModeConfig(ratio="8/3", kernel_ratio=1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


class CountedSGD(torch.optim.SGD):
    """SGD that notes the learning rate of each of its steps."""

    rates: ClassVar[list[Any]] = []

    def step(self, closure: Any = None) -> Any:
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


def test_a_price_holds_the_optimizer_of_the_run_whose_rate_is_nothing() -> None:
    CountedSGD.rates.clear()
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    captured = capture(model, X)
    pair, batch = pair_of(captured, KEPT), read_batch((X, Y), captured.inputs, model)
    step_cost(pair, batch, F.cross_entropy, StepKind(partial(CountedSGD, lr=0.5)), rounds=3)
    assert CountedSGD.rates == [0.0] * 2 * (1 + 3)  # a warm-up and three rounds of both modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_modes_of_a_ladder_are_priced_beside_each_other_in_batches_of_their_own() -> None:
    seen: list[int] = []

    def criterion(output: Tensor, targets: Tensor) -> Tensor:
        seen.append(len(output))
        return F.cross_entropy(output, targets)

    model = network()
    captured = capture(model, X)
    named = rung_names([KEPT, SMALLER])
    smallest, other = (mode for mode, _ in named)
    batch = read_batch((X, Y), captured.inputs, model)
    larger = read_batch((torch.cat([X, X]), torch.cat([Y, Y])), captured.inputs, model)
    kind = StepKind(partial(torch.optim.SGD, lr=0.1))
    found = step_costs(ladder_of(captured, named), batch, criterion, kind, rounds=2, low_batches={smallest: larger})
    assert set(found) == {smallest, other} and all(0 < cost < 20 for cost, _ in found.values())
    assert seen == [8, 16, 8] * 3  # full-mode, then the low modes, cheapest first


@pytest.mark.parametrize("compiled", [False, True])
def test_compiled_prices_are_of_compiled_modes(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(costs, "LowModeModel", partial(LowModeModel, compile_options={"backend": backend}))
    model = network()
    captured = capture(model, X)
    batch = read_batch((X, Y), captured.inputs, model)
    kind = StepKind(partial(torch.optim.SGD, lr=0.1), compile=compiled)
    assert step_cost(pair_of(captured, KEPT), batch, F.cross_entropy, kind, rounds=1).cost > 0
    assert len(graphs) == (2 if compiled else 0)  # full-mode and low-mode, once each


def quick_tune(monkeypatch: pytest.MonkeyPatch, compiled_costs: dict[str, float], **options: Any) -> Tuning:
    """Tuning with prices that are known: uncompiled all low steps cost 0.25, compiled what is given by ratio."""
    monkeypatch.setattr(search, "step_cost", lambda *args, **kwargs: MeasuredCost(0.25, 0.001))
    priced: list[list[str]] = []

    def step_costs(ladder: Any, *args: Any) -> dict[Mode, MeasuredCost]:
        ratios = {rung.mode: str(rung.config.ratio) for rung in ladder.rungs}
        priced.append(list(ratios.values()))
        return {mode: MeasuredCost(compiled_costs[ratio], 0.001) for mode, ratio in ratios.items()}

    monkeypatch.setattr(compiled_prices, "step_costs", step_costs)
    monkeypatch.setattr(search.Search, "trial_run", with_gain(0.9))
    batches = [(X + index, Y) for index in range(8)]
    settings: dict[str, Any] = {"epochs": 20, "run_steps": 8, "ratios": (2, 3), "compile": True}
    optimizer = partial(torch.optim.SGD, lr=0.01)
    found = tune(network(), batches, optimizer=optimizer, **settings | options)
    return replace(found, measured_on={"priced": priced})


def with_gain(gain: float) -> Any:
    """A trial run that finds this gain."""

    def trial_run(self: Any, candidate: Any, steps: int, weight: float) -> Any:
        curve = gain_curve([(0.1, gain), (0.2, gain)])
        plan = make_plan([ModeGain(curve, candidate.cost, self.tail)], self.epochs)
        trials = (*candidate.trials, (gain, gain))
        return self.replaced(candidate, replace(candidate, trials=trials, weight=weight, gain=curve, plan=plan))

    return trial_run


def test_the_plans_modes_are_priced_compiled_and_the_plan_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = quick_tune(monkeypatch, {"2": 0.5, "3": 0.5}, ratios=(2,))
    chosen = next(each for each in found.candidates if each.compiled)
    assert (chosen.cost, chosen.cost_error) == (0.5, 0.001)
    assert found.measured_on["priced"] == [["2"]]
    uncompiled = quick_tune(monkeypatch, {}, ratios=(2,), compile=False)
    assert uncompiled.measured_on["priced"] == [] and not any(each.compiled for each in uncompiled.candidates)
    assert found.time > uncompiled.time + 0.05
    line = next(each for each in found.reasons if "a low step costs" in each)
    assert "0.50 ± 0.00 of a full one, both compiled; in" in line


def test_a_plan_that_changes_by_compiled_prices_is_priced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncompiled both ratios cost the same. The one that is planned costs more compiled, so the other is planned."""
    first = quick_tune(monkeypatch, {"2": 0.25, "3": 0.25}).measured_on["priced"][0][0]
    other = {"2": "3", "3": "2"}[first]
    found = quick_tune(monkeypatch, {first: 0.6, other: 0.25})
    assert found.measured_on["priced"] == [[first], [other]]
    assert str(found.config.ratio) == other
    # Where the other costs more, too, what is left is the first with its compiled price, of which nothing is untold.
    dear = quick_tune(monkeypatch, {first: 0.6, other: 0.7})
    assert str(dear.config.ratio) == first and not any("timed uncompiled" in line for line in dear.reasons)


def test_nothing_is_compiled_for_a_plan_that_saves_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.Search, "trial_run", with_gain(0.0))
    batches = [(X + index, Y) for index in range(8)]
    monkeypatch.setattr(search, "step_cost", lambda *args, **kwargs: MeasuredCost(0.25, 0.001))
    monkeypatch.setattr(compiled_prices, "step_costs", lambda *args: pytest.fail("compiled"))
    found = tune(network(), batches, epochs=10, run_steps=8, ratios=(2,), compile=True)
    assert found.time == 1.0


def test_counted_macs_are_not_compiled() -> None:
    with pytest.raises(OptionError, match="compile=True has no effect on counted macs; leave out measure='macs'"):
        tune(network(), [(X, Y)] * 4, epochs=2, measure="macs", compile=True)


def test_an_optimizer_of_other_weights_is_told_and_left_alone() -> None:
    model = network()
    own = torch.optim.SGD(model.parameters(), lr=0.05)
    with pytest.raises(
        ValueError, match=r"^optimizer made one of other weights than it was given, .*: lambda weights: "
    ):
        tune(model, [(X, Y)] * 4, epochs=2, optimizer=lambda weights: own)
    assert own.param_groups[0]["lr"] == 0.05


def test_an_optimizer_that_needs_a_closure_is_refused_before_any_step() -> None:
    told = r"^optimizer is of type LBFGS, whose step needs a closure; give another: lambda weights: torch"
    with pytest.raises(ValueError, match=told):
        tune(network(), [(X, Y)] * 4, epochs=2, optimizer=torch.optim.LBFGS)


def test_prices_leave_an_optimizers_rates() -> None:
    made: list[torch.optim.Optimizer] = []

    def optimizer(weights: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(weights, lr=0.25))
        return made[-1]

    model = network()
    captured = capture(model, X)
    batch = read_batch((X, Y), captured.inputs, model)
    step_cost(pair_of(captured, KEPT), batch, F.cross_entropy, StepKind(optimizer), rounds=1)
    assert [each.param_groups[0]["lr"] for each in made] == [0.25]
