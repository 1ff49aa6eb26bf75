"""Large kernels: the networks are what their papers say, arms cost what they are given, tables say what rows hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench import depthwise_gradient, kernel_scores, large_kernels
from bench.large_kernels_arms import MODES, RAMP, arms, composers_ramp
from bench.large_kernels_report import lines, report
from bench.large_networks import LARGE, SMALL
from bench.rep_lk_net import rep_lk_net
from lowmode_fx import LowModeConfig, build_pair
from lowmode_fx.train import DataSplits
from lowmode_fx.train.images import MemoryImages

COSTS = {mode: 0.15 if "kept" not in mode else 0.3 for mode in MODES}


def test_rep_lk_net_is_as_large_as_the_paper_says() -> None:
    """RepLKNet-31B has 79 million parameters."""
    with torch.device("meta"):
        model = rep_lk_net()
    assert sum(value.numel() for value in model.parameters()) / 1e6 == pytest.approx(79, abs=2)
    kernels = {module.kernel_size for module in model.modules() if isinstance(module, nn.Conv2d) and module.groups > 1}
    assert kernels == {(31, 31), (29, 29), (27, 27), (13, 13), (5, 5), (3, 3)}


def test_a_small_one_has_its_large_kernels_and_their_branches_resized() -> None:
    case = SMALL["replknet-small"]
    pair = build_pair(case.build(), torch.zeros(2, 3, case.side, case.side), LowModeConfig(pool_convs="large"))
    found = {(change.before, change.after) for change in pair.report.pooled}
    assert found == {("31×31", "15×15"), ("29×29", "15×15"), ("27×27", "13×13"), ("13×13", "7×7"), ("5×5", "3×3")}


def test_every_study_has_its_network() -> None:
    studies = (*large_kernels.SMALL_STUDIES, *large_kernels.LARGE_STUDIES)
    assert {study.network for study in studies} <= set(SMALL) and not set(SMALL) & set(LARGE)
    assert len({study.key for study in studies}) == len(studies)


def test_arms_take_the_time_that_they_are_given() -> None:
    names = set()
    for arm in arms(COSTS):
        epochs = arm.epochs(40, COSTS)
        spent = sum(count * COSTS.get(mode, 1.0) for mode, count in epochs.items())
        assert spent == pytest.approx(40 * arm.budget, rel=0.08), arm
        assert list(epochs)[-1] == "full" and epochs["full"] > 0
        assert (arm.name, arm.budget) not in names
        names.add((arm.name, arm.budget))


def test_composers_ramp_takes_its_shares_of_steps() -> None:
    steps = {mode: share / COSTS.get(mode, 1.0) for mode, share in composers_ramp(COSTS).items()}
    assert steps["kept 4"] == pytest.approx(0.5) and steps["full"] == pytest.approx(0.2)
    assert sum(steps.values()) == pytest.approx(1) and set(RAMP) < set(steps)
    assert [LowModeConfig(ratio=MODES[mode].ratio).low_sides((32, 32)) for mode in RAMP] == [
        (16, 16),
        (20, 20),
        (24, 24),
        (28, 28),
    ]


def test_low_modes_are_mixed_before_the_full_tail() -> None:
    arm = next(arm for arm in arms(COSTS) if arm.mixed)
    epochs = arm.epochs(10, COSTS)
    modes = ("resized", "resized 4/3", "full")
    schedule = large_kernels.schedule(arm, epochs, modes, seed=0)
    low = epochs["resized"] + epochs["resized 4/3"]
    drawn = {str(schedule.mode(step, epoch)) for epoch in range(low) for step in range(20 * epoch, 20 * epoch + 20)}
    assert drawn == {"resized", "resized 4/3"}
    assert {str(schedule.mode(step, low)) for step in range(20)} == {"full"}


def test_lines_and_tables(tmp_path: Path) -> None:
    key = "net, 10 images, 2 epochs"
    rows: dict[str, Any] = {f"{key} / prices": {"prices": {"kept 4": {"median": 0.3}, "seconds": {"median": 1.0}}}}
    for seed, accuracy in enumerate((0.5, 0.54)):
        plan = {"epochs": {"kept 4": 3, "full": 1}, "time": 1.9, "seed": seed}
        rows[f"{key} / kept / 1 / {seed}"] = {"study": key, "arm": "kept", "budget": 1.0, "accuracy": accuracy, **plan}
    (line,) = lines(rows, key)
    assert (line.accuracy, line.error, line.seeds, line.epochs) == (0.52, pytest.approx(0.02), 2, "3 kept 4 + 1 full")
    report(rows, tmp_path / "large.json")
    text = (tmp_path / "large.md").read_text()
    assert "| kept | 3 kept 4 + 1 full | 1.90 | 52.00 ± 2.00 | 2 |" in text and "kept 4 0.300" in text


def test_both_ways_to_a_gradient_give_the_same() -> None:
    device, layer = torch.device("cpu"), depthwise_gradient.Layer("net", "pooled", 9, 4, 6, 5)
    by_torch, product = (way() for way in depthwise_gradient.ways(layer, torch.float32, device).values())
    torch.testing.assert_close(product, by_torch, rtol=1e-4, atol=1e-4)
    text = depthwise_gradient.table(depthwise_gradient.measure([layer], 2, device))
    assert "| net | pooled | 5×5 on 6×6 |" in text and text.count("\n") == 2


def test_a_full_step_can_have_gradients_by_products() -> None:
    conv, images = nn.Conv2d(32, 32, 5, padding=2, groups=32), torch.randn(128, 32, 6, 6)
    plain = torch.autograd.grad(conv(images).square().sum(), conv.weight)[0]
    with depthwise_gradient.ProductGradients():
        result = conv(images)
    assert "DepthwiseConv" in type(result.grad_fn).__name__
    torch.testing.assert_close(torch.autograd.grad(result.square().sum(), conv.weight)[0], plain, rtol=1e-4, atol=1e-3)


def test_scores_know_what_is_near() -> None:
    wanted = torch.randn(2, 3, 4, 4)
    assert kernel_scores.compare(wanted, wanted) == pytest.approx((0, 0, 1), abs=1e-6)
    error, unlike, gain = kernel_scores.compare(2 * wanted + 5, wanted)  # a norm behind it leaves no difference
    assert (error, unlike, gain) == pytest.approx((1, 0, 2), abs=1e-5)


def test_a_run_and_its_scores_on_a_handful_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny network goes through costs, two arms and scores."""
    study = large_kernels.Study("convmixer-7", 2, 250, 125)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (250, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.arange(250) % 10
    splits = DataSplits(
        name="random",
        train=MemoryImages(images, labels),
        val=MemoryImages(images[:125], labels[:125]),
        classes=tuple("0123456789"),
        mean=(0.5,) * 3,
        std=(0.3,) * 3,
    )
    for module in (large_kernels, kernel_scores):
        monkeypatch.setattr(module, "load", lambda study, data: splits)
    monkeypatch.setattr(large_kernels, "MODES", {mode: MODES[mode] for mode in ("kept 4", "resized")})
    costs = {mode: found["median"] for mode, found in large_kernels.measure_costs(study, "", rounds=2).items()}
    assert {"kept 4", "resized", large_kernels.CONTROL, "seconds of a full step"} == set(costs)
    for arm in arms(COSTS):
        if (arm.name, arm.budget) in (("full-mode", 1.0), ("resized", 0.5)):
            record = large_kernels.run(study, "", arm, {"resized": 0.25}, seed=0)
            assert 0 <= record["accuracy"] <= 1 and record["time"] == pytest.approx(2 if arm.budget == 1 else 1.25)
    scores = kernel_scores.score(study, "", steps=1)
    assert scores["kept"].keys() == {"agreement"}
    assert scores["pi_resize, cover"]["unlike"] < scores["avg, cover"]["unlike"]
    assert scores["pi_resize, cover"]["gain"] == pytest.approx(1, abs=0.15)
    assert "pi_resize, cover" in kernel_scores.table(scores)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_small_network_has_a_low_mode_with_smaller_kernels(name: str) -> None:
    case = SMALL[name]
    for config in (MODES["resized"], MODES["kept 4"]):
        pair = build_pair(case.build(), torch.zeros(2, 3, case.side, case.side), config)
        assert bool(pair.report.pooled) is config.pools_kernels
