"""Layers, parameters and masks that are replaced after the build."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from semantics.habit import Kind, generators_at
from semantics.skeleton import CHANNELS, Small, conv, sequence

KIND = Kind("replaced", r"build (the|a|another) pair|pair .*(again|anew)|changed since|\bmask\b")


def from_step_one(change: Callable[[nn.Module], None]) -> Callable[[nn.Module, int], None]:
    """``change`` once, with the same random numbers whoever's model it is."""

    def each_step(model: nn.Module, step: int) -> None:
        if step == 1:
            with generators_at(11):
                change(model)

    return each_step


def swap_stem(model: nn.Module) -> None:
    model.stem = nn.Conv2d(3, CHANNELS, 5, padding=2, bias=False)


@KIND.habit(each_step=from_step_one(swap_stem), compiled=True)
class Stem(Small):
    pass


def swap_body(model: nn.Module) -> None:
    model.body = conv(kernel=5)


@KIND.habit(each_step=from_step_one(swap_body), compiled=True)
class PooledConvolution(Small):
    """By one with a larger kernel."""


def add_bias(model: nn.Module) -> None:
    model.body.bias = nn.Parameter(torch.randn(CHANNELS))


@KIND.habit(each_step=from_step_one(add_bias))
def bias() -> nn.Module:
    """A layer that had none gets one."""
    model = Small()
    model.body = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
    return model


def new_weight(model: nn.Module) -> None:
    model.body.weight = nn.Parameter(torch.randn_like(model.body.weight) * 0.1)


@KIND.habit(each_step=from_step_one(new_weight), compiled=True)
class Weight(Small):
    pass


def swap_head(model: nn.Module) -> None:
    model.head = nn.Sequential(nn.Linear(CHANNELS, 5), nn.Tanh(), nn.Linear(5, 2))


@KIND.habit(each_step=from_step_one(swap_head))
class Head(Small):
    """By one for other classes."""


def drop_norm(model: nn.Module) -> None:
    model.norm = nn.Identity()


@KIND.habit(each_step=from_step_one(drop_norm))
class NormByNothing(Small):
    pass


def to_silu(model: nn.Module) -> None:
    model[1] = nn.SiLU()


@KIND.habit(each_step=from_step_one(to_silu))
def activation() -> nn.Module:
    return sequence()


def insert_block(model: nn.Module) -> None:
    model.insert(2, conv())


@KIND.habit(each_step=from_step_one(insert_block), compiled=True)
def grown_sequence() -> nn.Module:
    """A block is inserted into an ``nn.Sequential``."""
    return sequence()


def append_block(model: nn.Module) -> None:
    model.blocks.append(conv())


@KIND.habit(each_step=from_step_one(append_block))
class GrownList(Small):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([conv()])

    def between(self, maps: Tensor) -> Tensor:
        for block in self.blocks:
            maps = torch.tanh(block(maps))
        return maps


def new_mask(model: nn.Module) -> None:
    model.mask = (model.body.weight.detach().abs() > 0.05).to(model.mask.dtype)


@KIND.habit(each_step=from_step_one(new_mask), compiled=True)
class Mask(Small):
    """A plain tensor over the kernel, replaced between epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.ones(CHANNELS, CHANNELS, 3, 3)

    def between(self, maps: Tensor) -> Tensor:
        return torch.conv2d(maps, self.body.weight * self.mask, self.body.bias, padding=1)


def new_buffer(model: nn.Module) -> None:
    model.scale = torch.full((CHANNELS, 1, 1), 2.0)


@KIND.habit(each_step=from_step_one(new_buffer))
class BufferByTheLoop(Small):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(CHANNELS, 1, 1))

    def between(self, maps: Tensor) -> Tensor:
        return maps * self.scale


def assign_state(model: nn.Module) -> None:
    state = {name: value.clone() * 0.9 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


@KIND.habit(each_step=from_step_one(assign_state))
class StateByAssignment(Small):
    """``load_state_dict(assign=True)`` puts other tensors in every place."""


def grow_filters(model: nn.Module) -> None:
    grown = nn.Conv2d(3, CHANNELS + 2, 3, padding=1)
    model.stem, model.body = grown, conv(CHANNELS + 2, CHANNELS)


@KIND.habit(each_step=from_step_one(grow_filters))
class MoreFilters(Small):
    """A network widened in training."""
