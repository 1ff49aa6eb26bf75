"""Algorithm 1, its settings, its clock, and that warming up leaves no trace."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training import (
    SIDE,
    digits,
    model_without_options,
    quick_run,
    quick_settings,
    tiny_ladder_net,
    tiny_model,
    tiny_net,
)

from lowmode_fx import (
    BernoulliSchedule,
    LadderSchedule,
    LowModeConfig,
    LowModeModel,
    Mode,
    PeriodicSchedule,
    build_ladder,
)
from lowmode_fx.cli.demo import demo_model
from lowmode_fx.train import EpochRecord, RunResult, TrainingDivergedError, TrainSettings, load_data, plot_curves, train
from lowmode_fx.train import loop as loop_module
from lowmode_fx.train.batches import train_batches
from lowmode_fx.train.records import records_to_csv
from lowmode_fx.train.warmup import modes_to_come, preserve_training, warm_up

CPU = torch.device("cpu")


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("clip", [None, 0.3])
def test_the_loop_is_algorithm_1(clip: float | None) -> None:
    """Against a loop that is written out: every step's mode, rate and update, to the bit."""
    schedule = BernoulliSchedule(p=[0.0, 0.6, 0.6], seed=5)
    settings = quick_settings(clip_grad_norm=clip)
    net, result = quick_run(settings, net=tiny_net(schedule))

    plain = tiny_net(schedule).train()
    splits = digits()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    torch.manual_seed(settings.seed)
    step, low_steps, norms = 0, [0, 0, 0], []
    for epoch in range(3):
        for images, labels in train_batches(splits, batch_size=125, seed=0, epoch=epoch, device=CPU):
            mode = schedule.mode(step, epoch)
            low_steps[epoch] += mode is Mode.LOW
            optimizer.param_groups[0]["lr"] = 0.1 if epoch < 2 else 0.1 * 0.1
            optimizer.zero_grad()
            F.cross_entropy(plain.run(mode, images), labels).backward()
            if clip is not None:
                norms.append(nn.utils.clip_grad_norm_(plain.parameters(), clip).item())
            optimizer.step()
            step += 1
    assert_same_bits(bits(net), bits(plain))
    assert clip is None or sum(norm > clip for norm in norms) > 4, norms
    assert [record.low_steps for record in result.records] == low_steps
    assert low_steps[0] == 0 and sum(low_steps) > 4
    assert [record.steps for record in result.records] == [{"low": low, "full": 11 - low} for low in low_steps]


def test_the_loop_runs_each_step_in_its_mode_whatever_their_number() -> None:
    """Modes mixed within an epoch, against a loop that is written out, to the bit."""
    schedule = LadderSchedule(probabilities=[(0.5, 0.4, 0.1), (0.2, 0.4, 0.4), (0.0, 0.1, 0.9)], seed=3)
    net, result = quick_run(net=tiny_ladder_net(schedule))

    plain = tiny_ladder_net(schedule).train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    torch.manual_seed(0)
    step, counts = 0, [Counter[str]() for _ in range(3)]
    for epoch in range(3):
        for images, labels in train_batches(digits(), batch_size=125, seed=0, epoch=epoch, device=CPU):
            place = [Mode.at(0, 3), Mode.at(1, 3), Mode.FULL].index(schedule.mode(step, epoch))
            name = ("r4", "r2", "full")[place]
            counts[epoch][name] += 1
            optimizer.param_groups[0]["lr"] = 0.1 if epoch < 2 else 0.1 * 0.1
            optimizer.zero_grad()
            F.cross_entropy(plain.run(Mode(name), images), labels).backward()
            optimizer.step()
            step += 1
    assert_same_bits(bits(net), bits(plain))
    assert [Counter(record.steps) for record in result.records] == counts
    assert all(list(record.steps) == ["r4", "r2", "full"] for record in result.records)
    assert result.steps == dict(sum(counts, Counter())) and min(result.steps.values()) > 4


def test_it_learns_the_digits() -> None:
    schedule = BernoulliSchedule(p=[0.5] * 4 + [0.0] * 4)
    settings = quick_settings(epochs=8, batch_size=32, lr_schedule="onecycle", milestones=())
    _, result = quick_run(settings, net=tiny_net(schedule))
    assert result.final_accuracy > 0.35, "chance is 0.1"
    assert result.records[-1].train_loss < result.records[0].train_loss
    assert result.best_accuracy == max(record.val_accuracy for record in result.records)


