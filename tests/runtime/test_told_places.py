"""Warnings of captured steps name the place: the path of an attribute, and the line that draws."""

from __future__ import annotations

import random
from collections.abc import Callable
from random import uniform
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowmode_fx.runtime.captured.complaints import UncapturedWarning
from lowmode_fx.runtime.captured.places import drawing_line, entry_of, path_of
from tests.runtime.recorder import Recorder
from tests.runtime.runs import STEPS, Net, Run, batches, build, same


class Scaled(Net):
    """Options in a nested object and in a list of dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.scales: list[dict[str, float]] = [{"first": 1.0}, {"second": 1.0}]
        self.generator = random.Random(3)
        self.noise = numpy.ones(2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scales[1]["second"]


class DrawingPythons(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.draw()

    def draw(self) -> float:
        low = 0.5
        return random.uniform(low, 1.0)


class DrawingByName(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * uniform(0.5, 1.0)


class DrawingNumpys(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(numpy.random.rand())


class DrawingItsOwn(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.generator.random()


class Writing(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        self.noise[0] *= 0.5
        return super().forward(x) * float(self.noise[0])


class Moving(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.factors = iter([1.0] * 1000)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * next(self.factors)


def line(function: Any, below: int) -> str:
    """How a line of a function is told, by its distance from the first one."""
    return rf"\({function.__qualname__}, .*test_told_places\.py:{function.__code__.co_firstlineno + below}\)"


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (DrawingPythons, f"draws random numbers on the host {line(DrawingPythons.draw, 2)}"),
        (DrawingByName, f"draws random numbers on the host {line(DrawingByName.forward, 1)}"),
        (DrawingNumpys, f"draws random numbers on the host {line(DrawingNumpys.forward, 1)}"),
        (DrawingItsOwn, r"draws from a generator of its own \(model\.generator\)"),
        (Writing, r"changes the values of an array, noise;"),
        (Moving, r"moves an iterator \(model\.factors\)"),
    ],
)
def test_what_a_forward_does_on_the_host_is_named(kind: type[Net], told: str) -> None:
    def train(graphs: Recorder | None) -> Run:
        torch.manual_seed(0)
        random.seed(4)
        numpy.random.seed(4)
        return Run(net=build(kind()), graphs=graphs).train(batches(6))

    with pytest.warns(UncapturedWarning, match=told):
        ours = train(Recorder())
    assert same(ours, train(None))


def scale(run: Run, place: int) -> None:
    run.net.ladder.model.scales[1]["second"] = 1.0 + place  # type: ignore[index, operator, union-attr]


def drop(run: Run, place: int) -> None:
    run.net.drop.p = 1 / (place + 2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (scale, r"scales\[1\]\['second'\] keeps changing between steps: \d+\.0, \d+\.0; give capture=False"),
        (drop, r"drop\.p keeps changing between steps: 0\.\d+, 0\.\d+; give capture=False"),
    ],
)
def test_what_keeps_changing_is_named_with_its_values(change: Callable[[Run, int], None], told: str) -> None:
    def train(graphs: Recorder | None) -> Run:
        torch.manual_seed(0)
        return Run(net=build(Scaled()), graphs=graphs).train(batches(2 * STEPS), change)

    with pytest.warns(UncapturedWarning, match=told) as caught:
        ours = train(Recorder())
    assert len(caught) == 1
    assert caught[0].filename.endswith("runs.py"), "the line that calls the step"
    assert same(ours, train(None))


def test_momentum_that_is_cycled_is_told_with_what_to_do() -> None:
    def between(run: Run, place: int) -> None:
        if place == 0:
            run.scheduler = torch.optim.lr_scheduler.OneCycleLR(  # type: ignore[attr-defined]
                run.optimizer, 0.25, total_steps=2 * STEPS, cycle_momentum=cycles
            )
        else:
            run.scheduler.step()  # type: ignore[attr-defined]

    cycles = True
    with pytest.warns(UncapturedWarning, match=r"momentum keeps .*; give cycle_momentum=False to OneCycleLR") as caught:
        ours = Run(graphs=Recorder()).train(batches(2 * STEPS), between)
    assert len(caught) == 1
    assert same(ours, Run().train(batches(2 * STEPS), between))
    assert ours.step.uncaptured is None
    assert ours.recorder.replays > STEPS
    cycles = False
    ours = Run(graphs=Recorder()).train(batches(2 * STEPS), between)
    assert ours.step.optimizer_outside is None


def test_paths_lead_through_modules_containers_objects_and_closures() -> None:
    class Held:
        def __init__(self) -> None:
            self.options = {"a": [SimpleNamespace(b=target)]}

    target = {"c": 1}
    net = nn.Sequential(nn.ReLU())
    net[0].held = Held()
    assert path_of({"model": net}, target) == "model.0.held.options['a'][0].b"
    assert entry_of({"model": net}, target, "c") == "model.0.held.options['a'][0].b['c']"
    assert entry_of({"model": net}, vars(net[0].held), "options") == "model.0.held.options"
    assert path_of({"criterion": lambda: target}, target) == "target"
    assert path_of({"model": net}, object()) is None


def test_code_that_draws_nothing_has_no_line() -> None:
    def draws_on_the_device(x: Tensor) -> Tensor:
        return F.dropout(x + torch.rand_like(x))

    def draws(x: Tensor) -> Tensor:
        return x * random.random()

    assert drawing_line([draws_on_the_device, batches]) is None  # type: ignore[list-item]
    assert drawing_line([draws_on_the_device, draws]) is not None
