"""What runs a mode: the model itself in full-mode; live lowering of the model, or a rung's graph, in a low mode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import fx, nn

from lowmode_fx.lowering.compiled_blocks import CompiledBlocks
from lowmode_fx.lowering.downsampling import downsample
from lowmode_fx.lowering.ladder import Ladder, Rung
from lowmode_fx.lowering.live import LiveLowering
from lowmode_fx.lowering.live.recompute import recomputed_by
from lowmode_fx.lowering.live.shadows import Shadows
from lowmode_fx.lowering.mode import Mode
from passes import bind_graph
from passes.preserve import ForwardAttributes
from passes.torch_internals import with_own_code

#: Compiles a function or a module, as ``torch.compile`` does.
Compiler = Callable[[Any], Callable[..., Any]]


class Network(Protocol):
    """One mode of a model, which is called with the model's arguments."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the mode uncompiled."""
        ...

    def compile(self, compiler: Compiler = torch.compile, blocks: Sequence[str] = ()) -> Callable[..., Any]:
        """The same, compiled by ``compiler``: ``torch.compile`` with its options.

        ``blocks``: paths of modules that are compiled one by one, instead of the whole.
        """
        ...

    def settle(self) -> None:
        """End the step: restore what its forward left for the training loop to read."""


class FullNetwork:
    """The model itself with its hooks."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._model(*args, **kwargs)

    def compile(self, compiler: Compiler = torch.compile, blocks: Sequence[str] = ()) -> Callable[..., Any]:
        if not blocks:
            return compiler(self._model)
        compiled = CompiledBlocks(self._model, blocks, compiler)

        def again(function: Callable[..., Any]) -> Callable[..., Any]:
            """A checkpointed function, whose recomputation calls the same blocks."""

            def recomputed(*args: Any, **kwargs: Any) -> Any:
                with compiled.in_place(), recomputed_by(again):
                    return function(*args, **kwargs)

            return recomputed

        def run(*args: Any, **kwargs: Any) -> Any:
            with compiled.in_place(), recomputed_by(again):
                return self._model(*args, **kwargs)

        return run

    def settle(self) -> None:
        pass


class GraphNetwork:
    """A rung's graph. It is proven again if the model has changed, and its steps change no state of the model.

    ``downsample``: it takes full-size images and downsamples them first.
    """

    def __init__(self, ladder: Ladder, rung: Rung, downsample: bool) -> None:
        self._ladder = ladder
        self.graph_module = downsampling_graph(ladder, rung) if downsample else rung.graph_module
        self._draft = rung.draft
        self._isolate = rung.config.batchnorm == "isolate"
        self._shadows, self._attributes = Shadows(), ForwardAttributes()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self.graph_module, args, kwargs)

    def compile(self, compiler: Compiler = torch.compile, blocks: Sequence[str] = ()) -> Callable[..., Any]:
        # A graph has no blocks any more: it is compiled as a whole.
        graph = compiler(self.graph_module.forward)

        def compiled(*args: Any, **kwargs: Any) -> Any:
            return self._run(graph, args, kwargs)

        return compiled

    def settle(self) -> None:
        self._attributes.settle()

    def _run(self, graph: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves = self._ladder.inputs.flatten(self._ladder.model, args, kwargs)
        if self._draft is not None:
            self._draft = self._draft.proven()
        if not self._isolate:
            return graph(*leaves)
        modules = list(self._ladder.model.modules())
        with self._attributes.kept(modules), self._shadows.in_place(modules):
            return graph(*leaves)


class LiveNetwork:
    """The model under live lowering. ``downsample``: it takes full-size images and downsamples them first."""

    def __init__(self, ladder: Ladder, rung: Rung, downsample: bool) -> None:
        self._live = LiveLowering(ladder, rung.mode, downsample=downsample)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self._live.forward, args, kwargs)

    def compile(self, compiler: Compiler = torch.compile, blocks: Sequence[str] = ()) -> Callable[..., Any]:
        forward = self._live.forward if blocks else compiler(with_own_code(self._live.forward))
        compiled_blocks = self._live.compiled_blocks(blocks, compiler) if blocks else None

        def compiled(*args: Any, **kwargs: Any) -> Any:
            return self._run(forward, args, kwargs, compiled_blocks)

        return compiled

    def settle(self) -> None:
        self._live.settle()

    def _run(
        self,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        blocks: CompiledBlocks | None = None,
    ) -> Any:
        self._live.callable, self._live.blocks = forward, blocks
        return self._live.run(*args, **kwargs)


def network(ladder: Ladder, mode: Mode, *, downsample: bool = False) -> Network:
    """The network that runs ``mode``.

    ``downsample``: it takes images of full size; otherwise of the mode's own size. Raises ``ValueError`` for a mode
    that the ladder does not have.
    """
    if ladder.resolve(mode) is Mode.FULL:
        return FullNetwork(ladder.model)
    kind = LiveNetwork if ladder.live else GraphNetwork
    return kind(ladder, ladder.rung(mode), downsample)


def downsampling_graph(ladder: Ladder, rung: Rung) -> fx.GraphModule:
    """A rung's graph for full-size images ``(N, C, *S)``: downsampling is its first step and compiled with the rest."""
    graph, config = copy.deepcopy(rung.graph), rung.config
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    if config.downsample_input:
        for place in ladder.inputs.images:
            images = placeholders[place]
            with graph.inserting_after(placeholders[-1]):
                smaller = graph.call_function(downsample, (images,), config.downsampling)
            images.replace_all_uses_with(smaller, delete_user_cb=lambda user, smaller=smaller: user is not smaller)
    return bind_graph(ladder.model, graph, f"{type(ladder.model).__name__}Low")
