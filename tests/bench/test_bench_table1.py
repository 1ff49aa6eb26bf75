"""Table 1: the recipe at any length, the controls, runs in pieces, the table and both figures."""

from __future__ import annotations

import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from bench_rows import ratio
from training import write_images

from bench import table1, table1_report
from bench.table1_recipe import FULL, LOW, RESOLUTION, SAME_TIME, control_epochs, count_modes, milestones, schedule
from lowmode_fx import BernoulliSchedule, Mode
from lowmode_fx.train.interrupts import Interrupts
from lowmode_fx.train.progress import Reporter

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_recipe_at_its_length_is_the_papers() -> None:
    assert milestones(200) == (80, 120)
    assert schedule(200, 0) == BernoulliSchedule(0.5, 0, 4, (0, 80, 120))


@pytest.mark.parametrize(
    ("epochs", "expected", "hold"), [(100, (40, 60), 2), (20, (8, 12), 1), (2, (1,), 0), (1, (), 0)]
)
def test_the_recipe_scales(epochs: int, expected: tuple[int, ...], hold: int) -> None:
    assert milestones(epochs) == expected
    assert schedule(epochs, 0).hold_epochs == hold


def test_modes_are_counted_as_they_are_drawn() -> None:
    full, low = count_modes(20, 40, seed=3)
    assert full + low == 800
    assert low == sum(schedule(20, 3).mode(step, step // 40) is Mode.LOW for step in range(800))
    assert abs(low - 0.5 * 17 * 40) < 4 * math.sqrt(17 * 40 / 4), "three of the 20 epochs are held full"


@pytest.mark.parametrize(
    ("full", "low", "cost", "expected"),
    [(400, 400, 0.5, 15), (400, 400, 0.375, 14), (400, 400, 0.36, 14), (800, 0, 0.5, 20), (0, 1, 0.5, 1)],
)
def test_the_control_is_as_long_as_low_mode_takes_rounded_up(full: int, low: int, cost: float, expected: int) -> None:
    assert control_epochs(full, low, cost, steps=40) == expected


def test_velocity_is_gain_over_time_averaged_over_three_epochs() -> None:
    points = [(1.0, 0.1), (2.0, 0.3), (4.0, 0.5), (5.0, 0.4), (6.0, 0.7)]
    times, raw = zip(*table1_report.velocity(points, window=1), strict=True)
    assert times == (2.0, 4.0, 5.0, 6.0)
    assert raw == pytest.approx((0.2, 0.1, -0.1, 0.3))
    times, averaged = zip(*table1_report.velocity(points), strict=True)
    assert times == (2.0, 4.0, 5.0, 6.0)
    assert averaged == pytest.approx((0.3 / 2, 0.2 / 3, 0.3 / 3, 0.2 / 2))
    assert table1_report.velocity(points[:1]) == []


def table1_rows() -> dict[str, Any]:
    """Two epochs of ten steps; half of low-mode's are low, at half the cost."""

    def record(arm: str, low: int, accuracy: float) -> dict[str, Any]:
        curve = [[10 - low, low, 0.5, 10.0], [10 - low, low, accuracy, 20.0 - low]]
        common = {"network": "resnet18", "arm": arm, "seed": 0, "epochs": 2, "complete": True}
        return {**common, "accuracy": accuracy, "curve": curve}

    rows: dict[str, Any] = {"resnet18 / costs": {LOW: {"low / full": ratio(0.5)}}}
    for arm, low, accuracy in ((FULL, 0, 0.9), (LOW, 5, 0.88)):
        rows[f"resnet18 / {arm} / 0"] = record(arm, low, accuracy)
    return rows


def test_time_is_full_epochs_by_cost_and_seconds_on_a_gpu() -> None:
    low = table1_rows()[f"resnet18 / {LOW} / 0"]
    assert table1_report.curve(low, 0.5, gpu=False) == [(0.75, 0.5), (1.5, 0.88)]
    assert table1_report.curve(low, 0.5, gpu=True) == [(10.0, 0.5), (15.0, 0.88)]
    assert table1_report.total_time(table1_rows(), "resnet18", LOW, gpu=False) == 0.75
    assert math.isnan(table1_report.total_time(table1_rows(), "resnet18", SAME_TIME, gpu=False))


def test_the_table_has_the_papers_row_beside_ours() -> None:
    *_, paper, here = table1_report.table(table1_rows(), gpu=False).splitlines()
    assert paper == "| ResNet-18 | paper | 6.7 | 6.9 |  |  | −18 % | 37 % |"
    assert here == "| resnet18 | here | 10.0 | 12.0 |  |  | −25 % | 50 % |"


def test_the_table_averages_seeds_and_leaves_out_what_is_not_at_its_end() -> None:
    rows = table1_rows()
    other = {**rows[f"resnet18 / {FULL} / 0"], "seed": 1, "accuracy": 0.92}
    unfinished = {**rows[f"resnet18 / {LOW} / 0"], "complete": False}
    rows |= {f"resnet18 / {FULL} / 1": other, f"resnet18 / {LOW} / 0": unfinished}
    here = table1_report.table(rows, gpu=False).splitlines()[-1]
    assert here == "| resnet18 | here | 9.0 ± 1.0 |  |  |  |  | 50 % |"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for part, count in (("train", 12), ("test", 4)):
        write_images(root / part, {"cat": count, "dog": count}, side=32)
    return root


def table1_arguments(images: Path, place: Path, *more: str) -> list[str]:
    common = ["--small", "--data", f"folder:{images}", "--epochs", "2", "--batch-size", "8", "--rounds", "2"]
    return [*common, "--out", str(place / "table1.json"), "--runs", str(place / "runs"), *more]


def test_table1_from_images_to_figures(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table1.main(table1_arguments(images, tmp_path))
    result = json.loads((tmp_path / "table1.json").read_text())
    rows = result["rows"]
    assert result["header"]["settings"]["form"] == "small form"
    assert [key for key in rows if "costs" not in key] == [
        f"resnet8 / {arm} / 0" for arm in (FULL, LOW, SAME_TIME, RESOLUTION)
    ]
    assert all(row["complete"] for key, row in rows.items() if "costs" not in key)
    assert sum(low for _, low, _, _ in rows[f"resnet8 / {LOW} / 0"]["curve"]) == count_modes(2, 3, 0)[1] > 0
    cost = rows["resnet8 / costs"][LOW]["low / full"]["median"]
    assert len(rows[f"resnet8 / {SAME_TIME} / 0"]["curve"]) == control_epochs(*count_modes(2, 3, 0), cost, 3)
    assert "| ResNet-18 | paper | 6.7 | 6.9 |" in (tmp_path / "table1.md").read_text()
    for number in (3, 4):
        assert (tmp_path / f"table1_resnet8_fig{number}.png").stat().st_size > 10_000
    monkeypatch.setattr(table1, "train", lambda *_, **__: pytest.fail("trained again"))
    table1.main(table1_arguments(images, tmp_path, "--resume"))


@pytest.mark.slow
def test_a_run_that_a_signal_ended_goes_on_to_the_same_end(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    table1.main(table1_arguments(images, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "epoch", lambda *_: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(SystemExit) as ended:
            table1.main(table1_arguments(images, tmp_path / "cut"))
    assert ended.value.code == 128 + signal.SIGTERM
    key = f"resnet8 / {FULL} / 0"
    cut = json.loads((tmp_path / "cut/table1.json").read_text())["rows"]
    assert list(cut) == [key] and not cut[key]["complete"] and len(cut[key]["curve"]) == 1
    capsys.readouterr()
    table1.main(table1_arguments(images, tmp_path / "cut", "--resume"))
    assert "seed 0: going on from epoch 2" in capsys.readouterr().out
    whole, pieces = (
        [each[:3] for each in json.loads((tmp_path / place / "table1.json").read_text())["rows"][key]["curve"]]
        for place in ("whole", "cut")
    )
    assert pieces == whole


def test_no_run_starts_after_the_time_given(images: Path, tmp_path: Path) -> None:
    table1.main(table1_arguments(images, tmp_path, "--seconds", "0"))
    assert not (tmp_path / "runs").exists()


def test_the_alarm_ends_a_run_and_nothing_else() -> None:
    with table1.alarm(0.01):
        time.sleep(0.05)  # no handler: the process goes on
        with Interrupts() as interrupts:
            limit = time.monotonic() + 5
            while not interrupts.received and time.monotonic() < limit:
                time.sleep(0.01)
    assert interrupts.received == signal.SIGTERM
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
