"""A set whose training images are changed by a recipe: one by one on the host, by whole batches on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lowmode_fx.loading.augmentation import Augmentation
from lowmode_fx.loading.draws import drawing_from, picture_seed
from lowmode_fx.train.images import ImageSource
from lowmode_fx.train.reading import read_batches
from lowmode_fx.train.recipe import POLICIES, Recipe, read_recipe
from lowmode_fx.train.splits import DataSplits
from passes.errors import OptionError


def augmented(splits: DataSplits, text: str) -> DataSplits:
    """The set with the recipe that ``--augment`` names in place of its own; ``"auto"`` leaves it as it is.

    Raises ``OptionError`` for a recipe that there isn't, and for a policy of colours on images that have other ones.
    """
    recipe, own = read_recipe(text), splits.augmentation
    if text == "auto":
        return splits
    channels = splits.image_shape[0]
    if recipe.policies and channels not in (1, 3):
        raise OptionError("augment", text, f"changes colours, and images have {channels} channels", "leave them out")
    numbers = recipe.numbers
    augmentation = Augmentation(
        own.shift if recipe.crop else 0,
        own.flip if recipe.flip is None else recipe.flip,
        numbers.get("mixup", 0.0),
        numbers.get("cutmix", 0.0),
    )
    transform = _transform(recipe, splits.image_shape, splits.mean) if recipe.by_image else None
    return replace(splits, augmentation=augmentation, transform=transform)


def _transform(recipe: Recipe, shape: tuple[int, int, int], mean: tuple[float, ...]) -> Callable[[Tensor], Tensor]:
    """uint8 (C, H, W) → one of ``shape``, by torchvision's transforms v2, in the order of its reference recipe."""
    from torchvision.transforms import v2

    numbers, steps = recipe.numbers, []
    if "resized_crop" in numbers:
        steps.append(v2.RandomResizedCrop(shape[1:], scale=(numbers["resized_crop"], 1.0), antialias=True))
    grey = [round(255 * value) for value in mean]
    for name in recipe.policies:
        steps.append(getattr(v2, POLICIES[name])(**({} if name == "augmix" else {"fill": grey})))
    if "erase" in numbers:
        steps.append(v2.RandomErasing(numbers["erase"], value=grey))  # zeros, once it is normalised
    transform: Callable[[Tensor], Tensor] = v2.Compose(steps)
    return transform


class Pictures:
    """The images of an epoch as ``transform`` changes them: each a function of seed, epoch and its place in the set."""

    def __init__(self, transform: Callable[[Tensor], Tensor], seed: int, epoch: int) -> None:
        self.transform, self.seed, self.epoch = transform, seed, epoch

    def __call__(self, index: int, image: Tensor) -> Tensor:
        """image: uint8 (C, H, W); returned as ``transform`` has it."""
        threads = torch.get_num_threads()
        with drawing_from(picture_seed(index, self.seed, self.epoch)):
            torch.set_num_threads(1)  # means are added up in one order, as in the processes that read
            try:
                changed: Any = self.transform(image)
            finally:
                torch.set_num_threads(threads)
        assert isinstance(changed, Tensor)
        return changed


class ChangedImages:
    """Images of another source, each as ``change(place, image)`` has it: read one by one, whatever holds them.

    shape: (C, H, W) of the changed ones.
    """

    def __init__(
        self, source: ImageSource, change: Callable[[int, Tensor], Tensor], shape: tuple[int, int, int]
    ) -> None:
        self.source, self.change = source, change
        self.labels, self.shape = source.labels, shape

    def __len__(self) -> int:
        return len(self.source)

    def to(self, device: torch.device) -> ChangedImages:
        return ChangedImages(self.source.to(device), self.change, self.shape)

    def read(self, index: int) -> tuple[Tensor, int]:
        image, label = self.source.read(index)
        return self.change(index, image), label

    def fetch(self, batches: Iterable[Tensor], workers: int = 0, pin: bool = False) -> Iterator[Tensor]:
        for images, _ in read_batches(self.read, batches, workers, pin):
            yield images
