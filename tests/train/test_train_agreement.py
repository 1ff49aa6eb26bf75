"""The training loop with a schedule that measures, with precise statistics, and the options for both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import digits, quick_run, quick_settings, tiny_model, tiny_net

from lowmode_fx import (
    AgreementSchedule,
    BernoulliSchedule,
    LadderSchedule,
    LowModeConfig,
    LowModeModel,
    Mode,
    ModePair,
    PeriodicSchedule,
    build_ladder,
    build_pair,
)
from lowmode_fx.cli.schedule_options import make_schedule
from lowmode_fx.cli.tunings import read_tuning
from lowmode_fx.runtime.schedules import annealed_shares, schedule_from_dict
from lowmode_fx.train import RunFolder, train
from lowmode_fx.train.batches import train_batches
from lowmode_fx.train.precise_bn import recompute_statistics
from lowmode_fx.train.warmup import modes_to_come
from lowmode_fx.tuning.result import Tuning
from passes.errors import OptionError

CPU = torch.device("cpu")


def agreement() -> AgreementSchedule:
    # 11 steps an epoch: measured at 0, and again in every eighth epoch. Any gain pays at this cost.
    return AgreementSchedule(every=40, batches=2, p=0.5, cost=1e-9, full_from=5)


# AgreementSchedule in the loop ---------------------------------------------------------------------------------------


def test_the_loop_measures_when_it_is_due_and_the_tail_is_full() -> None:
    net, result = quick_run(quick_settings(epochs=6), net=tiny_net(agreement()))
    schedule = net.schedule
    assert isinstance(schedule, AgreementSchedule)
    assert [step for step, _, _ in schedule.decisions] == [0, 40]
    assert result.low_steps > 10
    assert [record.low_steps for record in result.records][5] == 0


def test_a_resumed_run_decides_the_same(tmp_path: Path) -> None:
    whole, result = quick_run(quick_settings(epochs=6), net=tiny_net(agreement()))
    first = tiny_net(agreement())
    train(first, digits(), quick_settings(epochs=4), RunFolder.open(tmp_path / "run"), quiet=True)
    again = tiny_net(agreement())
    settings = quick_settings(epochs=6)
    resumed = train(again, digits(), settings, RunFolder.open(tmp_path / "run", resume=True), resume=True, quiet=True)
    assert again.schedule.decisions == whole.schedule.decisions  # type: ignore[union-attr]
    assert resumed.low_steps == result.low_steps
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_measurement_on_an_epochs_last_step_has_its_batches() -> None:
    net, _ = quick_run(quick_settings(epochs=5), net=tiny_net(AgreementSchedule(every=43, batches=2, cost=1e-9)))
    assert [step for step, _, _ in net.schedule.decisions] == [0, 43]  # type: ignore[union-attr]


class Counting:
    """A schedule of a user's own that measures: low from the first measurement on, one each 15 steps."""

    batches = 3

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[int]]] = []

    def mode(self, step: int, epoch: int) -> Mode:
        return Mode.LOW if self.seen else Mode.FULL

    def due(self, step: int, epoch: int) -> bool:
        return step % 15 == 0

    def measure(self, pair: ModePair, batches: Any, criterion: Any, step: int, autocast: Any = None) -> float:
        images = [images for images, labels in batches if criterion(pair.model(images), labels) > 0]
        self.seen.append((step, [len(each) for each in images]))
        return 0.5

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = list(state["seen"])


def test_any_schedule_that_measures_is_handed_batches() -> None:
    schedule = Counting()
    _, result = quick_run(quick_settings(epochs=3), net=tiny_net(schedule))
    assert schedule.seen == [(0, [125] * 3), (15, [125] * 3), (30, [125] * 3)]
    assert result.low_steps == 33


def test_both_graphs_are_warmed_up_for_a_schedule_that_is_yet_to_decide() -> None:
    assert modes_to_come(tiny_net(agreement()), epochs=3, steps_per_epoch=11) == [Mode.LOW, Mode.FULL]


