"""The ablation: plans of equal cost, runs that end early, times and tables of what is there."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_rows import ratio

from bench import ablation, ablation_measure
from bench.ablation import run_one
from bench.ablation_arms import ladders, longer_low, tuned_ladder
from bench.ablation_compared import Compared
from bench.ablation_lines import lines
from bench.ablation_measure import measure_costs
from bench.ablation_report import cost_line, table
from bench.ablation_studies import CIFAR, SIDE, SMALL, Study, chosen, network
from bench.plans import FULL, SMALLEST, cost, default_ladder, fitted, four_modes, mixed, ramp
from lowmode_fx import BernoulliSchedule, LadderSchedule, LowModeConfig, Tuning
from lowmode_fx.lowering.mode import Mode

STUDY = Study("resnet8", epochs=2, images=250, curve_images=4, lr=0.1, last_stage="5")
#: About what small images cost on a CPU.
COSTS = {SMALLEST: 0.2, "s16": 0.3, "s20": 0.45, "s24": 0.6, "s28": 0.8, "all resampled, cover": 0.2, FULL: 1.0}
ROWS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "bench/results/ablation_cpu.json").read_text())["rows"]


def row() -> dict[str, Any]:
    config = LowModeConfig(kernel_ratio=1)
    choice = Tuning(config, BernoulliSchedule([1.0, 0.0]), low_weight=1.0, epochs=2, time=0.7)
    several = Tuning(config, LadderSchedule((3, 2, 1)), 1.0, 6, 0.6, more=(LowModeConfig(ratio="4/3", kernel_ratio=1),))
    return {"tuning": choice.to_dict(), "ladder": {"tuning": several.to_dict()}, "costs": {}}


@pytest.mark.usefixtures("one_thread")
def test_all_modes_are_timed_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    monkeypatch.setattr(ablation_measure, "loader", lambda splits: [(images, labels)])
    configs = Compared.of(STUDY, row()).configs
    some = {mode: configs[mode] for mode in ("s16", "the paper's", "tuned, rung 1")}
    found = measure_costs(STUDY, SimpleNamespace(), some, rounds=2)  # type: ignore[arg-type]
    assert list(found) == list(some)
    assert all(each["n"] == each["float32"]["n"] == 2 for each in found.values())
    assert all(0 < each["median"] < 3 for each in found.values())


def test_a_study_without_the_tuner_has_the_other_arms() -> None:
    study = next(each for each in SMALL if not each.tuner and each.data_set == "Fashion-MNIST")
    configs = Compared.of(study, {"costs": {}}).configs
    compared = Compared.of(study, {"costs": dict.fromkeys(configs, ratio(0.5))})
    names = {arm.name for arm in compared.arms}
    assert not any("tune" in each for each in [*names, *configs])
    assert {"full-mode, 12 epochs", "the paper's setting", "resolution only, progressive"} < names
    assert sum(name.startswith("default ladder") for name in names) == 4
    assert {mode for arm in compared.arms for mode in arm.modes(2, compared.costs, 0)} <= {FULL, *configs}


def test_studies_of_several_data_sets_have_rows_of_their_own() -> None:
    keys = [study.key for study in SMALL]
    assert len(set(keys)) == len(keys) and {"resnet8", "resnet8 on Fashion-MNIST"} <= set(keys)


def test_studies_at_other_rates_run_only_if_they_are_named() -> None:
    def keys(*names: str, data_set: str = CIFAR) -> list[str]:
        return [study.key for study in chosen(SMALL, data_set, names)]

    assert keys() == ["resnet8", "resnet8-5x5", "efficientnet", "efficientnet-4x4"]
    assert keys("resnet8") == ["resnet8"] and keys("resnet8, rate 0.4") == ["resnet8, rate 0.4"]
    assert keys("resnet8", data_set="Fashion-MNIST") == keys(data_set="Fashion-MNIST") == ["resnet8 on Fashion-MNIST"]
    assert keys("resnet8, rate 0.3") == []


def test_networks_of_studies_take_their_images() -> None:
    for each in (network(study, 0) for study in SMALL):
        assert each(torch.randn(2, 3, SIDE, SIDE)).shape == (2, 10)


@pytest.mark.usefixtures("one_thread")
def test_an_interrupted_run_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = SimpleNamespace(image_shape=(3, 32, 32))
    monkeypatch.setattr(ablation, "load", lambda study, data: (splits, splits))
    monkeypatch.setattr(ablation, "train", lambda *_, **__: SimpleNamespace(interrupted=15, records=[]))
    for arm in ("full-mode, 2 epochs", "resolution only, progressive"):
        with pytest.raises(RuntimeError, match=f"signal 15 ended {arm}; --resume continues"):
            run_one((STUDY, arm, row(), 0, "folder:x", torch.get_num_threads()))


def test_an_arm_trains_by_its_list_of_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = SimpleNamespace(image_shape=(3, 32, 32))
    nets = []
    monkeypatch.setattr(ablation, "load", lambda study, data: (splits, splits))
    monkeypatch.setattr(
        ablation, "train", lambda net, *_, **__: nets.append(net) or SimpleNamespace(interrupted=15, records=[])
    )
    given = row() | {"costs": dict.fromkeys(Compared.of(STUDY, row()).configs, ratio(0.5))}
    with pytest.raises(RuntimeError):
        run_one((STUDY, "tuner's ladder", given, 0, "folder:x", torch.get_num_threads()))
    (net,) = nets
    assert [str(mode) for mode in net.modes] == ["tuned, rung 0", "tuned, rung 1", FULL]
    wanted = ["tuned, rung 0"] * 6 + ["tuned, rung 1"] * 4 + [FULL] * 2
    assert [str(net.schedule.mode(step, 0)) for step in range(12)] == wanted
    assert net.schedule.mode(99, 0) is Mode.FULL


def test_ladders_and_peers_cost_the_same() -> None:
    several = Tuning.from_dict(row()["ladder"]["tuning"])
    found = ladders("resnet8-5x5", 16, 96, COSTS, several)
    assert [arm.name for arm in found[-2:]] == ["tuner's ladder", "tuner's ladder, rate over macs"]
    times = {arm.name: cost(arm.modes(96, COSTS, 0), COSTS, 96) for arm in found[:-2] if not arm.over_macs}
    over_steps = {name for name in times if "longer" not in name}
    assert {arm.name.removesuffix(", rate over macs") for arm in found[:-2] if "longer" not in arm.name} == over_steps
    assert all(min(abs(time - 9.6), abs(time - 8)) < 0.6 for time in times.values()), times
    assert sum("timm's mix" in name for name in times) == sum("Composer's ramp, " in name for name in times) - 2 == 2
    # Every mode has a configuration.
    configs = Compared.of(Study("resnet8-5x5", 16, 12_000, 4, 0.1, "5"), row()).configs
    assert {mode for arm in found for mode in arm.modes(2, COSTS, 0)} <= {FULL, *configs}


def test_the_default_ladder_is_the_products() -> None:
    modes = default_ladder(10).modes(4, COSTS, 0)
    assert modes == ["s16"] * 20 + ["s24"] * 12 + [FULL] * 8
    assert set(default_ladder(10, low="all resampled, cover").modes(4, COSTS, 0)) == {
        "all resampled, cover",
        "s24",
        FULL,
    }


def test_a_ladder_may_begin_below_half_the_side() -> None:
    arm = four_modes(14)
    assert arm.name == "ladder from r = 8/3, 14 epochs"
    assert arm.modes(1, COSTS, 0) == [SMALLEST] * 4 + ["s16"] * 6 + ["s24"] + [FULL] * 3


def test_a_fitted_arm_is_the_nearest_in_cost() -> None:
    assert fitted(default_ladder, 5.3, 4, COSTS).name == "default ladder, 10 epochs"  # 5 × 0.3 + 3 × 0.6 + 2 = 5.3


def test_a_mixed_arm_draws_as_the_products_schedule_does() -> None:
    p = (0.5, 0.9, 0.0)
    schedule = BernoulliSchedule(p, seed=3)
    drawn = mixed("a", "s16", p).modes(8, COSTS, 3)
    assert drawn == [FULL if schedule.mode(step, step // 8) is Mode.FULL else "s16" for step in range(24)]
    assert FULL in drawn and drawn[16:] == [FULL] * 8


def test_the_ramp_may_start_in_another_mode_of_half_the_side() -> None:
    plain, other = (ramp(10, low=low).modes(4, COSTS, 0) for low in ("s16", "pooled"))
    assert other == ["pooled" if mode == "s16" else mode for mode in plain]
    assert ramp(10, low="pooled").name == "Composer's ramp, pooled at half size, 10 epochs"


def test_a_tuners_ladder_runs_its_epochs() -> None:
    arm = tuned_ladder(Tuning.from_dict(row()["ladder"]["tuning"]))
    assert arm.modes(1, {}, 0) == ["tuned, rung 0"] * 3 + ["tuned, rung 1"] * 2 + [FULL]


def record(arm: str, curve: list[tuple[dict[str, int], float]]) -> dict[str, Any]:
    return {"arm": arm, "network": "resnet8", "seed": 0, "accuracy": curve[-1][1], "seconds": 1.0, "curve": curve}


def test_times_are_at_both_costs_of_each_mode() -> None:
    costs = {"s16": {**ratio(0.25), "float32": ratio(0.125)}, "s24": {**ratio(0.5), "float32": ratio(0.75)}}
    rows = {
        "resnet8 / study": {"study": {}, "costs": {**costs, "unused": ratio(0.9)}},
        "resnet8 / a / 0": record("a", [({"s16": 2, "s24": 2}, 0.5), ({FULL: 4, "s16": 0}, 0.7)]),
        "resnet8 / full-mode, 2 epochs / 0": record("full-mode, 2 epochs", [({FULL: 4}, 0.6), ({FULL: 4}, 0.8)]),
        "resnet8 / full-mode, 1 epochs / 0": record("full-mode, 1 epochs", [({FULL: 4}, 0.6)]),
    }
    found = {line.arm: line for line in lines(rows, "resnet8")}
    assert (found["a"].time, found["a"].exact_time, found["a"].epochs) == (1.375, 1.4375, 2)
    assert "| a | 2 | 1.38 | 1.44 | 70.00 (n = 1) | 67.50 | 1.5 |" in table(rows, "resnet8")
    assert cost_line(rows, "resnet8").endswith(": s16 0.25, s24 0.50.")


def test_longer_low_phases_are_of_known_networks() -> None:
    for arm in (arm for name in ("resnet8", "resnet8-5x5") for arm in longer_low(name)):
        modes = arm.modes(1, COSTS, 0)
        assert f"{len(modes) - modes.count(FULL)} low + {modes.count(FULL)} full" in arm.name
    assert longer_low("resnet18") == []


def test_a_result_file_has_the_costs_of_every_run() -> None:
    for key, each in ROWS.items():
        if "arm" in each:
            assert key == f"{each['network']} / {each['arm']} / {each['seed']}"
            modes = {mode for steps, _ in each["curve"] for mode in steps}
            assert modes <= {FULL, *ROWS[f"{each['network']} / study"]["costs"]}
