"""Finds which of a model's input tensors are images: as the user says, or by their shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lowmode_fx.capture.example_hints import give_images
from lowmode_fx.capture.part_hints import part_hint
from lowmode_fx.utils.validation import wrong_type

#: One argument of ``forward``: its name, its position, or a path into it (``"batch.image"``).
Argument = str | int

_CONVS = nn.modules.conv._ConvNd


@dataclass(frozen=True, eq=False)
class GivenTensor:
    """A tensor of a call. ``path``: its argument's name, then keys and indices; ``place``: the argument's position."""

    path: tuple[Any, ...]
    place: int | None
    value: Tensor

    @property
    def label(self) -> str:
        """The path as a user writes it: ``batch.image``, ``views.0``."""
        return ".".join(map(str, self.path))


def choose_images(
    model: nn.Module, tensors: Sequence[GivenTensor], images: Argument | Iterable[Argument] | None
) -> list[GivenTensor]:
    """The tensors that hold images ``(N, C, *S)``; see ``model_inputs`` for the rule and for the errors."""
    if images is None:
        chosen = _infer(tensors, "")
    else:
        wanted = [images] if isinstance(images, str | int) else _arguments(images)
        found = [each for argument in wanted for each in _named(argument, tensors)]
        chosen = [each for each in tensors if each in found]
        if not chosen:
            raise ValueError("images=() is empty; give the arguments that hold images, by name or position")
    for each in chosen:
        _check_layout(model, each)
    return chosen


def _arguments(images: Any) -> list[Argument]:
    wanted = list(images) if isinstance(images, Iterable) and not isinstance(images, Tensor) else [images]
    wrong = next((each for each in wanted if not isinstance(each, str | int)), None)
    if wrong is not None:
        raise wrong_type("images", wrong, "the name or the position of an argument of forward, or several")
    return wanted


def describe(values: Iterable[Any]) -> str:
    """Shapes and dtypes in words."""
    return ", ".join(
        f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        for value in values
    )


def _named(argument: Argument, tensors: Sequence[GivenTensor]) -> list[GivenTensor]:
    matches = [each for each in tensors if _is_at(each, argument)]
    if not matches:
        labels = ", ".join(each.label for each in tensors)
        raise ValueError(f"images={argument!r} is not a tensor of the example; give one of {labels}")
    if not any(map(_may_be_images, matches)):
        shown = describe(each.value for each in matches)
        raise ValueError(f"images={argument!r} holds {shown}; give one that holds a float tensor (N, C, *S)")
    return _infer(matches, matches[0].label.split(".")[0])


def _is_at(tensor: GivenTensor, argument: Argument) -> bool:
    if isinstance(argument, int):
        return tensor.place == argument and not isinstance(argument, bool)
    return tensor.label == argument or tensor.label.startswith(f"{argument}.")


def _infer(tensors: Sequence[GivenTensor], within: str) -> list[GivenTensor]:
    """The tensors with the most dimensions, if there is one or all are in one list; ``within``: a named argument."""
    known = [each for each in tensors if _may_be_images(each)]
    most = max((each.value.ndim for each in known), default=0)
    larger = next((each for each in tensors if most < each.value.ndim <= 5 and _holds_integers(each.value)), None)
    if larger is not None and larger.value.ndim >= 3:
        others = f", or give the images: images={known[0].label!r}" if known else ""
        raise TypeError(
            f"{larger.label} is {describe([larger.value])}, but images need a floating dtype; scale them first, as "
            f"images.float() / 255{others}"
        )
    if not known:
        raise TypeError(f"example_input is {describe(each.value for each in tensors)}; {give_images()}")
    found = [each for each in known if each.value.ndim == most]
    if len({_list_of(each, within) for each in found}) > 1:
        labels = [repr(each.label) for each in found]
        raise ValueError(
            f"the images are ambiguous: {', '.join(labels)}; give those to downsample, as images={labels[0]} or "
            f"images=({', '.join(labels)})"
        )
    return found


def _list_of(tensor: GivenTensor, within: str) -> tuple[str, ...]:
    """The same for all tensors of one list, also of nested lists."""
    argument, *rest = tensor.path
    return (within or argument, *(str(key) for key in rest if not isinstance(key, int)))


def _may_be_images(tensor: GivenTensor) -> bool:
    value = tensor.value
    return value.is_floating_point() and 3 <= value.ndim <= 5 and 0 not in value.shape


def _holds_integers(value: Tensor) -> bool:
    return not value.is_floating_point() and not value.is_complex()


def _check_layout(model: nn.Module, images: GivenTensor) -> None:
    """Refuse images in channels-last layout, or without a batch, which would be downsampled along the wrong sides."""
    shape = tuple(images.value.shape)
    convs = [module for module in model.modules() if isinstance(module, _CONVS)]
    if not convs:
        return
    channels, dims = convs[0].in_channels, {len(conv.kernel_size) for conv in convs}
    if len(shape) - 2 in dims and shape[1] != channels == shape[-1] < min(shape[1:-1]):
        first = ", ".join(map(str, (0, len(shape) - 1, *range(1, len(shape) - 1))))
        raise ValueError(
            f"{images.label} is {shape}, but the first convolution takes {channels} channels: channels seem to be "
            f"last; give images (N, C, *S), as images.permute({first})"
        )
    if len(images.path) > 1 and len(shape) - 1 in dims and len(shape) - 2 not in dims:
        raise ValueError(
            f"{images.label} is {shape}, an image without a batch, which low-mode needs; {part_hint(model, shape)}"
        )
