"""Resizes the maps that low-mode returns to the sizes that full-mode returns for the same batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from lowmode_fx.capture.inputs import ModelInputs
from lowmode_fx.lowering.live.resizing import resize
from passes import PassError, propagate_shapes
from passes.checks import output_node
from passes.shapes import Shape
from passes.spelling import setting
from passes.trees import tree_leaves, tree_map
from passes.wording import sides

Sides = tuple[int, ...]
#: Of the tensors of a call, in the order of ``ModelInputs.leaves``.
Shapes = tuple[tuple[int, ...], ...]


class FullOutputs:
    """Spatial sizes of full-mode's outputs for inputs of any size, computed once per size without values."""

    def __init__(self, model: nn.Module, full: fx.GraphModule, inputs: ModelInputs, any_size: bool) -> None:
        """``full``: the full-mode graph. ``any_size``: it holds for any image size; otherwise the model is run."""
        self._model, self._full, self._inputs, self._any_size = model, full, inputs, any_size
        self._known: dict[Shapes, tuple[Sides, ...]] = {}

    def sizes(self, shapes: Shapes) -> tuple[Sides, ...]:
        """Spatial sizes of each tensor that the model returns, in order, for a call whose tensors have these shapes.

        Raises ``PassError`` if they can't be computed.
        """
        if shapes not in self._known:
            try:
                self._known[shapes] = tuple(tuple(shape[2:]) for shape in self._shapes(shapes))
            except Exception as error:
                size = sides(shapes[self._inputs.images[0]][2:])
                raise PassError(
                    f"{setting('restore_output')}: the output sizes of {type(self._model).__name__} for {size} images "
                    f"can't be computed without running it: {error}; leave it out and resize the maps in the loss"
                ) from error
        return self._known[shapes]

    def _shapes(self, shapes: Shapes) -> list[Shape]:
        inputs = self._inputs.with_shapes(shapes)
        if self._any_size:
            found = propagate_shapes(self._full, *inputs.blank_for(self._model))
            return [leaf for leaf in tree_leaves(found[output_node(self._full.graph)]) if isinstance(leaf, Shape)]
        model = copy.deepcopy(self._model, {id(value): value.detach().to("meta") for value in self._model.buffers()})
        args, kwargs = inputs.call(inputs.blank("meta"))
        with torch.no_grad():
            outputs = tree_leaves(model.to("meta")(*args, **kwargs))
        return [Shape(value.shape) for value in outputs if isinstance(value, Tensor)]


def restore(outputs: Any, sizes: Sequence[Sides]) -> Any:
    """A model's outputs, each map ``(N, C, *S)`` resized to its entry in ``sizes``.

    Raises ``PassError`` if the number of tensors differs.
    """
    count = sum(isinstance(leaf, Tensor) for leaf in tree_leaves(outputs))
    if count != len(sizes):
        raise PassError(
            f"{setting('restore_output')}: low-mode returns {count} tensors, but full-mode {len(sizes)} for the "
            "example; build the modes with an example of this call"
        )
    left = iter(sizes)
    return tree_map(lambda value: _restored(value, next(left)) if isinstance(value, Tensor) else value, outputs)


def _restored(value: Tensor, size: Sides) -> Tensor:
    is_map = 3 <= value.ndim <= 5 and len(size) == value.ndim - 2
    is_smaller = is_map and any(ours != full for ours, full in zip(value.shape[2:], size, strict=True))
    return resize(value, size) if is_smaller else value
