"""Resizes maps at a call, or at the input or output of a module."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lowmode_fx.lowering.live.plan import Resize, Sizes
from passes.resize_head import SMOOTH


def resize(value: Tensor, size: Sizes) -> Tensor:
    """Interpolate a map ``(N, C, *S)`` to the spatial sizes ``size``."""
    return F.interpolate(value, size=size, mode=SMOOTH[len(size)], align_corners=False)


def resized_call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], edit: Resize | None
) -> Any:
    """``function(*args, **kwargs)`` with its map, the first argument or the result, resized as planned."""
    if edit is None:
        return function(*args, **kwargs)
    if edit.when == "after":
        return resize(function(*args, **kwargs), edit.size)
    if args:
        return function(resize(args[0], edit.size), *args[1:], **kwargs)
    name, value = next(iter(kwargs.items()))
    return function(**{**kwargs, name: resize(value, edit.size)})


@contextlib.contextmanager
def resizing_module(module: nn.Module, next_edit: Callable[[], Resize | None]) -> Iterator[None]:
    """Inside, the module's input or output is resized; ``next_edit`` returns the edit of each of its calls in turn."""
    attributes = vars(module)
    forward, own = module.forward, "forward" in attributes

    def resized(*args: Any, **kwargs: Any) -> Any:
        return resized_call(forward, args, kwargs, next_edit())

    attributes["forward"] = resized
    try:
        yield
    finally:
        if own:
            attributes["forward"] = forward
        else:
            del attributes["forward"]
