"""The call of a model: what its ``forward`` takes, and which of it are images."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_flatten_with_path, tree_leaves, tree_unflatten

from lowmode_fx.capture.call_hints import images_hint, is_array
from lowmode_fx.capture.example_hints import check_is_no_shape, check_kind, give_images
from lowmode_fx.capture.images import Argument, GivenTensor, choose_images
from lowmode_fx.capture.paths import EACH, argument_at
from lowmode_fx.capture.signature import bind_call, is_same, place_of, positional_names, respell
from passes.spelling import as_keyword, in_command, is_option, setting


@dataclass(frozen=True)
class Leaf:
    """One tensor of a model's call: a name that shows where it is, shape, dtype, and whether it holds images.

    ``path``: the name of its argument, then keys and indices. ``place``: position of its argument; ``None`` if it is
    given by name only.
    """

    name: str
    path: tuple[Any, ...]
    place: int | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_image: bool

    @property
    def pattern(self) -> tuple[Any, ...]:
        """The path, the same for all tensors of one list."""
        return (self.path[0], *(EACH if isinstance(key, int) else key for key in self.path[1:]))

    def blank(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Zeros of its shape; ``dtype``, if given, applies to floating leaves."""
        return torch.zeros(
            self.shape, dtype=dtype if dtype and self.dtype.is_floating_point else self.dtype, device=device
        )


class ImagePath(NamedTuple):
    """Images in a call: their argument's name, its position if it has one, and the path within it."""

    name: str
    place: int | None
    within: tuple[Any, ...]


