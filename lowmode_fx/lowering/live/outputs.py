"""Maps that low-mode returns, given the sizes that full-mode gives them for the same batch."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from lowmode_fx.capture.inputs import ModelInputs
from lowmode_fx.lowering.live.resizing import resize
from passes import PassError, propagate_shapes
from passes.checks import output_node
from passes.shapes import Shape

Sides = tuple[int, ...]


class FullOutputs:
    """Spatial sizes of what full-mode returns for images of any size, worked out once a size, on tensors without
    values.
    """

    def __init__(self, model: nn.Module, full: fx.GraphModule, inputs: ModelInputs, any_size: bool) -> None:
        """full: the full-mode graph. any_size: it holds for images of any size; else the model itself is asked."""
        self._model, self._full, self._inputs, self._any_size = model, full, inputs, any_size
        self._known: dict[Sides, tuple[Sides, ...]] = {}

    def sizes(self, sides: Sides) -> tuple[Sides, ...]:
        """Spatial sizes of each tensor that the model returns for images with these sides, in order.

        Raises ``PassError`` where the model doesn't tell.
        """
        if sides not in self._known:
            try:
                self._known[sides] = tuple(tuple(shape[2:]) for shape in self._shapes(sides))
            except Exception as error:
                size = "×".join(map(str, sides))
                raise PassError(
                    f"restore_output: what {type(self._model).__name__} returns for {size} images can't be told "
                    f"without running it: {error}; leave restore_output False and resize the maps in the loss"
                ) from error
        return self._known[sides]

    def _shapes(self, sides: Sides) -> list[Shape]:
        inputs = self._inputs.with_image_sides(lambda _: sides)
        if self._any_size:
            like = next((value for value in self._model.parameters() if value.is_floating_point()), None)
            blank = inputs.blank() if like is None else inputs.blank(like.device, like.dtype)
            shapes = propagate_shapes(self._full, *blank)
            return list(_leaves(shapes[output_node(self._full.graph)], Shape))
        model = copy.deepcopy(self._model, {id(value): value.detach().to("meta") for value in self._model.buffers()})
        args, kwargs = inputs.call(inputs.blank("meta"))
        with torch.no_grad():
            return [Shape(value.shape) for value in _leaves(model.to("meta")(*args, **kwargs), Tensor)]


def restore(outputs: Any, sizes: Sequence[Sides]) -> Any:
    """What a model returned, each map ``(N, C, *S)`` in it at the size that stands for it in ``sizes``."""
    left = iter(sizes)
    return _map_tensors(outputs, lambda value: _restored(value, next(left, ())))


def _restored(value: Tensor, size: Sides) -> Tensor:
    is_smaller_map = 3 <= value.ndim <= 5 and len(size) == value.ndim - 2 and tuple(value.shape[2:]) != size
    return resize(value, size) if is_smaller_map else value


def _leaves(value: Any, kind: type) -> Iterator[Any]:
    """The tensors, or their shapes, in the order in which ``_map_tensors`` meets them."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each, kind)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _leaves(each, kind)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            yield from _leaves(getattr(value, entry.name), kind)


def _map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same structure (containers, named tuples, dataclasses, ``ModelOutput``) with ``function`` of its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) is dict:
        return {name: _map_tensors(each, function) for name, each in value.items()}
    if isinstance(value, Mapping):
        changed = {name: _map_tensors(each, function) for name, each in value.items()}
        return type(value)(**changed) if dataclasses.is_dataclass(value) else type(value)(changed)  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map_tensors(each, function) for each in value))
    if isinstance(value, tuple | list):
        return type(value)([_map_tensors(each, function) for each in value])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [entry.name for entry in dataclasses.fields(value)]
        copied = copy.copy(value)
        for name in fields:
            object.__setattr__(copied, name, _map_tensors(getattr(value, name), function))
        return copied
    return value
