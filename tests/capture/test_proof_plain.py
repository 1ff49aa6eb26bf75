"""Plain networks: their graphs train as they do, and the proof says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from proof_oracle import CHANNELS, Small, trains_alike
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from traced import traced

from lowmode_fx.capture.proof import prove

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.zeros(2, 3, 8, 8)
PLAIN: dict[str, Callable[[], nn.Module]] = {}


def plain(make: Any) -> Any:
    PLAIN[make.__name__] = make
    return make


@plain
class Residual(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps + self.norm(self.body(maps))


@plain
class AddedInPlace(Small):
    def between(self, maps: Tensor) -> Tensor:
        out = self.body(maps)
        out += maps
        return F.relu(out, inplace=True)


@plain
class AddedInPlaceToAView(Small):
    def between(self, maps: Tensor) -> Tensor:
        out = torch.cat([self.body(maps), maps], 1)[:, : 2 * CHANNELS]
        out += maps.repeat(1, 2, 1, 1)
        return out[:, CHANNELS:]


@plain
class Dense(Small):
    def between(self, maps: Tensor) -> Tensor:
        grown = torch.cat([maps, self.body(maps)], 1)
        first, second = grown.chunk(2, 1)
        return first * second


@plain
class Branches(Small):
    def __init__(self) -> None:
        super().__init__()
        self.point, self.pool = nn.Conv2d(CHANNELS, 2, 1), nn.MaxPool2d(3, 1, 1)
        self.wide = nn.Conv2d(CHANNELS, 2, (1, 5), padding=(0, 2))

    def between(self, maps: Tensor) -> Tensor:
        return torch.cat([self.point(maps), self.wide(self.pool(maps))], 1)


@plain
class Dropouts(Small):
    def __init__(self) -> None:
        super().__init__()
        self.of_channels, self.of_elements = nn.Dropout2d(0.3), nn.AlphaDropout(0.3)

    def between(self, maps: Tensor) -> Tensor:
        return F.dropout(self.of_elements(self.of_channels(maps)), 0.2) * torch.rand_like(maps)


@plain
class OtherNorms(Small):
    def __init__(self) -> None:
        super().__init__()
        self.groups, self.places = nn.GroupNorm(2, CHANNELS), nn.InstanceNorm2d(CHANNELS, affine=True)
        self.average, self.last = nn.BatchNorm2d(CHANNELS, momentum=None), nn.LayerNorm(CHANNELS)

    def between(self, maps: Tensor) -> Tensor:
        maps = self.average(self.places(self.groups(maps)))
        return self.last(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@plain
class NormWrittenAsAFunction(Small):
    def between(self, maps: Tensor) -> Tensor:
        norm = self.norm
        return F.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True)


@plain
class Functions(Small):
    def between(self, maps: Tensor) -> Tensor:
        smaller = F.max_pool2d(F.silu(maps), 2)
        larger = F.interpolate(smaller, scale_factor=2, mode="bilinear", align_corners=False)
        return F.pad(F.hardswish(larger), (1, 1, 1, 1), mode="reflect")[:, :, 1:-1, 1:-1] + F.softmax(maps, 1)


@plain
class SqueezeAndExcitation(Small):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(CHANNELS, CHANNELS, 1, groups=2)

    def between(self, maps: Tensor) -> Tensor:
        return maps * self.gate(maps.mean((2, 3), keepdim=True)).sigmoid()


@plain
class ComputedKernel(Small):
    def between(self, maps: Tensor) -> Tensor:
        weight = self.body.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(maps, weight, self.body.bias, padding=1)


@plain
def weight_norm() -> nn.Module:
    model = Small()
    parametrizations.weight_norm(model.body)
    return model


@plain
class TiedAndCalledTwice(Small):
    def __init__(self) -> None:
        super().__init__()
        self.twin = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.twin.weight = self.body.weight

    def between(self, maps: Tensor) -> Tensor:
        return self.twin(self.body(self.body(maps)))


@plain
def frozen_layers() -> nn.Module:
    model = Small()
    model.stem.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    return model


@plain
class FrozenByTrain(Small):
    def train(self, mode: bool = True) -> FrozenByTrain:
        super().train(mode)
        self.norm.eval()
        return self


@plain
def norm_in_eval_mode() -> nn.Module:
    model = Small()
    model.norm.eval()
    return model


@plain
def in_eval_mode() -> nn.Module:
    return Small().eval()


@plain
class PlainTensor(Small):
    """A tensor that no registry knows, and one that is made of Python's numbers at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(-1, 1, 1)

    def between(self, maps: Tensor) -> Tensor:
        return (maps - self.mean) * torch.tensor([[[1.5]], [[2.0]], [[2.5]], [[3.0]]]) + torch.tensor(0.5)


@plain
class Detached(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps + (maps.round() - maps).detach()


@plain
class UnusedBranch(Small):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(CHANNELS, 1, 1)

    def between(self, maps: Tensor) -> Tensor:
        self.unused(maps)
        return maps


@plain
class Transposed(Small):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(CHANNELS, 6, 2, 2), nn.ConvTranspose2d(6, CHANNELS, 2, 2)

    def between(self, maps: Tensor) -> Tensor:
        return self.up(self.down(maps))


@plain
class SeveralOutputs(Small):
    def forward(self, images: Tensor) -> dict[str, Any]:
        features = self.features(images)
        return {"logits": self.head(features), "features": [features, features.detach()], "nothing": None}


@plain
class LossInForward(Small):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).square().mean()


@dataclass
class Maps:
    logits: Tensor
    maps: tuple[Tensor, ...]


@plain
class DataClass(Small):
    def forward(self, images: Tensor) -> Maps:
        return Maps(super().forward(images), (images * 2,))


class Output(dict[str, Tensor]):
    pass


@plain
class OutputOfItsOwnKind(Small):
    def forward(self, images: Tensor) -> Output:
        return Output(logits=super().forward(images))


@plain
class ForwardOfTheInstance(Small):
    def __init__(self) -> None:
        super().__init__()
        usual = self.forward
        self.forward = lambda images: usual(images).amax(1)  # type: ignore[method-assign]


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_network_holds_and_trains_alike(name: str) -> None:
    torch.manual_seed(0)
    model = PLAIN[name]()
    captured = traced(model, IMAGES, "fx")
    proof = prove(model, captured.graph_module, (IMAGES,))
    assert proof.holds, proof.difference
    assert proof.difference == ""
    assert proof.seconds > 0
    torch.manual_seed(0)
    own = PLAIN[name]().train()
    assert trains_alike(own, model.train(), captured.graph_module)
