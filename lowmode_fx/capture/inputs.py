"""How a model is called: what its ``forward`` takes, and which of it are images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

#: One argument of ``forward``, by name or by place among the positional ones.
Argument = str | int


@dataclass(frozen=True)
class Leaf:
    """One tensor that a model takes: a name that says where it stands, shape, dtype, and whether it holds images."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_image: bool

    def blank(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Zeros of its shape; ``dtype``, where given, is that of floating leaves."""
        return torch.zeros(
            self.shape, dtype=dtype if dtype and self.dtype.is_floating_point else self.dtype, device=device
        )


@dataclass(frozen=True)
class ModelInputs:
    """The call of a model on an example, without its values.

    ``leaves``: every tensor, in the order in which graphs take them. What else the example holds (None, numbers, text)
    is part of ``spec`` and ``constants``, and the same in each call.
    """

    leaves: tuple[Leaf, ...]
    spec: TreeSpec
    constants: tuple[Any, ...]
    parameters: tuple[str, ...]

    @property
    def images(self) -> tuple[int, ...]:
        """Places of the images among the leaves."""
        return tuple(place for place, leaf in enumerate(self.leaves) if leaf.is_image)

    @property
    def image(self) -> Leaf:
        """The first leaf that holds images ``(N, C, *S)``."""
        return self.leaves[self.images[0]]

    @cached_property
    def is_one_tensor(self) -> bool:
        """Whether the call is one positional tensor, a batch of images."""
        return len(self.constants) == 1 and not self.call([None])[1] and self.call([None])[0] == (None,)

    @property
    def are_tensors(self) -> tuple[bool, ...]:
        """For every value of the call, in order, whether it is a tensor."""
        return tuple(constant is _TENSOR for constant in self.constants)

    def with_image_sides(self, sides: Callable[[tuple[int, ...]], tuple[int, ...]]) -> ModelInputs:
        """The same call on images of other sides: ``sides`` of their spatial sizes ``(*S)``."""
        leaves = tuple(
            Leaf(leaf.name, (*leaf.shape[:2], *sides(leaf.shape[2:])), leaf.dtype, True) if leaf.is_image else leaf
            for leaf in self.leaves
        )
        return ModelInputs(leaves, self.spec, self.constants, self.parameters)

    def blank(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
        """Zeros for every leaf; ``dtype``, where given, is that of floating leaves."""
        return tuple(leaf.blank(None if device is None else torch.device(device), dtype) for leaf in self.leaves)

    def call(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the call with these values for its tensors."""
        found = iter(leaves)
        values = [next(found) if constant is _TENSOR else constant for constant in self.constants]
        args, kwargs = tree_unflatten(values, self.spec)
        return tuple(args), dict(kwargs)

    def flatten(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of a call, in the order of ``leaves``; ``ValueError`` where it isn't the example's call."""
        if len(args) == 1 and not kwargs and self.is_one_tensor and isinstance(args[0], Tensor):
            return [args[0]]
        values, spec = tree_flatten(_normal_call(model, args, kwargs))
        tensors = [value for value in values if isinstance(value, Tensor)]
        others = [_TENSOR if isinstance(value, Tensor) else value for value in values]
        if spec != self.spec or not all(map(_same, others, self.constants)):
            raise ValueError(
                f"{type(model).__name__} is called with {_shown(values, spec)}, and its modes were built for "
                f"{_shown(self.call(self.blank('meta')), None)}; build them with an example of this call"
            )
        return tensors

    def map_images(self, leaves: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The leaves, the images among them through ``function``."""
        return [
            function(value) if leaf.is_image else value for leaf, value in zip(self.leaves, leaves, strict=True)
        ]


class _Tensor:
    """Where a tensor stands among what else a call holds."""

    def __repr__(self) -> str:
        return "tensor"

    def __reduce__(self) -> str:
        return "_TENSOR"


_TENSOR = _Tensor()


def model_inputs(
    model: nn.Module, example: Any, images: Argument | Iterable[Argument] | None = None
) -> tuple[ModelInputs, list[Tensor]]:
    """How ``model`` is called on ``example``, and the example's tensors in the order of its leaves.

    example: a tensor of images ``(N, C, *S)``, a tuple of positional arguments, or a mapping of keywords. images: the
    arguments of ``forward`` that hold images, by name or place; by default the one float tensor of 3 to 5 dimensions
    (of those with the most, where one argument alone has so many).

    Raises ``TypeError`` for an example that holds no images, ``ValueError`` where it is ambiguous which they are, where
    ``forward`` does not take the example, or where ``images`` names none of it.
    """
    args, kwargs = _as_call(example)
    call = _normal_call(model, args, kwargs)
    names = _names(model, call)
    values, spec = tree_flatten(call)
    places = _argument_places(call)
    chosen = _choose(names, call, images)
    # A batch of one has no batch statistics on a 1×1 map.
    alone = all(
        value.shape[:1] == (1,)
        for value, place in zip(values, places, strict=True)
        if place in chosen and isinstance(value, Tensor)
    )
    leaves: list[Leaf] = []
    tensors: list[Tensor] = []
    for value, argument in zip(values, places, strict=True):
        if isinstance(value, Tensor):
            is_image = argument in chosen and _may_be_images(value)
            tensor = value.expand(2, *value.shape[1:]) if alone and value.shape[:1] == (1,) else value
            name = names[argument]
            taken = sum(leaf.name.rpartition("_")[0] == name or leaf.name == name for leaf in leaves)
            leaves.append(Leaf(f"{name}_{taken}" if taken else name, tuple(tensor.shape), tensor.dtype, is_image))
            tensors.append(tensor)
    constants = tuple(_TENSOR if isinstance(value, Tensor) else value for value in values)
    return ModelInputs(tuple(leaves), spec, constants, tuple(names.values())), tensors


def _as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping) and all(isinstance(name, str) for name in example):
        return (), dict(example)
    return (tuple(example) if isinstance(example, tuple | list) else (example,)), {}


def _normal_call(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """One form for every way of writing the same call: as positional as ``forward`` allows."""
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except ValueError:
        return list(args), dict(kwargs)  # compiled code, which tells no signature
    except TypeError as error:
        raise ValueError(
            f"{type(model).__name__}.forward takes {_required(model)}, and can't be called so: {error}; give "
            "all of it, as a tuple or as a mapping of keywords, or give the part that takes images alone as submodule="
        ) from None
    return list(bound.args), dict(bound.kwargs)


def _required(model: nn.Module) -> str:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(model.forward).parameters.values()
    names = [each.name for each in parameters if each.kind in kinds and each.default is inspect.Parameter.empty]
    return f"{len(names)} input{'s' * (len(names) != 1)} ({', '.join(names)})"


def _argument_places(call: tuple[list[Any], dict[str, Any]]) -> list[Argument]:
    """For every leaf of the call, the argument that it stands in."""
    args, kwargs = call
    places: list[Argument] = []
    for argument, value in _values(args, kwargs).items():
        places += [argument] * len(tree_flatten(value)[0])
    return places


def _values(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[Argument, Any]:
    values: dict[Argument, Any] = dict(enumerate(args))
    values.update(kwargs)
    return values


def _names(model: nn.Module, call: tuple[list[Any], dict[str, Any]]) -> dict[Argument, str]:
    """A name for each argument: its parameter's, or one by its place."""
    args, kwargs = call
    try:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(model.forward).parameters.values()
        known = [each.name for each in parameters if each.kind in kinds]
    except ValueError:
        known = []
    positional = [known[place] if place < len(known) else f"input_{place}" for place in range(len(args))]
    return _values(positional, {name: name for name in kwargs})


def _choose(
    names: Mapping[Argument, str], call: tuple[list[Any], dict[str, Any]], images: Argument | Iterable[Argument] | None
) -> set[Argument]:
    args, kwargs = call
    values = _values(args, kwargs)
    if images is not None:
        wanted = [images] if isinstance(images, str | int) else list(images)
        return {_find(argument, names, values) for argument in wanted}
    ranks = {
        argument: max(found)
        for argument, value in values.items()
        if (found := [leaf.ndim for leaf in tree_flatten(value)[0] if _may_be_images(leaf)])
    }
    if not ranks:
        raise TypeError(
            f"example_input is {_described(list(values.values()))}; it must be a float tensor (N, C, *S), as "
            "torch.randn(2, 3, 224, 224), or hold one: a tuple or a mapping of what forward takes"
        )
    most = [argument for argument, rank in ranks.items() if rank == max(ranks.values())]
    if len(most) > 1:
        shown = ", ".join(repr(names[argument]) for argument in most)
        raise ValueError(f"which of {shown} are images that low-mode makes smaller? say so: images={names[most[0]]!r}")
    return set(most)


def _find(argument: Argument, names: Mapping[Argument, str], values: Mapping[Argument, Any]) -> Argument:
    found = next((place for place, name in names.items() if argument in (place, name)), None)
    if found is None:
        raise ValueError(f"images={argument!r} is no argument of the example; it has {', '.join(names.values())}")
    if not any(map(_may_be_images, tree_flatten(values[found])[0])):
        raise ValueError(
            f"images={argument!r} holds {_described([values[found]])}; it must hold a float tensor (N, C, *S)"
        )
    return found


def _may_be_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and 3 <= value.ndim <= 5 and len(value) > 0


def _same(ours: Any, theirs: Any) -> bool:
    return ours is theirs or (type(ours) is type(theirs) and bool(ours == theirs))


def _described(values: Sequence[Any]) -> str:
    return ", ".join(
        f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        for value in values
    )


def _shown(call: Any, spec: TreeSpec | None) -> str:
    args, kwargs = call if spec is None else tree_unflatten(call, spec)
    shown = [_kind(value) for value in args] + [f"{name}={_kind(value)}" for name, value in kwargs.items()]
    return f"({', '.join(shown)})"


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, Tensor) else f"{value!r:.40}"
