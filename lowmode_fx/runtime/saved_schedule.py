"""Where the schedule stands travels with the optimizer's state: whatever saves the training saves it.

Trainers save a model's ``state_dict()``, which is the model's own, and their optimizers'. The latter's first group of
parameters, where learning rates stand too, has a few more entries for it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

_PREFIX = "lowmode_"


class SavedSchedule:
    """Writes where a schedule stands into the states of optimizers, and reads it from those that they load.

    ``state`` and ``load``: ``LowModeModel.schedule_state`` and ``load_schedule_state``, held weakly. ``is_lost``:
    an optimizer has loaded a state, or has one, that tells nothing of a schedule.
    """

    def __init__(self, state: Callable[[], dict[str, Any]], load: Callable[[dict[str, Any]], None]) -> None:
        self.is_lost = False
        self._state, self._load = weakref.WeakMethod(state), weakref.WeakMethod(load)
        self._known: weakref.WeakKeyDictionary[Optimizer, str] = weakref.WeakKeyDictionary()

    def travel_with(self, optimizer: Optimizer) -> bool:
        """From now on; what it has loaded before is read now. Returns whether that told where the schedule stands."""
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
        """Take the entries out of the optimizer's groups, and go on from there.

        loaded: it has just loaded a state, which had them or not. Returns whether it had.
        """
        prefix = self._known[optimizer]
        group = optimizer.param_groups[0] if optimizer.param_groups else {}
        names = {name: f"{prefix}{name}" for name in ("step", "epoch", "schedule")}
        found = {name: group.pop(entry) for name, entry in names.items() if entry in group}
        load = self._load()
        if "step" in found and load is not None:
            self.is_lost = False
            load(found)
            return True
        if loaded or any(getattr(optimizer, "state", {}).values()):
            self.is_lost = True
        return False

    def _write(self, optimizer: Any, state_dict: dict[str, Any]) -> None:
        state = self._state()
        if state is not None and state_dict.get("param_groups"):
            prefix = self._known[optimizer]
            state_dict["param_groups"][0].update({f"{prefix}{name}": value for name, value in state().items()})


def _hooks(optimizer: Any, kind: str) -> list[Any]:
    return list(getattr(optimizer, f"_optimizer_{kind}_hooks", {}).values())
