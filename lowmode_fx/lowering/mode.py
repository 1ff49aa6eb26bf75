"""A mode by name: one of the ways in which a training step may run."""

from __future__ import annotations

from typing import Any, ClassVar


class Mode:
    """One mode of a ladder: ``Mode("full")``, the network as specified, or a cheaper one over the same parameters.

    Modes with one name are one object: ``Mode("low") is Mode.LOW``. A pair has ``Mode.LOW`` and ``Mode.FULL``; a longer
    ladder's low modes are named after their ratios (``r2``, ``r4/3``), and its last one is ``Mode.FULL``.

    Raises ``ValueError`` for an empty name.
    """

    FULL: ClassVar[Mode]
    LOW: ClassVar[Mode]
    _known: ClassVar[dict[str, Mode]] = {}
    __slots__ = ("value",)
    value: str

    def __new__(cls, name: str) -> Mode:
        if not isinstance(name, str) or not name:
            raise ValueError(f"mode={name!r} is no name; give one, such as 'full' or 'low'")
        known = cls._known.get(name)
        if known is None:
            known = cls._known[name] = super().__new__(cls)
            object.__setattr__(known, "value", name)
        return known

    @classmethod
    def at(cls, place: int, count: int) -> Mode:
        """The mode at ``place`` of ``count``, cheapest first, where only places are known: the last one is full.

        Of two, the first is ``LOW``; of more, ``rung0``, ``rung1`` …, which a ladder takes for its own by place.
        Raises ``ValueError`` for a place that isn't there.
        """
        if not 0 <= place < count:
            raise ValueError(f"mode {place} is none of {count}; give a place from 0 to {count - 1}")
        if place == count - 1:
            return cls.FULL
        return cls.LOW if count == 2 else cls(f"rung{place}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a mode can't be changed: {name}")

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
