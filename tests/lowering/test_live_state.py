"""Low steps run on copies of buffers: whatever a forward does to them, the model's own do not move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from live_checks import assert_unmoved, buffers, low_images, pair_of
from torch import Tensor, nn

from lowmode_fx import LowModeConfig, LowModeModel, PeriodicSchedule, build_pair
from lowmode_fx.lowering.live import LiveLowering
from lowmode_fx.lowering.live.shadows import Shadows

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = (2, 3, 16, 16)


class Tracked(nn.Module):
    """A network behind whose maps ``update`` does something to buffers."""

    def __init__(self, update: Callable[[Tracked, Tensor], object]) -> None:
        super().__init__()
        self.stem, self.body, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("queue", torch.zeros(4, 5), persistent=False)
        self.update = update

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.body(F.relu(self.stem(x))))
        self.update(self, maps.detach().mean((0, 2, 3)))
        return maps.mean((2, 3)) - self.mean


def in_place(model: Tracked, mean: Tensor) -> None:
    model.mean.mul_(0.9).add_(mean, alpha=0.1)
    model.count += 1


def by_copy(model: Tracked, mean: Tensor) -> None:
    model.mean.copy_(0.9 * model.mean + 0.1 * mean)


def by_assignment(model: Tracked, mean: Tensor) -> None:
    model.mean = 0.9 * model.mean + 0.1 * mean


def through_data(model: Tracked, mean: Tensor) -> None:
    model.mean.data = 0.9 * model.mean.data + 0.1 * mean
    model.queue.data.mul_(0.5)


def registered(model: Tracked, mean: Tensor) -> None:
    model.register_buffer("last", mean)


def deleted(model: Tracked, mean: Tensor) -> None:
    del model.queue


def as_a_queue(model: Tracked, mean: Tensor) -> None:
    model.queue = torch.cat([model.queue[:, 1:], mean[:, None]], 1)
    model.queue[:, int(model.count) % 5] = mean
    model.count = model.count + 1


UPDATES = [in_place, by_copy, by_assignment, through_data, registered, deleted, as_a_queue]


@pytest.mark.parametrize("update", UPDATES)
def test_whatever_a_forward_does_to_buffers(update: Callable[[Tracked, Tensor], object]) -> None:
    model = Tracked(lambda *_: None)
    pair = pair_of(model, *IMAGES)
    live, images = LiveLowering(pair), low_images(pair)
    model.update = update
    before = buffers(model)
    for _ in range(3):
        live.run(images).sum().backward()
        assert_unmoved(model, before)


def test_a_low_step_starts_from_the_models_buffers() -> None:
    """Between low steps, full-mode or the loop may have moved them, replaced them, or written below autograd."""
    model = Tracked(in_place)
    pair = pair_of(model, *IMAGES)
    live, images = LiveLowering(pair), low_images(pair)
    first = live.run(images)
    for change in (
        lambda: model.mean.add_(1),
        lambda: model.mean.data.add_(1),
        lambda: setattr(model, "mean", model.mean + 1),
        lambda: setattr(model.mean, "data", model.mean.data + 1),
    ):
        change()
        torch.testing.assert_close(live.run(images), first - 0.9)
        first = live.run(images)


def test_shared_norms_are_updated_as_by_a_full_step() -> None:
    torch.manual_seed(0)
    model = Tracked(in_place)
    pair = pair_of(model, *IMAGES, batchnorm="share")
    images = low_images(pair)
    LiveLowering(pair).run(images)
    maps = F.conv2d(F.relu(model.stem(images)), model.body.weight.mean((2, 3), keepdim=True), model.body.bias)
    torch.testing.assert_close(model.norm.running_mean, 0.1 * maps[..., 1:-1, 1:-1].mean((0, 2, 3)).detach())
    assert model.norm.num_batches_tracked == model.count == 1


def test_a_forward_that_fails_leaves_no_trace() -> None:
    model = Tracked(lambda *_: None)
    pair = pair_of(model, *IMAGES)
    live = LiveLowering(pair)

    def failing(model: Tracked, mean: Tensor) -> None:
        in_place(model, mean)
        raise ArithmeticError

    model.update = failing
    before = buffers(model)
    with pytest.raises(ArithmeticError):
        live.run(low_images(pair))
    assert_unmoved(model, before)
    with torch.no_grad():
        model.update = lambda *_: None
        live.run(low_images(pair))  # and it goes on


def test_two_forwards_wait_for_one_backward() -> None:
    """The first forward's copy of a buffer that is not written to is still there for its backward pass."""
    model = Tracked(lambda *_: None)
    model.mean.fill_(2.0)
    model.forward = lambda x: (model.body(model.stem(x)).mean((2, 3)) * model.mean).sum()  # type: ignore[method-assign]
    pair = pair_of(model, *IMAGES)
    live, images = LiveLowering(pair), low_images(pair)
    (live.run(images) + live.run(images)).backward()
    twice = model.stem.weight.grad.clone()
    model.zero_grad()
    live.run(images).backward()
    torch.testing.assert_close(twice, 2 * model.stem.weight.grad)


