"""The modes of a ladder, each compiled once: what runs a step, whoever chose its mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.networks import Compiler, Network, network
from lowmode_fx.runtime.recompilation import RecompilationGuard
from lowmode_fx.runtime.shape_guard import ShapeGuard, Shapes
from passes.torch_internals import (
    backward_compiled_at_once,
    can_compile,
    compiler_complaint,
    compiler_errors,
    hooks_guarded,
)
from passes.trees import call_leaves

Place = Literal["device", "host"]


class ModeRunner:
    """Runs the modes of a ladder, through ``torch.compile`` where ``compile_options`` are given.

    Each is compiled for the first input shapes that it sees; other shapes (a ragged last batch) run uncompiled, so that
    nothing is ever compiled twice, unless the model is changed: that is told, and bounded. A mode that the compiler
    fails in runs uncompiled from then on, which is told once.
    """

    def __init__(
        self, ladder: Ladder, downsample_on: Place, compile_options: Mapping[str, Any] | None, guard: ShapeGuard
    ) -> None:
        self.networks: dict[Mode, Network] = {
            mode: network(ladder, mode, downsample=downsample_on == "device") for mode in ladder.modes
        }
        self._ladder = ladder
        self._downsampled = downsample_on == "host"
        self._guard = guard
        self._recompilations = RecompilationGuard(ladder.model)
        self._compiled_shapes: dict[Mode, Shapes] = {}
        self.compiled: dict[Mode, Callable[..., Any]] = {}
        self._compiler: Compiler | None = None
        if compile_options is not None:
            self.compile_like(partial(torch.compile, **compile_options))

    @property
    def uncompiled(self) -> tuple[Mode, ...]:
        """The modes that run uncompiled, as was asked for or as the compiler failed."""
        return tuple(mode for mode in self.networks if mode not in self.compiled)

    def compile_like(self, compiler: Compiler | None) -> None:
        """Compile each mode as ``compiler`` does, a user's own ``torch.compile`` maybe; the first one stays."""
        if compiler is not None and self._compiler is None:
            self._compiler = compiler
            self.compiled = {mode: each.compile(compiler) for mode, each in self.networks.items()}

    def settle(self) -> None:
        """A step is over: nothing that a low one has left for its loss stays on the model."""
        for each in self.networks.values():
            each.settle()

    def run(self, mode: Mode, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """One forward in ``mode`` of a call of the model, images of full size or downsampled by the host already."""
        if mode is not Mode.FULL and not self._ladder.live:
            inputs = self._ladder.inputs.flatten(self._ladder.model, args, kwargs)
            self._guard.check_size(mode, inputs[self._ladder.inputs.images[0]], self._downsampled)
        compiled = self.compiled.get(mode)
        if compiled is None:
            return self.networks[mode](*args, **kwargs)
        leaves = [leaf for leaf in call_leaves(args, kwargs) if isinstance(leaf, Tensor)]
        shapes = tuple(leaf.shape for leaf in leaves)
        first = self._compiled_shapes.setdefault(mode, shapes)
        self._guard.note_shapes(mode, shapes, first)
        if shapes != first or self._recompilations.must_not_run(mode):
            return self.networks[mode](*args, **kwargs)
        try:
            with hooks_guarded(), backward_compiled_at_once():
                return self._recompilations.run(mode, compiled, args, kwargs)
        except compiler_errors() as error:
            self._run_uncompiled(mode, error, {leaf.device for leaf in leaves})
            return self.networks[mode](*args, **kwargs)

    def _run_uncompiled(self, mode: Mode, error: Exception, devices: set[torch.device]) -> None:
        """From now on ``mode`` does; and every other one, where the compiler fails whatever it is given."""
        cause = compiler_complaint(error)
        if self._compiler is not None and all(can_compile(self._compiler, device) for device in devices):
            del self.compiled[mode]
            what = f"torch.compile failed in {mode}-mode, so this mode runs uncompiled"
        else:
            self.compiled = {}
            what = "torch.compile does not work here, so all modes run uncompiled"
        warnings.warn(
            f"{what}, slower and no less right: {cause}; compile=False has all modes so, without a warning",
            stacklevel=4,
        )
