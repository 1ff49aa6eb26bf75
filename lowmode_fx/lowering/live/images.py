"""Which arguments of a model's call hold images, however the call is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from lowmode_fx.capture.inputs import ModelInputs


class ImageArguments:
    """The arguments that held images in the example, by place and by name."""

    def __init__(self, inputs: ModelInputs) -> None:
        args, kwargs = inputs.call([leaf.is_image for leaf in inputs.leaves])
        self._places = frozenset(place for place, value in enumerate(args) if True in tree_leaves(value))
        self._names = frozenset(
            {inputs.parameters[place] for place in self._places}
            | {name for name, value in kwargs.items() if True in tree_leaves(value)}
        )

    def map(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], function: Callable[[Tensor], Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call with ``function`` of its images ``(N, C, *S)``."""

        def changed(value: Any) -> Any:
            return function(value) if _may_be_images(value) else value

        return (
            tuple(tree_map(changed, value) if place in self._places else value for place, value in enumerate(args)),
            {name: tree_map(changed, value) if name in self._names else value for name, value in kwargs.items()},
        )

    def sides(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
        """Spatial sizes ``(*S)`` of the call's first images."""
        return tuple(next(self._images(args, kwargs)).shape[2:])

    def _images(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
        values = [value for place, value in enumerate(args) if place in self._places]
        values += [value for name, value in kwargs.items() if name in self._names]
        return (leaf for leaf in tree_leaves(values) if _may_be_images(leaf))


def _may_be_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and 3 <= value.ndim <= 5
