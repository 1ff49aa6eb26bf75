"""The ablation: costs that are kept and added to, runs that end early, tables of what is there."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_rows import ratio

from bench import ablation
from bench.ablation import Study, add_costs, run_one
from bench.ablation_arms import Arm, longer_low
from bench.ablation_report import lines, table
from lowmode_fx import LowModeConfig

STUDY = Study("resnet8", epochs=2, images=8, curve_images=4, lr=0.1, last_stage="5")
KEPT, POOLED = LowModeConfig(kernel_ratio=1), LowModeConfig()
ARMS = [Arm("a", KEPT, (1.0, 0.0)), Arm("b", POOLED, (1.0, 0.0)), Arm("full-mode, 2 epochs", None, (0.0, 0.0))]


def test_only_what_is_missing_is_timed_and_saved_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def measure_cost(study: Study, splits: Any, arm: Arm, rounds: int) -> dict[str, Any]:
        timed.append(arm.name)
        return ratio(0.25)

    monkeypatch.setattr(ablation, "measure_cost", measure_cost)
    monkeypatch.setattr(ablation, "load", lambda study, data: (data, data))
    found: dict[str, Any] = {"a": ratio(0.5)}
    saved: list[list[str]] = []
    arms = [*ARMS, Arm("as a", KEPT, (0.5, 0.5))]
    add_costs(found, STUDY, "folder:x", arms, 3, lambda: saved.append(list(found)))
    assert timed == ["b"]
    assert found["a"]["median"] == found["as a"]["median"] == 0.5
    assert saved == [["a", "b"], ["a", "b", "as a"]]


@pytest.mark.usefixtures("one_thread")
def test_an_interrupted_run_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = SimpleNamespace(image_shape=(3, 32, 32))
    monkeypatch.setattr(ablation, "load", lambda study, data: (splits, splits))
    monkeypatch.setattr(ablation, "train", lambda *_, **__: SimpleNamespace(interrupted=15, records=[]))
    with pytest.raises(RuntimeError, match="signal 15 ended full-mode, 2 epochs; --resume continues"):
        run_one((STUDY, ARMS[2], 0, "folder:x", torch.get_num_threads()))


def record(arm: str, curve: list[tuple[int, int, float]]) -> dict[str, Any]:
    return {"arm": arm, "network": "resnet8", "seed": 0, "accuracy": curve[-1][2], "seconds": 1.0, "curve": curve}


def test_times_are_at_both_costs_and_arms_without_one_are_left_out() -> None:
    costs = {"a": {**ratio(0.25), "float32": ratio(0.125)}}
    rows = {
        "resnet8 / study": {"study": {}, "costs": costs},
        "resnet8 / a / 0": record("a", [(0, 4, 0.5), (4, 0, 0.7)]),
        "resnet8 / old / 0": record("old", [(0, 4, 0.5)]),
        "resnet8 / full-mode, 2 epochs / 0": record("full-mode, 2 epochs", [(4, 0, 0.6), (4, 0, 0.8)]),
        "resnet8 / full-mode, 1 epochs / 0": record("full-mode, 1 epochs", [(4, 0, 0.6)]),
    }
    found = {line.arm: line for line in lines(rows, "resnet8")}
    assert set(found) == {"a", "full-mode, 2 epochs", "full-mode, 1 epochs"}
    assert (found["a"].time, found["a"].exact_time) == (1.25, 1.125)
    assert "| a | 0.25 | 1.25 | 1.12 | 70.00 (n = 1) | 65.00 | 1.5 |" in table(rows, "resnet8")


def test_longer_low_phases_are_of_known_networks() -> None:
    every = [arm for name in ("resnet8", "resnet8-5x5") for arm in longer_low(name)]
    assert all(f"{sum(arm.p):.0f} low + {arm.p.count(0)} full" in arm.name for arm in every)
    assert longer_low("resnet18") == []


def test_a_result_file_has_a_study_for_every_run() -> None:
    rows = json.loads((Path(__file__).parents[2] / "bench/results/ablation_cpu.json").read_text())["rows"]
    for key, row in rows.items():
        if "arm" in row:
            assert key == f"{row['network']} / {row['arm']} / {row['seed']}"
            assert row["arm"].startswith("full-mode") or row["arm"] in rows[f"{row['network']} / study"]["costs"]
