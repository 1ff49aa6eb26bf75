"""Training on a GPU: images out of their archives, what each arm does in its steps, rows that resume."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench_archives import CLASSES, sheet, write_archives

from bench import gpu_arms, gpu_training
from bench.cifar_archives import find_archives, load_archives
from bench.gpu_arena import Arena, rate
from bench.gpu_arms import POOLED, SHARED, arms, grown_ladder, paper
from bench.gpu_studies import RESNET18, SMALL, STUDIES
from bench.gpu_tuned import tuned_study
from bench.plans import FULL, cost, full, ladder, neighbours, planned, ramp
from lowmode_fx import BernoulliSchedule, LadderSchedule, LowModeConfig, Tuning
from tests.runtime.recorder import Recorder

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
MODES = RESNET18.modes
COSTS = {mode: 0.25 for mode in MODES} | {FULL: 1.0, "s24": 0.5}


class Counted(Recorder):
    """Counts its replays as the graphs of a GPU do."""

    @property
    def launches(self) -> int:
        return self.replays


# Images.


def test_archives_give_back_their_images(tmp_path: Path) -> None:
    paths = write_archives(tmp_path)
    assert find_archives(tmp_path) == paths
    found = load_archives(paths)
    assert found["train"].images.shape == (600, 3, 32, 32)
    assert found["train"].images.dtype == torch.uint8
    assert Counter(found["train"].labels.tolist()) == {0: 300, 1: 300}
    assert load_archives(paths[:1])["train"].labels.tolist() == [0] * 200 + [1] * 200
    for place, label in enumerate(CLASSES):
        images = found["test"].images[found["test"].labels == place]
        assert torch.equal(images.permute(0, 2, 3, 1), torch.from_numpy(sheet("test", label, 0)))


def test_a_folder_without_archives_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no cifar10_a\.zip in .*; give the folder that holds it"):
        find_archives(tmp_path)


# Arms.


def test_a_ladder_spends_its_shares() -> None:
    modes = ladder(20).modes(10, COSTS, 0)
    assert Counter(modes) == {"s16": 400, "s24": 120, FULL: 40}
    assert modes == ["s16"] * 400 + ["s24"] * 120 + [FULL] * 40
    assert cost(modes, COSTS, 10) == 20


def test_a_ladder_whose_batches_grow_has_fewer_steps_for_the_same_cost() -> None:
    costs = COSTS | {"s16, larger batches": 0.8, "s24, larger batches": 0.9}
    modes = grown_ladder(20).modes(32, costs, 0)
    # An epoch of 32 full steps is 8 of 4 × as many images, or 18 of 16/9.
    assert Counter(modes) == {"s16, larger batches": 50 * 8, "s24, larger batches": 12 * 18, FULL: 4 * 32}
    assert cost(modes, costs, 32) == pytest.approx(20, rel=0.02)


def test_composers_ramp_climbs_from_half_size_to_a_full_tail() -> None:
    modes = ramp(10).modes(100, COSTS, 0)
    assert Counter(modes[:500]) == {"s16": 500}
    assert set(modes[800:]) == {FULL}
    sizes = [32 if mode == FULL else int(mode[1:]) for mode in modes]
    assert sizes == sorted(sizes)
    assert set(modes) == {"s16", "s20", "s24", "s28", FULL}
    assert sizes[650] == 24, "half of the ramp is three quarters of a side"


def test_timms_mix_has_timms_weights() -> None:
    sampler = pytest.importorskip("timm.data.scheduled_sampler")
    theirs = sampler.ScheduledBatchSampler(
        list(range(5000)), [500] * 5, choice_schedule="progressive", schedule_epochs=3
    )
    modes = neighbours(3).modes(4000, COSTS, 0)
    for epoch in range(3):
        drawn = Counter(modes[4000 * epoch : 4000 * (epoch + 1)])
        weights = theirs.choice_weights_for_epoch(epoch).tolist()
        for mode, weight in zip(("s16", "s20", "s24", "s28", FULL), weights, strict=True):
            assert drawn[mode] / 4000 == pytest.approx(weight, abs=0.03)
    assert neighbours(3).modes(10, COSTS, 0) != neighbours(3).modes(10, COSTS, 1)


def test_the_papers_setting_is_full_at_first_and_mixed_then() -> None:
    modes = paper(50, SHARED).modes(100, COSTS, 0)
    assert set(modes[:100]) == {FULL}
    assert Counter(modes[100:])[SHARED] / 4900 == pytest.approx(0.5, abs=0.03)
    assert gpu_arms.CONFIGS[SHARED].batchnorm == "share"
    assert gpu_arms.CONFIGS[POOLED].batchnorm == "isolate"


def test_arms_are_all_there_and_none_twice() -> None:
    names = [arm.name for arm in arms()]
    assert len(names) == 17 == len(set(names))
    assert [name for name in names if name.startswith("full-mode")] == [
        f"full-mode, {epochs} epochs" for epochs in (24, 14, 12, 17, 19)
    ]
    assert all(set(arm.modes(4, COSTS, 0)) <= set(MODES) for arm in arms())
    few = [arm.name for arm in arms(2)]
    assert len(few) == len(set(few)) < 12
    assert planned("tuned", [("s16", 2), (FULL, 1)]).modes(2, COSTS, 0) == ["s16"] * 4 + [FULL] * 2


# Runs.


def test_rates_warm_up_and_fall_to_nothing() -> None:
    rates = [rate(step / 100, 0.4) for step in range(100)]
    assert rates[0] < 0.01 and rates[99] < 0.001
    assert max(rates) == pytest.approx(0.4, rel=0.02)
    assert rates.index(max(rates)) in (10, 11)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("data")
    write_archives(folder)
    return folder


def test_all_modes_are_captured_and_every_run_begins_anew(data: Path) -> None:
    graphs = Counted()
    arena = Arena(replace(SMALL["resnet18"], batch=8), CPU, graphs)
    arena.costs(1)
    assert arena.told() == {
        "compiled": False,
        "uncompiled modes": [str(mode) for mode in arena.net.modes],
        "captures": len(MODES),
        "uncaptured": None,
        "optimizer outside": None,
    }
    train = gpu_training.load(data, CPU, small=True)["train"]
    modes = ["s16", "pooled", FULL] * 2
    weights = []
    for seed in (0, 1, 0):
        found = arena.train(modes, train, seed)
        assert found["steps"] == found["replays"] == 6
        assert found["images"] == 48
        weights.append(torch.cat([each.flatten() for each in arena.model.state_dict().values()]))
    grown = arena.train(["s16, larger batches"] * 3 + ["s24, larger batches", FULL], train, 0)
    assert (grown["images"], grown["replays"]) == (3 * 32 + 14 + 8, 5), "batches of their own, captured"
    assert torch.equal(weights[0], weights[2]), "no run sees what ran before it"
    assert not torch.equal(weights[0], weights[1])
    fresh = torch.cat([each.flatten() for each in arena.study.network(CPU, 0).state_dict().values()])
    assert not torch.equal(weights[0], fresh), "it has trained"


def test_rows_come_one_by_one_and_go_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "training.jsonl"
    three = [full(1), planned("broken", [("nosuch", 1)]), planned("low", [("s16", 1)])]
    monkeypatch.setitem(SMALL, "resnet18", replace(SMALL["resnet18"], arms=lambda epochs, costs: three))
    monkeypatch.setattr(gpu_training, "relative_costs", lambda costs: COSTS | {"nosuch": 1.0})
    monkeypatch.setattr(Arena, "costs", lambda self, *_: {
        kind: dict.fromkeys([*MODES, "nosuch"], 1e-3) for kind in ("whole step", "loop")
    })  # fmt: skip
    arguments = ["--data", str(data), "--small", "--seeds", "1", "--out", str(out)]
    gpu_training.main(arguments)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["what"] for row in rows] == ["prices", "arm", "failed", "arm"]
    assert "ValueError: mode 'nosuch'" in rows[2]["error"]
    assert rows[1]["steps"] == 10 and rows[1]["images"] == 400 and rows[1]["cost, full epochs"] == 1
    assert 0 <= rows[1]["accuracy"] <= 100
    assert rows[3]["cost, full epochs"] == 0.25
    assert rows[1]["uncaptured"], "a fall-back is told in its row"
    assert "| resnet18 | full-mode, 1 epochs | 400 | 1 |" in (tmp_path / "training.md").read_text()
    out.write_text(out.read_text() + '{"what": "arm", "cut')  # as a process ends that is stopped
    plan = tmp_path / "plan.json"
    plan.write_text('[["s16", 1], ["full", 1]]')
    gpu_training.main([*arguments, "--skip-failed", "--plan", "tuned", str(plan)])
    again = [json.loads(line) for line in out.read_text().splitlines() if line.endswith("}")][4:]
    assert [row.get("arm") for row in again] == [None, "tuned"]


def test_no_run_begins_that_would_end_late(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "training.jsonl"
    gpu_training.main(["--data", str(data), "--small", "--seconds", "0", "--out", str(out)])
    assert [json.loads(line)["what"] for line in out.read_text().splitlines()] == ["prices"]


def test_large_kernels_are_compared_in_the_same_time() -> None:
    """Each arm's steps cost its share of full-mode's, at whatever costs; the modes are the study's."""
    study = STUDIES["convmixer-13"]
    costs = {mode: 0.06 if "kept" not in mode else 0.2 for mode in study.modes} | {FULL: 1.0}
    arms = study.arms(study.epochs, costs)
    assert [arm.name for arm in arms[:2]] == ["full-mode", "full-mode, cut, 0.2 of the time"]
    assert {"resized, 0.25 of the time", "Composer's ramp, 0.5 of the time"} <= {arm.name for arm in arms}
    for arm in arms:
        modes = arm.modes(4, costs, 0)
        assert set(modes) <= set(study.modes)
        share = 1.0 if arm.name == "full-mode" else float(arm.name.split(", ")[-1].split()[0])
        assert cost(modes, costs, 4) == pytest.approx(share * study.epochs, rel=0.25), arm.name


