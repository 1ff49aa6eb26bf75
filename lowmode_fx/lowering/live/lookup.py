"""Finds what is planned for a call: by the parameter that is its kernel, or by the place that makes the call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from types import CodeType
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from lowmode_fx.lowering.live.place import calling_module, custom_function, in_compiled_code
from lowmode_fx.lowering.live.plan import KEEP, ConvEdit, Plan, PoolEdit
from passes.calls import ConvCall, spatial
from passes.match import is_convolution
from passes.patterns import matches
from passes.preserve import same_items
from passes.wording import sides

Thing = TypeVar("Thing")
#: The answer for a parameter that is not the running block's own.
FOREIGN: Literal[False] = False


class LiveLoweringWarning(UserWarning):
    """Low-mode met a convolution or max pool that the build had not seen, or one that it can't lower."""


class Lookup:
    """What is planned for the calls of ``model``, as the model is now.

    A module or a parameter that was there at the build keeps its plan, even under another name; a new one in its place
    takes over that plan.

    ``kernels``: edits by the ``id`` of the kernel parameter. ``notes``: the warnings so far, one line each. dynamo
    evaluates the functions whose names start with ``find`` once, while it traces, and treats the results as constants.
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.model = model
        self.plan = plan
        self.kernels: dict[int, ConvEdit] = {}
        self.notes: list[str] = []
        #: The compiled block that runs now, if one does, and a number that changes with modules and parameters.
        self.block: nn.Module | None = None
        self.version = 0
        # References to what was there at the build, and in the last step, keep their ids from being reused.
        self._built_modules = _Names(model.named_modules())
        self._built_parameters = _Names(model.named_parameters(remove_duplicate=False))
        self._known: tuple[Sequence[Any], Sequence[Any]] = ((), ())
        #: By the id of a module, its path at the build (or that of the module whose place it has taken), and now; and
        #: the modules by the former.
        self._places: Mapping[int, str] = {}
        self._paths: Mapping[int, str] = {}
        self._standing: Mapping[str, nn.Module] = {}
        self._plain: set[CodeType] = set()
        self.find_in_block = constant_result(self._find_in_block)
        self.find_place = constant_result(self._find_place)
        self.find_function = constant_result(self._find_function)
        self.find_conv = constant_result(self._find_conv)
        self.find_max_pool = constant_result(self._find_max_pool)

    def follow(self, modules: Sequence[nn.Module]) -> None:
        """Update the lookup for modules and parameters that were replaced since the last step.

        ``modules``: all modules of the model, in order.
        """
        parameters = [value for module in modules for value in module._parameters.values()]
        known_modules, known_parameters = self._known
        if same_items(modules, known_modules) and same_items(parameters, known_parameters):
            return
        self._known = (list(modules), parameters)
        self.version += 1
        named_modules = list(self.model.named_modules())
        self._paths = {id(module): path for path, module in named_modules}
        self._places = self._built_modules.of(named_modules)
        standing: dict[str, nn.Module] = {}
        for _, module in named_modules:
            if id(module) in self._places:
                standing.setdefault(self._places[id(module)], module)
        self._standing = standing
        names = self._built_parameters.of(self.model.named_parameters(remove_duplicate=False))
        kernels = self.plan.kernels
        self.kernels = {identity: kernels[name] for identity, name in names.items() if name in kernels}

    def module_at(self, place: str) -> nn.Module | None:
        """The module that is at a planned place now; ``None`` if it is gone."""
        return self._standing.get(place)

    def kind_of_block(self, block: nn.Module) -> Hashable:
        """What is planned for a block, by names within it: blocks with the same plan can share compiled code."""
        own: list[Hashable] = []
        for path, module in block.named_modules():
            place = self._places.get(id(module))
            planned = None if place is None else self.plan.at(place)
            if planned is not None and not planned.is_alike:
                return id(block)  # its calls are counted by place
            kernels = tuple(self._planned(place, name, value) for name, value in module._parameters.items())
            own.append((path, planned, kernels, self.plan.matching(self._paths.get(id(module), ""))))
        return tuple(own)

    def _planned(self, place: str | None, name: str, parameter: nn.Parameter | None) -> ConvEdit | None:
        """What is planned for the parameter of a module, or for the one that a sharded layer gathers in its place."""
        known = self.kernels.get(id(parameter))
        return known if known is not None or place is None else self.plan.kernels.get(f"{place}.{name}")

    def _find_in_block(self, weight: nn.Parameter) -> ConvEdit | Literal[False] | None:
        """What is planned for a kernel of the block that runs; ``FOREIGN`` if the block does not hold it."""
        for module in self.block.modules() if self.block is not None else ():
            for name, value in module._parameters.items():
                if value is weight:
                    return self._planned(self._places.get(id(module)), name, value)
        return FOREIGN

    def in_compiled_code(self) -> bool:
        """Whether compiled code makes the call that the mode intercepts."""
        return in_compiled_code(self._paths, self._plain)

    def _find_place(self) -> str | None:
        """The place that makes the call, by its name at the build; ``None`` for one that the build has not seen."""
        module = calling_module(self._paths)
        return None if module is None else self._places.get(module)

    def _find_path(self) -> str:
        """Path of the module that makes the call, as the model is now; empty if it can't be found."""
        module = calling_module(self._paths)
        return "" if module is None else self._paths[module]

    def _find_function(self) -> bool:
        """Whether a convolution stands in a custom ``autograd.Function``, whose backward is for the full kernel."""
        function = custom_function()
        if function is not None:
            self._tell(
                f"convolutions in the custom autograd.Function {function.__name__} keep their kernels: "
                "its backward is written for the full kernels"
            )
        return function is not None

    def _find_conv(
        self,
        place: str | None,
        kernel_id: int | None,
        weight_shape: tuple[int, ...],
        stride: tuple[int, ...],
        groups: int,
        transposed: bool,
        stem: bool,
        trained: bool,
    ) -> ConvEdit:
        """Apply the rules of the passes to a call that is not in their graphs."""
        if self._is_whole(place):
            return KEEP
        planned = self.plan.kernels.get(f"{place}.weight")
        if planned is not None:  # a parameter at the build, and computed since: pruned, normalised
            return planned
        name = self._conv_name(self._find_path(), kernel_id)
        wanted = [given for glob, given in self.plan.strides.items() if matches(name, glob)]
        given = spatial(wanted[-1], len(weight_shape) - 2) if wanted else None
        call = _described(weight_shape, given or stride, groups, transposed)
        reason = self.plan.rule.reason_to_keep(call, name, stem=stem, trained=trained)
        what = f"kept ({reason})" if reason else f"pooled to {sides(self.plan.rule.pooled(call.kernel))}"
        if max(call.kernel) > 1:
            self._tell(
                f"the convolution {_shown(name)} was not seen at the build: its {sides(call.kernel)} kernel is {what}"
            )
        return ConvEdit(given, reason is None)

    def _find_max_pool(self, place: str | None) -> PoolEdit:
        if self._is_whole(place):
            return "keep"
        which, name = self.plan.drop_maxpools, self._find_path()
        dropped = which == "all" or (not isinstance(which, str) and any(matches(name, glob) for glob in which))
        what = "dropped" if dropped else "kept"
        self._tell(f"the max pool {_shown(name)} was not seen at the build: it is {what}")
        return "drop" if dropped else "keep"

    def _is_whole(self, place: str | None) -> bool:
        return place is not None and any(matches(place, whole) for whole in self.plan.whole)

    def _conv_name(self, path: str, kernel_id: int | None) -> str:
        """The site's name as the passes choose it: the module that convolves, or the one that holds the kernel."""
        if path and is_convolution(self.model.get_submodule(path)):
            return path
        owner = next((name for name, value in self.model.named_parameters() if id(value) == kernel_id), "")
        return owner.rpartition(".")[0] or path

    def _tell(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
            warnings.warn(note, LiveLoweringWarning, stacklevel=2)


class _Names:
    """The names that objects had at the build."""

    def __init__(self, named: Iterable[tuple[str, Any]]) -> None:
        self._held = list(named)
        self._names: dict[int, str] = {}
        for name, thing in self._held:
            self._names.setdefault(id(thing), name)

    def of(self, named: Iterable[tuple[str, Any]]) -> dict[int, str]:
        """Map the id of each current object to its name at the build; a new object gets the name it takes over."""
        now = list(named)
        there = {id(thing) for _, thing in now}
        taken = {name for name, thing in self._held if id(thing) in there}
        found: dict[int, str] = {}
        for name, thing in now:
            if id(thing) in self._names:
                found[id(thing)] = self._names[id(thing)]
            elif name not in taken:
                found.setdefault(id(thing), name)
        return found


def constant_result(function: Callable[..., Thing]) -> Callable[..., Thing]:
    """``function`` in a form that dynamo evaluates while it traces, and whose result it treats as a constant."""

    def answer(*args: Any) -> Thing:
        return function(*args)

    constant: Callable[..., Thing] = torch.compiler.assume_constant_result(answer)
    return constant


def _described(weight_shape: tuple[int, ...], stride: tuple[int, ...], groups: int, transposed: bool) -> ConvCall[None]:
    dims = len(weight_shape) - 2
    return ConvCall(
        function=torch.convolution,
        transposed=transposed,
        input=None,
        weight=None,
        bias=None,
        weight_shape=weight_shape,
        stride=stride,
        padding=((0, 0),) * dims,
        dilation=(1,) * dims,
        groups=groups,
        group_count=groups,
        output_padding=(0,) * dims,
    )


def _shown(path: str) -> str:
    return path or "in the model's own forward"
