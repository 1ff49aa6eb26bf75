"""Finds the images among the arguments of a model's call, however the call is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from lowmode_fx.capture.inputs import Leaf, ModelInputs
from lowmode_fx.capture.paths import argument_at, map_at


class ImageArguments:
    """The arguments that held images in the example, by position and by name."""

    def __init__(self, inputs: ModelInputs) -> None:
        self._leaves, self._paths = inputs.leaves, inputs.image_paths
        self._sides = inputs.image.shape[2:]
        self._places = {leaf.place for leaf in inputs.leaves}
        self._names = {leaf.path[0] for leaf in inputs.leaves}

    def map(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], function: Callable[[Tensor], Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call with ``function`` applied to its images ``(N, C, *S)``.

        Raises ``ValueError`` if an argument that was not in the example holds images of their size.
        """

        def changed(value: Any) -> Any:
            return function(value) if isinstance(value, Tensor) else value

        self._check_others(args, kwargs)
        places, names = list(args), dict(kwargs)
        for name, place, within in self._paths:
            if place is not None and place < len(places):
                places[place] = map_at(places[place], within, changed)
            elif name in names:
                names[name] = map_at(names[name], within, changed)
        return tuple(places), names

    def shapes(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
        """The shape of each tensor of the example in this call; the example's own shape where the call has none."""
        return tuple(self._shape(leaf, args, kwargs) for leaf in self._leaves)

    def _shape(self, leaf: Leaf, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
        name, *within = leaf.path
        value = argument_at(args, kwargs, name, leaf.place, within)
        return tuple(value.shape) if isinstance(value, Tensor) else leaf.shape

    def _check_others(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        others = [(f"argument {place}", value) for place, value in enumerate(args) if place not in self._places]
        others += [(name, value) for name, value in kwargs.items() if name not in self._names]
        for name, value in others:
            for leaf in tree_leaves(value):
                if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.shape[2:] == self._sides:
                    raise ValueError(
                        f"{name} has shape {tuple(leaf.shape)}, as large as the images that low-mode shrinks, but the "
                        "example did not have it; build the modes with an example of this call"
                    )
