"""Watches what a recorded optimizer step has read in Python, except learning rates."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from lowmode_fx.runtime.captured.watch import is_same
from lowmode_fx.runtime.captured.writes import Writes

_MISSING = object()


class OptimizerWatch:
    """The options of an optimizer's groups, their parameters, and the tensors of its state."""

    def __init__(self, optimizer: Any, watched: Iterable[Tensor] = ()) -> None:
        """``watched``: tensors whose memory is watched elsewhere."""
        self._optimizer = optimizer
        self._state = self._read_state()
        self._options = [{**group} for group in optimizer.param_groups]
        self._writes = self._watch_writes()
        self._step = vars(optimizer).get("step")
        known = set(map(id, watched))
        self._tensors = [each for each in self._state if isinstance(each, Tensor) and id(each) not in known]
        self._memory = list(map(Tensor.data_ptr, self._tensors))

    def loaded(self) -> bool:
        """Whether the optimizer's parameters, its state tensors or its ``step`` were replaced."""
        optimizer = self._optimizer
        if vars(optimizer).get("step") is not self._step:
            return True
        replaced = optimizer.state is not self._state[0] or optimizer.param_groups is not self._state[1]
        if not replaced and not self._writes.any():
            return self._moved()
        self._writes = self._watch_writes()
        state = self._read_state()
        same = len(state) == len(self._state) and all(map(operator.is_, state, self._state))
        return not same or self._moved()

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

    def _moved(self) -> bool:
        """Whether a tensor has other memory, as after ``.data =``."""
        return list(map(Tensor.data_ptr, self._tensors)) != self._memory

    def _read_state(self) -> list[Any]:
        optimizer = self._optimizer
        found: list[Any] = [optimizer.state, optimizer.param_groups]
        for group in optimizer.param_groups:
            found += group["params"]
        for state in optimizer.state.values():
            found += state.values()
        return found