# Precise statistics --------------------------------------------------------------------------------------------------


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def test_statistics_are_those_of_all_the_images() -> None:
    net = tiny_net()
    model = net.pair.model.eval()
    batches = [images for images, _ in train_batches(digits(), batch_size=100, seed=0, epoch=0, device=CPU)][:4]
    buffers = dict(model.named_buffers())
    before = {name: value.clone() for name, value in buffers.items()}
    generator = torch.get_rng_state()
    recompute_statistics(model, batches, 4)
    maps = model[0](torch.cat(batches))
    first = norms(model)[0]
    torch.testing.assert_close(first.running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.running_var, maps.var((0, 2, 3), unbiased=False), rtol=1e-3, atol=1e-5)
    assert first.momentum == 0.1 and not model.training
    assert torch.equal(torch.get_rng_state(), generator)
    for name, value in model.named_buffers():
        assert value is buffers[name]  # compiled graphs hold on to the tensors themselves
        assert torch.equal(value, before[name]) == ("running" not in name)


def test_a_run_ends_with_precise_statistics() -> None:
    plain, _ = quick_run(quick_settings(epochs=2, precise_bn=0))
    precise, _ = quick_run(quick_settings(epochs=2, precise_bn=1000))
    for name, value in plain.named_parameters():
        assert torch.equal(value, precise.get_parameter(name))
    again = tiny_net()
    again.load_state_dict(plain.state_dict())
    images = [images for images, _ in train_batches(digits(), batch_size=125, seed=0, epoch=1, device=CPU)]
    recompute_statistics(again.pair.model, images, 11)
    for ours, theirs in zip(norms(precise), norms(again), strict=True):
        assert torch.equal(ours.running_mean, theirs.running_mean)
        assert torch.equal(ours.running_var, theirs.running_var)


def buffers(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.named_buffers() if "running" in name}


def test_after_a_short_full_tail_statistics_are_computed_anew(capsys: pytest.CaptureFixture[str]) -> None:
    """Eleven full steps would leave 0.9 ** 11 = 0.31 of what running statistics began with."""
    low_first = BernoulliSchedule([1.0, 0.0])
    old, _ = quick_run(quick_settings(epochs=2, precise_bn=0), net=tiny_net(low_first))
    asked, _ = quick_run(quick_settings(epochs=2, precise_bn=100), net=tiny_net(low_first))
    capsys.readouterr()
    found = tiny_net(low_first)
    train(found, digits(), quick_settings(epochs=2, precise_bn=None))
    assert "the last 11 full steps are too few to settle running statistics, so they come from 11 batches" in " ".join(
        capsys.readouterr().out.split()
    )
    for name, value in buffers(found).items():
        assert torch.equal(value, buffers(asked)[name]) and not torch.equal(value, buffers(old)[name])
    for name, value in old.named_parameters():
        assert torch.equal(value, found.get_parameter(name))


@pytest.mark.parametrize(
    ("schedule", "epochs", "settled"),
    [
        (BernoulliSchedule(0.0), 1, True),  # no low step: what the model does by itself
        (BernoulliSchedule([1.0] + [0.0] * 8), 9, True),  # 88 full steps
        (BernoulliSchedule([1.0] + [0.0] * 7), 8, False),  # 77
        (BernoulliSchedule([0.0] * 8 + [0.5]), 9, False),  # low steps in the last epoch
    ],
    ids=["full", "long tail", "short tail", "low at the end"],
)
def test_statistics_are_left_where_full_steps_settle_them(
    schedule: BernoulliSchedule, epochs: int, settled: bool
) -> None:
    as_they_are, _ = quick_run(quick_settings(epochs=epochs, precise_bn=0), net=tiny_net(schedule))
    found, _ = quick_run(quick_settings(epochs=epochs, precise_bn=None), net=tiny_net(schedule))
    same = all(torch.equal(value, buffers(as_they_are)[name]) for name, value in buffers(found).items())
    assert same == settled


