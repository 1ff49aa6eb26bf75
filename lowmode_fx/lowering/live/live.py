"""Low-mode without a graph: the model itself runs, and each convolution, pool and head is lowered as it is called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from lowmode_fx.lowering.live.lookup import Lookup
from lowmode_fx.lowering.live.mode import LowMode, resized_call
from lowmode_fx.lowering.live.plan import Plan, Resize, make_plan
from lowmode_fx.lowering.live.recompute import recomputed_by
from lowmode_fx.lowering.live.shadows import Shadows
from lowmode_fx.lowering.pair import ModePair


class LiveLowering:
    """Runs a model in low-mode by its own code, whatever stands in its ``forward``.

    ``run`` is one low-mode forward. ``forward`` is the part of it that ``torch.compile`` takes: what ``run`` calls is
    ``callable``, which is ``forward`` unless something else is put there. ``notes`` are what low-mode has met that the
    build had not seen; each is also given as a ``LiveLoweringWarning``, once.
    """

    def __init__(self, model: nn.Module, plan: Plan, *, isolate: bool = True) -> None:
        """isolate: a low step leaves buffers as they are; else it updates them, as a full one does."""
        self.model = model
        self.callable: Callable[..., Any] = self.forward
        self._isolate = isolate
        self._lookup = Lookup(model, plan)
        self._mode = LowMode(self._lookup)
        self._shadows = Shadows()
        self._running = 0

    @classmethod
    def of(cls, pair: ModePair) -> LiveLowering:
        """What ``pair.low`` does, done live."""
        plan = make_plan(pair.full, pair.low, pair.config, pair.report.passes)
        return cls(pair.model, plan, isolate=pair.config.batchnorm == "isolate")

    @property
    def notes(self) -> list[str]:
        return self._lookup.notes

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns in low-mode for downsampled images, and other arguments as they are.

        The model is in train mode, or in whatever mode its modules are.
        """
        modules = list(self.model.modules())
        self._lookup.follow(modules)
        self._mode.calls.clear()
        with self._around(modules), recomputed_by(self._reentrant):
            return self.callable(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own forward under the mode; ``run`` has prepared it."""
        with self._mode:
            return self.model(*args, **kwargs)

    @contextlib.contextmanager
    def _around(self, modules: list[nn.Module], refresh: bool = True) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self._isolate:
                stack.enter_context(self._shadows.in_place(modules, refresh=refresh))
            for path, edits in self._lookup.plan.modules.items():
                stack.enter_context(_resizing(self._mode, self.model.get_submodule(path), path, edits))
            self._running += 1
            try:
                yield
            finally:
                self._running -= 1

    def _reentrant(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is checkpointed: called again in the backward pass, it runs in low-mode again."""
        calls = dict(self._mode.calls)

        def again(*args: Any, **kwargs: Any) -> Any:
            if self._running:
                return function(*args, **kwargs)
            self._mode.calls.clear()
            self._mode.calls.update(calls)
            with self._around(list(self.model.modules()), refresh=False), recomputed_by(self._reentrant), self._mode:
                return function(*args, **kwargs)

        return again


@contextlib.contextmanager
def _resizing(mode: LowMode, module: nn.Module, path: str, edits: tuple[Resize | None, ...]) -> Iterator[None]:
    """Inside, what the module takes or returns is resized as planned."""
    attributes = vars(module)
    forward, own = module.forward, "forward" in attributes

    def resized(*args: Any, **kwargs: Any) -> Any:
        return resized_call(forward, args, kwargs, mode.next(("module", path), edits))

    attributes["forward"] = resized
    try:
        yield
    finally:
        if own:
            attributes["forward"] = forward
        else:
            del attributes["forward"]
