"""Operators that fvcore leaves out, each against a count by hand; models on the meta device and of several inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import DeformConv2d
from typer.testing import CliRunner

from lowmode_fx import LowModeConfig, build_pair, count_flops, count_step_flops
from lowmode_fx.cli import app
from lowmode_fx.cli.command import CommandError
from lowmode_fx.counting.handles import macs_per_value
from passes.preserve import copy_spread_out

BATCH, SIDE = 2, 8  # a map has 64 pixels, in low-mode 16


class After(nn.Module):
    """A convolution to 8 channels, and ``then`` on its map (B, 8, 8, 8)."""

    def __init__(self, then: Callable[[Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        self.stem, self.then = nn.Conv2d(3, 8, 3, padding=1), then
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, images: Tensor) -> Any:
        return self.then(self, self.stem(images))


def macs(then: Callable[..., Any], **parts: nn.Module) -> tuple[float, float]:
    """Of ``then`` alone, per batch, in full-mode and in low-mode, where the map is 4×4."""
    model = After(then, **parts)
    pair = build_pair(model, torch.randn(BATCH, 3, SIDE, SIDE), LowModeConfig(kernel_ratio=1))
    report = count_flops(pair)
    rest = [layer for layer in report.layers if layer.name != "stem"]
    return tuple(BATCH * sum(layer.macs[mode] for layer in rest) for mode in ("full", "low"))  # type: ignore[return-value]


def rows(maps: Tensor) -> Tensor:
    """The pixels as a sequence (B, T, 8)."""
    return maps.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(kind: Any, gates: int, bidirectional: bool) -> None:
    """Two layers of 5 units: each step multiplies input and state with a matrix a gate, in each direction."""
    recurrent = kind(8, 5, num_layers=2, batch_first=True, bidirectional=bidirectional)
    ways = 1 + bidirectional
    a_step = ways * gates * 5 * (8 + 5) + ways * gates * 5 * (ways * 5 + 5)
    found = macs(lambda self, maps: self.recurrent(rows(maps))[0], recurrent=recurrent)
    assert found == (BATCH * 64 * a_step, BATCH * 16 * a_step)


def test_an_lstm_with_projections_and_a_cell() -> None:
    projected = nn.LSTM(8, 6, proj_size=2, batch_first=True)
    a_step = 4 * 6 * (8 + 2) + 6 * 2
    assert macs(lambda self, maps: self.lstm(rows(maps))[0], lstm=projected)[0] == BATCH * 64 * a_step
    cell = nn.GRUCell(8, 6)
    assert macs(lambda self, maps: self.cell(maps.mean((2, 3))), cell=cell)[0] == BATCH * 3 * 6 * (8 + 6)


@pytest.mark.parametrize(
    ("transform", "points", "values", "share"),
    [
        (lambda x: torch.fft.fft2(x).abs(), 64, 64, 1),
        (lambda x: torch.fft.fft(x).abs(), 8, 64, 1),
        (lambda x: torch.fft.fft(x, n=16, dim=2).abs(), 16, 128, 1),
        (lambda x: torch.fft.fftn(x, dim=(1, 2)).abs(), 8 * 8, 64, 1),
        (lambda x: torch.fft.rfft2(x).abs(), 64, 64, 0.5),
        (lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[2:]), 64, 2 * 64, 0.5),
        (lambda x: torch.fft.rfftn(x).abs(), BATCH * 8 * 64, 64, 0.5),
    ],
)
def test_fourier_transforms(transform: Any, points: int, values: int, share: float) -> None:
    """2.5 N log₂ N macs for N complex points; values: of each channel of each image."""
    full, _ = macs(lambda self, maps: transform(maps))
    assert full == round(2.5 * share * values * 8 * math.log2(points)) * BATCH


@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolutions(groups: int) -> None:
    """Each output value sums over the taps of its group's channels; a sample between four pixels comes first."""
    offsets, conv = nn.Conv2d(8, 18, 1), DeformConv2d(8, 6, 3, padding=1, groups=groups, bias=False)
    full, low = macs(lambda self, maps: self.conv(maps, self.offsets(maps)), offsets=offsets, conv=conv)
    for found, pixels in ((full, 64), (low, 16)):
        assert found == BATCH * pixels * (18 * 8 + 6 * (8 // groups) * 9 + 4 * 8 * 9)


ATTENTION = BATCH * 64 * 64 * (8 + 8)


@pytest.mark.parametrize(
    ("attention", "right"),
    [
        (lambda t: (t @ t.transpose(1, 2) / 3).softmax(-1) @ t, ATTENTION),
        (lambda t: torch.bmm(torch.bmm(t, t.mT).softmax(-1), t), ATTENTION),
        (lambda t: torch.einsum("bij,bjd->bid", torch.einsum("bid,bjd->bij", t, t).softmax(-1), t), ATTENTION),
        (lambda t: torch.einsum("...id,...jd->...ij", t, t), ATTENTION / 2),
        (lambda t: F.scaled_dot_product_attention(t, t, t), ATTENTION),
        (lambda t: F.rms_norm(t, (8,), t.new_ones(8)), 4 * BATCH * 64 * 8),
        (lambda t: t @ (t.transpose(1, 2) @ t).softmax(-1), BATCH * 64 * 8 * 8 * 2),  # linear attention
        (lambda t: t.new_ones(5, t.shape[1]) @ t, BATCH * 5 * 64 * 8),  # a matrix that is broadcast over the batch
        (lambda t: (t @ t.new_ones(8))[..., None], BATCH * 64 * 8),
        (lambda t: torch.tensordot(t, t.new_ones(8, 3), dims=1), BATCH * 64 * 8 * 3),
        (lambda t: torch.inner(t, t.new_ones(4, 8)), BATCH * 64 * 8 * 4),
        (lambda t: torch.addbmm(t[0].T @ t[0], t.mT, t), (BATCH + 1) * 64 * 8 * 8),
    ],
)
def test_attention_and_products_written_by_hand(attention: Any, right: float) -> None:
    assert macs(lambda self, maps: attention(rows(maps)))[0] == right


def test_multi_head_attention_and_a_bilinear_layer() -> None:
    heads = nn.MultiheadAttention(8, 2, batch_first=True)
    full, _ = macs(lambda self, maps: self.heads(rows(maps), rows(maps), rows(maps))[0], heads=heads)
    assert full == ATTENTION + BATCH * 64 * 8 * 8 * 4
    layer = nn.Bilinear(8, 8, 5, bias=False)
    found, _ = macs(lambda self, maps: self.layer(maps.mean((2, 3)), maps.amax((2, 3))), layer=layer)
    assert found == BATCH * (5 * 8 * 8 + 5 * 8)


def test_macs_for_each_value() -> None:
    pair = build_pair(After(lambda self, maps: torch.fft.hfft(maps, n=16)), torch.randn(BATCH, 3, SIDE, SIDE))
    free, counted = (
        count_flops(pair, handles={"aten::fft_hfft": each}).full_macs for each in (None, macs_per_value(3.0))
    )
    assert counted - free == 3 * 8 * 8 * 16


# Meta tensors and other default devices ------------------------------------------------------------------------------


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


def everything() -> nn.Module:
    parts = {"lstm": nn.LSTM(8, 5, batch_first=True), "norm": nn.BatchNorm2d(8), "fc": nn.Linear(5, 3)}

    def then(self: Any, maps: Tensor) -> Tensor:
        places = torch.arange(maps.shape[2], device=maps.device, dtype=maps.dtype)
        return self.fc(self.lstm(rows(self.norm(maps) + places))[0][:, -1])

    return After(then, **parts)


@pytest.mark.parametrize("enter", [torch.device, default_device])
def test_a_model_on_the_meta_device_is_counted_as_on_the_cpu(enter: Any) -> None:
    def counted() -> tuple[dict[str, Any], tuple[int, ...]]:
        pair = build_pair(everything(), torch.empty(BATCH, 3, SIDE, SIDE))
        return count_flops(pair).to_dict(), count_step_flops(pair)

    right = counted()
    with enter("meta"):
        assert counted() == right
    with torch.device("meta"):
        pair = build_pair(everything(), torch.empty(BATCH, 3, SIDE, SIDE))
    assert count_flops(pair).to_dict() == right[0]
    assert all(parameter.is_meta for parameter in pair.model.parameters())


def test_a_large_model_on_the_meta_device_takes_no_memory_for_its_weights() -> None:
    with torch.device("meta"):
        pair = build_pair(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)), torch.empty(1, 3, 16, 16))
    copied = copy_spread_out(pair, pair.model)
    for parameter in copied.model.parameters():
        assert parameter.device.type == "cpu" and parameter.untyped_storage().nbytes() == 4
    assert copied.full.get_parameter("0.weight") is copied.model[0].weight


def test_two_images_of_different_sizes_by_hand() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(1, 6, 1)

        def forward(self, colour: Tensor, depth: Tensor, weight: float = 1.0) -> Tensor:
            return self.wide(colour).mean((2, 3)).sum(1) + weight * self.deep(depth).mean((2, 3)).sum(1)

    example = {"colour": torch.zeros(2, 3, 16, 16), "depth": torch.zeros(2, 1, 8, 12)}
    pair = build_pair(Two(), example, images=("colour", "depth"))
    assert count_flops(pair).macs == {"full": 256 * 108 + 96 * 6, "low": 64 * 108 + 24 * 6}


# On the command line -------------------------------------------------------------------------------------------------


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return torch.fft.hfft(super().forward(images), n=8)


def hundred(inputs: list[Any], outputs: list[Any]) -> float:
    return 200.0  # of two images


def total(*options: str) -> int:
    runner = CliRunner()
    command = ["report", f"{__name__}:Net", "--input-size", "8", "--format", "csv", *options]
    ran = runner.invoke(app, command, catch_exceptions=False)
    return int(ran.stdout.splitlines()[-1].split(",")[3])


def test_handles_on_the_command_line() -> None:
    told = "aten::fft_hfft is neither counted nor known to be free; give --handle aten::fft_hfft=MACS, for each value"
    with pytest.raises(CommandError, match=f"^{told}"):
        total()
    conv = 64 * (12 + 4 * 36)
    for given, right in (("0", conv), ("2", conv + 2 * 4 * 8 * 8), (f"{__name__}:hundred", conv + 100)):
        assert total("--handle", f"aten::fft_hfft={given}") == right
    for given, told in (
        ("aten::x", "is no operator with its macs"),
        ("aten::x=much", "'much', which is no number of macs"),
    ):
        with pytest.raises(CommandError, match=told):
            total("--handle", given)
