"""Low-mode without a graph: the model runs, and each convolution, pool and head is lowered as it is called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import nn

from lowmode_fx.capture.inputs import Leaf
from lowmode_fx.lowering.compiled_blocks import CompiledBlocks
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import Ladder, downsampler
from lowmode_fx.lowering.live.images import ImageArguments
from lowmode_fx.lowering.live.lookup import Lookup, constant_result
from lowmode_fx.lowering.live.mode import LowMode
from lowmode_fx.lowering.live.outputs import FullOutputs, Shapes, restore
from lowmode_fx.lowering.live.plan import make_plan
from lowmode_fx.lowering.live.recompute import recomputed_by
from lowmode_fx.lowering.live.resizing import resizing_module
from lowmode_fx.lowering.live.shadows import Shadows
from lowmode_fx.lowering.mode import Mode
from passes.preserve import ForwardAttributes
from passes.ratios import ratio_terms, side_ratios
from passes.torch_internals import leave_frames_of


class LiveLowering:
    """Runs a model in a low mode by its own code.

    ``run`` is one low-mode forward. ``forward`` is the part of it that ``torch.compile`` compiles: ``run`` prepares the
    model, calls ``callable`` (``forward``, unless it was replaced), and restores the model's state.
    """

    def __init__(self, ladder: Ladder, mode: Mode = Mode.LOW, *, downsample: bool = False) -> None:
        """``mode``: a low mode of the ladder. ``downsample``: images come at full size and are downsampled first."""
        rung = ladder.rung(mode)
        self.model = ladder.model
        self.callable: Callable[..., Any] = self.forward
        #: The blocks that are compiled one by one, if any are.
        self.blocks: CompiledBlocks | None = None
        self._rung = rung
        self._full_inputs = ladder.inputs
        self._images = ImageArguments(ladder.inputs)
        self._downsample = downsampler(rung.config) if downsample and rung.config.downsample_input else None
        self._isolate = rung.config.batchnorm == "isolate"
        self._lookup = Lookup(ladder.model, make_plan(ladder.full, rung.graph, rung.config, rung.report.passes))
        self._mode = LowMode(self._lookup)
        self._shadows = Shadows()
        self._attributes = ForwardAttributes()
        self._running = 0
        outputs = FullOutputs(ladder.model, ladder.full, ladder.inputs, rung.report.any_size)
        self._find_sizes = constant_result(outputs.sizes)

    @property
    def notes(self) -> list[str]:
        """Sites that low-mode has met and the build had not seen; each was a ``LiveLoweringWarning`` too, once."""
        return self._lookup.notes

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model in low-mode on downsampled images (on full-size images if ``downsample`` was set).

        The model's modules keep their train or eval modes.
        """
        leave_frames_of(LowMode.__torch_function__)
        modules = list(self.model.modules())
        self._lookup.follow(modules)
        self._mode.calls.clear()
        with self._around(modules), recomputed_by(self._reentrant):
            return self.callable(*args, **kwargs)

    def compiled_blocks(self, paths: Sequence[str], compiler: Callable[[Any], Callable[..., Any]]) -> CompiledBlocks:
        """The blocks at these paths, each kind compiled once by ``compiler`` for this mode."""
        lookup = self._lookup
        return CompiledBlocks(
            self.model, paths, compiler, lookup.kind_of_block, lambda: lookup.version, self._mode.in_block
        )

    def settle(self) -> None:
        """Restore the attributes that the last forward left for the loss of its step."""
        self._attributes.settle()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own forward under the mode, after ``run`` has prepared it."""
        shapes = self._images.shapes(args, kwargs) if self._rung.config.restore_output else ()
        if self._downsample is not None:
            args, kwargs = self._images.map(args, kwargs, self._downsample)
        with self._mode:
            outputs = self.model(*args, **kwargs)
        if not self._rung.config.restore_output:
            return outputs
        return restore(outputs, self._find_sizes(self._full_shapes(shapes) if self._downsample is None else shapes))

    def _full_shapes(self, shapes: Shapes) -> Shapes:
        """Shapes of a call before its images were downsampled to these shapes."""
        if not self._rung.config.downsample_input:
            return shapes
        leaves = zip(self._full_inputs.leaves, self._rung.inputs.leaves, shapes, strict=True)
        return tuple(_full_shape(full, low, shape, self._rung.config) for full, low, shape in leaves)

    @contextlib.contextmanager
    def _around(self, modules: Sequence[nn.Module], refresh: bool = True) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self._isolate:
                stack.enter_context(self._attributes.kept(modules))
                stack.enter_context(self._shadows.in_place(modules, refresh=refresh))
            if self.blocks is not None:  # after what keeps attributes, which would keep those of the blocks' calls too
                stack.enter_context(self.blocks.in_place())
            for path, edits in self._lookup.plan.modules.items():
                module = self._lookup.module_at(path)
                if module is not None:
                    next_edit = partial(self._mode.next, ("module", path), edits)
                    stack.enter_context(resizing_module(module, next_edit))
            self._running += 1
            try:
                yield
            finally:
                self._running -= 1

    def _reentrant(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A checkpointed function: its recomputation in the backward pass runs in low-mode again."""
        calls = dict(self._mode.calls)

        def again(*args: Any, **kwargs: Any) -> Any:
            if self._running:
                return function(*args, **kwargs)
            self._mode.calls.clear()
            self._mode.calls.update(calls)
            with self._around(list(self.model.modules()), refresh=False), recomputed_by(self._reentrant), self._mode:
                return function(*args, **kwargs)

        return again


def _full_shape(full: Leaf, low: Leaf, shape: tuple[int, ...], config: LowModeConfig) -> tuple[int, ...]:
    """The example's sides if the image has its low-mode's sides; otherwise the low sides times the ratio."""
    if not full.is_image:
        return shape
    if shape[2:] == low.shape[2:]:
        return (*shape[:2], *full.shape[2:])
    if config.size_multiple > 1:  # rounding can't be inverted: scale as the example's sides
        ratios = list(zip(full.shape[2:], low.shape[2:], strict=True))
    else:
        ratios = [ratio_terms(ratio) for ratio in side_ratios(config.ratio, len(shape) - 2)]
    return (*shape[:2], *(round(side * p / q) for side, (p, q) in zip(shape[2:], ratios, strict=True)))
