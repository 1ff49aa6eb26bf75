"""Heads that know their map size: covering pools become global, flattened maps are resized or refused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowmode_fx import LowModeConfig, LowModeModel, ModePair, PassError, PeriodicSchedule, build_pair


def build(model: nn.Module, side: int, batch: int = 2, **options: Any) -> ModePair:
    config = LowModeConfig(**{"kernel_ratio": 1, **options})
    return build_pair(model, torch.zeros(batch, 3, side, side), config)


class Head(nn.Module):
    """A stem that halves the image, then whatever comes behind it, then a linear layer."""

    def __init__(self, head: Callable[[Tensor], Tensor], features: int) -> None:
        super().__init__()
        self.stem, self.head, self.fc = nn.Conv2d(3, 4, 3, 2, 1), head, nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head(self.stem(x)))


# Covering pools ------------------------------------------------------------------------------------------------------


COVERING: dict[str, Any] = {
    "AvgPool2d(7)": nn.Sequential(nn.AvgPool2d(7), nn.Flatten()),
    "AvgPool2d((7, 7), stride=1)": nn.Sequential(nn.AvgPool2d((7, 7), stride=1), nn.Flatten()),
    "F.avg_pool2d(x, 7)": lambda x: F.avg_pool2d(x, 7).flatten(1),
    "F.avg_pool2d, keywords": lambda x: F.avg_pool2d(input=x, kernel_size=[7, 7]).flatten(1),
}


@pytest.mark.parametrize("name", COVERING)
def test_a_pool_that_covers_its_map_becomes_global(name: str) -> None:
    model = Head(COVERING[name], 4)
    pair = build(model, 14)
    (change,) = pair.report.of("adapt_heads").changes
    assert (change.before, change.after) == ("average pool 7×7", "global average pool")
    images = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(pair.low(images), model.fc(model.stem(images).mean((2, 3))))
    full = torch.randn(2, 3, 14, 14)
    assert torch.equal(pair.full(full), model(full))


def test_the_report_names_the_module() -> None:
    model = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 4, 3, 2, 1), pool=nn.AvgPool2d(7)))
    (change,) = build(model, 14).report.of("adapt_heads").changes
    assert change.site == "pool"


@pytest.mark.parametrize(
    ("conv", "pool", "sides"),
    [(nn.Conv1d(3, 4, 3, 2, 1), nn.AvgPool1d(7), 1), (nn.Conv3d(3, 4, 3, 2, 1), nn.AvgPool3d(7), 3)],
    ids=["1-D", "3-D"],
)
@pytest.mark.parametrize("front_end", ["auto", "live", "fx"])
def test_other_dimensions(conv: nn.Module, pool: nn.Module, sides: int, front_end: Any) -> None:
    example, config = torch.zeros(2, 3, *[14] * sides), LowModeConfig(kernel_ratio=1)
    pair = build_pair(nn.Sequential(conv, pool), example, config, front_end=front_end)
    assert len(pair.report.of("adapt_heads").changes) == 1
    images = torch.randn(2, 3, *[7] * sides)
    expected = conv(images).mean(tuple(range(2, sides + 2)), keepdim=True)
    torch.testing.assert_close(pair.low(images), expected)


class Exported(nn.Module):
    """By a branch on its shape, which torch.fx does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.body, self.pool = nn.Conv1d(3, 4, 3, 2, 1), nn.Conv1d(4, 4, 3, 1, 1), nn.AvgPool1d(7)

    def forward(self, rows: Tensor) -> Tensor:
        return self.pool(self.body(self.conv(rows)) if rows.shape[-1] > 3 else rows)


def test_a_covering_pool_of_an_exported_graph_becomes_global_in_low_steps() -> None:
    model = Exported()
    pair = build_pair(model, torch.zeros(2, 3, 14))
    assert pair.report.front_end == "export"
    assert [change.after for change in pair.report.of("adapt_heads").changes] == ["global average pool"]
    net, rows = LowModeModel(pair, PeriodicSchedule(1), compile=False), torch.randn(2, 3, 14)
    with torch.no_grad():
        kernel = model.body.weight.mean(2, keepdim=True)
        maps = F.conv1d(model.conv(pair.downsample(rows)), kernel, model.body.bias)
    torch.testing.assert_close(net(rows), maps.mean(2, keepdim=True))
    with pytest.raises(PassError, match="export can't trace the model on 7 inputs"):
        build_pair(model, torch.zeros(2, 3, 14), front_end="export")


