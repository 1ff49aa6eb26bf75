"""An iterator whose next items can be looked at before they are taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any


class LookAhead(Iterator[Any]):
    """Gives the items of an iterator; its state is theirs before the next one."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._seen: deque[tuple[Any, Any]] = deque()

    def look(self, count: int) -> list[Any]:
        """The next items, at most ``count``; they are not taken."""
        while len(self._seen) < count:
            state = self._state()
            try:
                self._seen.append((state, next(self._items)))
            except StopIteration:
                break
        return [item for _, item in self._seen]

    def __next__(self) -> Any:
        return self._seen.popleft()[1] if self._seen else next(self._items)

    def state_dict(self) -> Any:
        """The state of the items below, if they have one."""
        return self._seen[0][0] if self._seen else self._state()

    def load_state_dict(self, state: Any) -> None:
        self._items.load_state_dict(state)  # type: ignore[attr-defined]

    def _state(self) -> Any:
        return self._items.state_dict() if hasattr(self._items, "state_dict") else None
