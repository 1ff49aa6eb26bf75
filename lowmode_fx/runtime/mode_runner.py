"""The modes of a ladder, each compiled once: what runs a step, whoever chose its mode."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import CppCompileError, GPUTooOldForTriton, InvalidCxxCompiler, TritonMissing
from torch.utils._pytree import tree_leaves

from lowmode_fx.lowering.downsampling import downsample
from lowmode_fx.lowering.ladder import Ladder, Rung
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.shape_guard import ShapeGuard, Shapes
from passes import bind_graph

Place = Literal["device", "host"]
#: What torch.compile raises where there is no compiler, or none that works.
COMPILER_ERRORS = (BackendCompilerFailed, InvalidCxxCompiler, CppCompileError, TritonMissing, GPUTooOldForTriton)


class ModeRunner:
    """Runs the modes of a ladder, through ``torch.compile`` where ``compile_options`` are given.

    Full-mode is the model itself, whatever stands in its ``forward``; a low mode is its rung's graph. Each is compiled
    for the first input shapes that it sees; other shapes (a ragged last batch) run uncompiled, so that nothing is ever
    compiled twice.
    """

    def __init__(
        self, ladder: Ladder, downsample_on: Place, compile_options: Mapping[str, Any] | None, guard: ShapeGuard
    ) -> None:
        self.ladder = ladder
        self.networks: dict[Mode, nn.Module] = {Mode.FULL: ladder.model}
        for rung in ladder.rungs:
            on_device = downsample_on == "device"
            self.networks[rung.mode] = downsampling_graph(ladder, rung) if on_device else rung.graph_module
        self._downsampled = downsample_on == "host"
        self._guard = guard
        self._compiled_shapes: dict[Mode, Shapes] = {}
        self.compiled: dict[Mode, Callable[..., Any]] = {}
        if compile_options is not None:
            for mode, network in self.networks.items():
                # The model as it is called, its hooks included; a graph has none of its own.
                function = network if mode is Mode.FULL else network.forward
                self.compiled[mode] = torch.compile(function, **compile_options)

    def run(self, mode: Mode, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """One forward in ``mode`` of a call of the model, images of full size or downsampled by the host already."""
        if mode is not Mode.FULL:
            args, kwargs = tuple(self.ladder.inputs.flatten(self.ladder.model, args, kwargs)), {}
            self._guard.check_size(mode, args[self.ladder.inputs.images[0]], self._downsampled)
        compiled = self.compiled.get(mode)
        if compiled is None:
            return self.networks[mode](*args, **kwargs)
        shapes = tuple(leaf.shape for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        first = self._compiled_shapes.setdefault(mode, shapes)
        self._guard.note_shapes(mode, shapes, first)
        if shapes != first:
            return self.networks[mode](*args, **kwargs)
        try:
            return compiled(*args, **kwargs)
        except COMPILER_ERRORS as error:
            self.compiled = {}
            cause = str(error).strip().splitlines()[0]
            warnings.warn(
                f"torch.compile does not work here, so all modes run uncompiled, slower and no less right: {cause}; "
                "compile=False says so without a warning",
                stacklevel=3,
            )
            return self.networks[mode](*args, **kwargs)


def downsampling_graph(ladder: Ladder, rung: Rung) -> fx.GraphModule:
    """A rung's graph for full-size images ``(N, C, *S)``: downsampling comes first, compiled with the rest."""
    graph, config = copy.deepcopy(rung.graph), rung.config
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    if config.downsample_input:
        for place in ladder.inputs.images:
            images = placeholders[place]
            with graph.inserting_after(placeholders[-1]):
                smaller = graph.call_function(downsample, (images, config.ratio, config.input_method))
            images.replace_all_uses_with(smaller, delete_user_cb=lambda user, smaller=smaller: user is not smaller)
    return bind_graph(ladder.model, graph, f"{type(ladder.model).__name__}Low")
