"""What a recorded step has read is watched: each change is noticed, at once and after many quiet steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowmode_fx.runtime.captured import tensor_watch, writes
from lowmode_fx.runtime.captured.optimizer_watch import OptimizerWatch
from lowmode_fx.runtime.captured.watch import Watch

QUIET = 3
Ask = Callable[[], str | None]


class Net(nn.Module):
    """Layers, a mask, and attributes of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.25), nn.Identity())
        self.register_buffer("mask", torch.ones(4, 4))
        self.scale, self.steps, self.options, self.frozen = 1.0, [1, 2], {"a": 1, "b": 1}, set[str]()
        self.share = np.float32(0.5)
        self.zero, self.later, self.pair = 0.0, [3, 4], (1.0, torch.ones(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.norm(self.conv(x)).mean((2, 3)) @ self.mask) * self.scale


def halve(*arguments: Any) -> Any:
    return None


def eager(net: Net) -> None:
    net.conv._forward_hooks[12345] = halve  # by hand, without registering


def with_keywords(net: Net) -> None:
    net.conv.register_forward_hook(lambda module, args, kwargs, output: None, with_kwargs=True)


def turn(net: Net) -> None:
    net.conv.weight.data = net.conv.weight.data.transpose(0, 1)  # the same memory


def cut(net: Net) -> None:
    net.mask.data = net.mask.data[:2]


CHANGES: dict[str, Callable[[Net], object]] = {
    "frozen": lambda net: net.conv.weight.requires_grad_(False),
    "a buffer that trains": lambda net: net.mask.requires_grad_(True),
    "frozen as a whole": lambda net: net.body.requires_grad_(False),
    "a layer replaced": lambda net: setattr(net, "conv", nn.Conv2d(4, 4, 3, bias=False)),
    "a layer of a sequence replaced": lambda net: net.body.__setitem__(1, nn.Identity()),
    "a layer added": lambda net: net.body.append(nn.Identity()),
    "a layer added to one without": lambda net: net.body[2].add_module("inner", nn.Identity()),
    "a parameter replaced": lambda net: setattr(net.conv, "weight", nn.Parameter(torch.ones(4, 4, 3, 3))),
    "a parameter added": lambda net: net.body[2].register_parameter("p", nn.Parameter(torch.ones(1))),
    "a parameter taken away": lambda net: setattr(net.body[0], "bias", None),
    "a mask replaced": lambda net: setattr(net, "mask", torch.zeros(4, 4)),
    "a mask's memory replaced": lambda net: setattr(net.mask, "data", torch.zeros(4, 4)),
    "memory read in another order": turn,
    "a part of the memory": cut,
    "swapped tensors": lambda net: torch.utils.swap_tensors(net.conv.weight, nn.Parameter(torch.ones(4, 4, 3, 3))),
    "eval of a part": lambda net: net.norm.eval(),
    "eval": lambda net: net.eval(),
    "a number": lambda net: setattr(net, "scale", 2.0),
    "a layer's option": lambda net: setattr(net.body[1], "p", 0.5),
    "a new attribute": lambda net: setattr(net.body[2], "late", 1),
    "a list": lambda net: net.steps.append(3),
    "a dictionary": lambda net: net.options.update(a=2),
    "an entry that moves on": lambda net: net.later.insert(0, net.steps.pop()),
    "a renamed key": lambda net: net.options.update(c=net.options.pop("b")),
    "keys in another order": lambda net: net.options.update(a=net.options.pop("a")),
    "a tuple with a tensor": lambda net: setattr(net, "pair", (1.0, torch.ones(2, 2))),
    "a tuple of another type": lambda net: setattr(net, "pair", (1, net.pair[1])),
    "a number of numpy": lambda net: setattr(net, "share", np.float32(0.25)),
    "the sign of zero": lambda net: setattr(net, "zero", -0.0),
    "a set": lambda net: net.frozen.add("conv"),
    "a forward of its own": lambda net: setattr(net.conv, "forward", halve),
    "a forward hook": lambda net: net.conv.register_forward_hook(halve),
    "a forward hook with keywords": with_keywords,
    "a forward hook by hand": eager,
    "a forward pre-hook": lambda net: net.conv.register_forward_pre_hook(halve),
    "a backward hook": lambda net: net.conv.register_full_backward_hook(halve),
    "a backward pre-hook": lambda net: net.conv.register_full_backward_pre_hook(halve),
    "a hook on a tensor": lambda net: net.conv.weight.register_hook(halve),
    "a hook after accumulation": lambda net: net.conv.weight.register_post_accumulate_grad_hook(halve),
    "a hook on state dicts": lambda net: net.conv.register_state_dict_post_hook(halve),
    "a hook on loading": lambda net: net.conv.register_load_state_dict_pre_hook(halve),
    "a hook on all modules": lambda net: nn.modules.module.register_module_forward_hook(halve),
    "deterministic algorithms": lambda net: torch.use_deterministic_algorithms(True),
    "cudnn's choice": lambda net: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
    "the default dtype": lambda net: torch.set_default_dtype(torch.float64),
    "no gradients": lambda net: torch.set_grad_enabled(False),
}
NO_CHANGES: dict[str, Callable[[Net], object]] = {
    "an equal value": lambda net: setattr(net, "scale", float("1.0")),
    "an equal number of numpy": lambda net: setattr(net, "share", np.float32(0.5)),
    "an equal tuple": lambda net: setattr(net, "pair", (float("1.0"), net.pair[1])),
    "train again": lambda net: net.train(),
    "eval and back": lambda net: (net.eval(), net.train()),
    "new values": lambda net: net.load_state_dict({name: value * 2 for name, value in net.state_dict().items()}),
    "a gradient": lambda net: setattr(net.conv.weight, "grad", torch.ones(4, 4, 3, 3)),
    "a hook elsewhere": lambda net: nn.Linear(1, 1).register_forward_hook(halve),
    "a hook that goes": lambda net: net.conv.register_forward_hook(halve).remove(),
}


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Global settings, and hooks, are put back."""
    monkeypatch.setattr(writes, "QUIET", QUIET)
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    nn.modules.module._global_forward_hooks.clear()


@pytest.fixture(params=["torch's guards", "without them"])
def guards(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without them":  # as in a torch that has moved them
        monkeypatch.setattr(writes, "unwritten", lambda dictionaries: None)
        monkeypatch.setattr(tensor_watch, "unchanged_tensors", lambda tensors: None)


def quietly(ask: Ask, times: int) -> None:
    for _ in range(times):
        assert ask() is None


@pytest.mark.usefixtures("guards")
@pytest.mark.parametrize("quiet", [1, 2 * QUIET])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_noticed(change: Callable[[Net], object], quiet: int) -> None:
    net = Net()
    watch = Watch({"model": net, "criterion": F.cross_entropy})
    quietly(watch.changed, quiet)
    change(net)
    assert watch.changed() is not None


@pytest.mark.usefixtures("guards")
@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES.keys())
def test_what_a_step_would_not_read_otherwise_is_no_change(change: Callable[[Net], object]) -> None:
    net = Net()
    watch = Watch({"model": net})
    for quiet in (1, 2 * QUIET, 2 * QUIET):
        quietly(watch.changed, quiet)
        change(net)
    quietly(watch.changed, 2 * QUIET)
    net.scale = 3.0
    assert watch.changed() == "scale", "it still watches"


def test_a_hook_elsewhere_hides_none_here() -> None:
    net, other = Net(), nn.Linear(1, 1)
    watch = Watch({"model": net})
    other.register_forward_hook(halve)
    quietly(watch.changed, 2)
    net.conv.weight.register_hook(halve)
    other.register_forward_hook(halve)
    assert watch.changed() == "the hooks on a module or tensor"


def test_hooks_that_are_there_are_watched() -> None:
    net = Net()
    handle = net.conv.weight.register_post_accumulate_grad_hook(halve)
    net.conv.bias = nn.Parameter(torch.zeros(4))
    net.conv.bias.register_hook(halve)
    watch = Watch({"model": net})
    quietly(watch.changed, 2)
    handle.remove()
    net.conv.weight.register_post_accumulate_grad_hook(partial(halve))
    assert watch.changed() is not None
    watch = Watch({"model": net})
    quietly(watch.changed, 2)
    net.conv.bias.register_hook(halve)
    assert watch.changed() is not None


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_watched_beside_others() -> None:
    net: Any = Net()
    net.ragged = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
    watch = Watch({"model": net})
    quietly(watch.changed, 2 * QUIET)
    net.conv.weight.requires_grad_(False)
    assert watch.changed() is not None


# An optimizer ---------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, Callable[[Any], object]] = {
    "momentum": lambda group: group.update(momentum=0.5),
    "weight_decay": lambda group: group.update(weight_decay=0.125),
    "nesterov": lambda group: group.update(nesterov=True),
    "params": lambda group: group.update(params=list(group["params"])),
    "initial_lr": lambda group: group.update(initial_lr=0.1),
    "foreach": lambda group: group.pop("foreach"),
}
LOADS: dict[str, Callable[[Any], object]] = {
    "a state dict": lambda optimizer: optimizer.load_state_dict(optimizer.state_dict()),
    "no state": lambda optimizer: optimizer.state.clear(),
    "another momentum": lambda optimizer: next(iter(optimizer.state.values())).update(momentum_buffer=torch.ones(1)),
    "a new group": lambda optimizer: optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]}),
    "a parameter less": lambda optimizer: optimizer.param_groups[0]["params"].pop(),
    "a state's memory": lambda optimizer: setattr(
        next(iter(optimizer.state.values()))["momentum_buffer"], "data", torch.ones(4, 4, 3, 3)
    ),
    "a step of its own": lambda optimizer: setattr(optimizer, "step", partial(optimizer.step)),
}


def stepped() -> Any:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(2, 4, 5, 5)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("scheduled", [True, False])
@pytest.mark.parametrize(("option", "change"), OPTIONS.items(), ids=OPTIONS.keys())
def test_an_option_that_changes_is_named(option: str, change: Callable[[Any], object], scheduled: bool) -> None:
    optimizer = stepped()
    watch = OptimizerWatch(optimizer)
    for place in range(2 * QUIET):
        if scheduled:
            optimizer.param_groups[0].update(lr=0.1 / (1 + place), momentum=float("0.9"))
        assert not watch.loaded()
        assert watch.changed_option() is None
    change(optimizer.param_groups[0])
    assert not watch.loaded()
    assert watch.changed_option() == option


@pytest.mark.usefixtures("guards")
@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS.keys())
@pytest.mark.parametrize("quiet", [1, 2 * QUIET])
def test_a_state_that_is_replaced_is_noticed(load: Callable[[Any], object], quiet: int) -> None:
    optimizer = stepped()
    watch = OptimizerWatch(optimizer)
    assert not any(watch.loaded() for _ in range(quiet))
    load(optimizer)
    assert watch.loaded()
