"""A recorded step reads more than attributes: options in objects, globals, class attributes, arrays."""

from __future__ import annotations

import argparse
import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any

import numpy
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lowmode_fx.runtime.captured.named_reads import NamedReads
from lowmode_fx.runtime.captured.watch import Watch
from passes.preserve.holdings import find_held

SCALE, OFFSET, POWER, THROUGH, STRENGTH = 1.0, 0.0, 1, 1.0, 1.0
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


class Shares:
    second = third = 1.0


class Shared(Shares):
    factor = 1.0


class Run:
    """Known by a global name, with a counter that no forward reads, and in a circle."""

    def __init__(self) -> None:
        self.scale, self.step, self.self = 1.0, 0, self


RUN, OPTIONS = Run(), {"inner": Inner()}


class Base(nn.Module):
    temperature = 1.0
    unread = 1.0


class Net(Base):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.config, self.plain, self.run = Config(), Plain(), SimpleNamespace(state=SimpleNamespace(made=1))
        self.run.state.made += 1
        self.arguments = argparse.Namespace(drop=0.0, inner=argparse.Namespace(depth=1))
        self.array, self.trainer = numpy.ones(3), Trainer(self)
        self.children_of = nn.ModuleList([Child()])

    @property
    def offset(self) -> float:
        return OFFSET

    def forward(self, x: Tensor) -> Tensor:
        super().train()
        x = self.first(self.layer(x), self.config.inner.scale, self.plain.model.head.scale, self.arguments.drop)
        return helped(x) * SCALE * self.temperature + self.offset + TABLE["a"] + SETTINGS.rate

    def first(self, x: Tensor, *_: Any) -> Tensor:
        """Reads another name of each: of options, of a class, of a module."""
        self.args = self.config.inner.sizes, getattr(self.arguments.inner, "depth"), self.array  # noqa: B009
        return self.children_of[0].later(x) * Shared.second + SETTINGS.second + RUN.scale + OPTIONS["inner"].scale


class Child(nn.Module):
    def later(self, x: Tensor) -> Tensor:
        return Straight.apply(x) * self.act(x) * Shared.third  # type: ignore[no-untyped-call]

    def __init__(self) -> None:
        super().__init__()
        self.act = lambda x: x * THROUGH


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * STRENGTH


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
    for name in ("SCALE", "OFFSET", "POWER", "WEIGHTS", "UNREAD", "THROUGH", "STRENGTH"):
        monkeypatch.setattr(here, name, getattr(here, name))
    monkeypatch.setattr(here, "TABLE", dict(TABLE))
    monkeypatch.setattr(SETTINGS, "rate", 1.0, raising=False)
    monkeypatch.setattr(SETTINGS, "second", 1.0, raising=False)
    monkeypatch.setattr(SETTINGS, "unread", 1.0, raising=False)
    for kind, names_of in ((Shares, ("second", "third")), (Shared, ("factor",))):
        for name in names_of:
            monkeypatch.setattr(kind, name, 1.0)
    monkeypatch.setattr(here, "RUN", Run())
    monkeypatch.setitem(OPTIONS, "inner", Inner())
    monkeypatch.setattr(Base, "temperature", 1.0)
    monkeypatch.setattr(Base, "unread", 1.0)
    yield monkeypatch
    for kind, name in ((Net, "temperature"), (Shared, "third")):  # as some tests leave them
        if name in vars(kind):
            delattr(kind, name)


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
    "another one, of the class above": lambda net: setattr(Shares, "second", 2.0),
    "one of the class above, put on the class": lambda net: setattr(Shared, "third", 2.0),
    "an attribute that comes to a class": lambda net: setattr(Net, "temperature", 2.0),
    "another name in a module": lambda net: setattr(SETTINGS, "second", 2.0),
    "an option of a global object": lambda net: setattr(RUN, "scale", 2.0),
    "an option in a global dictionary": lambda net: setattr(OPTIONS["inner"], "scale", 2.0),
    "a global that a function in an attribute reads": lambda net: put("THROUGH", 2.0),
    "a global that a gradient depends on": lambda net: put("STRENGTH", 2.0),
}
NO_CHANGES: dict[str, Callable[[Net], object]] = {
    "a trainer's progress": lambda net: setattr(net.trainer.progress, "scale", 2.0),
    "an equal option": lambda net: setattr(net.config.inner, "scale", float("1.0")),
    "an equal global": lambda net: put("SCALE", float("1.0")),
    "a global that is not read": lambda net: put("UNREAD", 2.0),
    "a name in a module that is not read": lambda net: setattr(SETTINGS, "unread", 2.0),
    "a counter that the constructor alone reads": lambda net: setattr(net.run.state, "made", 5),
    "a counter of a global object": lambda net: setattr(RUN, "step", 1),
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
    found = NamedReads(find_held({"net": Net()}))
    places = [(id(namespace), name) for namespace, name in found.places if not isinstance(namespace, MappingProxyType)]
    assert len(set(places)) == len(places)
    names = {name for _, name in found.places}
    assert {"OFFSET", "POWER", "SCALE", "TABLE", "WEIGHTS", "factor", "rate", "temperature", "depth"} <= names
    assert not names & {"UNREAD", "unread", "progress", "step"}
    assert {dict, Tensor} <= {type(each) for each in found.objects}
    plain = NamedReads(find_held({"net": nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))}))
    assert (plain.places, plain.objects) == ([], [])