@dataclass(frozen=True)
class ModelInputs:
    """A model's call on an example, without its values.

    ``leaves``: every tensor, in the order in which graphs take them. Other values of the example (None, numbers, text)
    are part of ``spec`` and ``constants``, and the same in each call.
    """

    leaves: tuple[Leaf, ...]
    spec: TreeSpec
    constants: tuple[Any, ...]

    @property
    def images(self) -> tuple[int, ...]:
        """Indices of the images among the leaves."""
        return tuple(place for place, leaf in enumerate(self.leaves) if leaf.is_image)

    @cached_property
    def image_paths(self) -> tuple[ImagePath, ...]:
        """Where images are in a call; a list of images only may have any length."""
        others = {leaf.pattern for leaf in self.leaves if not leaf.is_image}
        leaves = [leaf for leaf in self.leaves if leaf.is_image]
        paths = (leaf.path if leaf.pattern in others else leaf.pattern for leaf in leaves)
        found = (ImagePath(path[0], leaf.place, path[1:]) for path, leaf in zip(paths, leaves, strict=True))
        return tuple(dict.fromkeys(found))

    @property
    def image(self) -> Leaf:
        """The first leaf that holds images ``(N, C, *S)``."""
        return self.leaves[self.images[0]]

    @cached_property
    def is_one_tensor(self) -> bool:
        """Whether the call is one positional tensor, a batch of images."""
        return len(self.constants) == 1 and self.call([None]) == ((None,), {})

    @property
    def are_tensors(self) -> tuple[bool, ...]:
        """For every value of the call, in order, whether it is a tensor."""
        return tuple(constant is _TENSOR for constant in self.constants)

    def with_image_sides(self, sides: Callable[[tuple[int, ...]], tuple[int, ...]]) -> ModelInputs:
        """The same call on images of other sides: ``sides`` maps their spatial sizes ``(*S)``."""
        return self.with_shapes(
            (*leaf.shape[:2], *sides(leaf.shape[2:])) if leaf.is_image else leaf.shape for leaf in self.leaves
        )

    def with_shapes(self, shapes: Iterable[tuple[int, ...]]) -> ModelInputs:
        """The same call on tensors of these shapes."""
        leaves = (replace(leaf, shape=shape) for leaf, shape in zip(self.leaves, shapes, strict=True))
        return replace(self, leaves=tuple(leaves))

    def with_more_images(self) -> ModelInputs:
        """The same call on a batch of twice as many images, and twice as much of everything with the same length."""
        count = self.image.shape[0]
        shapes = ((2 * count, *leaf.shape[1:]) if leaf.shape[:1] == (count,) else leaf.shape for leaf in self.leaves)
        return self.with_shapes(shapes)

    def blank(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
        """Zeros for every leaf; ``dtype``, if given, applies to floating leaves."""
        return tuple(leaf.blank(None if device is None else torch.device(device), dtype) for leaf in self.leaves)

    def blank_for(self, model: nn.Module) -> tuple[Tensor, ...]:
        """Zeros for every leaf, with the floating dtype of ``model`` and on its device."""
        like = next((value for value in model.parameters() if value.is_floating_point()), None)
        return self.blank() if like is None else self.blank(like.device, like.dtype)

    def call(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the call with these values for its tensors."""
        found = iter(leaves)
        args, kwargs = tree_unflatten([next(found) if each is _TENSOR else each for each in self.constants], self.spec)
        return args, kwargs

    def flatten(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of a call, in the order of ``leaves``.

        Arguments may be given by position or by name, in any order, with or without defaults. Raises ``ValueError`` if
        the call is not the example's.
        """
        if self.is_one_tensor and len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            return [args[0]]
        bound = bind_call(model, args, kwargs)
        example: tuple[tuple[Any, ...], dict[str, Any]] = tree_unflatten(self.constants, self.spec)
        try:
            values = self.spec.flatten_up_to(respell(bound, len(example[0]), tuple(example[1])))
        except (KeyError, ValueError):
            values = []
        if not values or not all(map(_fits, values, self.constants)):
            raise ValueError(
                f"{type(model).__name__} is called with {_shown(args, kwargs)}, but its modes were built for "
                f"{_shown(*example)}; build them with an example of this call"
            )
        return [value for value, constant in zip(values, self.constants, strict=True) if constant is _TENSOR]

    def first_image(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """The first images ``(N, C, *S)`` of a call, which may otherwise differ from the example's.

        Raises ``ValueError`` if the call has none there.
        """
        for path in self.image_paths:
            found = argument_at(args, kwargs, *path)
            if isinstance(found, Tensor):
                return found
        names = ", ".join(dict.fromkeys(path.name for path in self.image_paths))
        hint = images_hint(((path.name, path.within) for path in self.image_paths), args, kwargs)
        raise ValueError(f"the call {_shown(args, kwargs)} has no images at {names}; {hint}")

    def map_images(self, leaves: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The leaves, with ``function`` applied to the images."""
        return [function(value) if leaf.is_image else value for leaf, value in zip(self.leaves, leaves, strict=True)]


class _Tensor:
    """Marks the place of a tensor among a call's other values."""

    def __repr__(self) -> str:
        return "tensor"

    def __reduce__(self) -> str:
        return "_TENSOR"


_TENSOR = _Tensor()


def model_inputs(
    model: nn.Module, example: Any, images: Argument | Iterable[Argument] | None = None
) -> tuple[ModelInputs, list[Tensor]]:
    """How ``model`` is called on ``example``, and the example's tensors in the order of its leaves.

    ``example``: a tensor of images ``(N, C, *S)``, a tuple or list of positional arguments, or a mapping of keywords.
    ``images``: the arguments that hold images, by name, position, or a path (``"batch.image"``). By default the only
    float tensor of 3 to 5 dimensions; of several, the one with the most dimensions, or all of these if they are in one
    list.

    Raises ``TypeError`` for an example that holds no images, or other values than tensors, plain values and containers
    of them; ``ValueError`` if it is ambiguous which are images, their channels come last, ``forward`` does not take the
    example, or ``images`` is not in it.
    """
    args, kwargs = as_call(example)
    check_is_no_shape(args, kwargs)
    try:
        bound = bind_call(model, args, kwargs)
    except ValueError as error:
        mapping = ", in a tuple of one if forward takes the mapping itself" if isinstance(example, Mapping) else ""
        alone = f"give the part that takes only images as {as_keyword('submodule')}"
        hint = f"give all arguments, as a tuple or as a mapping of keywords{mapping}, or {alone}"
        if in_command():
            part = f", or its part that does, by {setting('submodule')}" if is_option("submodule") else ""
            hint = f"give a model that takes images alone{part}"
        raise ValueError(f"{error}; {hint}") from None
    names = positional_names(bound, len(args))
    found, spec = tree_flatten_with_path((args, kwargs))
    given: list[GivenTensor] = []
    for path, value in found:
        root, at, *rest = (_key(key) for key in path)
        name, place = (names[at], at) if root == 0 else (at, place_of(bound, at))
        if isinstance(value, Tensor):
            given.append(GivenTensor((name, *rest), place, value))
        else:
            _check_constant(".".join(map(str, (name, *rest))), value)
    if not given:
        raise TypeError(f"example_input is of type {type(example).__name__}, without a tensor; {give_images()}")
    chosen = choose_images(model, given, images)
    leaves: list[Leaf] = []
    for each in given:
        shape, dtype = tuple(each.value.shape), each.value.dtype
        label = _identifier(each.label, {leaf.name for leaf in leaves})
        leaves.append(Leaf(label, each.path, each.place, shape, dtype, each in chosen))
    constants = tuple(_TENSOR if isinstance(value, Tensor) else value for _, value in found)
    return ModelInputs(tuple(leaves), spec, constants), [each.value for each in given]


def as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call: a mapping holds keywords, a tuple or list positional arguments."""
    if isinstance(inputs, Mapping) and all(isinstance(name, str) for name in inputs):
        return (), dict(inputs)
    # A namedtuple is one value: its fields have names.
    is_sequence = isinstance(inputs, tuple | list) and not hasattr(inputs, "_fields")
    return (tuple(inputs) if is_sequence else (inputs,)), {}


def doubled(inputs: ModelInputs, tensors: Sequence[Tensor]) -> tuple[ModelInputs, list[Tensor]] | None:
    """The call on a batch of two if the example is a batch of one; otherwise ``None``.

    A batch of one has no batch statistics on a 1×1 map.
    """
    if any(inputs.leaves[place].shape[0] != 1 for place in inputs.images):
        return None
    values = [value.expand(2, *value.shape[1:]) if value.shape[:1] == (1,) else value for value in tensors]
    return inputs.with_shapes(tuple(value.shape) for value in values), values


def _key(key: Any) -> Any:
    return next(getattr(key, name) for name in ("idx", "key", "name") if hasattr(key, name))


def _identifier(label: str, taken: set[str]) -> str:
    """A valid Python name that is not taken."""
    name = re.sub(r"\W", "_", label)
    name = f"_{name}" if not name.isidentifier() or keyword.iskeyword(name) or name == "self" else name
    while name in taken:
        name += "_"
    return name


def _check_constant(label: str, value: Any) -> None:
    """A value that is not a tensor is the same in each call: it must not hold what changes from batch to batch."""
    held = value if isinstance(value, Mapping) else vars(value) if hasattr(value, "__dict__") else {}
    check_kind(label, value)
    if any(isinstance(leaf, Tensor) for leaf in tree_leaves(list(held.values()))):
        kind = type(value).__name__
        raise TypeError(
            f"{label} is of type {kind}, which may hide tensors; give a tensor, or a tuple, list or dictionary "
            f"of tensors, or register the class: torch.export.register_dataclass({kind})"
        )


def _fits(value: Any, constant: Any) -> bool:
    return isinstance(value, Tensor) if constant is _TENSOR else is_same(value, constant)


def _shown(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    shown = [_kind(value) for value in args] + [f"{name}={_kind(value)}" for name, value in kwargs.items()]
    return f"({', '.join(shown)})"


def _kind(value: Any) -> str:
    if isinstance(value, Tensor | _Tensor):
        return "tensor"
    if is_array(value):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    leaves, spec = tree_flatten(value)
    words = [_Word("tensor" if isinstance(leaf, Tensor | _Tensor) else repr(leaf)) for leaf in leaves]
    return f"{tree_unflatten(words, spec)!r:.80}"


class _Word(str):
    """A word without quotation marks."""

    def __repr__(self) -> str:
        return str(self)
