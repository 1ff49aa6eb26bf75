"""Tensors: what writes to them, what makes them, and where modules register them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

#: The registries of a module, which graph modules share with their model.
REGISTRIES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def version_of(tensor: Tensor) -> int | None:
    """The version counter of a tensor; ``None`` if it has none, as for inference tensors."""
    return None if tensor.is_inference() else tensor._version


def sum_of_versions(tensors: Iterable[Tensor]) -> int:
    """It changes where one of the tensors is written to; 0 if one has no version counter."""
    try:
        return sum(tensor._version for tensor in tensors)
    except RuntimeError:
        return 0


def written_tensors(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The arguments of an ATen operator that it writes to."""
    written: list[Tensor] = []
    for place, argument in enumerate(operator._schema.arguments):
        aliased = argument.alias_info is not None and argument.alias_info.is_write
        # Batch norms update their statistics, although their signatures don't show it.
        if aliased or argument.name in ("running_mean", "running_var"):
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            values = value if isinstance(value, list | tuple) else [value]
            written += [each for each in values if isinstance(each, Tensor)]
    return written


def device_constructors() -> Collection[Callable[..., Any]]:
    """Functions of torch that create tensors on a given device."""
    from torch.utils._device import _device_constructors

    constructors: Collection[Callable[..., Any]] = _device_constructors()
    return constructors