def test_an_optimizer_that_counts_begins_anew_too(data: Path) -> None:
    """AdamW counts its steps, on which its first ones depend: a run leaves none behind."""
    arena = Arena(replace(SMALL["convmixer-13"], batch=8), CPU, Counted())
    arena.costs(1)
    train = gpu_training.load(data, CPU, small=True)["train"]
    found = []
    for _ in range(2):
        arena.train(["kept 4", FULL], train, 0)
        found.append(torch.cat([each.flatten() for each in arena.model.state_dict().values()]))
    assert torch.equal(*found)


# The tuner's plan.


def made(multiplier: float | dict[str, float], *ratios: str) -> Tuning:
    configs = [LowModeConfig(ratio=ratio, kernel_ratio=1) for ratio in ratios]
    several = len(ratios) > 1
    schedule = LadderSchedule((3, 2, 1)) if several else BernoulliSchedule([1.0, 1.0, 0.0], 0)
    epochs = 6 if several else 3
    return Tuning(configs[0], schedule, 1.0, epochs, 0.5, more=tuple(configs[1:]), batch_multiplier=multiplier)


def test_a_plan_of_the_tuner_is_run_with_its_modes_and_batches() -> None:
    study = tuned_study(RESNET18, made({"r2": 4.0, "r4/3": 1.0}, "2", "4/3"))
    assert study.modes == (FULL, "r2", "r4/3") and study.multipliers == {"r2": 4.0, "r4/3": 1.0}
    (arm,) = study.arms(24, {})
    # A quarter of an epoch's eight steps at r = 2.
    assert arm.modes(8, {}, 0) == ["r2"] * 3 * 2 + ["r4/3"] * 2 * 8 + [FULL] * 8
    assert arm.over_macs and arm.name == "tuner's plan, 0.5 of the time"


def test_a_plan_of_one_low_mode_is_run_too() -> None:
    study = tuned_study(RESNET18, made(2.0, "2"))
    (arm,) = study.arms(24, {})
    assert arm.modes(4, {}, 0) == ["low"] * 2 * 2 + [FULL] * 4 and study.multipliers == {"low": 2.0}


def test_the_tuners_plan_is_made_once_and_trained(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "training.jsonl"
    arguments = ["--data", str(data), "--small", "--seeds", "1", "--out", str(out), "--tune", "3", "--epochs", "4"]
    gpu_training.main(arguments)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["what"] for row in rows] == ["tuning", "prices", "arm"]
    plan = Tuning.from_dict(rows[0]["tuning"])
    assert rows[2]["arm"].startswith("tuner's plan") and rows[2]["images"] <= 400 * plan.epochs
    assert plan.time <= 0.5 and rows[2]["steps"] <= 10 * plan.epochs
    gpu_training.main(arguments)  # of the same plan, whose seed is known
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["what"] for row in rows][3:] == ["prices"]
