"""Batches of a training loop, read as calls of the model and targets of the criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lowmode_fx.capture.inputs import ModelInputs, as_call
from lowmode_fx.utils.validation import wrong_type
from passes.trees import tree_flatten, tree_leaves, tree_map, tree_unflatten

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

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.leaves[self.inputs.images[0]])

    @property
    def can_be_divided(self) -> bool:
        """Whether all targets are tensors with an item an image."""
        targets = [] if self.targets is None else tree_leaves(self.targets)
        return all(map(self._is_divided, targets))

    def part(self, start: int, end: int) -> Call:
        """The images from ``start`` to ``end``, with what else has an item an image."""

        def cut(value: Any) -> Any:
            return value[start:end] if self._is_divided(value) else value

        return Call(self.inputs, tree_map(cut, self.leaves), tree_map(cut, self.targets))

    def halves(self) -> list[Call]:
        """The batch's first and second half; empty if a half has fewer than two images, or targets can't be split.

        A tensor is split if its length is the number of images.
        """
        half = self.images // 2
        return [self.part(0, half), self.part(half, 2 * half)] if half > 1 and self.can_be_divided else []

    def _is_divided(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.images


def joined(calls: Sequence[Call], images: int) -> Call | None:
    """One batch of the first ``images`` of several of one kind, or of all that there are.

    ``None`` if they can't be joined: targets have no item an image, or tensors differ in more than their length.
    """
    first = calls[0]
    if not all(each.can_be_divided for each in calls):
        return None

    def join(trees: Sequence[Any]) -> Any:
        flat = [tree_flatten(tree) for tree in trees]
        values = [_joined_leaf(calls, same) for same in zip(*(leaves for leaves, _ in flat), strict=True)]
        return tree_unflatten(values, flat[0][1])

    try:
        leaves, targets = join([each.leaves for each in calls]), join([each.targets for each in calls])
    except (RuntimeError, ValueError):
        return None
    return Call(first.inputs, leaves, targets).part(0, images)


def _joined_leaf(calls: Sequence[Call], same: Sequence[Any]) -> Any:
    """Raises ``ValueError`` for values that have no item an image, and differ."""
    if all(map(Call._is_divided, calls, same)):
        return torch.cat(list(same))
    first = same[0]
    for other in same[1:]:
        alike = (
            torch.equal(first, other) if isinstance(first, Tensor) else type(first) is type(other) and first == other
        )
        if not alike:
            raise ValueError("values without an item an image differ")
    return first


def read_batches(batch: Batch | Iterable[Batch], inputs: ModelInputs, model: nn.Module) -> list[Call]:
    """One batch as a list of one, several as a list. Raises ``ValueError`` if there is none, or one is not a batch."""
    if _is_batch(batch, inputs, model):
        return [read_batch(batch, inputs, model)]
    check_no_dataset("batch", batch)
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


def check_no_dataset(name: str, value: Any) -> None:
    """Refuse a data set, whose items are single images, where batches are meant. Raises ``TypeError``."""
    if isinstance(value, Dataset) and not isinstance(value, Iterable):
        raise wrong_type(name, value, "batches of it, as torch.utils.data.DataLoader(dataset, 64, shuffle=True)")


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
