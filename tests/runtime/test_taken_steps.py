"""A step counts once the weights have taken it, whatever steps on them and however."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trainers import IMAGES, LABELS, SCHEDULE, assert_same, make, sgd

from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, TrainStep, build_pair
from lowmode_fx.runtime.taken_steps import MOST_SKIPPED
from tests.runtime.runs import GraphKind, same

pytestmark = pytest.mark.usefixtures("one_thread")
BATCH, TARGETS = IMAGES[:4], LABELS[:4]


def backward(net: LowModeModel, scale: float = 1.0, scaler: Any = None) -> Tensor:
    loss = F.cross_entropy(net(BATCH), TARGETS) * scale
    (loss if scaler is None else scaler.scale(loss)).backward()
    return loss


def due(*steps: int) -> list[str]:
    return [SCHEDULE.mode(step, 0).value for step in steps]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_step_that_a_scaler_has_skipped_is_none(kind: Any, fused: bool) -> None:
    net, scaler, modes = make(), torch.amp.GradScaler("cpu", init_scale=2.0**8), []
    optimizer = kind(net.parameters(), lr=0.01, fused=fused)
    net.attach(optimizer)
    for scale in (1.0, float("inf"), float("nan"), 1.0, 1.0):
        backward(net, scale, scaler)
        modes.append(str(net.last_mode))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert net.step == 3 and modes == due(0, 1, 1, 1, 2)


def infinite_below_zero(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels.abs()) / (labels >= 0).all()


def test_captured_steps_skip_as_the_loop_does(graphs: GraphKind) -> None:
    data = [(images, -labels - (labels == 0).long() if place in (6, 7, 11) else labels)
            for place, (images, labels) in enumerate(graphs.batches())]  # fmt: skip
    options: dict[str, Any] = {"autocast": torch.float16, "criterion": infinite_below_zero}
    scalers = [torch.amp.GradScaler(graphs.device.type, init_scale=2.0**8) for _ in range(2)]
    skipped: list[list[bool]] = [[], []]
    ours, loop = (
        run(scaler=scaler, **options).train(data, lambda run, place, told=told: told.append(run.step.step_was_skipped))
        for run, scaler, told in zip((graphs.captured, graphs.loop), scalers, skipped, strict=True)
    )
    assert skipped[0] == skipped[1] and [place for place, told in enumerate(skipped[0]) if told] == [7, 8, 12]
    assert scalers[0].get_scale() == scalers[1].get_scale() == 2.0**5
    assert ours.recorder.replays == len(data) - 4 and ours.step.optimizer_outside is None
    assert ours.net.step == len(data) - 3 and same(ours, loop)


class Cautious(torch.optim.SGD):
    """Skips what is not finite, by itself."""

    def step(self, closure: Any = None) -> Any:
        gradients = [weight.grad for group in self.param_groups for weight in group["params"]]
        return super().step(closure) if all(bool(each.isfinite().all()) for each in gradients) else None


def test_a_step_that_an_optimizer_skips_by_itself_is_none() -> None:
    net, modes = make(), []
    optimizer = Cautious(net.parameters(), lr=0.1)
    net.attach(optimizer)
    for scale in (1.0, float("nan"), 1.0, float("inf"), 1.0):
        backward(net, scale)
        modes.append(str(net.last_mode))
        optimizer.step()
        optimizer.zero_grad()
    assert net.step == 3 and modes == due(0, 1, 1, 2, 2)


class Below(torch.optim.Optimizer):
    """Writes below autograd, but for the steps that ``seen`` names."""

    def __init__(self, params: Any, seen: Callable[[int], bool]) -> None:
        super().__init__(params, {})
        self.seen, self.steps = seen, 0

    def step(self, closure: Any = None) -> None:
        for weight in self.param_groups[0]["params"]:
            if self.seen(self.steps):
                with torch.no_grad():
                    weight.sub_(weight.grad, alpha=0.01)
            else:
                weight.data.sub_(weight.grad, alpha=0.01)
        self.steps += 1


@pytest.mark.parametrize("seen", [lambda step: False, lambda step: step < 2, lambda step: step % 5 == 0])
def test_an_optimizer_that_writes_below_autograd_never_stands_still(seen: Callable[[int], bool]) -> None:
    net = make()
    optimizer = Below(net.parameters(), seen)
    net.attach(optimizer)
    for _ in range(MOST_SKIPPED + 6):
        backward(net)
        optimizer.step()
        optimizer.zero_grad()
    assert net.step == MOST_SKIPPED + 6


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation, as published implementations of it are made: two forwards and backwards a step."""

    def __init__(self, params: Any, base: Any, rho: float = 0.05) -> None:
        super().__init__(params, {"rho": rho})
        self.base_optimizer = base(self.param_groups)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        weights = [weight for group in self.param_groups for weight in group["params"]]
        norm = torch.stack([weight.grad.norm() for weight in weights]).norm()
        for weight in weights:
            self.state[weight]["old"] = weight.data.clone()
            weight.add_(weight.grad * (0.05 / norm))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data = self.state[weight]["old"]
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        assert closure is not None
        self.first_step()
        closure()
        self.second_step()


