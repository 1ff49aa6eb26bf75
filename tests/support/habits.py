"""What forwards leave behind: each habit sets a module up, does its deed, and says what there is to see of it."""

from __future__ import annotations

import itertools
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Deed = Callable[[Any, Tensor], object]
Look = Callable[[Any], Any]


@dataclass(frozen=True)
class Habit:
    """``look`` gives values to compare, and tensors or objects of which identity counts as ``id``."""

    setup: Callable[[Any], object]
    deed: Deed
    look: Look


class Meter:
    """A plain object that a module may hold."""

    def __init__(self) -> None:
        self.count, self.values = 0, [1.0]

    def update(self) -> None:
        self.count += 1
        self.values.append(2.0)


class Part(nn.Module):
    """Returns its input, in its own way."""

    def __init__(self, habit: Habit) -> None:
        super().__init__()
        self.habit = habit
        self.gain = nn.Parameter(torch.ones(3, 1, 1))
        habit.setup(self)

    def forward(self, x: Tensor) -> Tensor:
        self.habit.deed(self, x)
        return x * self.gain


def _attribute(name: str, make: Callable[[], Any]) -> Callable[[Any], None]:
    return lambda part: setattr(part, name, make())


def _closure(part: Any) -> None:
    calls, seen = 0, []

    def hook(module: nn.Module, inputs: Any) -> None:
        nonlocal calls
        calls += 1
        seen.append(calls)

    part.watched, part.told = nn.Identity(), lambda: (calls, list(seen))
    part.watched.register_forward_pre_hook(hook)


def _hidden(part: Any) -> None:
    part.hidden = [nn.BatchNorm1d(2)]


def _graph_in_buffer(part: Any, x: Tensor) -> None:
    part.mean.mul_(0.9).add_(part.gain.mean())


def _bits(value: Tensor) -> tuple[Any, ...]:
    return id(value), value.data_ptr(), value.tolist(), value.requires_grad, value.grad_fn is None


def _no_grad(deed: Deed) -> Deed:
    return torch.no_grad()(deed)


def _buffer(value: Tensor) -> Callable[[Any], None]:
    return lambda part: part.register_buffer("mean", value.clone())


_ZEROS = torch.zeros(3)