def test_statistics_that_no_step_leaves_alone_stay() -> None:
    def net() -> LowModeModel:
        pair = build_pair(tiny_model(), torch.randn(2, 3, 8, 8), LowModeConfig(pool_convs="all", batchnorm="share"))
        return LowModeModel(pair, BernoulliSchedule(1.0), compile=False)

    as_they_are, _ = quick_run(quick_settings(epochs=1, precise_bn=0), net=net())
    found, _ = quick_run(quick_settings(epochs=1, precise_bn=None), net=net())
    assert all(torch.equal(value, buffers(as_they_are)[name]) for name, value in buffers(found).items())


def test_a_norm_that_keeps_none_is_no_obstacle_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model()
    model[1] = nn.BatchNorm2d(8, track_running_stats=False)
    pair = build_pair(model, torch.randn(2, 3, 8, 8), LowModeConfig(pool_convs="all"))
    train(
        LowModeModel(pair, BernoulliSchedule(1.0), compile=False), digits(), quick_settings(epochs=1, precise_bn=None)
    )
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "warning: low steps in the last epoch leave running statistics old, and they can't be computed anew: a norm "
        "keeps no running statistics; give a longer full tail"
    ) in said
    with pytest.raises(OptionError) as refused:
        train(model, digits(), quick_settings(epochs=1, precise_bn=3))
    assert str(refused.value) == "precise_bn=3 can't be had: a norm keeps no running statistics; give 0"