@pytest.mark.filterwarnings("ignore::lowmode_fx.NoEffectWarning")  # at r = 4/3 a kernel of three taps stays whole
def test_a_ladder_learns_the_digits() -> None:
    """By the demo's loop and network, on smaller images: three modes one after the other, full-mode last."""
    splits = load_data("digits", 16)
    configs = [LowModeConfig(ratio=ratio, pool_convs=("layer3*", "layer4*")) for ratio in (2, 4 / 3)]
    ladder = build_ladder(demo_model(), torch.randn(2, *splits.image_shape), configs)
    net = LowModeModel(ladder, LadderSchedule(epochs=(2, 1, 2)), compile=False)
    settings = quick_settings(epochs=5, batch_size=48, lr=0.05, lr_schedule="onecycle", milestones=())
    result = train(net, splits, settings, quiet=True)
    assert result.final_accuracy > 0.9
    assert result.steps == {"r2": 58, "r4/3": 29, "full": 58}


def test_a_plain_module_trains_in_full_mode_and_keeps_its_keys() -> None:
    model = tiny_model()
    keys = list(model.state_dict())
    _, result = quick_run(net=model)
    assert result.low_steps == 0 and result.full_steps == 33
    assert list(model.state_dict()) == keys


def test_a_pair_that_is_never_low_trains_as_the_plain_module() -> None:
    net, _ = quick_run(net=tiny_net(BernoulliSchedule(p=0.0)))
    model, _ = quick_run(net=tiny_model())
    assert_same_bits(bits(net), bits(model))


def test_the_outcome_does_not_depend_on_the_callers_generator() -> None:
    outcomes = []
    for seed in (1, 2):
        net = tiny_net()
        torch.manual_seed(seed)
        outcomes.append(bits(quick_run(net=net)[0]))
    assert_same_bits(*outcomes)


def test_warming_up_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    warmed, _ = quick_run()
    monkeypatch.setattr(loop_module, "warm_up", lambda *arguments: 0.0)
    cold, _ = quick_run()
    assert_same_bits(bits(warmed), bits(cold))


def test_preserve_training_restores_all_kinds_of_state() -> None:
    net = tiny_net().train()
    net.attach(torch.optim.SGD(net.parameters(), lr=0.1))
    kept_gradient = torch.ones_like(next(net.parameters()))
    next(net.parameters()).grad = kept_gradient
    next(net.children()).eval()
    before, flags = bits(net), [module.training for module in net.modules()]
    schedule_state = net.schedule_state()
    draws = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    parameters = list(net.parameters())

    def work(mode: Mode) -> None:
        images = torch.randn(4, 3, SIDE, SIDE) * random.random() + np.random.rand()
        net.run(mode, images).sum().backward()
        with torch.no_grad():
            parameters[0].add_(1)

    assert warm_up(net, CPU, [lambda mode=mode: work(mode) for mode in (Mode.FULL, Mode.LOW)]) > 0  # type: ignore[misc]
    assert_same_bits(before, bits(net))
    assert [module.training for module in net.modules()] == flags
    assert net.schedule_state() == schedule_state == {"step": 0, "epoch": 0}
    assert torch.equal(torch.get_rng_state(), draws[0]) and random.getstate() == draws[1]
    assert (np.random.get_state()[1] == draws[2]).all()
    assert all(now is then for now, then in zip(net.parameters(), parameters, strict=True))
    assert parameters[0].grad is kept_gradient and bool((kept_gradient == 1).all())
    assert all(parameter.grad is None for parameter in parameters[1:])


def test_preserve_training_restores_after_an_error_and_replaced_buffers() -> None:
    model = nn.BatchNorm1d(3)
    mean = model.running_mean
    with pytest.raises(RuntimeError, match="inside"), preserve_training(model):
        model.running_mean = torch.ones(3)
        raise RuntimeError("inside")
    assert model.running_mean is mean and mean is not None and not mean.any()