class Criterion:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return plain_loss(outputs, targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return plain_loss(outputs, targets)


def plain_loss(outputs: Tensor, targets: Tensor, factor: float = 1.0) -> Tensor:
    return (outputs - targets).sum() * SCALE * factor


@functools.wraps(plain_loss)
def wrapped_loss(*arguments: Any) -> Tensor:
    return plain_loss(*arguments)


def closed_loss() -> Callable[..., Tensor]:
    def inner(outputs: Tensor) -> Tensor:
        return outputs * SCALE

    return lambda outputs, targets: inner(outputs - targets).sum()


@pytest.mark.parametrize(
    "criterion",
    [
        plain_loss,
        functools.partial(plain_loss, factor=2.0),
        Criterion(1.0),
        Criterion(1.0).loss,
        wrapped_loss,
        closed_loss(),
        torch.no_grad()(plain_loss),
        torch.autocast("cpu")(plain_loss),
    ],
    ids=["function", "partial", "object", "method", "wrapped", "closure", "without gradients", "autocast"],
)
def test_a_global_is_found_through_any_kind_of_function(criterion: Any) -> None:
    watch = Watch({"criterion": criterion})
    assert watch.changed() is None
    put("SCALE", 2.0)
    assert watch.changed() == "SCALE"


def test_names_of_globals_and_of_attributes_are_told_apart(names: pytest.MonkeyPatch) -> None:
    names.setattr(sys.modules[__name__], "loss", 1.0, raising=False)  # as a script's own variable
    watch = Watch({"criterion": lambda outputs, targets: Criterion(1.0).loss(outputs, targets)})
    put("loss", 0.5)
    assert watch.changed() is None


def test_what_can_not_be_looked_into_is_left() -> None:
    net: Any = Net()
    short_lived = Run()
    net.owner, net.config.owner = weakref.proxy(short_lived), weakref.proxy(short_lived)
    counts = {1: 2}
    net.batches, net.counts = enumerate(DataLoader([1, 2, 3])), iter(counts)  # type: ignore[arg-type]
    counts[2] = 3  # which ends the iterator
    del short_lived
    watch = Watch({"model": net})
    assert watch.changed() is None
    assert watch.host.read() == watch.host.read()


def test_code_of_installed_packages_is_read_for_names_alone() -> None:
    model: Any = timm.create_model("resnet10t")
    model.options = SimpleNamespace(act1=SimpleNamespace(global_pool=1, unread=1))  # timm's forward says global_pool
    found = NamedReads(find_held({"model": model}))
    assert [name for _, name in found.places] == ["global_pool"] and found.objects == []

    def loss(outputs: Tensor) -> Tensor:
        assert outputs is not None  # which pytest rewrites to calls of its own
        return F.relu(outputs) + timm.layers.drop_path(outputs)

    found = NamedReads(find_held({"criterion": loss}))
    assert (found.places, found.objects) == ([], [])
