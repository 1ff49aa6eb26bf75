"""Activation checkpointing: what a step recomputes in its backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from semantics.habit import Kind
from semantics.skeleton import CHANNELS, Small, conv

KIND = Kind("checkpointing", r"checkpoint")
#: Dynamo's "eager" backend neither keeps generators nor norms for what it recomputes.
COMPILED: dict[str, Any] = {"compiled": True, "backend": "aot_eager"}


class Blocks(Small):
    """Three blocks, of which each may be recomputed."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(conv(), nn.Tanh()) for _ in range(3))
        self.checkpointing = True

    def block(self, block: nn.Module, maps: Tensor) -> Tensor:
        return checkpoint.checkpoint(block, maps, use_reentrant=False)

    def between(self, maps: Tensor) -> Tensor:
        for block in self.blocks:
            maps = self.block(block, maps) if self.checkpointing and self.training else block(maps)
        return maps


@KIND.habit(**COMPILED)
class NonReentrant(Blocks):
    pass


@KIND.habit(**COMPILED)
class Reentrant(Blocks):
    def block(self, block: nn.Module, maps: Tensor) -> Tensor:
        return checkpoint.checkpoint(block, maps, use_reentrant=True)


def switch_on(model: nn.Module, step: int) -> None:
    model.checkpointing = step >= 1


@KIND.habit(each_step=switch_on, **COMPILED)
def switched_on_after_the_build() -> nn.Module:
    model = Blocks()
    model.checkpointing = False
    return model


class TimmLike(Blocks):
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.checkpointing = enable


def ask_for_it(net: nn.Module, step: int) -> None:
    if step == 1:
        net.set_grad_checkpointing(True)


@KIND.habit(each_step=ask_for_it, through_net=True)
def asked_for_through_the_net() -> nn.Module:
    """timm's method, called on what the loop knows."""
    model = TimmLike()
    model.checkpointing = False
    return model


@KIND.habit()
class InSegments(Blocks):
    """``checkpoint_sequential``."""

    def between(self, maps: Tensor) -> Tensor:
        layers = nn.Sequential(*self.blocks)
        return checkpoint.checkpoint_sequential(layers, 2, maps, use_reentrant=False) if self.training else layers(maps)


@KIND.habit(**COMPILED)
class WithDropout(Blocks):
    """Recomputation draws what the forward drew."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(conv(), nn.Dropout(0.3)) for _ in range(2))


@KIND.habit()
class WithKeywords(Blocks):
    """A function of several arguments, some of them by name."""

    def block(self, block: nn.Module, maps: Tensor) -> Tensor:
        def mixed(first: Tensor, second: Tensor, *, share: float) -> Tensor:
            return share * block(first) + (1 - share) * second

        return checkpoint.checkpoint(mixed, maps, maps, share=0.7, use_reentrant=False)


class NormInside(Blocks):
    """The norm in a block runs twice a step, and so do its statistics; compiled, by torch itself, once."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(conv(), nn.BatchNorm2d(CHANNELS), nn.ReLU()) for _ in range(2))


@KIND.habit()
class NormInsideNonReentrant(NormInside):
    pass


@KIND.habit()
class NormInsideReentrant(NormInside):
    def block(self, block: nn.Module, maps: Tensor) -> Tensor:
        return checkpoint.checkpoint(block, maps, use_reentrant=True)


@KIND.habit(**COMPILED)
class OneInAnother(Blocks):
    def between(self, maps: Tensor) -> Tensor:
        def outer(maps: Tensor) -> Tensor:
            return torch.tanh(checkpoint.checkpoint(self.blocks[0], maps, use_reentrant=False))

        return checkpoint.checkpoint(outer, maps, use_reentrant=False)


@KIND.habit()
class SelectedOperators(Blocks):
    """A policy keeps the convolutions' results and recomputes the rest."""

    def block(self, block: nn.Module, maps: Tensor) -> Tensor:
        def policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> checkpoint.CheckpointPolicy:
            kept = op is torch.ops.aten.convolution.default
            return checkpoint.CheckpointPolicy.MUST_SAVE if kept else checkpoint.CheckpointPolicy.PREFER_RECOMPUTE

        contexts = lambda: checkpoint.create_selective_checkpoint_contexts(policy)  # noqa: E731
        return checkpoint.checkpoint(block, maps, use_reentrant=False, context_fn=contexts)
