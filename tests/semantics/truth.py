"""Low-mode of a habit, run eagerly and without the product: what low steps have to be.

A low step is the model itself on downsampled images, its eligible convolutions with pooled kernels. It runs on a shadow
of the model: a deep copy that holds the model's own parameters and generators, and is thrown away after the step. So
gradients reach the model, draws move on, and nothing else that ``forward`` does stays.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from oracle import EagerLowMode
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from semantics.habit import Call, generators_at
from semantics.state import GENERATORS

RATIO = 2
_CONV_OF_RANK = {
    (3, False): torch.conv1d,
    (4, False): torch.conv2d,
    (5, False): torch.conv3d,
    (3, True): torch.conv_transpose1d,
    (4, True): torch.conv_transpose2d,
    (5, True): torch.conv_transpose3d,
}


class LowMode(EagerLowMode):
    """The oracle's low-mode, which also knows which kernels are no business of its.

    A kernel that no trained parameter reaches (Sobel's, a blur, ones) keeps its size, and so does a convolution inside
    an ``autograd.Function``, whose backward is written for the whole kernel. ``untrained``: the parameters that were
    frozen when the pair was built.
    """

    def __init__(self, untrained: frozenset[int]) -> None:
        super().__init__(RATIO, leaves=False)
        self.untrained = untrained
        self.functions = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.convolution and not kwargs:
            source, weight, bias, stride, padding, dilation, transposed, extra, groups = args
            func = _CONV_OF_RANK[weight.ndim, transposed]
            rest = (extra, groups, dilation) if transposed else (dilation, groups)
            args = (source, weight, bias, stride, padding, *rest)
        result = super().__torch_function__(func, types, args, kwargs)
        if any(map(self._is_reached, (*args, *kwargs.values()))):
            _mark_reached(result)
        return result

    def _conv(self, func: Any, dims: int, fed: bool, **call: Any) -> Tensor:
        call["weight"] = self._seen(call["weight"])
        return super()._conv(func, dims, fed and _is_marked(call["input"]), **call)

    def _transposed_conv(self, func: Any, dims: int, fed: bool, **call: Any) -> Tensor:
        call["weight"] = self._seen(call["weight"])
        return super()._transposed_conv(func, dims, fed and _is_marked(call["input"]), **call)

    def _seen(self, weight: Tensor) -> Tensor:
        self.current = weight
        return weight

    def _pooled(self, weight: Tensor) -> Tensor:
        self.pooled_kernels.clear()  # a kernel may be another at its next call, or be wanted without its gradient
        return super()._pooled(weight)

    def _is_chosen(self, *call: Any) -> bool:
        return not self.functions and self._is_reached(self.current) and super()._is_chosen(*call)

    def _is_reached(self, value: Any) -> bool:
        if isinstance(value, list | tuple):
            return any(map(self._is_reached, value))
        trained = isinstance(value, nn.Parameter) and id(value) not in self.untrained
        return trained or getattr(value, "is_reached", False)

    @contextlib.contextmanager
    def inside_function(self) -> Iterator[None]:
        self.functions += 1
        try:
            yield
        finally:
            self.functions -= 1


def _is_marked(value: Any) -> bool:
    return bool(getattr(value, "is_fed_by_conv", False))


def _unmark(value: Tensor) -> None:
    """Take away what an earlier step's mode has written on it."""
    for mark in ("is_fed_by_conv", "is_reached"):
        vars(value).pop(mark, None)


def _mark_reached(value: Any) -> None:
    if isinstance(value, nn.Parameter):
        return  # written in place, as a momentum teacher's is: it is trained or it is not
    if isinstance(value, Tensor):
        value.is_reached = True  # type: ignore[attr-defined]
    elif isinstance(value, list | tuple):
        for each in value:
            _mark_reached(each)


class LowTruth:
    """What a training loop calls in place of the net, for low steps. In eval mode it is the plain model.

    downsample: images ``(N, C, *S)`` → ``(N, C, *⌈S/r⌉)``.
    restore: maps come back in the size that the model gives this batch.
    ``shadow`` is what the last train forward ran on.
    """

    def __init__(
        self,
        model: nn.Module,
        downsample: Callable[[Tensor], Tensor],
        images: tuple[int | str, ...],
        restore: bool = False,
    ) -> None:
        self.model, self.downsample, self.images, self.restore = model, downsample, images, restore
        self.untrained = frozenset(id(value) for value in model.parameters() if not value.requires_grad)
        self.shadow = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.model.training:
            return self.model(*args, **kwargs)
        self.shadow = shadow_of(self.model)
        low = Call(args, kwargs, self.images).mapped(self.downsample)
        mode = LowMode(self.untrained)
        with mode, _functions_told(mode), _scripts_told(), _without_checkpointing():
            outputs = self.shadow(*low.args, **low.kwargs)
        if not self.restore:
            return outputs
        with generators_at(0), torch.no_grad():
            whole = shadow_of(self.model)(*args, **kwargs)
        return _restored(outputs, whole)


def _restored(low: Any, whole: Any) -> Any:
    """``low`` with each of its maps in the size that it has in ``whole``."""
    if isinstance(low, Tensor) and low.ndim == 4 and low.shape != whole.shape:
        return F.interpolate(low, size=whole.shape[2:], mode="bilinear", align_corners=False)
    if isinstance(low, dict):
        return type(low)({name: _restored(value, whole[name]) for name, value in low.items()})
    if dataclasses.is_dataclass(low):
        names = [each.name for each in dataclasses.fields(low)]
        return type(low)(**{name: _restored(getattr(low, name), getattr(whole, name)) for name in names})
    return low


def shadow_of(model: nn.Module) -> nn.Module:
    """A deep copy over the model's own parameters and generators."""
    shared: dict[int, Any] = {}
    for value in model.parameters():
        shared[id(value)] = value
        _unmark(value)
    for module in model.modules():
        for value in [*vars(module).values(), *module._buffers.values()]:
            _share(value, shared)
    return copy.deepcopy(model, shared)


def _share(value: Any, shared: dict[int, Any]) -> None:
    """Generators move on with each draw; tensors within a graph can't be copied, and are not written to."""
    if isinstance(value, Tensor):
        _unmark(value)
        if value.grad_fn is not None:
            shared[id(value)] = value
    elif isinstance(value, GENERATORS):
        shared[id(value)] = value
    elif isinstance(value, dict):
        for each in value.values():
            _share(each, shared)
    elif isinstance(value, list | tuple) or type(value).__name__ == "deque":
        for each in value:
            _share(each, shared)


@contextlib.contextmanager
def _functions_told(mode: LowMode) -> Iterator[None]:
    """A function mode does not see ``Function.apply``, only what is called inside."""
    apply: Any = inspect.getattr_static(torch.autograd.Function, "apply")

    def told(cls: type, *args: Any, **kwargs: Any) -> Any:
        with mode.inside_function():
            return apply.__get__(None, cls)(*args, **kwargs)

    with mock.patch.object(torch.autograd.Function, "apply", classmethod(told)):
        yield


@contextlib.contextmanager
def _scripts_told() -> Iterator[None]:
    """Nor does it see what a scripted part does with maps: they have passed the convolutions that they had passed."""

    def told(part: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        if isinstance(part, torch.jit.ScriptModule) and any(map(_is_marked, args)):
            result.is_fed_by_conv = True

    handle = register_module_forward_hook(told)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _without_checkpointing() -> Iterator[None]:
    """Checkpointing saves memory and changes no value, so the truth does without."""

    def plain(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        names = ("use_reentrant", "context_fn", "determinism_check", "debug", "early_stop", "preserve_rng_state")
        return function(*args, **{name: value for name, value in options.items() if name not in names})

    with mock.patch.object(torch.utils.checkpoint, "checkpoint", plain):
        yield
