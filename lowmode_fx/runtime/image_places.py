"""Finds the images that low-mode downsamples in a loader's batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from lowmode_fx.capture.inputs import ModelInputs
from lowmode_fx.capture.paths import map_at

#: In a batch: a position in a tuple, or a key.
BatchPlace = int | str


class ImagePlaces:
    """The images in a model's batches: where the user says, or as in the model's call. Small and picklable."""

    def __init__(self, inputs: ModelInputs, said: BatchPlace | Iterable[BatchPlace] | None = None) -> None:
        self._said = (said,) if isinstance(said, int | str) else None if said is None else tuple(said)
        self._paths = inputs.image_paths
        self._is_one_tensor = len(inputs.leaves) == 1

    def map(self, batch: Any, function: Callable[[Tensor], Tensor] | None) -> Any:
        """The batch in its own structure with ``function`` applied to its images; ``None`` leaves it unchanged.

        Raises ``ValueError`` if the images are not found.
        """
        changed = batch
        for path in self._find(batch):
            try:
                map_at(batch, path, _tensor)
            except (AttributeError, LookupError, TypeError) as error:
                raise ValueError(self._complaint(batch)) from error
            changed = batch if function is None else map_at(changed, path, function)
        return changed

    def _find(self, batch: Any) -> list[tuple[Any, ...]]:
        """Paths of the images in the batch."""
        if isinstance(batch, Tensor):
            return [()]
        if self._said is not None:
            return [(key,) for key in self._said]
        if not isinstance(batch, tuple | list):
            return self._in_call(batch)
        first = batch[0] if batch else None
        if isinstance(first, Tensor):
            return [(0,)] if self._is_one_tensor else self._in_call(batch)
        return [(0, *path) for path in self._in_call(first)]

    def _in_call(self, call: Any) -> list[tuple[Any, ...]]:
        """Paths of the images in the model's call: keywords, or positional arguments."""
        by_place = isinstance(call, tuple | list)
        return [(path.place if by_place else path.name, *path.within) for path in self._paths]

    def _complaint(self, batch: Any) -> str:
        kind = f"a {type(batch).__name__}"
        if isinstance(batch, Mapping):
            kind += f" with {', '.join(map(repr, batch))}"
        elif isinstance(batch, tuple | list):
            kind += f" of {len(batch)}"
        if self._said is None:
            names = ", ".join(dict.fromkeys(path.name for path in self._paths))
            return f"{names}, the model's images, were not found in a batch of {kind}; give their place as images="
        said = ", ".join(map(repr, self._said))
        return f"images={said} is not a place in a batch of {kind}; give the place of a float tensor"


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise LookupError("this is not a tensor")
    return value
