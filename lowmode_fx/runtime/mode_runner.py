"""The modes of a ladder, each compiled once: what runs a step, whoever chose its mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.networks import Compiler, Network, network
from lowmode_fx.runtime.recompilation import RecompilationGuard
from lowmode_fx.runtime.shape_guard import ShapeGuard, Shapes
from passes.preserve.generators import generator_restorers
from passes.preserve.restorers import Restorer, restore_all
from passes.preserve.values import value_restorers
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
    nothing is ever compiled twice, unless the model is changed: that is told, and bounded. ``blocks``, where given, are
    compiled one by one, equal ones once. A mode whose compilation fails runs uncompiled from then on, with one warning.
    """

    def __init__(
        self,
        ladder: Ladder,
        downsample_on: Place,
        compile_options: Mapping[str, Any] | None,
        guard: ShapeGuard,
        blocks: Sequence[str] = (),
    ) -> None:
        self.networks: dict[Mode, Network] = {
            mode: network(ladder, mode, downsample=downsample_on == "device") for mode in ladder.modes
        }
        self._ladder = ladder
        self._downsampled = downsample_on == "host"
        self._guard = guard
        self._blocks = tuple(blocks)
        self._recompilations = RecompilationGuard(ladder.model)
        self._compiled_shapes: dict[Mode, Shapes] = {}
        self.compiled: dict[Mode, Callable[..., Any]] = {}
        self._compiler: Compiler | None = None
        if compile_options is not None:
            self.compile_like(partial(torch.compile, **compile_options))

    @property
    def uncompiled(self) -> tuple[Mode, ...]:
        """The modes that run uncompiled, on request or because their compilation failed."""
        return tuple(mode for mode in self.networks if mode not in self.compiled)

    def compile_like(self, compiler: Compiler | None) -> None:
        """Compile every mode with ``compiler``, unless a compiler was given before."""
        if compiler is not None and self._compiler is None:
            self._compiler = compiler
            self.compiled = {mode: each.compile(compiler, self._blocks) for mode, each in self.networks.items()}

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
        undo: list[Restorer] = []
        if mode not in self._compiled_shapes:  # it is compiled now
            undo = [*generator_restorers(), *value_restorers(self._ladder.model.buffers())]
        first = self._compiled_shapes.setdefault(mode, shapes)
        self._guard.note_shapes(mode, shapes, first)
        if shapes != first or self._recompilations.must_not_run(mode):
            return self.networks[mode](*args, **kwargs)
        try:
            with hooks_guarded(), backward_compiled_at_once():
                return self._recompilations.run(mode, compiled, args, kwargs)
        except compiler_errors() as error:
            self._stop_compiling(mode, error, {leaf.device for leaf in leaves})
            restore_all(undo)  # parts of the forward may have run before the one that doesn't compile
            return self.networks[mode](*args, **kwargs)

    def _stop_compiling(self, mode: Mode, error: Exception, devices: set[torch.device]) -> None:
        """Run ``mode`` uncompiled from now on; all modes, if the compiler can't compile anything on these devices."""
        cause = compiler_complaint(error)
        if self._compiler is not None and all(can_compile(self._compiler, device) for device in devices):
            del self.compiled[mode]
            what = f"torch.compile failed in {mode}-mode, so this mode runs uncompiled"
        else:
            self.compiled = {}
            what = "torch.compile does not work here, so all modes run uncompiled"
        warnings.warn(
            f"{what}, slower, with the same results: {cause}; compile=False runs all modes so, without a warning",
            stacklevel=4,
        )