@pytest.mark.parametrize("front_end", ["auto", "fx"])
def test_a_head_of_a_fixed_size_is_adapted_by_graphs_too(front_end: Any) -> None:
    model = Head(nn.Flatten(), 4 * 7 * 7)
    config = LowModeConfig(adapt_head=True, kernel_ratio=1)
    pair = build_pair(model, torch.zeros(2, 3, 14, 14), config, front_end=front_end)
    net, images = LowModeModel(pair, PeriodicSchedule(1), compile=False), torch.randn(2, 3, 14, 14)
    maps = model.stem(pair.downsample(images))
    resized = F.interpolate(maps, (7, 7), mode="bilinear", align_corners=False)
    torch.testing.assert_close(net(images), model.fc(resized.flatten(1)))


@pytest.mark.parametrize(
    "head",
    [
        nn.AdaptiveAvgPool2d(1),
        lambda x: F.avg_pool2d(x, x.shape[2:]),
        lambda x: x.mean((2, 3), keepdim=True),
    ],
)
def test_a_head_of_any_size_is_left_alone(head: Any) -> None:
    model = Head(nn.Sequential(head, nn.Flatten()) if isinstance(head, nn.Module) else lambda x: head(x).flatten(1), 4)
    pair = build(model, 14)
    assert pair.report.of("adapt_heads").changes == ()
    images = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(pair.low(images), model.fc(model.stem(images).mean((2, 3))))


def test_a_pool_that_covers_a_part_stays_what_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AvgPool2d(2))
    pair = build(model, 16)
    assert pair.report.of("adapt_heads").changes == ()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(pair.low(images), model(images))


def test_a_covering_pool_with_padding_stays_what_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AvgPool2d(4, stride=4, padding=2))
    pair = build(model, 8)
    assert pair.report.of("adapt_heads").changes == ()


def test_a_covering_pool_with_its_own_divisor_keeps_full_modes_scale() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AvgPool2d(7, divisor_override=1))
    pair = build(model, 14)
    images = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(pair.low(images), model[0](images).mean((2, 3), keepdim=True) * 49)


def test_a_max_pool_that_covers_its_map_becomes_global() -> None:
    model = Head(nn.Sequential(nn.MaxPool2d(7), nn.Flatten()), 4)
    images = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(build(model, 14).low(images), model.fc(model.stem(images).amax((2, 3))))


# Flattened maps ------------------------------------------------------------------------------------------------------


FLAT: dict[str, Any] = {
    "Flatten": nn.Flatten(),
    "flatten": lambda x: x.flatten(1),
    "torch.flatten": lambda x: torch.flatten(x, 1),
    "view by batch": lambda x: x.view(x.size(0), -1),
    "reshape": lambda x: x.reshape(x.shape[0], 256),
}


@pytest.mark.parametrize("name", ["Flatten", "flatten", "torch.flatten", "view by batch"])
def test_a_flattened_map_is_refused_with_its_sizes(name: str) -> None:
    with pytest.raises(PassError) as error:
        build(Head(FLAT[name], 256), 16)
    assert str(error.value) == (
        "fc needs a flattened map of fixed size (4×8×8 in full-mode), but low-mode gives 2×64; "
        "set adapt_head=True to resize the map to its full-mode size there, or make the model take images of other "
        "sizes, as by nn.AdaptiveAvgPool2d before the flatten"
    )


