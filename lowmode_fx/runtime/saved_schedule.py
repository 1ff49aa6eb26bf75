"""Saves the schedule's state in the optimizer's state dict, so that every checkpoint of a training holds it.

Trainers save a model's ``state_dict()``, which is the model's own, and their optimizers'. The first parameter group of
the latter, which holds learning rates too, gets a few more entries for the schedule.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_PREFIX = "lowmode_"


class SavedSchedule:
    """Writes the schedule's state into optimizers' state dicts, and reads it from those that they load.

    ``state`` and ``load``: the run's state, and what resumes from it: methods, held weakly. ``is_lost``: an
    optimizer has loaded a state dict, or has state, without the schedule's.
    """

    def __init__(self, state: Callable[[], dict[str, Any]], load: Callable[[dict[str, Any]], None]) -> None:
        self.is_lost = False
        self._state, self._load = weakref.WeakMethod(state), weakref.WeakMethod(load)
        self._known: weakref.WeakKeyDictionary[Optimizer, str] = weakref.WeakKeyDictionary()

    def travel_with(self, optimizer: Optimizer) -> bool:
        """Start saving with ``optimizer``, and read what it loaded before. Returns whether that held a schedule."""
        if optimizer in self._known:
            return False
        place = sum(getattr(hook, "of_schedule", False) for hook in _hooks(optimizer, "state_dict_post"))
        self._known[optimizer] = f"{_PREFIX}{place}_" if place else _PREFIX
        this = weakref.ref(self)

        def write(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
            if (found := this()) is not None:
                found._write(optimizer, state_dict)

        def read(optimizer: Optimizer) -> None:
            if (found := this()) is not None:
                found.read(optimizer, loaded=True)

        write.of_schedule = True  # type: ignore[attr-defined]
        if hasattr(optimizer, "_optimizer_state_dict_post_hooks"):  # some wrappers skip their base's __init__
            optimizer.register_state_dict_post_hook(write)
            optimizer.register_load_state_dict_post_hook(read)
        return self.read(optimizer, loaded=False)

    def read(self, optimizer: Any, loaded: bool) -> bool:
        """Remove the entries from the optimizer's groups, and resume from them.

        ``loaded``: it has just loaded a state dict, with or without entries. Returns whether it had them.
        """
        prefix = self._known[optimizer]
        group = optimizer.param_groups[0] if optimizer.param_groups else {}
        names = {name: f"{prefix}{name}" for name in ("step", "epoch", "schedule", "modes")}
        found = {name: group.pop(entry) for name, entry in names.items() if entry in group}
        load = self._load()
        if "step" in found and load is not None:
            self.is_lost = False
            load(found)
            return True
        if loaded or any(map(_has_stepped, getattr(optimizer, "state", {}).values())):
            self.is_lost = True
        return False

    def _write(self, optimizer: Any, state_dict: dict[str, Any]) -> None:
        state = self._state()
        if state is not None and state_dict.get("param_groups"):
            prefix = self._known[optimizer]
            state_dict["param_groups"][0].update({f"{prefix}{name}": value for name, value in state().items()})


def _hooks(optimizer: Any, kind: str) -> list[Any]:
    return list(getattr(optimizer, f"_optimizer_{kind}_hooks", {}).values())


def _has_stepped(state: Any) -> bool:
    """Whether a parameter's state comes from steps. Some optimizers, as Adagrad, have one from the start, at step 0."""
    step = state.get("step") if isinstance(state, Mapping) else None
    if isinstance(step, Tensor):
        return not step.is_meta and bool((step != 0).any())
    return bool(state) and step != 0
