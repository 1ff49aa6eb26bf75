"""Training itself as the oracle of proofs: a model by its own code, and one of the same seed by its graph."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 4
Around = Callable[[], contextlib.AbstractContextManager[Any]]
Made = Callable[..., Any]


class Small(nn.Module):
    """Stem, block, head. A habit overrides ``between`` (maps → maps, behind the stem), or more."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.body = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.head = nn.Linear(CHANNELS, 3)

    def between(self, maps: Tensor) -> Tensor:
        return maps

    def features(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.body(self.between(F.relu(self.stem(images)))))).mean((2, 3))

    def forward(self, images: Tensor) -> Any:
        return self.head(self.features(images))


def tensors(output: Any) -> Iterator[Tensor]:
    """Every tensor of an output, however it is wrapped."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | list | tuple):
        for value in output.values() if isinstance(output, Mapping) else output:
            yield from tensors(value)
    elif dataclasses.is_dataclass(output):
        yield from tensors(vars(output))


def trains_alike(
    model: nn.Module,
    traced: nn.Module,
    graph: Made,
    around: Around = contextlib.nullcontext,
    outside: Callable[[], Any] = list,
    put_back: Callable[[Any], Any] = lambda state: None,
    images: Callable[[int], Tensor] | None = None,
) -> bool:
    """Whether three steps of ``model`` by its own code, and of ``traced``, which holds the same, by its ``graph``, are
    bit for bit the same, what they leave on attributes, generators and ``outside`` too.
    """
    start, images = outside(), images or waves
    expected = _train(model, model, around, outside, images)
    put_back(start)
    try:
        found = _train(traced, graph, around, outside, images)
    except RuntimeError:  # the graph does what the model does not, such as writing to a parameter
        return False
    return _same(expected, found)


def waves(step: int) -> Tensor:
    return torch.linspace(-1, 2 + step, 2 * 3 * 8 * 8).view(2, 3, 8, 8).sin()


def _train(model: nn.Module, run: Made, around: Around, outside: Any, images: Callable[[int], Tensor]) -> list[Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found: list[Any] = []
    with _seeded():
        for step in range(3):
            torch.set_grad_enabled(True)
            with around():
                output = run(images(step))
            found += [type(output), torch.is_grad_enabled()]
            torch.set_grad_enabled(True)
            outputs = [each for each in tensors(output) if each.requires_grad]
            optimizer.zero_grad()
            sum((each.float() * torch.linspace(-1, 2, each.numel()).view_as(each)).sum() for each in outputs).backward()
            found += [each.detach().clone() for each in tensors(output)]
            found += [None if each.grad is None else each.grad.clone() for each in model.parameters()]
            optimizer.step()
            found += [each.detach().clone() for each in (*model.parameters(), *model.buffers())]
        own = [vars(model).get(name) for name in ("of_python", "of_numpy", "of_torch")]
        found += [random.getstate(), str(np.random.get_state()), torch.get_rng_state(), outside()]
    found += [None if each is None else _generator_state(each) for each in own]
    return [*found, _attributes(model)]


def _attributes(model: nn.Module) -> dict[str, str]:
    kinds = (int, str, tuple, deque, Counter, itertools.cycle)
    left = {name: "a tensor" for name, value in vars(model).items() if isinstance(value, Tensor)}
    return left | {
        f"{path}.{name}": str(value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, kinds)
    }


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state() if isinstance(generator, torch.Generator) else str(generator.bit_generator.state)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    try:
        yield
    finally:
        torch.set_grad_enabled(True)
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])
