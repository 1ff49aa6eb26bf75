"""What ``forward`` draws, from whichever generator, and what it decides by it."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantics.habit import Kind
from semantics.skeleton import CHANNELS, Small, conv

KIND = Kind("draws", r"\brand|[Rr]andom|\bdraw|[Bb]ernoulli|normal_|\bsampl|generator|data-dependent")


class Skipping(Small):
    """Stochastic depth by hand: a coin decides whether a block runs."""

    def __init__(self) -> None:
        super().__init__()
        self.block = conv()

    def heads(self) -> bool:
        raise NotImplementedError

    def between(self, maps: Tensor) -> Tensor:
        return maps if self.training and self.heads() else maps + self.block(maps)


@KIND.habit(compiled=True)
class CoinOfPython(Skipping):
    def heads(self) -> bool:
        return random.random() < 0.5


@KIND.habit(compiled=True)
class CoinOfTorch(Skipping):
    def heads(self) -> bool:
        return torch.rand(1).item() < 0.5


@KIND.habit(compiled=True)
class CoinOfNumpy(Skipping):
    def heads(self) -> bool:
        return np.random.rand() < 0.5


@KIND.habit(compiled=True)
class CoinOfADistribution(Skipping):
    def heads(self) -> bool:
        return bool(torch.distributions.Bernoulli(torch.tensor(0.5)).sample().item() == 1)


@KIND.habit()
class CoinOfItsOwn(Skipping):
    """A generator that the model holds."""

    def __init__(self) -> None:
        super().__init__()
        self.coin = random.Random(3)

    def heads(self) -> bool:
        return self.coin.random() < 0.5


@KIND.habit(compiled=True)
class NoiseOfItsOwnTorchGenerator(Small):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def between(self, maps: Tensor) -> Tensor:
        return maps + 0.3 * torch.randn(1, CHANNELS, 1, 1, generator=self.generator) if self.training else maps


@KIND.habit()
class NoiseOfItsOwnNumpyGenerator(Small):
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(3)

    def between(self, maps: Tensor) -> Tensor:
        return maps * float(self.generator.uniform(0.5, 1.5)) if self.training else maps


@KIND.habit(compiled=True)
class ChoiceOfAugmentation(Small):
    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            images = random.choice([lambda it: it, lambda it: it.flip(3), lambda it: it / 2])(images)
        return super().forward(images)


@KIND.habit(compiled=True)
class CutoutOfPython(Small):
    def forward(self, images: Tensor) -> Tensor:
        top = random.randrange(images.shape[2] - 2)
        images = torch.cat([images[:, :, :top], 0 * images[:, :, top : top + 2], images[:, :, top + 2 :]], 2)
        return super().forward(images)


@KIND.habit(compiled=True)
class CutoutOfTorch(Small):
    def forward(self, images: Tensor) -> Tensor:
        top = int(torch.randint(0, images.shape[2] - 2, (1,)))
        mask = torch.ones_like(images)
        mask[:, :, top : top + 2] = 0
        return super().forward(images * mask)


@KIND.habit()
class NoiseOfChannels(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps * (1 + 0.5 * torch.randn(1, CHANNELS, 1, 1)) if self.training else maps


@KIND.habit()
class NoiseInPlace(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps + torch.empty(1, CHANNELS, 1, 1).normal_(std=0.5) if self.training else maps


@KIND.habit()
class NoiseLikeMaps(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps + 0.1 * torch.randn_like(maps) if self.training else maps


@KIND.habit(compiled=True)
class DropoutLayers(Small):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.drop_maps = nn.Dropout(0.3), nn.Dropout2d(0.3)

    def between(self, maps: Tensor) -> Tensor:
        return self.drop(self.drop_maps(maps))


@KIND.habit()
class DropoutAlways(Small):
    """Monte Carlo dropout: in eval mode too."""

    def between(self, maps: Tensor) -> Tensor:
        return F.dropout(maps, 0.2)


@KIND.habit()
class DropPath(Small):
    """A whole sample's branch is dropped, the rest scaled up."""

    def between(self, maps: Tensor) -> Tensor:
        if not self.training:
            return maps + self.body(maps)
        kept = maps.new_empty(len(maps), 1, 1, 1).bernoulli_(0.7)
        return maps + self.body(maps) * kept / 0.7


@KIND.habit(compiled=True)
class MixedSamples(Small):
    """Manifold mixup: which samples by torch, how much by numpy."""

    def between(self, maps: Tensor) -> Tensor:
        if not self.training:
            return maps
        share = float(np.random.beta(1.0, 1.0))
        return share * maps + (1 - share) * maps[torch.randperm(len(maps))]


@KIND.habit(compiled=True)
class SlimmableWidth(Small):
    """Each step trains one of several widths, by slices of the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = conv(CHANNELS, 2 * CHANNELS)

    def between(self, maps: Tensor) -> Tensor:
        width = random.choice([2, 4, 2 * CHANNELS]) if self.training else 2 * CHANNELS
        wide = F.conv2d(maps, self.wide.weight[:width], self.wide.bias[:width], padding=1)
        return maps + wide.mean(1, keepdim=True)


@KIND.habit()
class MultiScale(Small):
    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            scale = random.choice([0.75, 1.0, 1.25])
            images = F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
        return super().forward(images)


@KIND.habit()
class ReparametrisedSample(Small):
    """A variational bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, images: Tensor) -> Tensor:
        mean = self.maps(images).mean((2, 3))
        law = torch.distributions.Normal(mean, F.softplus(self.spread(mean)))
        return self.head(law.rsample() if self.training else mean)


@KIND.habit()
class GumbelGate(Small):
    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(CHANNELS, 2))

    def between(self, maps: Tensor) -> Tensor:
        gates = (
            F.gumbel_softmax(self.logits, tau=1.0, hard=True)[:, 0] if self.training else self.logits.softmax(1)[:, 0]
        )
        return maps * gates[:, None, None]


@KIND.habit()
class RandomisedRelu(Small):
    def between(self, maps: Tensor) -> Tensor:
        return F.rrelu(self.body(maps), training=self.training)


@KIND.habit(compiled=True)
class SampledBranch(Small):
    """A branch by its learned probability, as architecture search does."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv(kernel=3), conv(kernel=5), nn.Identity()])
        self.preference = nn.Parameter(torch.zeros(3))

    def between(self, maps: Tensor) -> Tensor:
        shares = self.preference.softmax(0)
        taken = int(torch.multinomial(shares, 1)) if self.training else int(shares.argmax())
        return self.branches[taken](maps) * shares[taken]


@KIND.habit()
class ShuffledOrder(Small):
    """Layers in an order that Python shuffles anew."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([conv(), nn.Tanh(), nn.AvgPool2d(3, 1, 1)])

    def between(self, maps: Tensor) -> Tensor:
        order = list(self.layers)
        if self.training:
            random.shuffle(order)
        for layer in order:
            maps = layer(maps)
        return maps


@KIND.habit()
class DropConnect(Small):
    """The weights are thinned out, not the maps."""

    def between(self, maps: Tensor) -> Tensor:
        weight = F.dropout(self.body.weight, 0.3, self.training)
        return F.conv2d(maps, weight, self.body.bias, padding=1)
