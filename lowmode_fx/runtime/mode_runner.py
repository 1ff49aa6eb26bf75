"""The modes of a ladder as callables, each compiled once: what runs a step, whoever chose its mode."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import CppCompileError, GPUTooOldForTriton, InvalidCxxCompiler, TritonMissing

from lowmode_fx.lowering.downsampling import downsample
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.shape_guard import ShapeGuard, Shapes
from passes import bind_graph

Place = Literal["device", "host"]
#: What torch.compile raises where there is no compiler, or none that works.
COMPILER_ERRORS = (BackendCompilerFailed, InvalidCxxCompiler, CppCompileError, TritonMissing, GPUTooOldForTriton)


class ModeRunner:
    """Runs a ladder's graphs, through ``torch.compile`` where ``compile_options`` are given.

    Each mode is compiled for the first input shapes that it sees; other shapes (a ragged last batch) run the same graph
    uncompiled, so that nothing is ever compiled twice.
    """

    def __init__(
        self, ladder: Ladder, downsample_on: Place, compile_options: Mapping[str, Any] | None, guard: ShapeGuard
    ) -> None:
        self.graphs = {
            mode: downsampling_graph(ladder, mode) if downsample_on == "device" else ladder.graph(mode)
            for mode in ladder.modes
        }
        self._downsample_on = downsample_on
        self._guard = guard
        self._images = ladder.inputs.images[0]
        self._compiled_shapes: dict[Mode, Shapes] = {}
        self.compiled: dict[Mode, Callable[..., Any]] = {}
        if compile_options is not None:
            self.compiled = {
                mode: torch.compile(graph.forward, **compile_options) for mode, graph in self.graphs.items()
            }

    def run(self, mode: Mode, leaves: Sequence[Tensor]) -> Any:
        """One forward in ``mode`` on the tensors of a call, of full size or downsampled by the host already."""
        self._guard.check_size(mode, leaves[self._images], downsampled=self._downsample_on == "host")
        compiled = self.compiled.get(mode)
        if compiled is None:
            return self.graphs[mode](*leaves)
        shapes = tuple(leaf.shape for leaf in leaves)
        first = self._compiled_shapes.setdefault(mode, shapes)
        self._guard.note_shapes(mode, shapes, first)
        if shapes != first:
            return self.graphs[mode](*leaves)
        try:
            return compiled(*leaves)
        except COMPILER_ERRORS as error:
            self.compiled = {}
            cause = str(error).strip().splitlines()[0]
            warnings.warn(
                f"torch.compile does not work here, so all modes run uncompiled, slower and no less right: {cause}; "
                "compile=False says so without a warning",
                stacklevel=3,
            )
            return self.graphs[mode](*leaves)


def downsampling_graph(ladder: Ladder, mode: Mode) -> fx.GraphModule:
    """A mode's graph for full-size images ``(N, C, *S)``: downsampling comes first, compiled with the rest."""
    graph_module = ladder.graph(mode)
    if mode is Mode.FULL:
        return graph_module
    config = ladder.rung(mode).config
    graph = copy.deepcopy(graph_module.graph)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    if config.downsample_input:
        for place in ladder.inputs.images:
            images = placeholders[place]
            with graph.inserting_after(placeholders[-1]):
                smaller = graph.call_function(downsample, (images, config.ratio, config.input_method))
            images.replace_all_uses_with(smaller, delete_user_cb=lambda user, smaller=smaller: user is not smaller)
    return bind_graph(ladder.model, graph, type(graph_module).__name__)