@pytest.mark.parametrize(
    ("batch_size", "said"),
    [
        (1400, "the last full step is too few to settle running statistics, so they come from 1 batch ("),
        (700, "the last 2 full steps are too few to settle running statistics, so they come from 2 batches ("),
    ],
)
def test_full_steps_that_settle_nothing_are_counted_in_words(
    batch_size: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = quick_settings(epochs=2, precise_bn=None, batch_size=batch_size)
    train(tiny_net(BernoulliSchedule([1.0, 0.0])), digits(), settings)
    assert f"note: {said}" in " ".join(capsys.readouterr().out.split())


def test_an_average_of_the_weights_follows_by_its_decay() -> None:
    """Its statistics hold 0.999 ** 99 = 0.91 of what they were, though the weights' own are settled."""
    low_first = BernoulliSchedule([1.0] + [0.0] * 9)
    plain, _ = quick_run(quick_settings(epochs=10, precise_bn=None), net=tiny_net(low_first))
    as_they_are, _ = quick_run(quick_settings(epochs=10, precise_bn=0), net=tiny_net(low_first))
    assert all(torch.equal(value, buffers(as_they_are)[name]) for name, value in buffers(plain).items())
    found, asked = (
        quick_run(quick_settings(epochs=10, ema=0.999, precise_bn=batches), net=tiny_net(low_first))[1]
        for batches in (None, 100)
    )
    assert found.final_accuracy == asked.final_accuracy


class Hooked(nn.Module):
    """Asks for a hook on its input in train mode, which a forward without gradients can't have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            (x * 1).register_hook(lambda gradient: gradient)
        return x


def test_a_model_that_can_not_run_there_ends_as_it_would(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model()
    model[2] = nn.Sequential(nn.ReLU(), Hooked())
    pair = build_pair(model, torch.randn(2, 3, 8, 8), LowModeConfig(pool_convs="all"))
    net = LowModeModel(pair, BernoulliSchedule(1.0), compile=False)
    result = train(net, digits(), quick_settings(epochs=1, precise_bn=None))
    assert len(result.records) == 1
    assert "they can't be computed anew: " in " ".join(capsys.readouterr().out.split())


def test_norms_that_do_not_run_or_are_frozen_keep_their_statistics() -> None:
    model = tiny_model()
    model[1].momentum = 0.0
    model.unused = nn.BatchNorm2d(4)
    model.forward = lambda x: nn.Sequential(*list(model)[:10])(x)  # type: ignore[method-assign]
    for norm in (model[1], model.unused):
        norm.running_mean.fill_(0.25)
    recompute_statistics(model, [torch.randn(8, 3, 8, 8)], 1)
    for norm in (model[1], model.unused):
        assert (norm.running_mean == 0.25).all() and (norm.running_var == 1).all()
    assert not (model[4].running_var == 1).any()


def test_statistics_are_asked_for_with_images_alone() -> None:
    model, batches = nn.BatchNorm2d(3), [(torch.randn(2, 3, 4, 4), torch.tensor([0, 1]))]
    with pytest.raises(TypeError, match=r"give the images alone: \(images for images, _ in loader\)$"):
        recompute_statistics(model, batches, 1)
    recompute_statistics(model, (images for images, _ in batches), 1)
    torch.testing.assert_close(model.running_mean, batches[0][0].mean((0, 2, 3)))


def test_a_mode_that_shares_its_norms_leaves_nothing_old() -> None:
    configs = [LowModeConfig(ratio=4, pool_convs="all"), LowModeConfig(pool_convs="all", batchnorm="share")]
    schedule = LadderSchedule((0, 1, 0))

    def net() -> LowModeModel:
        return LowModeModel(build_ladder(tiny_model(), torch.randn(2, 3, 8, 8), configs), schedule, compile=False)

    as_they_are, _ = quick_run(quick_settings(epochs=1, precise_bn=0), net=net())
    found, _ = quick_run(quick_settings(epochs=1, precise_bn=None), net=net())
    assert all(torch.equal(value, buffers(as_they_are)[name]) for name, value in buffers(found).items())


def test_the_statistics_of_a_net_are_its_models_in_full_mode() -> None:
    net = tiny_net(BernoulliSchedule(1.0))
    images = [torch.randn(8, 3, 8, 8) for _ in range(3)]
    step = net.step
    recompute_statistics(net.train(), images, 3)
    alone = tiny_model()
    recompute_statistics(alone, images, 3)
    for ours, theirs in zip(norms(net), norms(alone), strict=True):
        assert torch.equal(ours.running_mean, theirs.running_mean) and ours.running_mean.abs().sum() > 0
    assert net.step == step and net.training


def test_a_norm_that_runs_twice_is_refused() -> None:
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, norm)
    with pytest.raises(ValueError, match=r"^Some BN layers are reused\..*; leave the model as it is$"):
        recompute_statistics(model, [torch.randn(4, 3, 5, 5)], 1)
    # and is as it was
    assert norm.momentum == 0.1 and not norm._forward_pre_hooks
    assert norm.running_mean is not None and norm.running_mean.tolist() == [0, 0, 0]
    assert model(torch.randn(4, 3, 5, 5)).shape == (4, 3, 5, 5)


def test_fewer_batches_than_asked_for_are_all_used() -> None:
    """At the end of a paid run nothing is lost for an epoch that is short."""
    images = [torch.randn(4, 3, 5, 5) for _ in range(3)]
    exact, asked, default = (nn.BatchNorm2d(3) for _ in range(3))
    recompute_statistics(exact, images, 3)
    recompute_statistics(asked, iter(images), 50)
    recompute_statistics(default, iter(images))
    assert exact.running_mean is not None and exact.running_mean.abs().sum() > 0
    for norm in (asked, default):
        assert torch.equal(norm.running_mean, exact.running_mean) and torch.equal(norm.running_var, exact.running_var)


def test_no_batch_and_norms_without_statistics() -> None:
    with pytest.raises(
        ValueError, match=r"^images gives no batch; give batches of images \(N, C, \*S\): \(images for "
    ):
        recompute_statistics(nn.BatchNorm2d(3), [], 3)
    with pytest.raises(ValueError, match=r"^a norm keeps no running statistics; leave the model as it is$"):
        recompute_statistics(nn.BatchNorm2d(3, track_running_stats=False), [torch.randn(4, 3, 5, 5)], 1)
    with pytest.raises(TypeError, match=r"^images is of type Tensor; give batches of images \(N, C, \*S\): "):
        recompute_statistics(nn.BatchNorm2d(3), torch.randn(4, 3, 5, 5), 1)
    with pytest.raises(TypeError, match=r"^model is of type list; give the model, or the net that trains it$"):
        recompute_statistics([torch.randn(4, 3, 5, 5)], nn.BatchNorm2d(3), 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batches=0"):
        recompute_statistics(nn.BatchNorm2d(3), [], 0)
    left = iter(torch.randn(5, 4, 3, 5, 5))
    recompute_statistics(nn.BatchNorm2d(3), left, 3)
    assert len(list(left)) == 2


# Schedules from options ----------------------------------------------------------------------------------------------


def options(kind: str = "bernoulli", tuning: Tuning | None = None, epochs: int = 4, **given: Any) -> Any:
    defaults = {"p": None, "tail": None, "period": 2, "hold_epochs": 0, "every": 500, "paper": False}
    return make_schedule(kind, quick_settings(epochs=epochs), tuning, **(defaults | given))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("step", [0.8, 0.8, 0.8, 0.8, 0, 0]),
        ("linear", [0.8, 0.6, 0.4, 0.2, 0, 0]),
        ("cosine", [0.8, 0.682842712, 0.4, 0.117157288, 0, 0]),
    ],
)
def test_annealed_p(shape: str, expected: list[float]) -> None:
    assert annealed_shares(0.8, 6, 0.3, shape) == pytest.approx(expected)
    schedule = BernoulliSchedule.annealed(0.8, epochs=6, tail=0.3, shape=shape, seed=3)
    assert [schedule.low_probability(epoch) for epoch in range(7)] == pytest.approx([*expected, 0])
    assert schedule_from_dict(schedule.to_dict()) == schedule


def test_annealing_to_the_limits_and_beyond() -> None:
    assert annealed_shares(0.5, 3, 0) == [0.5] * 3
    assert annealed_shares(0.5, 3, 1) == [0.0] * 3
    with pytest.raises(ValueError, match="tail=2 is not a share; give a number from 0 to 1"):
        annealed_shares(0.5, 3, 2)
    with pytest.raises(ValueError, match="shape='round' is unknown; give 'step', 'linear' or 'cosine'"):
        annealed_shares(0.5, 3, 0.5, "round")


def test_tail_and_p() -> None:
    schedule = options(p="0.9", tail=0.5)
    assert [schedule.low_probability(epoch) for epoch in range(4)] == [0.9, 0.9, 0, 0]
    with pytest.raises(ValueError, match=r"--tail 0\.5 and a --p for each epoch exclude each other"):
        options(p="0.9,0,0,0", tail=0.5)
    with pytest.raises(ValueError, match=r"--tail 0\.5 has no meaning for --schedule periodic"):
        options("periodic", tail=0.5)
    assert options("periodic") == PeriodicSchedule(2, milestones=(0, 2))


def test_the_agreement_schedule_of_options() -> None:
    schedule = options("agreement", p="0.7", tail=0.25, every=300)
    assert (schedule.every, schedule.p, schedule.full_from) == (300, 0.7, 3)
    with pytest.raises(ValueError, match=r"^p=.0\.8x2. is no number; give one, as --schedule agreement takes"):
        options("agreement", p="0.8x2")


def test_what_was_tuned(tmp_path: Path) -> None:
    tuning = Tuning(LowModeConfig(kernel_ratio=1), BernoulliSchedule([1, 1, 0, 0], 5), 0.5, 4, 0.7)
    path = tmp_path / "tuned.json"
    path.write_text(tuning.to_json())
    schedule = options(tuning=read_tuning(path))
    assert [schedule.low_probability(epoch) for epoch in range(4)] == [1, 1, 0, 0]
    assert schedule.seed == 0  # of the run, not of the tuner
    assert options(tuning=read_tuning(path), p="0.3").low_probability(0) == 0.3
    with pytest.raises(ValueError, match="--epochs 9 is not what was tuned, 4; leave it out"):
        options(tuning=read_tuning(path), epochs=9)
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="is no result of lowmode-fx tune"):
        read_tuning(path)
    with pytest.raises(ValueError, match=r"can't be read \(.*\); make it with lowmode-fx tune"):
        read_tuning(tmp_path / "nothing.json")
