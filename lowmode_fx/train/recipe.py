"""What is done to training images, read from the text of ``--augment``: ``standard``, ``resized_crop,mixup=0.2``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from passes.errors import OptionError
from passes.wording import near_matches_hint

#: Whole recipes, by what they stand for. Flips follow the data: a digit that is mirrored is another sign.
RECIPES: Final = {
    "auto": "crop,auto_flip",  # of small images
    "standard": "resized_crop,auto_flip",  # of ImageNet's
    "strong": "resized_crop,auto_flip,randaugment,erase,mixup,cutmix",  # as torchvision trains its second weights
}
#: Steps of a recipe that take a number: its default, and the range it lies in.
_NUMBERS: Final = {
    "resized_crop": (0.08, 0.01, 1.0),  # the smallest crop, as a share of the image
    "erase": (0.1, 0.0, 1.0),  # of how many images
    "mixup": (0.2, 0.01, 100.0),  # of a Beta distribution, both
    "cutmix": (1.0, 0.01, 100.0),
}
#: Policies of torchvision's, by class.
POLICIES: Final = {
    "randaugment": "RandAugment",
    "trivialaugment": "TrivialAugmentWide",
    "autoaugment": "AutoAugment",
    "augmix": "AugMix",
}
_STEPS: Final = (*RECIPES, "none", "crop", "flip", *_NUMBERS, *POLICIES)


@dataclass(frozen=True)
class Recipe:
    """crop: the padded one. flip: ``None`` as the data allows. policies: of ``POLICIES``. numbers: by step."""

    crop: bool = False
    flip: bool | None = False
    policies: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)

    def held_side(self, image_size: int | None) -> int | None:
        """The side to hold training images at: a seventh more where crops are scaled, as is usual: 256 for 224."""
        if image_size is None or "resized_crop" not in self.numbers:
            return image_size
        return round(image_size * 8 / 7)

    @property
    def by_image(self) -> bool:
        """Whether images are changed one by one, on the host."""
        return bool(self.policies or self.numbers.keys() & {"resized_crop", "erase"})

    @property
    def mixes(self) -> bool:
        """Whether labels become shares of several classes."""
        return bool(self.numbers.keys() & {"mixup", "cutmix"})


def read_recipe(text: str) -> Recipe:
    """Raises ``OptionError`` for a step that there isn't, one that comes twice, and a number that is out of range."""
    parts = [part.strip() for part in text.split(",")]
    if "none" in parts and len(parts) > 1:
        raise OptionError("augment", text, "has steps beside none", "leave one or the others out")
    steps = [step for part in parts for step in RECIPES.get(part, part).split(",")]
    numbers: dict[str, float] = {}
    names = [_step(step, text, numbers) for step in steps]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionError("augment", text, f"has {twice} twice", "give each step once")
    if "crop" in names and "resized_crop" in names:
        raise OptionError("augment", text, "crops twice", "give crop, or resized_crop")
    flip = True if "flip" in names else None if "auto_flip" in names else False
    return Recipe("crop" in names, flip, tuple(name for name in names if name in POLICIES), numbers)


def _step(step: str, text: str, numbers: dict[str, float]) -> str:
    """The step's name; its number goes into ``numbers``."""
    name, given, number = step.partition("=")
    if name not in (*_STEPS, "auto_flip"):
        raise OptionError("augment", text, f"has no step {name!r}", near_matches_hint(name, _STEPS))
    if name not in _NUMBERS:
        if given:
            raise OptionError("augment", text, f"gives {name} a number", f"give {name} alone")
        return name
    default, least, most = _NUMBERS[name]
    try:
        value = float(number) if given else default
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        hint = f"give a number from {least:g} to {most:g}, as {name}={default:g}"
        raise OptionError("augment", text, f"gives {name} {number!r}", hint)
    numbers[name] = value
    return name
