"""Low-mode as a ``TorchFunctionMode``: it intercepts each convolution and pool, and does what is planned for it.

dynamo traces this code together with the model's; it evaluates only the functions of ``Lookup`` while it traces.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from lowmode_fx.lowering.live.lookup import FOREIGN, Lookup
from lowmode_fx.lowering.live.plan import ConvEdit, function_name
from lowmode_fx.lowering.live.resizing import resize, resized_call
from passes.calls import (
    AVG_POOL_ARGUMENTS,
    AVG_POOLS,
    CONVS,
    GLOBAL_AVG_POOLS,
    GLOBAL_MAX_POOLS,
    MAX_POOLS,
    ConvCall,
    conv_call,
    max_pool_call,
    named_arguments,
    spatial,
)
from passes.depthwise_gradient import convolve
from passes.pooled_calls import pooled_conv, run_pooled
from passes.pooling_rule import PoolingRule
from passes.torch_internals import frames_are_compiled

Edit = TypeVar("Edit")


class LowMode(TorchFunctionMode):
    """Inside, the model's calls are lowered.

    ``calls``: how often each place has made a call so far, where its calls have different edits; clear it before a
    forward.
    """

    def __init__(self, lookup: Lookup) -> None:
        super().__init__()
        self.calls: dict[Any, int] = {}
        self._lookup = lookup
        self._in_block = False
        plan = lookup.plan
        self._rule = plan.rule
        self._convs, self._max_pools, self._avg_pools = plan.convs, plan.max_pools, plan.avg_pools
        self._functions, self._padded_drops = plan.functions, plan.padded_drops
        self._handlers: dict[Any, Callable[..., Any]] = dict.fromkeys(CONVS, self._convolve)
        if plan.meets_max_pools:
            self._handlers |= dict.fromkeys(MAX_POOLS, self._max_pool)
        if plan.avg_pools:
            self._handlers |= dict.fromkeys(AVG_POOLS, self._avg_pool)
        if plan.padded_drops:
            self._handlers[F.pad] = self._pad
        self._handlers[checkpoint] = self._checkpoint
        self._resized_names = {name for _, name in plan.functions}
        self._other: Callable[..., Any] | None = self._resize if plan.functions else None
        self._apart: Callable[..., Any] | None = None
        self._convolutions: dict[Any, Callable[..., Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        handler = self._handlers.get(func, self._other)
        if handler is None:
            return func(*args, **kwargs)
        if torch.compiler.is_dynamo_compiling():
            return handler(func, args, kwargs)
        if frames_are_compiled():  # dynamo compiles frames of the model's own code here; it must skip these
            if self._apart is None:
                self._apart = torch.compiler.disable(self._run)
            return self._apart(handler, func, args, kwargs)
        return self._run(handler, func, args, kwargs)

    def _run(
        self, handler: Callable[..., Any], func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        if self._lookup.in_compiled_code():
            return func(*args, **kwargs)
        return handler(func, args, kwargs)

    def _checkpoint(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Checkpointing as dynamo sees it, which traces the function outside of this mode."""
        function, *rest = args

        def inside(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return func(inside, *rest, **kwargs)

    def _convolve(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        edit = self._edit_of(weight) if isinstance(weight, nn.Parameter) else None
        if not torch.is_grad_enabled() and self._lookup.find_function():
            return func(*args, **kwargs)
        if edit is not None and not edit.changes:
            return convolve(func, args, kwargs)
        if edit is None:
            edit = self._conv_at_place(func, args, kwargs)
        result = self._edited(func, args, kwargs, edit)
        return resize(result, edit.resized) if edit.resized else result

    @contextlib.contextmanager
    def in_block(self, block: nn.Module) -> Iterator[None]:
        """Inside, ``block`` runs compiled, by code that serves all blocks of its kind."""
        self._in_block, self._lookup.block = True, block
        try:
            yield
        finally:
            self._in_block, self._lookup.block = False, None

    def _edit_of(self, weight: nn.Parameter) -> ConvEdit | None:
        if self._in_block and torch.compiler.is_dynamo_compiling():
            edit = self._lookup.find_in_block(weight)
            if edit is not FOREIGN:
                return edit  # of its name in the block: dynamo installs no guard on the parameter itself
        return self._lookup.kernels.get(id(weight))

    def _edited(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], edit: ConvEdit) -> Any:
        if edit.stride is None and not edit.pooled:
            return convolve(func, args, kwargs)
        if kwargs or len(args) < 3 or list in map(type, args) or torch.compiler.is_dynamo_compiling():
            call = _conv_call(func, args, kwargs)
            return edited_conv(call, edit, self._rule)(call.input, call.weight, call.bias)
        # The replacement of a call like this is cached for the next step.
        input, weight, bias, *given = args
        key = (func, weight.shape, edit, *given)
        convolution = self._convolutions.get(key)
        if convolution is None:
            call = _conv_call(func, args, kwargs)
            convolution = self._convolutions[key] = edited_conv(call, edit, self._rule)
        return convolution(input, weight, bias)

    def _conv_at_place(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> ConvEdit:
        place = self._lookup.find_place()
        edits = None if place is None else self._convs.get(place)
        planned = self.next(("conv", place), edits) if edits else None
        call = _conv_call(func, args, kwargs)
        # The graph may treat as a constant what depends on a parameter after all.
        if planned is not None and not (planned.fixed and call.weight.requires_grad):
            return planned
        is_parameter = isinstance(call.weight, nn.Parameter)
        # What depends on no parameter and has not passed another convolution is the image.
        edit: ConvEdit = self._lookup.find_conv(
            place,
            id(call.weight) if is_parameter else None,
            call.weight_shape,
            call.stride,
            call.group_count,
            call.transposed,
            not call.input.requires_grad,
            call.weight.requires_grad,
        )
        return edit

    def _max_pool(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        place = self._lookup.find_place()
        edits = None if place is None else self._max_pools.get(place)
        edit = self.next(("max pool", place), edits) if edits else self._lookup.find_max_pool(place)
        if edit == "keep":
            return func(*args, **kwargs)
        call = max_pool_call(func, args, kwargs)
        assert call is not None
        return call.input if edit == "drop" else GLOBAL_MAX_POOLS[len(call.kernel)](call.input, 1)

    def _avg_pool(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        place = self._lookup.find_place()
        edits = None if place is None else self._avg_pools.get(place)
        if not edits or self.next(("average pool", place), edits) == "keep":
            return func(*args, **kwargs)
        given, dims = named_arguments(AVG_POOL_ARGUMENTS, args, kwargs), AVG_POOLS[func]
        result = GLOBAL_AVG_POOLS[dims](given["input"], 1)
        divisor = given.get("divisor_override")
        return result * (math.prod(spatial(given["kernel_size"], dims)) / divisor) if divisor else result

    def _pad(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if self._lookup.find_place() in self._padded_drops:
            return args[0] if args else kwargs["input"]
        return func(*args, **kwargs)

    def _resize(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if function_name(func) not in self._resized_names:
            return func(*args, **kwargs)
        module = self._lookup.find_place()
        place = (module or "", function_name(func))
        edits = None if module is None else self._functions.get(place)
        edit = self.next(place, edits) if edits else None
        return resized_call(func, args, kwargs, edit)

    def next(self, place: Any, edits: Sequence[Edit]) -> Edit:
        if len(edits) == 1:
            return edits[0]
        at = self.calls.get(place, 0)
        self.calls[place] = at + 1
        return edits[min(at, len(edits) - 1)]


def edited_conv(call: ConvCall[Tensor], edit: ConvEdit, rule: PoolingRule) -> Callable[..., Tensor]:
    """The replacement of a convolution, as the low graph's nodes compute it: a function of input, kernel and bias."""
    restrided = call if edit.stride is None else replace(call, stride=edit.stride)
    if edit.pooled:
        return partial(run_pooled, pooled_conv(restrided, rule))
    padding = tuple(before for before, _ in call.padding)  # as much as after, where there is another stride
    return partial(_convolve, call.function, (restrided.stride, padding, call.dilation, call.groups))


def _convolve(
    function: Callable[..., Tensor], arguments: Sequence[Any], input: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    return function(input, weight, bias, *arguments)


def _conv_call(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> ConvCall[Tensor]:
    call = conv_call(func, args, kwargs, _shape)
    assert call is not None
    return call


def _shape(weight: Tensor) -> tuple[int, ...]:
    return tuple(weight.shape)
