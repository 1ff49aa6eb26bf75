"""Names, in messages, of what steps read or move on the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any

from torch import nn

from lowmode_fx.runtime.captured.host_state import HostState
from lowmode_fx.runtime.captured.places import drawing_line, entry_of, path_of


class Names:
    """``roots``: modules and functions, by their names. ``functions``: whose code they run."""

    def __init__(self, roots: Mapping[str, Any], functions: Sequence[FunctionType]) -> None:
        self._roots = roots
        self._functions = functions
        self._modules = {id(vars(module)): name for root in roots.values() for name, module in _named_modules(root)}

    def entry(self, container: Any, key: Any) -> str:
        """An entry of a container: the path of an attribute, without the root's name."""
        if id(container) in self._modules:
            return f"{self._modules[id(container)]}.{key}".lstrip(".")
        found = entry_of(self._roots, container, key)
        if found is not None:
            return found.partition(".")[2] or found
        return repr(key) if isinstance(key, str) else f"an entry of a {type(container).__name__}"

    def after(self, held: Any) -> str:
        """The path of an object without the root's name, after a comma; nothing if it is not found."""
        path = path_of(self._roots, held)
        return "" if path is None else f", {path.partition('.')[2] or path}"

    def moved(self, told: str, host: HostState, now: tuple[Any, Any], before: tuple[Any, Any]) -> str:
        """What a step has moved, and where; ``told``: in words."""
        if now[0] != before[0]:
            found = drawing_line(self._functions)
        else:
            told, held, key = host.moved(now[1], before[1])
            found = path_of(self._roots, held) if key is None else entry_of(self._roots, held, key)
        return told if found is None else f"{told} ({found})"


def _named_modules(root: Any) -> Iterable[tuple[str, nn.Module]]:
    return root.named_modules() if isinstance(root, nn.Module) else ()
