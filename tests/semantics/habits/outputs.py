"""What a model returns: tuples, dicts, records, nothing in places, and maps that are put back to their size."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantics.habit import Kind, batches, one_batch
from semantics.skeleton import CHANNELS, Small

KIND = Kind("outputs", r"output|returns|dataclass|structure|\bMaps\b")


class Two(Small):
    """Logits, and the features that they come from."""

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.maps(images).mean((2, 3))
        return self.head(features), features


@KIND.habit()
class Tuple(Two):
    def forward(self, images: Tensor) -> Any:
        return self.both(images)


@KIND.habit()
class Dict(Two):
    def forward(self, images: Tensor) -> Any:
        logits, features = self.both(images)
        return {"logits": logits, "features": features}


@KIND.habit()
class OrderedDictOfMaps(Small):
    """A pyramid by name, as torchvision's detectors take it."""

    def forward(self, images: Tensor) -> Any:
        maps = self.maps(images)
        return OrderedDict([("0", maps), ("pool", F.max_pool2d(maps, 1, 2))])


class Pair(NamedTuple):
    logits: Tensor
    features: Tensor


@KIND.habit()
class NamedTuples(Two):
    def forward(self, images: Tensor) -> Any:
        return Pair(*self.both(images))


@dataclasses.dataclass
class Maps:
    logits: Tensor
    features: Tensor
    name: str = "maps"


@KIND.habit(compiled=True)
class Dataclass(Two):
    def forward(self, images: Tensor) -> Any:
        return Maps(*self.both(images))


@dataclasses.dataclass(frozen=True)
class Nested:
    maps: Maps
    sides: tuple[int, ...]


@KIND.habit(compiled=True)
class NestedDataclass(Two):
    def forward(self, images: Tensor) -> Any:
        return Nested(Maps(*self.both(images)), tuple(images.shape[:2]))


class ModelOutput(OrderedDict):
    """As transformers has it: a dict whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@KIND.habit(compiled=True)
class ModelOutputs(Two):
    def forward(self, images: Tensor) -> Any:
        logits, features = self.both(images)
        return ModelOutput(logits=logits, hidden_states=(features,))


@KIND.habit(compiled=True)
class PlacesLeftEmpty(Two):
    def forward(self, images: Tensor) -> Any:
        logits, _ = self.both(images)
        return {"loss": None, "logits": logits, "attentions": None}


@KIND.habit()
class PredictionsBeside(Two):
    """Integers and numbers of Python's beside the logits."""

    def forward(self, images: Tensor) -> Any:
        logits, _ = self.both(images)
        return {"logits": logits, "top": logits.topk(1).indices.shape, "count": len(images), "name": "small"}


@KIND.habit()
class ListOfStages(Small):
    def forward(self, images: Tensor) -> Any:
        first = F.relu(self.stem(images))
        return [first, self.norm(self.body(first))]


@KIND.habit()
class LossInTraining(Two):
    """A dict of losses in train mode, predictions in eval mode."""

    def forward(self, images: Tensor) -> Any:
        logits, features = self.both(images)
        if self.training:
            return {"loss_class": logits.square().mean(), "loss_size": features.mean()}
        return [{"labels": row.argmax(), "scores": row.softmax(0)} for row in logits]


@KIND.habit()
class ImagesGivenBack(Small):
    def forward(self, images: Tensor) -> Any:
        return self.body(F.relu(self.stem(images))), images.mean()


class Segmenter(Small):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(CHANNELS, 4, 1)

    def dense(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.maps(images)
        return self.last(maps), maps


@KIND.habit(config={"restore_output": True}, given=batches(sides=(20, 28)), example=one_batch)
class MapsRestoredInADict(Segmenter):
    """To the batch's own size, which is not the example's."""

    def forward(self, images: Tensor) -> Any:
        return {"out": self.dense(images)[0], "pooled": self.dense(images)[1].mean((2, 3))}


@KIND.habit(config={"restore_output": True}, given=batches(sides=(20, 28)), example=one_batch)
class MapsRestoredInADataclass(Segmenter):
    def forward(self, images: Tensor) -> Any:
        return Maps(*self.dense(images))


@KIND.habit(config={"restore_output": True})
class MapsRestoredToImages(Segmenter):
    """The model itself interpolates to the images' size, and low-mode's images are smaller."""

    def forward(self, images: Tensor) -> Any:
        logits, _ = self.dense(F.avg_pool2d(images, 2))
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


@KIND.habit()
class Subclass(Small):
    """A tensor subclass that carries a name."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images).as_subclass(Named)


class Named(torch.Tensor):
    pass