HABITS: dict[str, Habit] = {
    "list": Habit(_attribute("log", list), lambda p, x: p.log.append(1), lambda p: (id(p.log), list(p.log))),
    "deep": Habit(
        _attribute("log", lambda: {"a": [[1], (deque([2]),)]}),
        lambda p, x: (p.log["a"][0].append(1), p.log["a"][1][0].append(3), p.log.setdefault("b", 1)),
        lambda p: repr(p.log),
    ),
    "deque": Habit(
        _attribute("log", lambda: deque([1, 2], maxlen=2)), lambda p, x: p.log.append(3), lambda p: list(p.log)
    ),
    "counter": Habit(_attribute("log", Counter), lambda p, x: p.log.update(["a"]), lambda p: dict(p.log)),
    "order": Habit(
        _attribute("log", lambda: OrderedDict(a=1, b=2)), lambda p, x: p.log.move_to_end("a"), lambda p: list(p.log)
    ),
    "set": Habit(_attribute("log", lambda: {1}), lambda p, x: p.log.update({1, len(p.log) + 1}), lambda p: {*p.log}),
    "bytes": Habit(
        _attribute("log", lambda: bytearray(2)), lambda p, x: p.log.__setitem__(0, 7), lambda p: bytes(p.log)
    ),
    "object": Habit(
        _attribute("meter", Meter), lambda p, x: p.meter.update(), lambda p: (p.meter.count, list(p.meter.values))
    ),
    "count": Habit(_attribute("steps", lambda: 0), lambda p, x: setattr(p, "steps", p.steps + 1), lambda p: p.steps),
    "left": Habit(lambda p: None, lambda p, x: setattr(p, "output", [x]), lambda p: hasattr(p, "output")),
    "deleted": Habit(
        _attribute("first", lambda: True), lambda p, x: vars(p).pop("first", None), lambda p: hasattr(p, "first")
    ),
    "closure": Habit(_closure, lambda p, x: p.watched(1), lambda p: p.told()),
    "cycle": Habit(
        lambda p: setattr(p, "turns", itertools.cycle("ab")) or next(p.turns),
        lambda p, x: setattr(p, "turn", next(p.turns)),
        lambda p: (id(p.turns), p.turns.__reduce__()[1][0].__length_hint__(), hasattr(p, "turn")),
    ),
    "iterator": Habit(
        lambda p: setattr(p, "turns", [iter([1, 2, 3])]),
        lambda p, x: next(p.turns[0], 0),
        lambda p: (id(p.turns[0]), p.turns[0].__length_hint__()),
    ),
    "array": Habit(_attribute("sum", lambda: np.zeros(2)), lambda p, x: p.sum.__iadd__(1), lambda p: p.sum.tolist()),
    "hook": Habit(
        lambda p: None, lambda p, x: p.register_forward_hook(lambda *_: None), lambda p: len(p._forward_hooks)
    ),
    "flag": Habit(
        _attribute("norm", lambda: nn.BatchNorm1d(2)), lambda p, x: p.norm.train(False), lambda p: p.norm.training
    ),
    "frozen": Habit(
        lambda p: None, lambda p, x: p.gain.requires_grad_(not p.gain.requires_grad), lambda p: p.gain.requires_grad
    ),
    "layer": Habit(
        _attribute("layer", nn.Identity), lambda p, x: setattr(p, "layer", nn.Tanh()), lambda p: id(p.layer)
    ),
    "in place": Habit(_buffer(_ZEROS), lambda p, x: p.mean.add_(1), lambda p: _bits(p.mean)),
    "view": Habit(_buffer(torch.zeros(1)), lambda p, x: p.mean.expand(3)[:1].add_(1), lambda p: _bits(p.mean)),
    "expanded": Habit(
        lambda p: p.register_buffer("mean", torch.zeros(1).expand(3)),
        lambda p, x: p.mean[:1].add_(1),
        lambda p: _bits(p.mean),
    ),
    "reassigned": Habit(_buffer(_ZEROS), lambda p, x: setattr(p, "mean", p.mean + 1), lambda p: _bits(p.mean)),
    "registered": Habit(
        lambda p: None,
        lambda p, x: p.register_buffer("late", torch.ones(1), persistent=False),
        lambda p: (sorted(dict(p.named_buffers())), sorted(p._non_persistent_buffers_set)),
    ),
    "in a graph": Habit(_buffer(torch.zeros(())), _graph_in_buffer, lambda p: _bits(p.mean)),
    "resized": Habit(_buffer(_ZEROS), lambda p, x: p.mean.resize_(5 + len(p.mean)), lambda p: p.mean.tolist()),
    "tensor attribute": Habit(
        lambda p: p.__dict__.update(mean=torch.zeros(3)), lambda p, x: p.mean.add_(1), lambda p: _bits(p.mean)
    ),
    "tensor in a list": Habit(
        _attribute("queue", lambda: [torch.zeros(3)]), lambda p, x: p.queue[0].add_(1), lambda p: _bits(p.queue[0])
    ),
    "hidden module": Habit(
        _hidden, lambda p, x: p.hidden[0].running_mean.add_(1), lambda p: _bits(p.hidden[0].running_mean)
    ),
    "weight": Habit(lambda p: None, _no_grad(lambda p, x: p.gain.mul_(2)), lambda p: _bits(p.gain)),
    "weight data": Habit(
        lambda p: None, lambda p, x: setattr(p.gain, "data", p.gain.data * 2), lambda p: _bits(p.gain)
    ),
    "random": Habit(lambda p: None, lambda p, x: random.random(), lambda p: random.getstate()),
    "numpy": Habit(lambda p: None, lambda p, x: np.random.rand(), lambda p: str(np.random.get_state())),
    "torch": Habit(lambda p: None, lambda p, x: torch.rand(1), lambda p: torch.get_rng_state().tolist()),
    "seed": Habit(lambda p: None, lambda p, x: torch.manual_seed(5), lambda p: torch.get_rng_state().tolist()),
    "own random": Habit(
        _attribute("draws", lambda: random.Random(0)), lambda p, x: p.draws.random(), lambda p: p.draws.getstate()
    ),
    "own numpy": Habit(
        _attribute("draws", lambda: np.random.default_rng(0)),
        lambda p, x: p.draws.random(),
        lambda p: str(p.draws.bit_generator.state),
    ),
    "own old numpy": Habit(
        _attribute("draws", lambda: np.random.RandomState(0)),
        lambda p, x: p.draws.rand(),
        lambda p: str(p.draws.get_state()),
    ),
    "own torch": Habit(
        _attribute("draws", torch.Generator),
        lambda p, x: torch.rand(1, generator=p.draws),
        lambda p: p.draws.get_state().tolist(),
    ),
}  # fmt: skip
