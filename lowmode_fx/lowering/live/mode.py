"""Low-mode as a ``TorchFunctionMode``: it meets each convolution and pool as it is called, and does what is planned.

dynamo traces this code, as it does the model's; only the questions that ``Lookup`` answers are asked while it traces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from lowmode_fx.lowering.live.lookup import Lookup
from lowmode_fx.lowering.live.plan import ConvEdit, Sizes, function_name
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
from passes.pooled_calls import conv_geometry, transposed_geometry
from passes.pooling_rule import PoolingRule

Edit = TypeVar("Edit")


class LowMode(TorchFunctionMode):
    """Inside, a model's calls are low-mode's.

    ``calls``: how often each place has called so far, where its calls are treated differently; empty it before a
    forward.
    """

    def __init__(self, lookup: Lookup) -> None:
        super().__init__()
        self.calls: dict[Any, int] = {}
        self._lookup = lookup
        plan = lookup.plan
        self._rule = plan.rule
        self._convs, self._max_pools, self._avg_pools = plan.convs, plan.max_pools, plan.avg_pools
        self._meets_max_pools, self._padded_drops = plan.meets_max_pools, plan.padded_drops
        self._functions = plan.functions
        self._function_names = {name for _, name in plan.functions}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in CONVS:
            return self._convolve(func, args, kwargs)
        if self._meets_max_pools and func in MAX_POOLS:
            return self._max_pool(func, args, kwargs)
        if self._avg_pools and func in AVG_POOLS:
            return self._avg_pool(func, args, kwargs)
        if self._padded_drops and func is F.pad and self._lookup.find_place() in self._padded_drops:
            return args[0] if args else kwargs["input"]
        if func is checkpoint:  # as dynamo sees it, which traces the function outside of this mode
            function, *rest = args
            return func(self._inside(function), *rest, **kwargs)
        if self._function_names and function_name(func) in self._function_names:
            return self._resized(func, args, kwargs)
        return func(*args, **kwargs)

    def _inside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return inside

    def _convolve(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        edit = self._lookup.kernels.get(id(weight)) if isinstance(weight, nn.Parameter) else None
        if edit is not None and not edit.changes:
            return func(*args, **kwargs)
        if not torch.is_grad_enabled() and self._lookup.find_function():
            return func(*args, **kwargs)
        call = conv_call(func, args, kwargs, _shape)
        assert call is not None
        if edit is None:
            edit = self._conv_at_place(call)
        called_alike = edit.stride is None and edit.pooled is None
        result = func(*args, **kwargs) if called_alike else apply_edit(call, edit, self._rule)
        return resize(result, edit.resized) if edit.resized else result

    def _conv_at_place(self, call: ConvCall[Tensor]) -> ConvEdit:
        place = self._lookup.find_place()
        edits = self._convs.get(place)
        if edits:
            return self.next(("conv", place), edits)
        is_parameter = isinstance(call.weight, nn.Parameter)
        # What depends on no parameter and has passed no other convolution is the image.
        edit: ConvEdit = self._lookup.find_conv(
            place,
            id(call.weight) if is_parameter else None,
            call.weight_shape,
            call.stride,
            call.group_count,
            call.transposed,
            not call.input.requires_grad,
            is_parameter or call.weight.requires_grad,
        )
        return edit

    def _max_pool(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        place = self._lookup.find_place()
        edits = self._max_pools.get(place)
        edit = self.next(("max pool", place), edits) if edits else self._lookup.find_max_pool(place)
        if edit == "keep":
            return func(*args, **kwargs)
        call = max_pool_call(func, args, kwargs)
        assert call is not None
        return call.input if edit == "drop" else GLOBAL_MAX_POOLS[len(call.kernel)](call.input, 1)

    def _avg_pool(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        place = self._lookup.find_place()
        edits = self._avg_pools.get(place)
        if not edits or self.next(("average pool", place), edits) == "keep":
            return func(*args, **kwargs)
        given, dims = named_arguments(AVG_POOL_ARGUMENTS, args, kwargs), AVG_POOLS[func]
        result = GLOBAL_AVG_POOLS[dims](given["input"], 1)
        divisor = given.get("divisor_override")
        return result * (math.prod(spatial(given["kernel_size"], dims)) / divisor) if divisor else result

    def _resized(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        place = (self._lookup.find_place(), function_name(func))
        edits = self._functions.get(place)
        edit = self.next(place, edits) if edits else None
        return resized_call(func, args, kwargs, edit)

    def next(self, place: Any, edits: Sequence[Edit]) -> Edit:
        if len(edits) == 1:
            return edits[0]
        at = self.calls.get(place, 0)
        self.calls[place] = at + 1
        return edits[min(at, len(edits) - 1)]


def apply_edit(call: ConvCall[Tensor], edit: ConvEdit, rule: PoolingRule) -> Tensor:
    """The convolution with its low-mode stride and its pooled kernel: the calls that the low graph's nodes make."""
    stride = edit.stride or call.stride
    if edit.pooled is None:
        padding: Sizes = tuple(before for before, _ in call.padding)
        return call.function(call.input, call.weight, call.bias, stride, padding, call.dilation, call.groups)
    function, arguments = rule.kernel_call(edit.pooled)
    weight = function(call.weight, *arguments)
    if call.transposed:
        return _pooled_transposed(call, weight, edit.pooled)
    pad, padding = conv_geometry(call, edit.pooled)
    source = call.input if pad is None else F.pad(call.input, list(pad))
    return call.function(source, weight, call.bias, stride, padding, call.dilation, call.groups)


def _pooled_transposed(call: ConvCall[Tensor], weight: Tensor, pooled: Sizes) -> Tensor:
    padding, output_padding, margins = transposed_geometry(call, pooled)
    bias = call.bias if margins is None else None
    result = call.function(call.input, weight, bias, call.stride, padding, output_padding, call.groups, call.dilation)
    if margins is None:
        return result
    padded = F.pad(result, list(margins))
    return padded if call.bias is None else padded + call.bias.view(-1, *(1,) * len(pooled))


def _shape(weight: Tensor) -> tuple[int, ...]:
    return tuple(weight.shape)
