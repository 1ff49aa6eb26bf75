"""Batches of a training loop, read as calls of the model and targets of the criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowmode_fx.capture.inputs import ModelInputs, as_call
from passes.trees import tree_leaves, tree_map

#: One full-size batch: ``(inputs, targets)``, where ``inputs`` is what the model is called with, as the example that
#: its modes were built for (images ``(N, C, *S)``, a tuple of arguments, a mapping of keywords); or, where the loss is
#: computed by ``forward``, a mapping of all keywords, for which the criterion gets ``None`` as targets.
Batch = tuple[Any, Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """A batch that was read. ``leaves``: the tensors of the model's call, in the order of ``inputs.leaves``."""

    inputs: ModelInputs
    leaves: tuple[Tensor, ...]
    targets: Any

    @property
    def device(self) -> torch.device:
        """Device of the images."""
        return self.leaves[self.inputs.images[0]].device

    def of(self, forward: Callable[..., Any]) -> Any:
        """The result of ``forward`` for this call."""
        args, kwargs = self.inputs.call(self.leaves)
        return forward(*args, **kwargs)

    def halves(self) -> list[Call]:
        """The batch's first and second half; empty if a half has fewer than two images, or targets can't be split.

        A tensor is split if its length is the number of images.
        """
        images = len(self.leaves[self.inputs.images[0]])

        def is_divided(value: Any) -> bool:
            return isinstance(value, Tensor) and value.ndim > 0 and len(value) == images

        def part(start: int, end: int) -> Call:
            def cut(value: Any) -> Any:
                return value[start:end] if is_divided(value) else value

            return Call(self.inputs, tree_map(cut, self.leaves), tree_map(cut, self.targets))

        targets = [] if self.targets is None else tree_leaves(self.targets)
        half = images // 2
        return [part(0, half), part(half, 2 * half)] if half > 1 and all(map(is_divided, targets)) else []


def read_batches(batch: Batch | Iterable[Batch], inputs: ModelInputs, model: nn.Module) -> list[Call]:
    """One batch as a list of one, several as a list. Raises ``ValueError`` if there is none, or one is not a batch."""
    if _is_batch(batch, inputs, model):
        return [read_batch(batch, inputs, model)]
    if not isinstance(batch, Iterable):
        raise ValueError(_no_batch(batch))
    calls = [read_batch(each, inputs, model) for each in batch]
    if not calls:
        raise ValueError("batch is empty; give (inputs, targets), or several of them")
    return calls


def read_batch(batch: Any, inputs: ModelInputs, model: nn.Module) -> Call:
    """Raises ``ValueError`` for a value that is not a batch, or one for another call than the example's."""
    example, targets = split_batch(batch)
    return Call(inputs, tuple(inputs.flatten(model, *as_call(example))), targets)


def split_batch(batch: Any) -> tuple[Any, Any]:
    """The model's inputs, and the targets. Raises ``ValueError`` for a value that is not a batch."""
    if isinstance(batch, Mapping):
        return batch, None
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    raise ValueError(_no_batch(batch))


def _is_batch(batch: Any, inputs: ModelInputs, model: nn.Module) -> bool:
    """Whether this is one batch: two batches in a list look like the two parts of one."""
    if isinstance(batch, Mapping):
        return True
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        return False
    first, second = batch
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        return True
    return _is_call(first, inputs, model) and not _is_call(second, inputs, model)


def _is_call(value: Any, inputs: ModelInputs, model: nn.Module) -> bool:
    try:
        inputs.flatten(model, *as_call(value))
    except ValueError:
        return False
    return True


def _no_batch(batch: Any) -> str:
    size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
    return (
        f"a batch is of type {type(batch).__name__}{size}; give (inputs, targets), or a mapping of all keywords "
        "if forward computes the loss"
    )
