"""Runs a model whose blocks are compiled one by one, while the code between them runs as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import nn

from lowmode_fx.lowering.blocks import kind_of
from lowmode_fx.lowering.recomputed_masks import recompute_masks
from passes.preserve import same_items
from passes.torch_internals import at_least_recompilations, training_graphs_through, with_own_code

#: More compilations of one kind of block than torch allows for one function: each mode, batch or dtype has its own, and
#: so has each call of a block that counts its calls, until its mode runs uncompiled for that reason.
_EACH = 16
#: Enters what must hold while a block runs.
Around = Callable[[nn.Module], contextlib.AbstractContextManager[Any]]


class CompiledBlocks:
    """The blocks of a model in one mode; ``in_place`` makes the model call them compiled.

    Each kind of block has one compiled function, which takes the block as its first argument, so equal blocks share
    what is compiled. Only ``forward`` is compiled: hooks, and what shards a block, run outside.

    Args:
        model: The model.
        paths: Paths of the blocks, none inside another.
        compiler: ``torch.compile`` with its options.
        kind: What more two blocks must have in common; it is asked again when ``version`` changes.
        version: Changes when kinds may have changed.
        around: Entered around each call of a block.
    """

    def __init__(
        self,
        model: nn.Module,
        paths: Sequence[str],
        compiler: Callable[[Any], Callable[..., Any]],
        kind: Callable[[nn.Module], Hashable] = lambda block: None,
        version: Callable[[], int] = lambda: 0,
        around: Around = contextlib.nullcontext,
    ) -> None:
        self._model, self._paths = model, paths
        self._compiler = compiler
        self._kind, self._version, self._around = kind, version, around
        self._compiled: dict[Hashable, Callable[..., Any]] = {}
        self._calls: list[tuple[nn.Module, Callable[..., Any]]] = []
        self._seen: int | None = None
        #: The blocks, their classes and their own forwards, for which the calls are.
        self._known: list[Any] = []

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model's blocks run compiled."""
        calls = self._current()
        before = [vars(block).get("forward") for block, _ in calls]
        with at_least_recompilations(_EACH), training_graphs_through(recompute_masks):
            for block, call in calls:
                vars(block)["forward"] = call
            try:
                yield
            finally:
                for (block, _), own in zip(calls, before, strict=True):
                    if own is None:
                        vars(block).pop("forward", None)
                    else:
                        vars(block)["forward"] = own

    def _current(self) -> list[tuple[nn.Module, Callable[..., Any]]]:
        blocks = list(dict.fromkeys(map(self._model.get_submodule, self._paths)))
        version = self._version()
        now = [each for block in blocks for each in (block, type(block), _own_forward(block))]
        if version != self._seen or not same_items(now, self._known):
            self._seen, self._known = version, now
            self._calls = [(block, self._call_of(block)) for block in blocks]
        return self._calls

    def _call_of(self, block: nn.Module) -> Callable[..., Any]:
        own = _own_forward(block)
        key = (kind_of(block), own, self._kind(block))
        compiled = self._compiled.get(key)
        if compiled is None:
            function = type(block).forward if own is None else _ignoring_self(own)
            compiled = self._compiled[key] = self._compiler(with_own_code(function))
        call = _Call(self._run, compiled, block)
        call.own = own
        return call

    def _run(self, compiled: Callable[..., Any], block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with self._around(block):
            return compiled(block, *args, **kwargs)


class _Call(partial[Any]):
    """The call of a compiled block, in the place of ``own``: a forward of the block's own, if it has one."""

    own: Callable[..., Any] | None


def _own_forward(block: nn.Module) -> Callable[..., Any] | None:
    """The forward that someone has set on a block; recomputation may begin while ours is in its place."""
    found: Callable[..., Any] | None = vars(block).get("forward")
    return found.own if isinstance(found, _Call) else found


def _ignoring_self(forward: Callable[..., Any]) -> Callable[..., Any]:
    def called(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    return called
