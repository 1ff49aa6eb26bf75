"""What to do about a call whose images aren't where the example had them: often a loader's batch that is a dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor


def images_hint(names: Iterable[tuple[str, Sequence[Any]]], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A hint to paste. names: arguments that hold the images, each with the path within it."""
    wanted = dict(names)
    if any(is_array(value) for value in (*args, *kwargs.values())):
        return "give tensors, as torch.from_numpy(array)"
    if len(args) == 1 and not kwargs and _is_batch(args[0]):
        return (
            "a batch of images and labels is one argument; give the images alone, net(images), or step(images, labels)"
        )
    if len(args) == 1 and not kwargs and isinstance(args[0], Mapping):
        batch = args[0]
        if wanted.keys() <= batch.keys():
            return "a dict is one argument; give its items as keywords, net(**batch)"
        key = _image_key(batch)
        return "give them as in the example" if key is None else f"give the images alone, net(batch[{key!r}])"
    if not args and kwargs:
        if any(within and within[0] in kwargs for within in wanted.values()):
            return "forward takes the dict itself; give it as one argument, net(batch), or step((batch,), targets)"
        key = _image_key(kwargs)
        if key is not None:
            alone = f"give the images alone, net(batch[{key!r}]), or step(images, targets)"
            return f"a dict holds keywords of forward; {alone}"
    return "give them as in the example"


def is_array(value: Any) -> bool:
    """Whether this is an array of numpy, or the like."""
    return not isinstance(value, Tensor) and hasattr(value, "__array__") and getattr(value, "ndim", 0) > 0


def _is_batch(value: Any) -> bool:
    """Whether this looks like a loader's batch: images, and something beside them."""
    return isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], Tensor) and value[0].ndim > 2


def _image_key(batch: Mapping[str, Any]) -> str | None:
    """The entry that looks like a batch of images: a floating tensor of three dimensions or more."""
    found = (key for key, value in batch.items() if isinstance(value, Tensor))
    return next((key for key in found if batch[key].is_floating_point() and batch[key].ndim >= 3), None)
