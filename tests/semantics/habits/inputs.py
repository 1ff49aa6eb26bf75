"""What a forward is given: keywords, several tensors, lists and dicts of images, batches of other sizes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantics.habit import BATCH, Call, Kind, batches, one_batch, photos
from semantics.skeleton import CHANNELS, Small

KIND = Kind("inputs", r"input|example|batch|\*args|keyword|argument|channels")


def labels(step: int) -> Tensor:
    return torch.arange(BATCH).add(step) % 3


def as_keywords(step: int) -> Call:
    return Call((), {"pixel_values": photos(step), "labels": labels(step)}, ("pixel_values",))


@KIND.habit(given=as_keywords, compiled=True)
class PixelValuesAndLabels(Small):
    """transformers' call: all by name, the loss beside the logits."""

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
        logits = super().forward(pixel_values)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def with_targets(step: int) -> Call:
    return Call((photos(step), labels(step)))


@KIND.habit(given=with_targets)
class ImagesAndTargets(Small):
    """A model that computes its loss."""

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(super().forward(images), targets)


@KIND.habit(given=with_targets, cause=None)
class LossOfSelectedRows(Small):
    """A detector's: rows are taken by what the targets are, and there may be none."""

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits[targets > 0].square().sum() + logits.mean()


def two_views(step: int) -> Call:
    return Call((photos(step), photos(step + 50)), images=(0, 1))


@KIND.habit(given=two_views, compiled=True)
class TwoViews(Small):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return super().forward(first) - super().forward(second).detach()


def list_of_views(step: int) -> Call:
    return Call(([photos(step), photos(step + 50)],))


@KIND.habit(given=list_of_views, compiled=True)
class ListOfViews(Small):
    """Multi-crop training."""

    def forward(self, views: list[Tensor]) -> Tensor:
        return torch.stack([super(ListOfViews, self).forward(view) for view in views]).mean(0)


def dict_of_a_batch(step: int) -> Call:
    return Call(({"image": photos(step)},))


@KIND.habit(given=dict_of_a_batch)
class BatchAsADict(Small):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return super().forward(batch["image"])


def at_a_time(step: int) -> Call:
    return Call((photos(step), torch.linspace(0, 1, BATCH) * (step + 1)))


@KIND.habit(given=at_a_time)
class ImagesAtATime(Small):
    """A denoiser's: images, and a number for each."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(1, CHANNELS)

    def forward(self, images: Tensor, time: Tensor) -> Tensor:
        shift = self.time(time[:, None])[:, :, None, None]
        return self.head((self.maps(images) + shift).mean((2, 3)))


def by_position(step: int) -> Call:
    return Call((photos(step), 0.5))


@KIND.habit(given=by_position)
class NumberBesideImages(Small):
    """A Python number, with a default that is not used."""

    def forward(self, images: Tensor, strength: float = 1.0) -> Tensor:
        return super().forward(images) * strength


@KIND.habit()
class OptionalArguments(Small):
    """Options that training leaves at their defaults."""

    def forward(self, images: Tensor, mask: Tensor | None = None, return_features: bool = False) -> Any:
        features = self.maps(images).mean((2, 3))
        features = features if mask is None else features * mask
        return features if return_features else self.head(features)


@KIND.habit(compiled=True)
class AnyArguments(Small):
    """A wrapper that hands on whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Small()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def ragged(step: int) -> Call:
    return Call((photos(step, batch=BATCH - step % 3),))


@KIND.habit(given=ragged, compiled=True)
class RaggedBatch(Small):
    """Batches shrink, and grow again."""

    def between(self, maps: Tensor) -> Tensor:
        return maps - maps.sum(0, keepdim=True) / maps.shape[0]


@KIND.habit(given=batches(batch=8), example=one_batch)
class AnotherBatchThanTheExamples(Small):
    """A width that is asked for, and views by the batch size."""

    def between(self, maps: Tensor) -> Tensor:
        maps = F.pad(maps, (0, 1, 0, 1)) if maps.shape[-1] % 2 else maps
        number, channels = maps.size()[:2]
        return maps * maps.mean((2, 3)).view(number, channels).sigmoid().view(number, channels, 1, 1)


def growing(step: int) -> Call:
    return Call((photos(step, sides=(16 + 4 * step, 16)),))


@KIND.habit(given=growing)
class ImagesOfOtherSizes(Small):
    """Multi-scale training by the loader."""


def bytes_of(step: int) -> Call:
    return Call(((photos(step) * 40 + 128).clamp(0, 255).byte(),))


@KIND.habit(given=bytes_of, cause=r"uint8|float", checks=("full",))
class BytesScaledInForward(Small):
    """uint8 images; what a low-mode image of them is is not decided."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.float() / 255)


def channels_last(step: int) -> Call:
    return Call((photos(step).to(memory_format=torch.channels_last),))


@KIND.habit(given=channels_last)
class ChannelsLast(Small):
    """In memory, not in shape."""


@KIND.habit(given=batches(channels=3, sides=(4, 16, 16)))
class ClipsAsImages(Small):
    """Video ``(N, C, T, H, W)``, of which every frame runs as an image."""

    def forward(self, clips: Tensor) -> Tensor:
        frames = clips.transpose(1, 2).flatten(0, 1)
        return super().forward(frames).view(len(clips), -1, 3).mean(1)


@KIND.habit(given=batches(batch=12), example=batches(batch=8))
class FramesAsABatch(Small):
    """A shift in time between the four frames of each clip, by writing to slices."""

    def between(self, maps: Tensor) -> Tensor:
        frames = maps.view(maps.shape[0] // 4, 4, *maps.shape[1:])
        moved = torch.zeros_like(frames)
        moved[:, 1:, :2] = frames[:, :-1, :2]
        moved[:, :-1, 2:4] = frames[:, 1:, 2:4]
        moved[:, :, 4:] = frames[:, :, 4:]
        return moved.view(maps.shape)


@KIND.habit(given=batches(sides=(1, 32)), cause=r"downsample_input=False", checks=("full",))
class SignalsAsRows(nn.Module):
    """Images of one row, which can't be halved: a refusal has to offer whole images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = (
            nn.Conv2d(3, CHANNELS, (1, 5), padding=(0, 2)),
            nn.Conv2d(CHANNELS, 3, (1, 3), padding=(0, 1)),
        )

    def forward(self, rows: Tensor) -> Tensor:
        return self.body(F.relu(self.stem(rows))).mean((2, 3))
