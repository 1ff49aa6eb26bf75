"""Records what a run computes, operator by operator, without computing it: storages hold symbolic values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lowmode_fx.capture.proof.complaints import NotProvable, running_place
from lowmode_fx.capture.proof.constants import Constants, constant
from lowmode_fx.capture.proof.results import Results
from lowmode_fx.capture.proof.values import Key, Values, key_of, layouts_of, values_in
from passes.torch_internals import autocast_depth
from passes.trees import tree_leaves

#: Norms that update running statistics, at these places, although their signatures do not show it.
_SILENT_WRITERS = ("aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::miopen_batch_norm")
_STATISTICS, _TRAINING = (3, 4), 5
_DEVICE_OF = torch.ops.prim.device.default


@dataclass(frozen=True)
class _Operator:
    """An overload's name, the same for ``add_`` and ``add``, and which of its arguments it writes to."""

    name: str
    written: tuple[int, ...]
    written_by_name: tuple[str, ...]
    silent_writer: bool
    copies_from: int | None
    draws: bool
    asks: bool

    def targets(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        places = (*self.written, *_STATISTICS) if self.silent_writer and args[_TRAINING] else self.written
        found = [args[place] for place in places if place < len(args)]
        found += [kwargs[name] for name in self.written_by_name if name in kwargs]
        flat = [each for value in found for each in (value if isinstance(value, list | tuple) else (value,))]
        return [each for each in flat if isinstance(each, Tensor)]


class Recorder(TorchDispatchMode):
    """A dispatch mode around everything that one side runs, above fake tensors.

    ``swap``: returns the fake for a real tensor that an operator gets. ``source_lines``: record which line of the
    model's source makes each value.
    """

    def __init__(self, values: Values, results: Results, swap: Callable[[Tensor], Tensor], source_lines: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = values
        #: Hooks that were called, values that were read, draws by generator, how often each value was computed.
        self.calls: list[str] = []
        self.asked: list[int] = []
        self.draws: Counter[str] = Counter()
        self.computed: Counter[int] = Counter()
        #: Why an operator raised last; a model may catch it and take a branch that it never takes on real values.
        self.refused = ""
        self._constants = Constants()
        self._results = results
        self._swap_real = swap
        self._source_lines = source_lines
        # Storages are kept as long as their values, so that ids are not reused.
        self._held: dict[int, tuple[torch.UntypedStorage, int]] = {}
        self._generators: dict[int, str] = {}

    def assign(self, tensor: Tensor, *expression: Key) -> None:
        """From now on the storage of ``tensor`` holds the value of ``expression``."""
        self._set(tensor.untyped_storage(), self.values.number(*expression))

    def assign_constant(self, tensor: Tensor, real: Tensor) -> None:
        """From now on the storage of ``tensor`` holds the value of the ``real`` one's."""
        self.assign(tensor, *constant(real))
        self._constants.keep(self._key(tensor)[1], real)

    def read(self, tensor: Tensor) -> tuple[str, int, int]:
        """What reading ``tensor`` gives, real or not: ``("tensor", value, geometry)``."""
        return self._key(self._swap(tensor))

    def knows(self, tensor: Tensor) -> bool:
        return id(tensor.untyped_storage()) in self._held

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _DEVICE_OF:  # autograd calls it all the time
            return args[0].device
        operator = _operator(func)
        try:
            return self._record(func, operator, args, kwargs or {})
        except Exception as error:
            self.refused = str(error) if isinstance(error, NotProvable) else f"{operator.name} raises"
            raise

    def _record(self, func: Any, operator: _Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if operator.name == "aten.lift_fresh":  # a tensor that Python data was made into
            result = func(*args, **kwargs)
            self.assign_constant(result, args[0])
            return result
        args, kwargs = self._swap(args), {name: self._swap(value) for name, value in kwargs.items()}
        expression = self._expression(operator, args, kwargs)
        if operator.asks:
            self.asked.append(self._key(args[0])[1])
        targets = operator.targets(args, kwargs)
        layouts = layouts_of(expression, self.values)
        result = func(*args, **kwargs) if layouts is None else self._results.of(func, args, kwargs, layouts)
        if operator.copies_from is not None and self._lies_as(result, args[operator.copies_from]):
            self._set(result.untyped_storage(), self._key(args[operator.copies_from])[1])
        else:
            self._note(expression, targets, result)
            if not (targets or operator.draws or operator.asks) and self._constants.hold(values_in(expression)):
                self._compute(func, args, kwargs, result)
        return result

    def _compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """A result that depends on constants only is a constant."""
        tensors = [each for each in tree_leaves((list(args), kwargs)) if isinstance(each, Tensor)]
        results = result if isinstance(result, list | tuple) else (result,)
        if any(_shares_memory(one, other) for one in results for other in tensors):
            return  # a view
        values = {id(each): self._key(each)[1] for each in tensors}
        found = self._constants.computed(func, args, kwargs, values, results)
        for fake, real in zip(results, found, strict=True) if found is not None else ():
            self.assign_constant(fake, real)

    def _expression(self, operator: _Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Key, ...]:
        expression: list[Key] = [operator.name, *(key_of(each, self._key) for each in args)]
        for name, value in kwargs.items():
            if name != "generator":
                expression += [name, key_of(value, self._key)]
        if blocks := autocast_depth():
            expression.append(("autocast", f"autocast entered, {blocks} deep,"))
        if operator.draws:
            generator = kwargs.get("generator") or torch.default_generator
            name = self._generator(generator)
            self.draws[name] += 1
            # A forward may seed a generator before it draws; draws of the proof do not advance it.
            expression += [("seed", generator.initial_seed()), ("draw", name, self.draws[name])]
        return tuple(expression)

    def _note(self, expression: tuple[Key, ...], targets: list[Tensor], result: Any) -> None:
        """New memory, and memory that was written to, holds the value of ``expression``."""
        results = result if isinstance(result, list | tuple) else (result,)
        fresh = [each for each in results if isinstance(each, Tensor) and not self.knows(each)]
        if not fresh and not targets:
            return  # a view, or plain numbers
        computed = self.values.number(*expression)
        self.computed[computed] += 1
        if self._source_lines:
            self.values.locate(computed, running_place())
        # The target of a write is also an argument: memory that is partly written keeps the rest.
        for place, tensor in enumerate([*targets, *fresh]):
            self._set(tensor.untyped_storage(), self.values.output(computed, place))

    def _lies_as(self, copied: Tensor, source: Tensor) -> bool:
        """Whether a copy, which fills its memory, has its elements in the same places."""
        same = self.values.geometry(copied) == self.values.geometry(source)
        nbytes = copied.untyped_storage().nbytes()
        return same and nbytes == source.untyped_storage().nbytes() == copied.numel() * copied.itemsize

    def _key(self, tensor: Tensor) -> tuple[str, int, int]:
        return ("tensor", self._held[id(tensor.untyped_storage())][1], self.values.geometry(tensor))

    def _set(self, storage: torch.UntypedStorage, value: int) -> None:
        self._held[id(storage)] = (storage, value)

    def _generator(self, generator: torch.Generator) -> str:
        if generator is torch.default_generator:
            return "torch's generator"
        return self._generators.setdefault(id(generator), f"generator {len(self._generators)}")

    def _swap(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value if self.knows(value) else self._swap_real(value)
        if type(value) in (list, tuple):
            return type(value)(self._swap(each) for each in value)
        return value


def _shares_memory(one: Any, other: Tensor) -> bool:
    return isinstance(one, Tensor) and one.untyped_storage() is other.untyped_storage()


@cache
def _operator(func: Any) -> _Operator:
    arguments = func._schema.arguments
    # Operators that turn a tensor into a view of itself write no element.
    views = torch.Tag.inplace_view in func.tags
    written = [not views and each.alias_info is not None and each.alias_info.is_write for each in arguments]
    name, _, overload = str(func).rpartition(".")
    if written[:1] == [True] and name.endswith("_") and not name.endswith("__"):
        name = name.removesuffix("_")
    pairs = list(zip(arguments, written, strict=True))
    return _Operator(
        name=name if overload == "default" else f"{name}.{overload}",
        written=tuple(place for place, (each, writes) in enumerate(pairs) if writes and not each.kwarg_only),
        written_by_name=tuple(each.name for each, writes in pairs if writes and each.kwarg_only),
        silent_writer=func._schema.name in _SILENT_WRITERS,
        copies_from={"aten::clone": 0, "aten::lift_fresh_copy": 0, "aten::copy_": 1}.get(func._schema.name),
        draws=torch.Tag.nondeterministic_seeded in func.tags,
        asks=func._schema.name == "aten::_local_scalar_dense",
    )
