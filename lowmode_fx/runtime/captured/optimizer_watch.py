"""Watches what a recorded optimizer step has read in Python, except learning rates."""

from __future__ import annotations

import operator
from typing import Any

from lowmode_fx.runtime.captured.watch import is_same
from lowmode_fx.runtime.captured.writes import Writes

_MISSING = object()


class OptimizerWatch:
    """The options of an optimizer's groups, their parameters, and the tensors of its state."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._state = self._read_state()
        self._options = [{**group} for group in optimizer.param_groups]
        self._writes = self._watch_writes()

    def loaded(self) -> bool:
        """Whether the optimizer's parameters or state tensors were replaced."""
        optimizer = self._optimizer
        replaced = optimizer.state is not self._state[0] or optimizer.param_groups is not self._state[1]
        if not replaced and not self._writes.any():
            return False
        self._writes = self._watch_writes()
        state = self._read_state()
        return len(state) != len(self._state) or not all(map(operator.is_, state, self._state))

    def changed_option(self) -> str | None:
        """The name of an option that has changed, been added or removed, if any."""
        for group, before in zip(self._optimizer.param_groups, self._options, strict=True):
            if len(group) == len(before) and all(map(operator.is_, map(group.get, before), before.values())):
                continue
            for name in {**before, **group}:
                if name != "lr" and not is_same(group.get(name, _MISSING), before.get(name, _MISSING)):
                    return str(name)
        return None

    def _watch_writes(self) -> Writes:
        state, groups = self._optimizer.state, self._optimizer.param_groups
        return Writes([state, *state.values(), groups, *(group["params"] for group in groups)])

    def _read_state(self) -> list[Any]:
        optimizer = self._optimizer
        found: list[Any] = [optimizer.state, optimizer.param_groups]
        for group in optimizer.param_groups:
            found += group["params"]
        for state in optimizer.state.values():
            found += state.values()
        return found
