"""Writes to containers are noticed, whatever the kind of container."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lowmode_fx.runtime.captured import writes
from lowmode_fx.runtime.captured.writes import Writes


class Holder:
    def __init__(self) -> None:
        self.value = 1


def attribute(holder: Holder) -> None:
    holder.value = 2


WRITES: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "an attribute": (Holder, attribute),
    "a mode": (nn.ReLU, lambda module: module.eval()),
    "an equal tensor": (lambda: {"t": torch.ones(())}, lambda held: held.update(t=torch.ones(()))),
    "a key": (lambda: {"a": 1}, lambda held: held.pop("a")),
    "an order": (lambda: OrderedDict(a=1, b=2), lambda held: held.move_to_end("a")),
    "a default": (lambda: defaultdict(list, a=[1]), lambda held: held["b"]),
    "a list": (lambda: [1, 2], lambda held: held.reverse()),
    "a set": (lambda: {1}, lambda held: held.add(2)),
    "a queue": (lambda: deque([1]), lambda held: held.append(2)),
}


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize(("make", "write"), WRITES.values(), ids=WRITES.keys())
def test_a_write_is_noticed(
    make: Callable[[], Any], write: Callable[[Any], object], counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not counted:  # as where torch gives dictionaries no numbers
        monkeypatch.setattr(writes, "_version", None)
    held = make()
    noticed = Writes([vars(held) if isinstance(held, Holder | nn.Module) else held])
    assert not noticed.any()
    write(held)
    assert noticed.any()
    noticed.forget()
    assert not noticed.any()
