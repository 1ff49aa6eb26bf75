"""A step in parts: forward and backward are replayed, and the loss between them is computed in Python each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowmode_fx.runtime.captured.arithmetic import Batch, StepArithmetic
from lowmode_fx.runtime.captured.graphs import Graphs
from lowmode_fx.runtime.captured.host_state import moved_what
from lowmode_fx.runtime.captured.recorded import same_tensors
from lowmode_fx.runtime.captured.signature import StaticBatch
from passes.preserve.holdings import find_held
from passes.trees import tree_flatten, tree_map, tree_unflatten


class Outputs:
    """What a forward returns, cut off from its graph: ``values`` for the loss, and the gradients that it leaves."""

    def __init__(self, outputs: Any) -> None:
        self._leaves, self._structure = tree_flatten(outputs)
        #: The tensors through which gradients reach the network.
        self.roots = [leaf for leaf in self._leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
        self._cut: list[Tensor] = []

    def all(self) -> Any:
        """What the forward returned."""
        return tree_unflatten(self._leaves, self._structure)

    def values(self) -> Any:
        """New tensors of the same values; a loss may keep them."""
        copies: list[Any] = []
        self._cut = []
        for leaf in self._leaves:
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                cut = leaf.detach().requires_grad_()
                self._cut.append(cut)
                copies.append(cut.clone())  # a loss may write to it, which a leaf refuses
            else:
                copies.append(leaf.detach().clone() if isinstance(leaf, Tensor) else leaf)
        return tree_unflatten(copies, self._structure)

    def gradients(self) -> list[Tensor | None]:
        """Those of the loss, after its backward pass, one for each of ``roots``."""
        return [each.grad for each in self._cut]


def run_in_parts(
    arithmetic: StepArithmetic, batch: Batch, graphs: Graphs, state: Callable[[], tuple[Any, Any]]
) -> tuple[Tensor, bool]:
    """A real step in parts, each under the conditions of a recording. Returns its loss.

    ``state``: of generators and the like on the host. Returns too whether forward and backward can be recorded, with a
    loss between them that depends on nothing but the outputs.
    """
    held = find_held({"criterion": arithmetic.criterion})
    apart = not set(map(id, held.modules)) & set(map(id, arithmetic.net.modules()))
    before_forward = state()
    outputs, waits = graphs.rehearse(lambda: Outputs(arithmetic.outputs(batch)))
    apart &= not waits and moved_what(state(), before_forward) is None
    before = [parameter.grad for parameter in arithmetic.parameters()]
    # The loss may have found its own way to the forward, by what that has left on the model.
    loss, _ = graphs.rehearse(
        lambda: arithmetic.backward(arithmetic.loss(outputs.values(), batch.targets), retain_graph=True)
    )
    apart &= same_tensors([parameter.grad for parameter in arithmetic.parameters()], before)
    used = [pair for pair in zip(outputs.roots, outputs.gradients(), strict=True) if pair[1] is not None]
    apart &= len(used) == len(outputs.roots) > 0
    before_backward = state()
    if used:
        roots, gradients = map(list, zip(*used, strict=True))
        _, waits = graphs.rehearse(lambda: torch.autograd.backward(roots, gradients))
    return loss, bool(apart and not waits and moved_what(state(), before_backward) is None)


@dataclass
class RecordedParts:
    """``before``, ``after``: the gradients when a replay begins and when it has ended; replays fill them."""

    static: StaticBatch
    forward: Callable[[], None]
    outputs: Outputs
    backward: Callable[[], None]
    gradients: list[Tensor]
    before: list[Tensor | None]
    after: list[Tensor | None]
    arithmetic: StepArithmetic
    #: The ids of the parameters that each output's gradient reaches.
    reached: list[set[int]]
    norm: Tensor | None = None

    def replay(self, leaves: list[Any], parameters: Sequence[Tensor]) -> Tensor:
        """Run the step on a batch's leaves. Returns its loss as a new tensor."""
        self.static.fill(leaves)
        self.forward()
        targets = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, self.static.batch().targets)
        loss = self.arithmetic.backward(self.arithmetic.loss(self.outputs.values(), targets))
        found = self.outputs.gradients()
        for static, gradient in zip(self.gradients, found, strict=True):
            static.zero_() if gradient is None else static.copy_(gradient)
        # A loss that reads weights, now or only since a later step, has left gradients of its own.
        direct = [
            None if parameter.grad is was else parameter.grad
            for parameter, was in zip(parameters, self.before, strict=True)
        ]
        self.backward()
        unreached = self._unreached(found)
        for parameter, was, gradient, own in zip(parameters, self.before, self.after, direct, strict=True):
            gradient = was if id(parameter) in unreached else gradient
            if own is not None:
                gradient = own.clone() if gradient is None else gradient.add_(own)
            parameter.grad = gradient
        return loss

    def _unreached(self, gradients: Sequence[Tensor | None]) -> set[int]:
        """Parameters that get no gradient this time: the loss has left out every output that leads to them."""
        used = [each for each, gradient in zip(self.reached, gradients, strict=True) if gradient is not None]
        if len(used) == len(self.reached):
            return set()
        return set().union(*self.reached) - set().union(*used)


def capture_parts(
    arithmetic: StepArithmetic,
    static: StaticBatch,
    graphs: Graphs,
    generators: list[torch.Generator],
    leave: Callable[[], None],
) -> RecordedParts:
    """Record forward and backward. Raises what they raise. The parameters keep the gradients of the recording.

    ``leave``: recorded too, after backward.
    """
    before = [parameter.grad for parameter in arithmetic.graded()]
    gradients: list[Tensor] = []
    reached: list[set[int]] = []

    def forward() -> Outputs:
        return Outputs(arithmetic.outputs(static.batch()))

    def backward(outputs: Outputs) -> None:
        torch.autograd.backward(outputs.roots, gradients)
        leave()

    def between(outputs: Outputs) -> None:
        gradients.extend(torch.zeros_like(root) for root in outputs.roots)
        reached.extend(map(_reached, outputs.roots))

    outputs, play_forward, play_backward = graphs.capture_two(forward, between, backward, generators)
    # The recorded graph of autograd goes; the memory of what it returned stays.
    held = Outputs(tree_map(_alone, outputs.all()))
    after = [parameter.grad for parameter in arithmetic.graded()]
    return RecordedParts(static, play_forward, held, play_backward, gradients, before, after, arithmetic, reached)


def _reached(root: Tensor) -> set[int]:
    """The ids of the leaves that gradients of ``root`` flow to."""
    pending: list[Any] = [root.grad_fn]
    seen, found = set(pending), set[int]()
    while pending:
        node = pending.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        sources = [source for source, _ in node.next_functions if source not in seen]
        pending += sources
        seen.update(sources)
    return found


def _alone(leaf: Any) -> Any:
    return leaf.detach().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf
