"""What looks like a constant: values worked out from buffers, sizes and numbers, which change later."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from semantics.habit import Call, Kind, photos
from semantics.skeleton import CHANNELS, Small

KIND = Kind("constants", r"buffer|constant|dtype|load|moved|\bmask\b|attribute")


class FrozenNorm(nn.Module):
    """A batch norm whose statistics and weights are buffers, folded into one scale and shift."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("weight", "running_var"):
            self.register_buffer(name, torch.ones(CHANNELS))
        for name in ("bias", "running_mean"):
            self.register_buffer(name, torch.zeros(CHANNELS))

    def forward(self, maps: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return maps * scale[:, None, None] + shift[:, None, None]


def load_pretrained(model: nn.Module, step: int) -> None:
    if step == 1:
        state = {name: value + 0.1 for name, value in model.state_dict().items() if "tracked" not in name}
        model.load_state_dict(state, strict=False)


@KIND.habit(each_step=load_pretrained, compiled=True)
class FrozenNormLoadedLater(Small):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = FrozenNorm()

    def between(self, maps: Tensor) -> Tensor:
        return self.frozen(maps)


@KIND.habit(each_step=load_pretrained)
class NormalisedInForward(Small):
    """The data's mean and deviation, as buffers that a checkpoint brings."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 0.4))
        self.register_buffer("std", torch.full((3, 1, 1), 0.2))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images - self.mean) / self.std)


def to_double(net: nn.Module, step: int) -> None:
    if step == 1:
        net.double()


def doubles_later(step: int) -> Call:
    return Call((photos(step).double() if step else photos(step),))


@KIND.habit(each_step=to_double, through_net=True, given=doubles_later, compiled=True)
class MovedToDouble(Small):
    """``net.double()`` after the build; a ramp is made in the images' dtype."""

    def forward(self, images: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, images.shape[-1], dtype=images.dtype, device=images.device)
        return super().forward(images + ramp)


@KIND.habit(each_step=to_double, through_net=True, given=doubles_later)
class MovedWithAMask(Small):
    """A mask that is a plain tensor, which the model's own ``_apply`` moves along."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.ones(CHANNELS, CHANNELS, 3, 3).tril()

    def _apply(self, change, *arguments, **options):
        self.mask = change(self.mask)
        return super()._apply(change, *arguments, **options)

    def between(self, maps: Tensor) -> Tensor:
        return torch.conv2d(maps, self.body.weight * self.mask, self.body.bias, padding=1)


def another_mask(model: nn.Module, step: int) -> None:
    model.mask[step % CHANNELS] = 0


@KIND.habit(each_step=another_mask)
class MaskWrittenByTheLoop(Small):
    """A plain tensor, changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.ones(CHANNELS, 1, 1)

    def between(self, maps: Tensor) -> Tensor:
        return maps * self.mask


@KIND.habit()
class NumbersInAList(Small):
    """A tensor made of Python's numbers in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]

    def between(self, maps: Tensor) -> Tensor:
        return maps * torch.tensor(self.scales)[:, None, None]


def turn_the_table(model: nn.Module, step: int) -> None:
    model.table *= 1.5


@KIND.habit(each_step=turn_the_table, compiled=True)
class NumpyArray(Small):
    def __init__(self) -> None:
        super().__init__()
        self.table = np.linspace(0.5, 1.5, CHANNELS, dtype=np.float32)

    def between(self, maps: Tensor) -> Tensor:
        return maps * torch.from_numpy(self.table.copy())[:, None, None]


@KIND.habit()
class GridOfPlaces(Small):
    """Coordinates as channels, made for the maps' size."""

    def between(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        return maps + rows * columns


@KIND.habit(compiled=True)
class CachedInADict(Small):
    """A window that is kept for each size of maps."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: dict[int, Tensor] = {}

    def between(self, maps: Tensor) -> Tensor:
        side = maps.shape[-1]
        if side not in self.windows:
            self.windows[side] = torch.hann_window(side) + 0.5
        return maps * self.windows[side]


@KIND.habit()
class DecayFromABuffer(Small):
    """A buffer that ``forward`` moves is the base of a value that a later line reads."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.ones(1))

    def between(self, maps: Tensor) -> Tensor:
        if self.training:
            self.level *= 0.5
        return maps * torch.sigmoid(self.level * 3).item()
