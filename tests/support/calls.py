"""Small networks that are called in the ways in which people call theirs."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, CLASSES = 16, 5


class Network(nn.Module):
    """Two convolutions, the second of which is pooled in low-mode, a norm and a head; ``forward`` is a subclass's."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.body, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, CLASSES)
        self.settings = settings

    def map(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, 4, H, W)``."""
        return self.body(F.relu(self.norm(self.stem(images))))

    def logits(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, CLASSES)``."""
        return self.fc(self.map(images).mean((2, 3)))


class ModelOutput(OrderedDict[str, Any]):
    """What transformers' models return, in short: a dictionary without what is None, whose items are attributes too."""

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if value is not None:
                self[each.name] = value


@dataclass
class ClassifierOutput(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class Classifier(Network):
    """Called as transformers' image classifiers are: by keywords, with the loss inside where labels are given."""

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        assert pixel_values is not None
        hidden = self.map(pixel_values)
        logits = self.fc(hidden.mean((2, 3)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return ClassifierOutput(loss=loss, logits=logits, hidden_states=(hidden,) if output_hidden_states else None)


class Pair(NamedTuple):
    loss: Tensor
    logits: Tensor


@dataclass
class Plain:
    loss: Tensor
    logits: Tensor
    name: str = "plain"


class Items(dict[str, Any]):
    """A dictionary of a class of its own."""


RETURNS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda loss, map: (loss, map),
    "dictionary": lambda loss, map: {"loss": loss, "logits": map, "none": None, "number": 3},
    "namedtuple": Pair,
    "dataclass": Plain,
    "model output": lambda loss, map: ClassifierOutput(loss=loss, logits=map),
    "ordered": lambda loss, map: OrderedDict(loss=loss, logits=map),
    "defaults": lambda loss, map: defaultdict(list, loss=loss, logits=map),
    "own": lambda loss, map: Items(loss=loss, logits=map),
    "nested": lambda loss, map: {"list": [Plain(loss, map), (ClassifierOutput(logits=map),)], "empty": {}},
}


class Returning(Network):
    """Returns a loss and a map in one of ``RETURNS``, which ``kind`` names."""

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        hidden = self.map(x)
        make = RETURNS[self.settings["kind"]]
        return make(F.cross_entropy(self.fc(hidden.mean((2, 3))), labels), hidden)


def images(batch: int = 2, seed: int = 0) -> Tensor:
    """``(N, 3, SIDE, SIDE)``."""
    return torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def labels(batch: int = 2) -> Tensor:
    """``(N,)``."""
    return torch.arange(batch) % CLASSES


def low_twin(model: Network) -> Network:
    """A copy with the second kernel averaged from 3×3 to 1×1: what low-mode computes, written without the product."""
    twin = copy.deepcopy(model)
    twin.body = nn.Conv2d(4, 4, 1)
    with torch.no_grad():
        twin.body.weight.copy_(model.body.weight.mean((2, 3), keepdim=True))
        twin.body.bias.copy_(model.body.bias)  # type: ignore[union-attr, arg-type]
    return twin.train()


def full_gradients(twin: Network) -> dict[str, Tensor]:
    """The gradients of a ``low_twin`` as those of the model: each of nine taps gets a ninth (Eq. 4)."""
    gradients = {name: value.grad for name, value in twin.named_parameters() if value.grad is not None}
    gradients["body.weight"] = gradients["body.weight"].expand(4, 4, 3, 3) / 9
    return gradients