def test_copies_stay_the_same_tensors_and_shared_buffers_stay_one() -> None:
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    second.running_mean = first.running_mean
    seen = []
    shadows = Shadows()
    for _ in range(2):
        with shadows.in_place([first, second]):
            assert second._buffers["running_mean"] is first._buffers["running_mean"]
            assert second._buffers["running_var"] is not first._buffers["running_var"]
            seen.append([*first._buffers.values(), *second._buffers.values()])
        first.running_mean = second.running_mean = torch.ones(3)
    assert all(one is other for one, other in zip(*seen, strict=True))
    assert not any(copy is first.running_mean for copy in seen[0])
    assert torch.equal(seen[1][0], torch.ones(3))


def test_a_buffer_of_another_shape_gets_another_copy() -> None:
    module, shadows = nn.Module(), Shadows()
    for value in (torch.zeros(2), torch.ones(3), torch.ones(3, dtype=torch.long)):
        module.register_buffer("value", value)
        with shadows.in_place([module]):
            assert torch.equal(module.value, value)
            assert module.value.dtype == value.dtype
            assert module.value is not value
        assert module.value is value


class Centred(nn.Module):
    """A buffer is moved in place, as torch.export can write down."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.register_buffer("centre", torch.zeros(4))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.body(self.stem(images)))
        self.centre.mul_(0.9).add_(maps.detach().mean((0, 2, 3)), alpha=0.1)
        return maps - self.centre[:, None, None]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("batchnorm", ["isolate", "share"])
def test_graphs_by_name_leave_no_trace_either(batchnorm: Any, compiled: bool) -> None:
    model = Centred()
    config = LowModeConfig(batchnorm=batchnorm)
    pair = build_pair(model, torch.zeros(2, 3, 16, 16), config, front_end="export")
    options = {"compile": compiled, "compile_options": {"backend": "eager"}}
    net = LowModeModel(pair, PeriodicSchedule(1), **options)
    before = {name: value.clone() for name, value in model.named_buffers()}
    for _ in range(2):
        net(torch.randn(2, 3, 16, 16)).sum().backward()
    moved = [name for name, value in model.named_buffers() if not torch.equal(value, before[name])]
    assert bool(moved) is (batchnorm == "share")


class Shifted(nn.Module):
    """By a table that the first forward makes: a buffer, or a plain attribute."""

    def __init__(self, registered: bool) -> None:
        super().__init__()
        self.stem, self.body, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        if registered:
            self.register_buffer("table", None)
        else:
            self.table = None

    def forward(self, images: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.linspace(0, 1, 4)[:, None, None]
        return self.norm(self.body(self.stem(images))) + self.table


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("first", ["full", "low"])
def test_low_steps_train_after_a_forward_in_inference_mode(first: str, registered: bool) -> None:
    model, images = Shifted(registered), torch.randn(2, 3, 16, 16)
    net = LowModeModel(build_pair(model, images), PeriodicSchedule(1), compile=False)
    low, full = net.modes
    expected = net.run(low, images)
    model.table = torch.linspace(0, 1, 4)[:, None, None]
    with torch.inference_mode():
        if first == "full":
            model.table = model.table.clone()
        net.run(full if first == "full" else low, images)
    assert model.table.is_inference() is (first == "full")
    for shift in (0, 1):
        with torch.inference_mode():
            model.table += shift
        found = net.run(low, images)
        torch.testing.assert_close(found, expected + shift)
        found.sum().backward()
        assert model.stem.weight.grad is not None
