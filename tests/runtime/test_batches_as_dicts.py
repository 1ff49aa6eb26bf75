"""A loader's batch that is a dict: where it can't be the call, the message has the call that works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, TrainStep, build_pair

BATCH = {"label": torch.zeros(2, dtype=torch.long), "image": torch.randn(2, 3, 16, 16)}


class OfImages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.conv(pixels).mean((2, 3))
        return logits


class OfKeywords(OfImages):
    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(image)


class OfDicts(OfImages):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(batch["image"])


def make(model: nn.Module, example: Any) -> tuple[LowModeModel, TrainStep]:
    config = LowModeConfig(pool_convs="all")
    net = LowModeModel(build_pair(model, example, config), BernoulliSchedule(1.0), compile=False)
    step = TrainStep(net, lambda outputs, _: outputs.mean(), torch.optim.SGD(net.parameters(), lr=0.1))
    return net, step


EXAMPLES: dict[type[nn.Module], Any] = {OfImages: BATCH["image"], OfKeywords: BATCH, OfDicts: (BATCH,)}
REFUSED: list[tuple[type[nn.Module], Callable[[LowModeModel, TrainStep], Any], str]] = [
    (OfImages, lambda net, step: net(BATCH), "at pixels; give the images alone, net(batch['image'])"),
    (OfImages, lambda net, step: net(**BATCH), "at pixels; a dict holds keywords of forward; give the images alone, "
     "net(batch['image']), or step(images, targets)"),
    (OfImages, lambda net, step: step(BATCH), "at pixels; a dict holds keywords of forward; give the images alone, "
     "net(batch['image']), or step(images, targets)"),
    (OfImages, lambda net, step: net({"label": 3}), "at pixels; give them as in the example"),
    (OfImages, lambda net, step: net(BATCH["image"].numpy()),
     "the call (ndarray of shape (2, 3, 16, 16)) has no images at pixels; give tensors, as torch.from_numpy(array)"),
    (OfImages, lambda net, step: net((BATCH["image"], BATCH["label"])), "at pixels; a batch of images and labels is "
     "one argument; give the images alone, net(images), or step(images, labels)"),
    (OfKeywords, lambda net, step: net(BATCH), "at image; a dict is one argument; give its items as keywords, "
     "net(**batch)"),
    (OfDicts, lambda net, step: step(BATCH), "at batch; forward takes the dict itself; give it as one argument, "
     "net(batch), or step((batch,), targets)"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "call", "message"), REFUSED)
def test_the_message_has_the_call_that_works(kind: type[nn.Module], call: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        call(*make(kind(), EXAMPLES[kind]))
    assert str(refused.value).endswith(message)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (OfImages, lambda net, step: (net(BATCH["image"]), step(BATCH["image"], BATCH["label"]))),
        (OfKeywords, lambda net, step: (net(**BATCH), step(BATCH))),
        (OfDicts, lambda net, step: (net(BATCH), step((BATCH,), BATCH["label"]))),
    ],
)
def test_which_then_runs(kind: type[nn.Module], call: Callable[..., Any]) -> None:
    logits, loss = call(*make(kind(), EXAMPLES[kind]))
    assert logits.shape == (2, 8) and loss.ndim == 0
