"""Symbolic values of fake tensors: each is an expression over the inputs of a step, with its own number."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from lowmode_fx.capture.proof.complaints import Place, told
from passes.wording import sides

#: An operator's argument: a tensor is ``("tensor", value, geometry)``, a list ``("list", *keys)``, others themselves.
Key = Hashable
_AS_THEY_ARE = (int, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


class Values:
    """Every value so far.

    Equal expressions are one value, so two runs that compute the same in any order, with or without unused work, in
    place or not, get the same numbers.
    """

    def __init__(self) -> None:
        self.expressions: list[tuple[Key, ...]] = []
        self._numbers: dict[tuple[Key, ...], int] = {}
        self._geometries: dict[Key, int] = {}
        self._layouts: list[tuple[torch.Size, tuple[int, ...], int | torch.SymInt, torch.dtype, torch.device]] = []
        self._places: dict[int, Place] = {}

    def number(self, *expression: Key) -> int:
        """The value of ``expression``: an operator's name and its arguments, or a leaf's kind and name."""
        found = self._numbers.get(expression)
        if found is None:
            found = self._numbers[expression] = len(self.expressions)
            self.expressions.append(expression)
        return found

    def geometry(self, tensor: Tensor) -> int:
        """A number for the layout of ``tensor`` in its storage: sides, strides, offset, dtype and device."""
        strides = tensor.stride()
        if 1 in tensor.shape:  # the stride along a single element does not matter
            strides = tuple(0 if side == 1 else step for side, step in zip(tensor.shape, strides, strict=True))
        layout = (tensor.shape, strides, tensor.storage_offset(), tensor.dtype, tensor.device)
        found = self._geometries.get(layout)
        if found is None:
            found = self._geometries[layout] = len(self._layouts)
            self._layouts.append(layout)
        return found

    def output(self, computed: int, place: int) -> int:
        """The value of an operator's output at ``place``."""
        return computed if place == 0 else self.number("output", place, ("tensor", computed, 0))

    def locate(self, value: int, place: Place | None) -> None:
        """``value`` is first computed at ``place``, a file and a line of the model's source."""
        if place is not None:
            self._places.setdefault(value, place)

    def is_constant(self, value: int) -> bool:
        return self.expressions[value][0] == "constant"

    def is_one_number(self, geometry: int) -> bool:
        return self._layouts[geometry][0].numel() <= 1

    # -- words ---------------------------------------------------------------------------------------------------

    def parting(self, model: int, graph: int) -> tuple[str, str]:
        """The operators at which two values differ, in words: the model's and the graph's.

        The words for the model's include the line of its source, if it is known.
        """
        while True:
            model, graph = self._operator(model), self._operator(graph)
            ours, theirs = self.expressions[model], self.expressions[graph]
            pairs = zip_longest(_flat(ours), _flat(theirs), fillvalue=("nothing", "nothing more"))
            apart = [pair for pair in pairs if pair[0] != pair[1]]
            if ours[0] == theirs[0] == "constant":
                return self.told(model), "a different one"
            if ours[0] != theirs[0] or not apart:
                return self.told(model), self._named(graph)
            one: Any
            other: Any
            one, other = apart[0]
            if not (_is_tensor(one) and _is_tensor(other)) or one[1] == other[1]:
                return f"{self.told(model)} with {self._argument(one)}", f"with {self._argument(other)}"
            model, graph = one[1], other[1]

    def told(self, value: int) -> str:
        """The operator that computes ``value``, and the line of the model's source that calls it."""
        if value in self._places:
            return f"{self._named(value)} ({told(self._places[value])})"
        place = next((self._places[each] for each in self._behind(value) if each in self._places), None)
        return self._named(value) + (f" (behind {told(place)})" if place else "")

    def layout(self, geometry: int) -> str:
        """Sides, dtype and strides in words."""
        shape, strides, _, dtype, device = self._layouts[geometry]
        size = sides(shape) or "a scalar"
        return f"{size} of {str(dtype).removeprefix('torch.')} on {device} with strides {strides}"

    def _operator(self, value: int) -> int:
        """The operator that ``value`` is an output of."""
        kind, *_, last = self.expressions[value]
        source: Any = last
        return source[1] if kind == "output" else value

    def _named(self, value: int) -> str:
        kind: Any
        rest: list[Any]
        kind, *rest = self.expressions[self._operator(value)]
        if kind == "constant":
            return "a constant"
        return str(rest[0]) if kind in ("held", "input") else "the loss" if kind == "cotangent" else str(kind)

    def _argument(self, key: Any) -> str:
        if _is_tensor(key):
            return f"{self._named(key[1])}, {self.layout(key[2])}"
        return str(key[-1]) if isinstance(key, tuple) else str(key)

    def _behind(self, value: int) -> Iterator[int]:
        """The values that ``value`` is computed from, nearest first."""
        seen, level = {value}, [value]
        while level:
            below = [key[1] for each in level for key in _flat(self.expressions[each]) if _is_tensor(key)]
            level = [each for each in dict.fromkeys(below) if each not in seen]
            seen.update(level)
            yield from level


def key_of(value: Any, tensor_key: Callable[[Tensor], Key]) -> Key:
    """An operator's argument as a hashable key; equal keys are the same argument."""
    if isinstance(value, Tensor):
        return tensor_key(value)
    if isinstance(value, bool | float | complex):  # these would equal ints; and nan is nan, -0.0 is not 0.0
        return (type(value).__name__, "nan" if value != value else repr(value))
    if isinstance(value, _AS_THEY_ARE):
        return value
    if isinstance(value, list | tuple):
        return ("list", *(key_of(each, tensor_key) for each in value))
    return ("object", type(value).__name__)


def layouts_of(expression: tuple[Key, ...], values: Values) -> Key | None:
    """Everything that an operator's result depends on except values; ``None`` if one is a number that may be known."""
    found: list[Key] = []
    for part in _flat(expression):
        if not _is_tensor(part):
            found.append(part)
        elif values.is_one_number(part[2]):
            return None
        else:
            found.append(("lies", part[2]))
    return tuple(found)


def values_in(expression: tuple[Key, ...]) -> Iterator[int]:
    """The value of each tensor among the arguments."""
    return (part[1] for part in _flat(expression) if _is_tensor(part))


def _flat(key: Key) -> Iterator[Any]:
    """The arguments within an expression, lists opened."""
    assert isinstance(key, tuple)
    for part in key[1:]:
        if isinstance(part, tuple) and part and part[0] == "list":
            yield ("length", len(part))
            yield from _flat(part)
        else:
            yield part


def _is_tensor(key: Any) -> bool:
    return isinstance(key, tuple) and len(key) == 3 and key[0] == "tensor"
