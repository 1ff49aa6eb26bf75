"""``Mode``: one of the ways in which a training step may run, by name."""

from __future__ import annotations

from typing import Any, ClassVar


class Mode:
    """One mode of a ladder: ``Mode("full")``, or a cheaper one over the same parameters.

    Modes with the same name are the same object: ``Mode("low") is Mode.LOW``. A pair has ``Mode.LOW`` and
    ``Mode.FULL``. In a longer ladder low modes are named after their ratios (``r2``, ``r4/3``), and the last mode is
    ``Mode.FULL``.

    Attributes:
        value: Name of the mode.

    Raises:
        ValueError: The name is empty.
    """

    FULL: ClassVar[Mode]
    LOW: ClassVar[Mode]
    _known: ClassVar[dict[str, Mode]] = {}
    __slots__ = ("value",)
    value: str

    def __new__(cls, name: str) -> Mode:
        if not isinstance(name, str) or not name:
            raise ValueError(f"mode={name!r} is not a name; give one, such as 'full' or 'low'")
        known = cls._known.get(name)
        if known is None:
            known = cls._known[name] = super().__new__(cls)
            object.__setattr__(known, "value", name)
        return known

    @classmethod
    def at(cls, place: int, count: int) -> Mode:
        """Return the mode at a place in a ladder whose names are not known; the last place is full-mode.

        Args:
            place: Place in the ladder, cheapest first, from 0.
            count: Number of modes. Of two, the first is ``LOW``; of more, they are ``rung0``, ``rung1`` and so on,
                which ``Ladder.resolve`` maps to the ladder's own modes.

        Raises:
            ValueError: There is no such place.
        """
        if not 0 <= place < count:
            raise ValueError(f"place={place} is out of range for {count} modes; give one from 0 to {count - 1}")
        if place == count - 1:
            return cls.FULL
        return cls.LOW if count == 2 else cls(f"rung{place}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Mode is immutable: {name} can't be set")

    def __repr__(self) -> str:
        return f"Mode({self.value!r})"

    def __str__(self) -> str:
        return self.value

    def __reduce__(self) -> tuple[type[Mode], tuple[str]]:
        return Mode, (self.value,)

    def __copy__(self) -> Mode:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Mode:
        return self


Mode.FULL = Mode("full")
Mode.LOW = Mode("low")
