"""Train and eval mode: overridden, mixed, asked for; forwards of an instance's own."""

from __future__ import annotations

import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantics.habit import Call, Kind
from semantics.skeleton import CHANNELS, Small

KIND = Kind("modes", r"\btrain\(|overrid|\beval|own forward|__call__|instance")


@KIND.habit(compiled=True)
class NormFrozenByTrain(Small):
    """``train()`` is overridden to keep the norm in eval mode."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.norm.eval()
        return self


class Detector(nn.Module):
    """A parent whose backbone may be replaced by a net."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = NormFrozenByTrain()
        self.boxes = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.boxes(self.backbone(images))


@KIND.habit(submodule="backbone")
def norm_frozen_by_the_backbones_train() -> nn.Module:
    """The part that a pair is made for overrides ``train()``, and its parent calls it."""
    return Detector()


@KIND.habit()
class NormFrozenInAPart(Small):
    def __init__(self) -> None:
        super().__init__()
        self.part = NormFrozenByTrain()

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self.part(images)


@KIND.habit()
class TrainFreezesParameters(Small):
    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.stem.requires_grad_(False)
        return self


@KIND.habit()
class TrainCountsEpochs(Small):
    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0

    def train(self, mode: bool = True) -> Any:
        self.epochs += mode
        return super().train(mode)

    def between(self, maps: Tensor) -> Tensor:
        return maps / (1 + self.epochs)


def norm_to_eval(model: nn.Module, step: int) -> None:
    model.norm.eval()


@KIND.habit(each_step=norm_to_eval, compiled=True)
class NormEvaluatedByTheLoop(Small):
    """The loop calls ``train()``, then ``norm.eval()``."""


@KIND.habit()
def norm_evaluated_before_the_build() -> nn.Module:
    class Late(Small):
        def train(self, mode: bool = True) -> Any:
            frozen = not self.norm.training
            super().train(mode)
            if frozen:
                self.norm.eval()
            return self

    model = Late()
    model.norm.eval()
    return model


def validated_between(subject: Any, model: nn.Module, given: Call) -> Any:
    """The loop says ``eval()`` and ``train()`` to the inner name, and calls the net."""
    model.eval()
    with torch.no_grad():
        seen = subject(*given.args)
    model.train()
    return subject(*given.args), seen


@KIND.habit(run=validated_between)
class ModeSetOnTheModel(Small):
    pass


@KIND.habit()
class HeadInTrainingOnly(Small):
    """An auxiliary head that evaluation does without."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(CHANNELS, 3)

    def forward(self, images: Tensor) -> Any:
        maps = self.maps(images)
        logits = self.head(maps.mean((2, 3)))
        return (logits, self.side(maps.amax((2, 3)))) if self.training else logits


@KIND.habit(compiled=True)
def forward_of_the_instance() -> nn.Module:
    """Another ``forward`` is set on this one object."""
    model = Small()

    def forward(self: Small, images: Tensor) -> Tensor:
        return self.head(torch.tanh(self.maps(images)).amax((2, 3)))

    model.forward = types.MethodType(forward, model)
    return model


def another_forward(model: nn.Module, step: int) -> None:
    if step == 1:
        model.norm.forward = types.MethodType(lambda self, maps: maps * self.weight[:, None, None], model.norm)


@KIND.habit(each_step=another_forward, compiled=True)
class ForwardOfAPartReplaced(Small):
    """Put on a layer after the build."""


@KIND.habit()
class CallOverridden(Small):
    """What is around ``forward`` stands in ``__call__``."""

    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(images * 0.5) * 2


@KIND.habit()
class TrainingFlagRead(Small):
    """Two branches by ``self.training``, one of them of a part's."""

    def between(self, maps: Tensor) -> Tensor:
        maps = maps * 2 if self.norm.training else maps
        return F.dropout(maps, 0.2, self.training)


@KIND.habit(compiled=True)
class EvaluatedInside(Small):
    """A teacher pass in eval mode before the train pass, over the same layers."""

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return super().forward(images)
        self.eval()
        with torch.no_grad():
            target = super().forward(images)
        self.train()
        return super().forward(images) - target
