"""What is wrong with an example that is no call of the model, and what to give instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from lowmode_fx.capture.call_hints import is_array


def give_images() -> str:
    """What an example is."""
    return (
        "give a float tensor (N, C, *S), as torch.randn(2, 3, 224, 224), or a tuple or mapping of forward's arguments "
        "that holds one"
    )


def check_is_no_shape(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse a shape that stands for the example. Raises ``TypeError``."""
    if len(args) > 1 and not kwargs and all(type(value) is int for value in args):
        sides = ", ".join(map(str, args))
        raise TypeError(f"example_input is ({sides}), a shape; give an example of it, as torch.randn({sides})")


def check_kind(label: str, value: Any) -> None:
    """Refuse an array of numpy or the like, a PIL image, and data instead of a batch of it. Raises ``TypeError``."""
    kind = type(value).__name__
    if isinstance(value, DataLoader | Dataset):
        batch = "next(iter(loader))" if isinstance(value, DataLoader) else "next(iter(DataLoader(dataset)))"
        raise TypeError(f"{label} is of type {kind}; give the images of one batch, as of {batch}")
    if is_array(value):
        scaled = " / 255" if str(value.dtype) == "uint8" else ""
        raise TypeError(
            f"{label} is of type {kind}, {tuple(value.shape)} of {value.dtype}; give a tensor, as "
            f"torch.from_numpy(array).float(){scaled}"
        )
    if type(value).__module__.partition(".")[0] == "PIL":
        raise TypeError(
            f"{label} is of type {kind}; give a batch of tensors, as torchvision.transforms.ToTensor()(image)[None]"
        )