@pytest.mark.parametrize("name", FLAT)
def test_adapt_head_resizes_the_map(name: str) -> None:
    model = Head(FLAT[name], 256)
    pair = build(model, 16, adapt_head=True)
    (change,) = pair.report.of("resize_head").changes
    assert (change.before, change.after) == ("low-mode map", "resized to 8×8")
    images = torch.randn(2, 3, 8, 8)
    resized = F.interpolate(model.stem(images), size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(pair.low(images), model.fc(resized.flatten(1)))
    full = torch.randn(2, 3, 16, 16)
    assert torch.equal(pair.full(full), model(full))


def test_adapt_head_changes_nothing_where_the_head_fits() -> None:
    pair = build(Head(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 4), 16, adapt_head=True)
    assert not pair.report.of("resize_head").changes


def test_a_sequence_of_linear_layers_behind_a_flattened_map() -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(256, 6), nn.ReLU())
    model = Head(layers, 6)
    with pytest.raises(PassError, match=r"^head\.2 needs a flattened map of fixed size \(4×8×8 in full-mode\)"):
        build(model, 16)
    assert build(model, 16, adapt_head=True).low(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize("batch", [2, 4, 8])
def test_a_view_that_folds_the_map_into_the_batch_is_refused(batch: int) -> None:
    """``view(-1, C·H·W)`` runs on four low-mode images, and gives one row for all of them."""
    with pytest.raises(PassError) as error:
        build(Head(lambda x: x.view(-1, 256), 256), 16, batch)
    assert str(error.value) == (
        f"view needs a flattened map of fixed size (4×8×8 in full-mode), but low-mode gives {batch}×4×4×4; "
        "set adapt_head=True to resize the map to its full-mode size there, or make the model take images of other "
        "sizes, as by nn.AdaptiveAvgPool2d before the flatten"
    )


@pytest.mark.parametrize("batch", [2, 4])
def test_adapt_head_resizes_a_map_that_a_view_would_fold(batch: int) -> None:
    model = Head(lambda x: x.view(-1, 256), 256)
    pair = build(model, 16, batch, adapt_head=True)
    assert pair.low(torch.zeros(batch, 3, 8, 8)).shape == (batch, 5)


# Tables of positions -------------------------------------------------------------------------------------------------


class Positions(nn.Module):
    """A table that is added to the map: a convolution, a norm and an activation before it, a residual around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.norm, self.tail = nn.GroupNorm(2, 4), nn.Conv2d(4, 6, 3, 1, 1)
        self.table = nn.Parameter(torch.randn(4, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.body(x)).relu()
        return self.tail(x + (y + self.table))


class Tokens(nn.Module):
    """A table for the tokens that a map is cut into, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.table, self.fc = nn.Conv2d(3, 4, 3, 2, 1), nn.Parameter(torch.randn(1, 64, 4)), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        return self.fc(tokens + self.table).mean(1)


class Window(nn.Module):
    """A view that takes 64 pixels for granted, with the batch left to be worked out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stem(x).view(-1, 4, 64).transpose(1, 2)).mean(1)


def enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, size=(8, 8), mode="bilinear", align_corners=False)


def test_a_table_of_positions_is_refused_with_both_ways_out() -> None:
    with pytest.raises(PassError, match=r"^the model itself can't take 8×8 inputs: at add, given 2×4×4×4: ") as error:
        build(Positions(), 16)
    assert str(error.value).endswith(
        "make the model take images of other sizes (some of timm's by dynamic_img_size=True), or set adapt_head=True "
        "to resize the map behind relu to its full-mode 8×8"
    )
    with pytest.raises(PassError, match="8×8, or set downsample_input=False to pool kernels only"):
        build(Positions(), 16, kernel_ratio=2)


def test_adapt_head_resizes_the_map_that_a_table_is_added_to_and_all_that_meets_it() -> None:
    model = Positions()
    pair = build(model, 16, adapt_head=True)
    changes = pair.report.of("resize_head").changes
    assert [(change.site, change.after) for change in changes] == [("stem", "resized to 8×8")]
    images = torch.randn(2, 3, 8, 8)
    x = enlarged(model.stem(images))
    y = model.norm(model.body(x)).relu()
    torch.testing.assert_close(pair.low(images), model.tail(x + (y + model.table)))
    pair.low(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    full = torch.randn(2, 3, 16, 16)
    assert torch.equal(pair.full(full), model(full))


def test_a_pooled_kernel_behind_a_resized_map_keeps_its_geometry() -> None:
    pair = build(Positions(), 16, kernel_ratio=2, adapt_head=True)
    assert [change.site for change in pair.report.pooled] == ["body", "tail"]
    assert pair.low(torch.zeros(2, 3, 8, 8)).shape == (2, 6, 8, 8)


def test_adapt_head_resizes_the_map_that_tokens_are_cut_from() -> None:
    model = Tokens()
    with pytest.raises(PassError, match="set adapt_head=True to resize the map behind conv2d in stem to its full-mode"):
        build(model, 16)
    pair = build(model, 16, adapt_head=True)
    images = torch.randn(2, 3, 8, 8)
    tokens = enlarged(model.stem(images)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(pair.low(images), model.fc(tokens + model.table).mean(1))


class Centred(nn.Module):
    """Tokens that are worked on before a head that wants so many of them: a row of pixels is no map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(256, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2)
        return self.fc((tokens - tokens.mean(2, keepdim=True)).flatten(1))


def test_a_row_of_tokens_is_never_resized_as_if_it_were_a_map() -> None:
    model = Centred()
    pair = build(model, 16, adapt_head=True)
    (change,) = pair.report.of("resize_head").changes
    assert (change.site, change.after) == ("stem", "resized to 8×8")
    images = torch.randn(2, 3, 8, 8)
    tokens = enlarged(model.stem(images)).flatten(2)
    expected = model.fc((tokens - tokens.mean(2, keepdim=True)).flatten(1))
    torch.testing.assert_close(pair.low(images), expected)


def test_a_map_with_its_channels_last_is_resized_before_they_move() -> None:
    model = Head(lambda x: x.permute(0, 2, 3, 1).flatten(1), 256)
    images = torch.randn(2, 3, 8, 8)
    expected = model.fc(enlarged(model.stem(images)).permute(0, 2, 3, 1).flatten(1))
    torch.testing.assert_close(build(model, 16, adapt_head=True).low(images), expected)


def test_a_view_that_would_fold_pixels_into_the_batch_is_refused_or_resized() -> None:
    """Four low-mode images would pass for one: nothing fails, and everything is wrong."""
    model = Window()
    with pytest.raises(PassError, match="its batch becomes 1, because the map is reshaped to a fixed length"):
        build(model, 16, batch=4)
    images = torch.randn(4, 3, 8, 8)
    expected = model.fc(enlarged(model.stem(images)).view(-1, 4, 64).transpose(1, 2)).mean(1)
    torch.testing.assert_close(build(model, 16, batch=4, adapt_head=True).low(images), expected)


def test_a_size_that_is_fixed_before_any_convolution_stays_refused() -> None:
    class Asserting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            torch._assert(x.shape[2] == 16, "this model takes 16 rows")
            return self.stem(x)

    with pytest.raises(
        PassError,
        match=r"^the model itself can't take 8×8 inputs: at _assert: this model takes 16 rows; "
        r"make the model take images of other sizes \(some of timm's by dynamic_img_size=True\)(\n|$)",
    ):
        build(Asserting(), 16)
    with pytest.raises(
        PassError, match=r"^adapt_head=True finds no map of a convolution to resize: the model itself can't take 8×8"
    ):
        build(Asserting(), 16, adapt_head=True)


def test_a_map_of_which_nothing_is_left_is_refused() -> None:
    """The shapes fit, and adaptive pooling of an empty map fails only when it runs."""
    with pytest.raises(PassError, match="its map would be empty; use an input size"):
        build(Head(lambda x: F.adaptive_avg_pool2d(x[:, :, 4:, 4:], 2).flatten(1), 16), 16)


def test_a_refusal_is_one_clear_line(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PassError):
        build(Head(nn.Flatten(), 256), 16)
    assert caplog.records == []
    assert "Traceback" not in capfd.readouterr().err


def test_a_refusal_names_the_nearest_sides_that_the_model_takes() -> None:
    class Halving(nn.Module):
        """Adds a map that was halved twice and doubled twice to itself, which fits multiples of four alone."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.deep = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            halved = F.avg_pool2d(F.avg_pool2d(self.deep(x), 2), 2)
            return (x + F.interpolate(halved, scale_factor=4.0)).mean((2, 3))

    with pytest.raises(PassError, match="the nearest sizes that it takes are 8×8 and 12×12: set size_multiple=4"):
        build_pair(Halving(), torch.zeros(2, 3, 20, 20))
    pair = build_pair(Halving(), torch.zeros(2, 3, 20, 20), LowModeConfig(size_multiple=4))
    assert pair.report.low_input_shape == (2, 3, 12, 12)
