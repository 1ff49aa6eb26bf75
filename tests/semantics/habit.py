"""A habit: what people write in ``forward``, on a model or around it, and how its training loop goes."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Check = Literal["full", "low"]
Made = TypeVar("Made", bound=Callable[[], nn.Module])
SIDE, BATCH = 16, 4


@dataclass(frozen=True)
class Call:
    """What one forward is given. ``images``: which of it are images, by place or by name."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[int | str, ...] = (0,)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Call:
        """The same call with every image changed; an image may be a list or a dict of them."""
        args = tuple(_mapped(value, change) if place in self.images else value for place, value in enumerate(self.args))
        kwargs = {name: _mapped(value, change) if name in self.images else value for name, value in self.kwargs.items()}
        return Call(args, kwargs, self.images)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, dict):
        return {name: _mapped(each, change) for name, each in value.items()}
    return type(value)(_mapped(each, change) for each in value) if isinstance(value, list | tuple) else change(value)


def photos(step: int, *, batch: int = BATCH, channels: int = 3, sides: tuple[int, ...] = (SIDE, SIDE)) -> Tensor:
    """Images ``(batch, channels, *sides)`` of a step, the same ones whoever asks and when."""
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randn(batch, channels, *sides, generator=generator) + 0.3


def one_batch(step: int) -> Call:
    """What most models take: one tensor of images."""
    return Call((photos(step),))


def batches(**shape: Any) -> Callable[[int], Call]:
    """``one_batch`` of another shape; see ``photos``."""
    return lambda step: Call((photos(step, **shape),))


def weighted(model: nn.Module, outputs: Any) -> Tensor:
    """A loss in which every number of every output has a say of its own."""
    leaves = [leaf.to(torch.get_default_dtype()) for leaf in tensors(outputs) if leaf.requires_grad]
    return sum(
        ((leaf * torch.linspace(-1, 2, leaf.numel()).view_as(leaf)).mean() + leaf.square().mean() for leaf in leaves),
        torch.zeros(()),
    )


def tensors(outputs: Any) -> Iterator[Tensor]:
    """Every tensor of it, however it is wrapped."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from tensors(value)
    elif isinstance(outputs, list | tuple):
        for value in outputs:
            yield from tensors(value)
    elif dataclasses.is_dataclass(outputs):
        yield from tensors(vars(outputs))


def nothing(model: nn.Module, step: int) -> None:
    """The loop sets nothing."""


def call(subject: Callable[..., Any], model: nn.Module, given: Call) -> Any:
    """A step's forward: the net, or the plain model, is called once."""
    return subject(*given.args, **given.kwargs)


@dataclass(frozen=True, eq=False)
class Habit:
    """One habit, and everything that a training loop does with it.

    make: the model, in train mode, the same one at each call.
    given: step → what its forward is given. ``example`` is the same for what a pair is built with, of step 0.
    each_step: what the loop sets on the model before a step's forward. With ``through_net`` it is handed what the loop
        calls: the net, or the plain model.
    run: (what the loop calls, the model, the call) → outputs.
    loss: (model, outputs) → a number.
    around: what the loop runs the forward inside.
    config: options of ``LowModeConfig``.
    submodule: the part that the pair is built for, put back in its place as a net.
    cause: what a refusal has to name, as a regular expression; ``None`` where refusing is no answer.
    dtype: what low steps are compared in, double unless the habit is about another; ``tolerance``: how well, relative
        to the largest value.
    compiled: run by the compiled check too, with ``backend``.
    """

    kind: str
    name: str
    make: Callable[[], nn.Module]
    cause: str | None
    given: Callable[[int], Call] = one_batch
    example: Callable[[int], Call] | None = None
    each_step: Callable[[Any, int], None] = nothing
    through_net: bool = False
    run: Callable[[Any, nn.Module, Call], Any] = call
    loss: Callable[[nn.Module, Any], Tensor] = weighted
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    config: Mapping[str, Any] = field(default_factory=dict)
    submodule: str | None = None
    dtype: torch.dtype = torch.float64
    tolerance: float = 1e-6
    checks: tuple[Check, ...] = ("full", "low")
    compiled: bool = False
    backend: str = "eager"

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    def takes(self, check: str) -> bool:
        """Whether there is a right value in ``full``, ``low`` or ``compiled``."""
        return self.compiled if check == "compiled" else check in self.checks


class Kind:
    """The habits of one file. ``cause``: what a refusal of any of them has to name."""

    def __init__(self, name: str, cause: str | None) -> None:
        self.name, self.cause = name, cause
        self.habits: list[Habit] = []

    def habit(self, **options: Any) -> Callable[[Made], Made]:
        """Registers a module's class, or a function that makes one, under its own name; ``options`` as in ``Habit``."""

        def register(made: Made) -> Made:
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", made.__name__).lower()
            cause = options.pop("cause", self.cause)
            self.habits.append(Habit(kind=self.name, name=name, make=_seeded(made), cause=cause, **options))
            return made

        return register


def _seeded(made: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with generators_at(0):
            return made().train()

    return make


@contextlib.contextmanager
def generators_at(seed: int) -> Iterator[None]:
    """Torch's, Python's and numpy's generators seeded inside, and as they were afterwards."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