@pytest.mark.parametrize("closure", [True, False])
def test_both_forwards_of_a_sharpness_aware_step_share_a_mode(closure: bool) -> None:
    net, modes = make(), []
    optimizer = SAM(net.parameters(), partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    net.attach(optimizer)
    for _ in range(4):
        backward(net)
        modes.append(str(net.last_mode))
        if closure:
            optimizer.step(lambda: backward(net))
        else:
            optimizer.first_step()
            backward(net)
            optimizer.second_step()
        modes.append(str(net.last_mode))
    assert net.step == 4 and modes == due(0, 0, 1, 1, 2, 2, 3, 3)
    again = make()
    theirs = SAM(again.parameters(), partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    again.attach(theirs)
    theirs.load_state_dict(optimizer.state_dict())
    assert again.step == 4


def test_a_second_optimizer_after_unfreezing_takes_the_steps() -> None:
    net, modes = make(), []

    def train(optimizer: Any, steps: int) -> None:
        for _ in range(steps):
            backward(net)
            modes.append(str(net.last_mode))
            optimizer.step()
            optimizer.zero_grad()

    net.requires_grad_(False)
    net[8].requires_grad_(True)
    head = sgd(net[8])
    net.attach(head)
    train(head, 3)
    net.requires_grad_(True)
    body = sgd(net[0])
    train(body, 2)
    assert net.step == 5 and modes == due(0, 1, 2, 3, 4)
    assert body.state_dict()["param_groups"][0]["lowmode_step"] == 5


def test_a_state_dict_of_steps_that_were_skipped_has_those_that_were_taken() -> None:
    net, other = make(), make()
    optimizer, theirs = Cautious(net.parameters(), lr=0.1), Cautious(other.parameters(), lr=0.1)
    for each, place, scales in ((net, optimizer, (1.0, float("nan"), 1.0)), (other, theirs, (1.0, 1.0))):
        each.attach(place)
        for scale in scales:
            backward(each, scale)
            place.step()
            place.zero_grad()
    assert net.step == other.step == 2
    assert_same(dict(net.named_parameters()), dict(other.named_parameters()))


# Steps without a training forward ------------------------------------------------------------------------------------


def trained(call: Callable[[LowModeModel, nn.Module], Any], optimizers: int = 1, steps: int = 30) -> list[str]:
    """The warnings of a training whose loss is ``call(net, model)``, after a first ordinary step."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = LowModeModel(
        build_pair(model, torch.zeros(2, 3, 8, 8), LowModeConfig(kernel_ratio=1)), BernoulliSchedule(1.0), compile=False
    )
    stepping = [torch.optim.SGD(net.parameters(), lr=0.01) for _ in range(optimizers)]
    net.attach(stepping[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(steps):
            (net(torch.ones(2, 3, 8, 8)) if step == 0 else call(net, model)).sum().backward()
            for optimizer in stepping:
                optimizer.step()
    return [str(each.message) for each in caught]


@pytest.mark.parametrize(
    "call",
    [lambda net, model: net.eval()(torch.ones(2, 3, 8, 8)), lambda net, model: model(torch.ones(2, 3, 8, 8))],
    ids=["in eval mode", "the model itself"],
)
def test_steps_without_the_nets_training_forward_are_told(call: Any) -> None:
    (told,) = trained(call)
    assert told == (
        "21 optimizer steps without a training forward of the net, so no step is low: the net is in eval mode, or the "
        "model is called itself; call net.train(), and net(images)"
    )


def test_optimizers_that_step_together_are_not_told() -> None:
    assert trained(lambda net, model: net(torch.ones(2, 3, 8, 8)), optimizers=15) == []


def test_captured_steps_in_eval_mode_are_told() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = LowModeModel(
        build_pair(model, torch.zeros(2, 3, 8, 8), LowModeConfig(kernel_ratio=1)), BernoulliSchedule(1.0), compile=False
    )
    step = TrainStep(net, F.cross_entropy, torch.optim.SGD(net.parameters(), lr=0.01))
    step(torch.ones(2, 3, 8, 8), torch.tensor([0, 1]))
    net.eval()
    with pytest.warns(UserWarning, match="21 optimizer steps without a training forward of the net"):
        for _ in range(30):
            step(torch.ones(2, 3, 8, 8), torch.tensor([0, 1]))
    assert net.step == 1
