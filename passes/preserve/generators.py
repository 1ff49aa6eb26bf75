"""States of random number generators: the global ones of torch, Python and numpy, and those that a model holds."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch

from passes.preserve.restorers import Restorer


def generator_restorers(held: Iterable[Any] = ()) -> Iterator[Restorer]:
    """For each global generator, and each given one, a call that restores its current state."""
    yield partial(torch.set_rng_state, torch.get_rng_state())
    for device in gpus():
        yield partial(torch.cuda.set_rng_state, torch.cuda.get_rng_state(device), device)
    yield partial(random.setstate, random.getstate())
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:  # otherwise its generator has not been used
        yield partial(numpy.set_state, numpy.get_state())
    for generator in held:
        yield _restorer(generator)


def generator_state(value: Any) -> Any:
    """The state of a random number generator of Python, numpy or torch; ``None`` for anything else."""
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    numpy = sys.modules.get("numpy.random")
    if numpy is not None and isinstance(value, numpy.Generator):
        return value.bit_generator.state
    if numpy is not None and isinstance(value, numpy.RandomState):
        return value.get_state(legacy=False)
    return None


def gpus() -> list[int]:
    """Every GPU in use: ``torch.manual_seed`` reaches them all, whatever device a model is on."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_available() and torch.cuda.is_initialized() else []


def _restorer(generator: Any) -> Restorer:
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    if hasattr(generator, "bit_generator"):  # numpy's Generator
        return partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
    return partial(generator.set_state, generator.get_state())