def test_only_the_modes_that_come_are_warmed_up() -> None:
    assert modes_to_come(tiny_net(BernoulliSchedule(p=0.0)), 3, 10) == [Mode.FULL]
    assert modes_to_come(tiny_net(BernoulliSchedule(p=1.0)), 3, 10) == [Mode.LOW]
    assert modes_to_come(tiny_net(BernoulliSchedule(p=[0.0, 0.0, 0.9])), 3, 10) == [Mode.LOW, Mode.FULL]
    late = tiny_net(PeriodicSchedule(period=2, hold_epochs=1, milestones=(2,)))
    late.load_schedule_state({"step": 20, "epoch": 2})
    assert modes_to_come(late, 3, 10) == [Mode.FULL]


@pytest.mark.parametrize(
    ("epochs", "step", "names"),
    [((1, 1, 1), 0, "r4 r2 full"), ((1, 1, 1), 10, "r2 full"), ((2, 0, 1), 0, "r4 full"), ((1, 1, 1), 29, "full")],
)
def test_of_a_ladder_the_rungs_that_come_are_warmed_up(epochs: tuple[int, ...], step: int, names: str) -> None:
    net = tiny_ladder_net(LadderSchedule(epochs))
    net.load_schedule_state({"step": step, "epoch": step // 10})
    assert modes_to_come(net, 3, 10) == [Mode(name) for name in names.split()]


@pytest.mark.slow
def test_compilation_is_paid_before_the_clock_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny_net(PeriodicSchedule(period=2), compile=True)
    start = bits(net)
    _, result = quick_run(quick_settings(compile=True), net=net)
    assert result.compile_seconds > 1
    assert result.records[0].seconds < result.compile_seconds / 2
    warmed = bits(net)
    net.load_state_dict(start)
    net.load_schedule_state({"step": 0, "epoch": 0})
    monkeypatch.setattr(loop_module, "warm_up", lambda *arguments: 0.0)  # it is compiled by now
    quick_run(quick_settings(compile=True), net=net)
    assert_same_bits(warmed, bits(net))


def test_evaluation_is_not_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    def slow_evaluation(*arguments: Any) -> float:
        time.sleep(0.5)
        return 0.5

    monkeypatch.setattr(loop_module, "evaluate", slow_evaluation)
    start = time.perf_counter()
    _, result = quick_run(quick_settings(epochs=2, milestones=()))
    assert result.train_seconds < time.perf_counter() - start - 1
    assert result.train_seconds == pytest.approx(sum(record.seconds for record in result.records))


def test_rates_follow_the_paper() -> None:
    paper = TrainSettings.paper()
    assert (paper.epochs, paper.batch_size, paper.momentum) == (200, 125, 0.9)
    rates = [paper.learning_rate(epoch, 0.5) for epoch in (0, 79, 80, 119, 120, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert TrainSettings.paper(lr=0.2).lr == 0.2


def test_other_rates_and_warmup() -> None:
    cosine = TrainSettings(epochs=10, lr=1.0, lr_schedule="cosine")
    assert [cosine.learning_rate(epoch) for epoch in (0, 5)] == pytest.approx([1.0, 0.5])
    cycle = TrainSettings(epochs=10, lr=1.0, lr_schedule="onecycle")
    assert [cycle.learning_rate(epoch) for epoch in (0, 3)] == pytest.approx([0.04, 1.0])
    assert cycle.learning_rate(9, 0.999) == pytest.approx(1e-4, rel=0.1)
    warm = TrainSettings(epochs=10, lr=1.0, warmup_epochs=2)
    assert [warm.learning_rate(*at) for at in ((0, 0.5), (1, 0.5), (2, 0.0))] == pytest.approx([0.25, 0.75, 1.0])
    assert warm.learning_rate(0) > 0


def test_settings_survive_json() -> None:
    import json

    settings = TrainSettings.paper(lr=0.05, autocast="bf16")
    assert TrainSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(ValueError, match="TrainSettings has no 'learning_rate'; near matches: "):
        TrainSettings.from_dict({"learning_rate": 1})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs=0 is too small; give an int of at least 1"),
        ({"epochs": 2.5}, TypeError, "epochs=2.5 is of type float; give an int of at least 1"),
        ({"lr": 0.0}, ValueError, "lr=0.0 is out of range; give a number above 0"),
        ({"lr": float("nan")}, ValueError, "lr=nan is out of range"),
        ({"lr": "fast"}, TypeError, "lr='fast' is of type str; give a number above 0"),
        ({"clip_grad_norm": 0}, ValueError, "clip_grad_norm=0 is out of range; give a number above 0"),
        ({"clip_grad_norm": "1"}, TypeError, "clip_grad_norm='1' is of type str; give a number above 0"),
        ({"momentum": 1.0}, ValueError, "momentum=1.0 is out of range; give a number of at least 0, below 1"),
        ({"lr_schedule": "steep"}, ValueError, "lr_schedule='steep' is unknown; give 'milestones', 'cosine', "),
        ({"autocast": "int8"}, ValueError, "autocast='int8' is unknown; give 'none', 'bf16' or 'fp16'"),
        ({"milestones": (5, 3)}, ValueError, r"milestones=\(5, 3\) is not in rising order"),
        ({"milestones": (0, 3)}, ValueError, r"milestones\[0\]=0 is too small; give an int of at least 1"),
        ({"nesterov": True, "momentum": 0.0}, ValueError, "nesterov=True needs a momentum"),
    ],
)
def test_bad_settings(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TrainSettings(**changes)


@pytest.mark.parametrize("device", ["cuda:99", "toaster"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ValueError, match=f"device='{device}' is not there; give auto, cpu or a GPU"):
        TrainSettings(device=device).torch_device()


def test_too_few_outputs_are_found_before_training() -> None:
    with pytest.raises(ValueError, match=r"model outputs have shape \(2, 5\), but digits has 10 classes; give a model"):
        quick_run(net=model_without_options())


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="training loss is nan in epoch 1; give a smaller lr"):
        quick_run(quick_settings(lr=1e30), folder=tmp_path / "run")
    assert not (tmp_path / "run/checkpoint").exists(), "no checkpoint of useless weights"


class TwoHeads(nn.Module):
    """As GoogLeNet: a tuple in train mode, logits in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.other = tiny_model(), nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 10))

    def forward(self, images: torch.Tensor) -> Any:
        return (self.main(images), self.other(images)) if self.training else self.main(images)


def test_auxiliary_heads_are_trained() -> None:
    model = TwoHeads()
    before = bits(model)
    quick_run(quick_settings(epochs=1, milestones=()), net=model)
    assert not torch.equal(before["other.1.weight"], model.state_dict()["other.1.weight"])


@pytest.mark.parametrize("autocast", ["bf16", "fp16"])
def test_autocast(autocast: str) -> None:
    net, result = quick_run(quick_settings(autocast=autocast, lr=0.05))
    assert np.isfinite(result.records[-1].train_loss)
    assert all(tensor.dtype != torch.bfloat16 for tensor in net.state_dict().values())


def test_output_is_plain_lines_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny_net(), digits(), quick_settings(epochs=2, milestones=()), label="low-mode")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].startswith("low-mode: epoch 2/2  loss ")
    assert "validation" in lines[0] and "low steps" in lines[0] and "\x1b" not in "".join(lines)


def test_a_line_of_a_ladder_names_the_modes_that_ran(capsys: pytest.CaptureFixture[str]) -> None:
    schedule = LadderSchedule(probabilities=[(1, 0, 0), (0, 0.5, 0.5)])
    train(tiny_ladder_net(schedule), digits(), quick_settings(epochs=2, milestones=()), label="ladder")
    first, second = capsys.readouterr().out.splitlines()
    assert "  steps r4 11  lr" in first
    assert re.search(r"  steps r2 (\d+), full (\d+)  lr", second) and "r4" not in second


def records(*accuracies: float, steps: Mapping[str, int] | None = None) -> tuple[EpochRecord, ...]:
    steps = steps or {"low": 3, "full": 4}
    return tuple(EpochRecord(e, 2.0, 2.0 * (e + 1), 0.5, a, steps, 0.1) for e, a in enumerate(accuracies))


def test_metrics_as_csv() -> None:
    """The columns of two modes stand where they always stood; behind them one a mode."""
    text = records_to_csv({"full": records(0.5, steps={"full": 7}), "low": records(0.25, 1 / 3)})
    assert text.splitlines() == [
        "run,epoch,seconds,total_seconds,train_loss,val_accuracy,low_steps,full_steps,lr,steps_low,steps_full",
        "full,0,2,2,0.5,0.5,0,7,0.1,0,7",
        "low,0,2,2,0.5,0.25,3,4,0.1,3,4",
        "low,1,2,4,0.5,0.333333,3,4,0.1,3,4",
    ]


def test_metrics_of_a_ladder_as_csv() -> None:
    runs = {"ladder": records(0.5, steps={"r2": 5, "r4/3": 3, "full": 1}), "low-mode": records(0.25)}
    assert records_to_csv(runs).splitlines() == [
        "run,epoch,seconds,total_seconds,train_loss,val_accuracy,low_steps,full_steps,lr"
        ",steps_r2,steps_r4/3,steps_low,steps_full",
        "ladder,0,2,2,0.5,0.5,8,1,0.1,5,3,0,1",
        "low-mode,0,2,2,0.5,0.25,3,4,0.1,0,0,3,4",
    ]


def test_result_sums_up() -> None:
    result = RunResult("low", records(0.25, 0.75, 0.5), 1.5)
    assert (result.final_accuracy, result.best_accuracy, result.train_seconds) == (0.5, 0.75, 6.0)
    assert (result.low_steps, result.full_steps, result.steps) == (9, 12, {"low": 9, "full": 12})
    ladder = RunResult("ladder", records(0.5, 0.5, steps={"r2": 5, "r4/3": 3, "full": 1}), 1.5)
    assert (ladder.low_steps, ladder.full_steps) == (16, 2)
    assert ladder.summary()["steps"] == {"r2": 10, "r4/3": 6, "full": 2}
    assert RunResult("low", (), 0.0).summary()["epochs"] == 0


def colours(path: Path) -> dict[Any, int]:
    from PIL import Image

    with Image.open(path) as image:
        assert image.format == "PNG" and image.width >= 1000
        return {colour: count for count, colour in image.convert("RGB").getcolors(1 << 20) or []}


def test_curves_are_drawn(tmp_path: Path) -> None:
    plot_curves({"full": records(0.5, 0.6), "low": records(0.4)}, tmp_path / "curves.png", title="digits")
    assert len(colours(tmp_path / "curves.png")) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    with pytest.raises(ValueError, match="nothing to plot: no run has finished an epoch"):
        plot_curves({"low": ()}, tmp_path / "none.png")


@pytest.mark.parametrize("changed", ["train_loss", "lr", "val_accuracy"])
def test_loss_rate_and_accuracy_are_all_drawn(changed: str, tmp_path: Path) -> None:
    run = records(0.4, 0.5, 0.6)
    other = [replace(each, **{changed: getattr(each, changed) * (1 + each.epoch) / 3}) for each in run]
    for name, drawn in (("one", run), ("same", run), ("other", other)):
        plot_curves({"low": drawn}, tmp_path / f"{name}.png")
    one, same, different = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "same", "other"))
    assert one == same and one != different


def test_the_modes_of_a_run_are_a_band_below_its_curve(tmp_path: Path) -> None:
    """An epoch of each of three modes: three equal areas, from pale to the run's own black; without low steps none."""
    modes = ("r2", "r4/3", "full")
    run = [replace(each, steps={mode: 7 * (mode == modes[each.epoch]) for mode in modes}) for each in records(1, 1, 1)]
    plot_curves({"ladder": run}, tmp_path / "ladder.png")
    plot_curves({"full": records(1, 1, 1, steps={"full": 7})}, tmp_path / "full.png")
    shares = (0.25, 0.5, 1)
    wanted = [[255 - share * (255 - value) for value in (0x1F, 0x29, 0x37)] for share in shares]

    def area(name: str, colour: list[float]) -> int:
        close = (n for found, n in colours(tmp_path / name).items() if np.allclose(found, colour, rtol=0, atol=1))
        return sum(close)

    areas = [area("ladder.png", colour) - area("full.png", colour) for colour in wanted]
    assert min(areas) > 4000 and max(areas) < 1.25 * min(areas), areas
