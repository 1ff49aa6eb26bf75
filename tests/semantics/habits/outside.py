"""What the training loop sets on a model between steps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantics.habit import Call, Kind
from semantics.skeleton import CHANNELS, Small, conv

KIND = Kind("outside", r"build (the|a|another) pair|pair .*(again|anew)|changed since|attribute")


def drop_more(model: nn.Module, step: int) -> None:
    model.drop.p = 0.1 + 0.2 * (step % 3)


@KIND.habit(each_step=drop_more, compiled=True)
class DropRate(Small):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.1)

    def between(self, maps: Tensor) -> Tensor:
        return self.drop(maps)


def anneal(model: nn.Module, step: int) -> None:
    model.temperature = 1.0 + step


@KIND.habit(each_step=anneal, compiled=True)
class Temperature(Small):
    temperature = 1.0

    def between(self, maps: Tensor) -> Tensor:
        return torch.softmax(self.body(maps) / self.temperature, 1)


@KIND.habit(each_step=anneal, through_net=True)
class TemperatureThroughTheNet(Temperature):
    """The loop knows the net alone, and sets the model's attribute on it."""


def deepen(model: nn.Module, step: int) -> None:
    model.depth = 1 + step % 3


@KIND.habit(each_step=deepen, compiled=True)
class Depth(Small):
    """Progressive growing: how many of the blocks run."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.depth = nn.ModuleList(conv() for _ in range(3)), 1

    def between(self, maps: Tensor) -> Tensor:
        for block in self.blocks[: self.depth]:
            maps = maps + torch.tanh(block(maps))
        return maps


def supervise(model: nn.Module, step: int) -> None:
    model.deep_supervision = step == 1


@KIND.habit(each_step=supervise, compiled=True)
class DeepSupervision(Small):
    """A flag that changes what is returned."""

    deep_supervision = False

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(CHANNELS, 3)

    def forward(self, images: Tensor) -> Any:
        maps = F.relu(self.stem(images))
        logits = self.head(self.body(maps).mean((2, 3)))
        return (logits, self.side(maps.mean((2, 3)))) if self.deep_supervision else logits


def freeze_the_stem(model: nn.Module, step: int) -> None:
    model.stem.requires_grad_(step < 1)


@KIND.habit(each_step=freeze_the_stem, compiled=True)
class FrozenAfterTheBuild(Small):
    pass


def unfreeze_in_turn(model: nn.Module, step: int) -> None:
    for depth, part in enumerate((model.head, model.norm, model.body, model.stem)):
        part.requires_grad_(depth <= step)


@KIND.habit(each_step=unfreeze_in_turn, compiled=True)
class UnfrozenLayerByLayer(Small):
    pass


def fade_in(model: nn.Module, step: int) -> None:
    model.alpha.fill_(step / 4)


@KIND.habit(each_step=fade_in)
class BlendInABuffer(Small):
    """The loop writes into a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("alpha", torch.zeros(()))

    def between(self, maps: Tensor) -> Tensor:
        return maps + self.alpha * self.body(maps)


def stride_or_not(model: nn.Module, step: int) -> None:
    model.body.stride = (2, 2) if step == 1 else (1, 1)


@KIND.habit(each_step=stride_or_not)
class StrideOfALayer(Small):
    pass


def circular(model: nn.Module, step: int) -> None:
    model.options["wrap"] = step >= 1


@KIND.habit(each_step=circular)
class OptionInADict(Small):
    def __init__(self) -> None:
        super().__init__()
        self.options = {"wrap": False}

    def between(self, maps: Tensor) -> Tensor:
        return F.pad(maps, (1, 1, 1, 1), mode="circular" if self.options["wrap"] else "reflect")


def another_activation(model: nn.Module, step: int) -> None:
    model.activation = (F.relu, torch.tanh, F.silu)[step % 3]


@KIND.habit(each_step=another_activation, compiled=True)
class ActivationAsAFunction(Small):
    activation = staticmethod(F.relu)

    def between(self, maps: Tensor) -> Tensor:
        return self.activation(self.body(maps))


def another_width(model: nn.Module, step: int) -> None:
    model.width = (CHANNELS, 2, 4)[step % 3]


@KIND.habit(each_step=another_width, compiled=True)
class WidthOfASlice(Small):
    width = CHANNELS

    def between(self, maps: Tensor) -> Tensor:
        return torch.cat([torch.tanh(maps[:, : self.width]), maps[:, self.width :]], 1)


def noisy_later(model: nn.Module, step: int) -> None:
    model.body.noise = 0.1 * step


class NoisyConv(nn.Conv2d):
    noise = 0.0

    def forward(self, maps: Tensor) -> Tensor:
        weight = self.weight + self.noise * torch.randn_like(self.weight)
        return F.conv2d(maps, weight, self.bias, padding=1)


@KIND.habit(each_step=noisy_later, compiled=True)
class NoiseOfALayer(Small):
    def __init__(self) -> None:
        super().__init__()
        self.body = NoisyConv(CHANNELS, CHANNELS, 3)


def weigh(model: nn.Module, step: int) -> None:
    model.class_weights = torch.tensor([1.0, 2.0, 3.0]) * (step + 1)


@KIND.habit(each_step=weigh)
class TensorSetByTheLoop(Small):
    def __init__(self) -> None:
        super().__init__()
        self.class_weights = torch.ones(3)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * self.class_weights


def count_epochs(model: nn.Module, step: int) -> None:
    model.set_epoch(step)


@KIND.habit(each_step=count_epochs)
class ToldOfTheEpoch(Small):
    """Through a method of the model's own, which has the name of one of the net's."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def between(self, maps: Tensor) -> Tensor:
        return maps * 0.5**self.epoch


def with_its_groups(subject: Any, model: nn.Module, given: Call) -> Any:
    return subject(*given.args), sorted(subject.no_weight_decay()), subject.group_matcher()


@KIND.habit(run=with_its_groups)
class AskedThroughTheNet(Small):
    """What timm's optimizers ask of a model, asked of the net."""

    def no_weight_decay(self) -> set[str]:
        return {"norm.weight", "norm.bias"}

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": "^stem", "blocks": "^body"}
