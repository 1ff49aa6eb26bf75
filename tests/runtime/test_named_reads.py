"""A recorded step reads more than attributes: options in objects, globals, class attributes, arrays."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from lowmode_fx.runtime.captured.named_reads import NamedReads
from lowmode_fx.runtime.captured.watch import Watch

SCALE, OFFSET, POWER = 1.0, 0.0, 1
TABLE = {"a": 1.0}
WEIGHTS = torch.ones(3)
SETTINGS = ModuleType("settings_of_a_test")
UNREAD = 1.0


@dataclass
class Inner:
    scale: float = 1.0
    sizes: list[int] = field(default_factory=lambda: [1, 2])


@dataclass
class Config:
    inner: Inner = field(default_factory=Inner)
    name: str = "a"
    act: Any = nn.ReLU


class Plain:
    """Options without a dataclass, in objects inside objects."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(head=Inner(), kind=None)


class Shared:
    factor = 1.0


class Base(nn.Module):
    temperature = 1.0
    unread = 1.0


class Net(Base):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.config, self.plain = Config(), Plain()
        self.arguments = argparse.Namespace(drop=0.0, inner=argparse.Namespace(depth=1))
        self.array, self.trainer = numpy.ones(3), Trainer(self)

    @property
    def offset(self) -> float:
        return OFFSET

    def forward(self, x: Tensor) -> Tensor:
        return helped(self.layer(x)) * SCALE * self.temperature + self.offset + TABLE["a"] + SETTINGS.rate

    def helper(self, x: Tensor) -> Tensor:
        return x * Shared.factor


class Trainer:
    """As trainers do, it knows the model, and counts what no forward reads."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.progress = net, Inner()


def helped(x: Tensor) -> Tensor:
    return sum(map(lambda each: each**POWER, x.unbind())) * Shared.factor * WEIGHTS  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Globals, and class attributes, are put back."""
    here = sys.modules[__name__]
    for name in ("SCALE", "OFFSET", "POWER", "WEIGHTS", "UNREAD"):
        monkeypatch.setattr(here, name, getattr(here, name))
    monkeypatch.setattr(here, "TABLE", dict(TABLE))
    monkeypatch.setattr(SETTINGS, "rate", 1.0, raising=False)
    monkeypatch.setattr(SETTINGS, "unread", 1.0, raising=False)
    monkeypatch.setattr(Shared, "factor", 1.0)
    monkeypatch.setattr(Base, "temperature", 1.0)
    monkeypatch.setattr(Base, "unread", 1.0)
    yield monkeypatch


def put(name: str, value: object) -> None:
    setattr(sys.modules[__name__], name, value)


CHANGES: dict[str, Callable[[Net], object]] = {
    "an option two objects deep": lambda net: setattr(net.config.inner, "scale", 2.0),
    "a list two objects deep": lambda net: net.config.inner.sizes.append(3),
    "an option three objects deep": lambda net: setattr(net.plain.model.head, "scale", 2.0),
    "an object of options replaced": lambda net: setattr(net.plain, "model", SimpleNamespace()),
    "an argument of the command line": lambda net: setattr(net.arguments, "drop", 0.5),
    "one inside another": lambda net: setattr(net.arguments.inner, "depth", 2),
    "a value of an array": lambda net: net.array.__setitem__(1, 2.0),
    "an array read as another type": lambda net: setattr(net, "array", net.array.view(numpy.int64)),
    "a global": lambda net: put("SCALE", 2.0),
    "a global that a property reads": lambda net: put("OFFSET", 2.0),
    "a global that a lambda of a helper reads": lambda net: put("POWER", 2),
    "an entry of a global": lambda net: TABLE.update(a=2.0),
    "a global dictionary replaced": lambda net: put("TABLE", {"a": 1.0}),
    "the memory of a global tensor": lambda net: put("WEIGHTS", torch.zeros(3)),
    "a name in a module": lambda net: setattr(SETTINGS, "rate", 2.0),
    "an attribute of a class": lambda net: setattr(Base, "temperature", 2.0),
    "an attribute of a class that a helper reads": lambda net: setattr(Shared, "factor", 2.0),
}
NO_CHANGES: dict[str, Callable[[Net], object]] = {
    "a trainer's progress": lambda net: setattr(net.trainer.progress, "scale", 2.0),
    "an equal option": lambda net: setattr(net.config.inner, "scale", float("1.0")),
    "an equal global": lambda net: put("SCALE", float("1.0")),
    "a global that is not read": lambda net: put("UNREAD", 2.0),
    "a name in a module that is not read": lambda net: setattr(SETTINGS, "unread", 2.0),
    "an attribute of a class that is not read": lambda net: setattr(Base, "unread", 2.0),
    "new values of a global tensor": lambda net: WEIGHTS.mul_(1.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_what_code_reads_is_noticed(change: Callable[[Net], object]) -> None:
    net = Net()
    watch = Watch({"model": net})
    assert watch.changed() is None
    change(net)
    assert watch.changed() is not None


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES.keys())
def test_what_code_does_not_read_is_no_change(change: Callable[[Net], object]) -> None:
    net = Net()
    watch = Watch({"model": net})
    change(net)
    assert watch.changed() is None


def test_each_place_is_read_once_and_torchs_own_not_at_all() -> None:
    found = NamedReads([helped], Net().modules())
    names = [name for _, name in found.places]
    assert sorted(names) == ["OFFSET", "POWER", "SCALE", "TABLE", "WEIGHTS", "factor", "rate", "temperature"]
    assert [type(each) for each in found.objects] == [dict, Tensor]
    assert NamedReads([], nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).modules()).places == []
