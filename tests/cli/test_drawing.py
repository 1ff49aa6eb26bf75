"""The picture of a pair: which nodes stand where, what is marked, and what is written."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from typer.testing import CliRunner

from lowmode_fx import LowModeConfig, ModePair, build_ladder, build_pair
from lowmode_fx.capture.frontends import FrontEnd
from lowmode_fx.cli.draw_command import draw
from lowmode_fx.cli.drawing import Box, Kernel, Link, Row, align, connect, draw_pair, lay_out, pair_rows, shorten
from lowmode_fx.cli.drawing.part import choose_part
from lowmode_fx.cli.ladder_options import rung_pair

FRONT_ENDS: tuple[FrontEnd, ...] = ("fx", "export")


class Residual(nn.Module):
    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.skip = nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm(self.conv1(images)).relu()
        return self.skip(images) + self.conv2(hidden)


def small_net(blocks: int = 1) -> nn.Sequential:
    parts: list[tuple[str, nn.Module]] = [
        ("stem", nn.Conv2d(3, 4, 3, stride=2, padding=1)),
        ("pool", nn.MaxPool2d(2)),
        *((f"block{index}", Residual(4, 5)) for index in range(blocks)),
        ("down", nn.Conv2d(4, 6, 3)),
        ("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))),
    ]
    return nn.Sequential(OrderedDict(parts))


def long_net() -> nn.Sequential:
    return small_net(blocks=7)


def build(model: nn.Module | None = None, front_end: FrontEnd = "fx", **options: Any) -> ModePair:
    return build_pair(model or small_net(), torch.zeros(2, 3, 32, 32), LowModeConfig(**options), front_end=front_end)


def whole(pair: ModePair) -> frozenset[str]:
    return frozenset(node.name for node in pair.full.graph.nodes if node.op.startswith("call_"))


def titles(rows: Sequence[Row]) -> list[tuple[str | None, str | None]]:
    return [(row.full and row.full.title, row.low and row.low.title) for row in rows]


def boxes(*entries: Box) -> dict[str, Box]:
    return {box.name: box for box in entries}


def ids(svg: Path) -> list[str]:
    return re.findall(r'id="((?:full|low):[^"]+)"', svg.read_text(encoding="utf-8"))


# Boxes to rows -------------------------------------------------------------------------------------------------------


def test_low_modes_own_nodes_stand_before_what_they_lead_to_and_dropped_ones_are_ghosts() -> None:
    conv = Box("conv", "conv 3×3", sources=("pool",), kind="conv", kernel=Kernel((4, 4, 3, 3)))
    full = boxes(Box("x", "x", kind="image"), Box("pool", "max pool 2×2, stride 2", sources=("x",)), conv)
    crop = Box("pad", "crop 1", sources=("x",))
    low = boxes(full["x"], crop, Box("conv", "conv 1×1", sources=("pad",), kind="conv"))
    rows = align(full, low, {"pool", "conv"})
    assert titles(rows) == [
        ("x", "x"),
        ("max pool 2×2, stride 2", "max pool 2×2, dropped"),
        (None, "crop 1"),
        ("conv 3×3", "conv 1×1"),
    ]
    assert [row.low and row.low.kind for row in rows] == ["image", "ghost", "added", "conv"]


def test_what_is_not_shown_becomes_one_gap_that_its_readers_read() -> None:
    chain = boxes(
        Box("x", "x", kind="image"),
        *(Box(name, name, sources=(source,)) for name, source in zip("abcde", "xabcd", strict=True)),
    )
    chain["d"] = Box("d", "d", sources=("c", "a"))
    rows = align(chain, chain, {"c", "d"})
    found = [(row.full.title, row.full.sources) for row in rows if row.full]
    assert found == [
        ("x", ()),
        ("⋮  2 more nodes", ("x",)),
        ("c", ("⋮a",)),
        ("d", ("c", "⋮a")),
        ("⋮  1 more nodes", ("d",)),
    ]


@pytest.mark.parametrize(("shown", "expected"), [({"conv"}, True), ({"last"}, True), ({"first"}, False)])
def test_what_low_mode_adds_is_shown_behind_a_shown_convolution_and_before_any_shown_node(
    shown: set[str], expected: bool
) -> None:
    first = Box("first", "first")
    conv = Box("conv", "conv", sources=("first",), kind="conv")
    full = boxes(first, conv, Box("last", "last", sources=("conv",)))
    low = boxes(first, conv, Box("extra", "extra", sources=("conv",)), Box("last", "last", sources=("extra",)))
    assert ((None, "extra") in titles(align(full, low, shown))) is expected


# Rows to places ------------------------------------------------------------------------------------------------------


def chain_with(*sources: tuple[str, ...]) -> list[Box | None]:
    return [Box(str(index), str(index), sources=reads) for index, reads in enumerate(sources)]


def test_a_box_that_reads_the_one_above_it_is_reached_straight_down() -> None:
    assert connect(chain_with((), ("0",), ("1",))) == (Link(0, 1), Link(1, 2))


def test_rows_without_a_box_and_ghosts_are_passed_straight() -> None:
    column = [Box("0", "0"), None, Box("1", "1", kind="ghost"), Box("2", "2", sources=("0",))]
    assert connect(column) == (Link(0, 3),)


def test_arrows_that_overlap_take_lanes_with_the_longest_outside() -> None:
    links = connect(chain_with((), ("0",), ("1",), ("2", "1"), ("3", "0")))
    assert set(links) == {Link(0, 1), Link(1, 2), Link(2, 3), Link(3, 4), Link(1, 3, 1), Link(0, 4, 2)}


def test_arrows_that_only_meet_share_a_lane() -> None:
    links = connect(chain_with((), ("0",), ("1", "0"), ("2",), ("3", "2")))
    assert {link for link in links if link.lane} == {Link(0, 2, 1), Link(2, 4, 1)}


def test_places_are_these() -> None:
    image, slim = Box("x", "x", kind="image"), Box("a", "identity", sources=("x",), kind="slim")
    conv = Box("b", "conv", sources=("a", "x"), kind="conv")
    place = lay_out([Row(image, image), Row(slim, slim), Row(conv, conv)])
    assert place.tops == (48.0, 125.0, 158.0)
    assert place.heights == (64.0, 20.0, 42.0)
    assert (place.full.node, place.full.kernel) == (34.0, 34 + 206 + 21)
    assert (place.low.kernel, place.low.node) == (261 + 92 + 15 + 88 + 15, 471 + 92 + 21)
    assert (place.width, place.height) == (584 + 206 + 34, 158 + 42 + 88)


def test_a_lane_makes_its_own_side_wider() -> None:
    image, node = Box("x", "x", kind="image"), Box("a", "a", sources=("x",))
    plain, passing = Box("b", "b", sources=("a",)), Box("b", "b", sources=("a", "x"))
    straight = lay_out([Row(image, image), Row(node, node), Row(plain, plain)])
    place = lay_out([Row(image, image), Row(node, node), Row(plain, passing)])
    assert place.full == straight.full
    assert place.width == straight.width + 11


@pytest.mark.parametrize(
    ("path", "limit", "expected"),
    [
        ("layer1.0.conv1", 14, "layer1.0.conv1"),
        ("stages.0.blocks.0.mlp.fc1", 18, "…blocks.0.mlp.fc1"),
        ("stages.0.blocks.0.mlp.fc1", 17, "…0.mlp.fc1"),
        ("averylongname", 6, "…gname"),
    ],
)
def test_long_paths_keep_their_end(path: str, limit: int, expected: str) -> None:
    assert shorten(path, limit) == expected
    assert len(expected) <= limit


# Graphs to boxes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_every_node_stands_beside_its_twin(front_end: FrontEnd) -> None:
    pair = build(front_end=front_end)
    rows = pair_rows(pair, whole(pair))
    assert [row.full.name for row in rows[1:] if row.full and row.low] == [
        node.name for node in pair.full.graph.nodes if node.op.startswith("call_")
    ]
    assert all(row.full.name == row.low.name for row in rows if row.full and row.low)


def test_a_whole_net_reads_like_this() -> None:
    pair = build(drop_maxpools="stem")
    assert titles(pair_rows(pair, whole(pair)))[1:] == [
        ("conv 3×3, stride 2", "conv 3×3, stride 2"),
        ("max pool 2×2, stride 2", "max pool 2×2, dropped"),
        ("conv 5×5", "conv 3×3"),
        ("batch norm", "batch norm, isolated"),
        ("ReLU", "ReLU"),
        ("identity", "identity"),
        ("conv 1×1", "conv 1×1"),
        ("add", "add"),
        (None, "crop 1, 1, 1, 1"),
        ("conv 3×3", "conv 1×1"),
        ("AdaptiveAvgPool2d", "AdaptiveAvgPool2d"),
        ("flatten", "flatten"),
        ("linear", "linear"),
    ]


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_pooled_kernels_are_those_of_the_report(front_end: FrontEnd) -> None:
    pair = build(front_end=front_end)
    rows = pair_rows(pair, whole(pair))
    kernels = {row.low.path: row.low.kernel for row in rows if row.low and row.low.kernel}
    assert kernels == {
        "stem": Kernel((4, 3, 3, 3)),
        "block0.conv1": Kernel((4, 4, 5, 5), (4, 4, 3, 3)),
        "block0.conv2": Kernel((4, 4, 1, 1)),
        "down": Kernel((6, 4, 3, 3), (6, 4, 1, 1)),
    }
    assert all(row.full.kernel.pooled is None for row in rows if row.full and row.full.kernel)


def test_shapes_are_those_of_either_mode() -> None:
    pair = build()
    rows = {row.full.path: row for row in pair_rows(pair, whole(pair)) if row.full}
    found = {path: (row.full and row.full.shape, row.low and row.low.shape) for path, row in rows.items()}
    assert found["stem"] == ("4×16×16", "4×8×8")
    assert found["block0.conv1"] == ("4×8×8", "4×4×4")
    assert found["down"] == ("6×6×6", "6×2×2")
    assert found["head.2"] == ("3", "3")


class Spellings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 6, (1, 7), padding=(0, 6), dilation=(1, 2))
        self.depthwise = nn.Conv2d(6, 6, 5, stride=(2, 1), padding=2, groups=6)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(6, 6, 5, padding=2)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.up(self.grouped(self.depthwise(self.wide(images))))
        return torch.cat([hidden, F.pad(hidden, pad=(1, -1))], 1)


def test_convolutions_say_what_is_unusual_about_them() -> None:
    pair = build(Spellings(), kernel_transform="center")
    assert titles(pair_rows(pair, whole(pair)))[1:] == [
        ("conv 1×7, dilation 1×2", "conv 1×7, dilation 1×2"),
        ("conv 5×5, stride 2×1, depthwise", "conv 3×3, stride 2×1, depthwise"),
        ("conv 3×3, 2 groups", "conv 1×1, 2 groups"),
        ("transposed conv 5×5", "transposed conv 3×3"),
        ("pad", "pad"),
        ("concat", "concat"),
    ]


class Computed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.weight = nn.Parameter(torch.ones(4, 3, 3, 3))

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(self.first(images), self.weight * 2, padding=1)


def test_a_computed_kernel_is_drawn_with_its_whole_shape() -> None:
    pair = build(Computed())
    rows = pair_rows(pair, whole(pair))
    assert [row.low.shape for row in rows[1:] if row.low] == ["3×16×16", "4×3×3×3", "4×16×16"]
    assert rows[-1].low and rows[-1].low.kernel == Kernel((4, 3, 3, 3), (4, 3, 1, 1))
    assert rows[-1].low.sources == tuple(row.low.name for row in rows[1:3] if row.low)


class Conditioned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.side = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 5), nn.Linear(7, 4)

    def forward(self, embedding: Tensor, images: Tensor) -> Tensor:
        return self.body(self.stem(images)) + self.side(embedding)[:, :, None, None]


def test_an_input_that_holds_no_images_is_a_box_of_its_own(tmp_path: Path) -> None:
    """Always drawn, in full and low-mode alike, and nothing is downsampled on the way."""
    pair = build_pair(Conditioned(), (torch.zeros(2, 7), torch.zeros(2, 3, 32, 32)))
    rows = draw_pair(pair, frozenset({"conv2d_1"}), tmp_path / "a.svg")
    found = [(row.full.title, row.full.kind, row.full.shape, row.low.shape) for row in rows if row.full and row.low]
    assert found[:2] == [("embedding", "input", "7", "7"), ("images", "image", "3×32×32", "3×16×16")]


# Which part ----------------------------------------------------------------------------------------------------------


def test_a_small_model_is_drawn_whole() -> None:
    pair = build()
    assert choose_part(pair) == ("", whole(pair))


def test_of_a_large_one_the_first_block_with_a_pooled_convolution_is_drawn() -> None:
    pair = build(long_net(), keep_convs=("block0",))
    label, shown = choose_part(pair)
    assert label == "block1"
    assert len(shown) == 6
    assert shown == choose_part(pair, "block1")[1]


def test_without_blocks_the_neighbours_of_the_first_pooled_convolution_are_drawn() -> None:
    layers = [nn.Conv2d(3, 3, 1), *(nn.Conv2d(3, 3, 3, padding=1) if index == 9 else nn.ReLU() for index in range(50))]
    pair = build(nn.Sequential(*layers))
    label, shown = choose_part(pair)
    assert label == "around 10"
    assert len(shown) == 20
    names = [node.name for node in pair.full.graph.nodes if node.name in shown]
    assert names[2].startswith("conv2d")


def test_a_part_is_globs_over_module_paths() -> None:
    pair = build()
    kept = {row.full.path for row in pair_rows(pair, choose_part(pair, "stem,block*.conv1")[1]) if row.full}
    assert kept == {"", "stem", "block0.conv1"}


def test_a_part_that_matches_nothing_names_what_it_could_have_matched() -> None:
    message = re.escape(
        "part: 'blok0' matches no module; near matches: block0, block0.skip, block0.norm, block0.conv2 (of 12)"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        choose_part(build(), "stem,blok0")


def test_more_nodes_than_a_picture_holds_are_refused() -> None:
    pair = build(nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), *(nn.ReLU() for _ in range(400))))
    message = re.escape("--part: 402 nodes are too many for a picture (at most 400); give a block's name")
    with pytest.raises(ValueError, match=f"^{message}$"):
        choose_part(pair, "*")


# Places to a file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "starts"), [("a.svg", b"<?xml"), ("a.png", b"\x89PNG"), ("a.PDF", b"%PDF")])
def test_the_ending_says_the_format(name: str, starts: bytes, tmp_path: Path) -> None:
    pair = build()
    draw_pair(pair, whole(pair), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(starts)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_every_node_of_the_part_is_drawn_in_both_modes_and_nothing_else(tmp_path: Path) -> None:
    pair = build(drop_maxpools="stem")
    _, shown = choose_part(pair, "pool,block0")
    draw_pair(pair, shown, tmp_path / "a.svg")
    found = [name for name in ids(tmp_path / "a.svg") if "⋮" not in name and not name.endswith(("kernel", "pooled"))]
    image = next(node.name for node in pair.full.graph.nodes if node.op == "placeholder")
    convs = [row.low.name for row in pair_rows(pair, shown) if row.low and row.low.kernel and row.low.kernel.pooled]
    expected = [f"{mode}:{name}" for mode in ("full", "low") for name in (image, *shown)]
    assert sorted(found) == sorted([*expected, *(f"low:{name}:transform" for name in convs)])


def test_each_pooled_kernel_is_marked_and_no_other(tmp_path: Path) -> None:
    pair = build()
    draw_pair(pair, whole(pair), tmp_path / "a.svg")
    found = ids(tmp_path / "a.svg")
    pooled = [change.node for change in pair.report.pooled]
    assert len(pooled) == 2
    assert [name for name in found if name.endswith(":pooled")] == [f"low:{node}:pooled" for node in pooled]
    assert [name for name in found if name.endswith(":transform")] == [f"low:{node}:transform" for node in pooled]
    assert sum(name.endswith(":kernel") for name in found) == 4  # each stands once, for both modes


def sum_of_taps(kernel: Tensor, size: tuple[int, ...]) -> Tensor:
    return kernel[..., : size[0], : size[1]]


@pytest.mark.parametrize("ratio", [2, 32])
@pytest.mark.parametrize("transform", ["adaptive", "center", sum_of_taps])
def test_every_ratio_and_transform_can_be_drawn(transform: Any, ratio: int, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 5, padding=2))
    pair = build(model, ratio=ratio, kernel_ratio=2, kernel_transform=transform)
    draw_pair(pair, whole(pair), tmp_path / "a.svg")
    assert "low:conv2d_1:pooled" in ids(tmp_path / "a.svg")


@pytest.mark.parametrize("dims", [1, 3])
def test_one_and_three_dimensions_can_be_drawn(dims: int, tmp_path: Path) -> None:
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    model = nn.Sequential(conv(3, 4, 3, padding=1), conv(4, 4, 5, padding=2))
    pair = build_pair(model, torch.zeros(2, 3, *(8,) * dims))
    rows = draw_pair(pair, whole(pair), tmp_path / "a.svg")
    last = rows[-1].low
    assert last and last.shape == "×".join("4" * (dims + 1))
    assert last.kernel == Kernel((4, 4, *(5,) * dims), (4, 4, *(3,) * dims))


def test_the_same_pair_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw_pair(build(), frozenset(), tmp_path / name, "a title")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    app = typer.Typer()
    app.command()(draw)
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "support")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_command_takes_reports_options_and_says_what_it_drew(run: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "new" / "net.svg"
    model = ("test_drawing:small_net", "--input-size", "32")
    result = run(*model, "--drop-maxpools", "stem", "--kernel-transform", "center", "--out", str(out))
    assert result.exit_code == 0, result.exception
    assert result.stdout == f"{out}: 12 nodes, 2 with a pooled kernel, 1 dropped in low-mode\n"
    assert len(ids(out)) > 24


@pytest.mark.parametrize(("options", "name"), [((), "r3"), (("--mode", "r2"), "r2")])
def test_of_a_ladder_the_mode_that_was_named_is_drawn(
    run: Callable[..., Any], tmp_path: Path, options: tuple[str, ...], name: str
) -> None:
    """By default the cheapest; the picture is that of the mode alone."""
    out = tmp_path / "net.svg"
    model = ("test_drawing:small_net", "--input-size", "36")
    result = run(*model, "--ladder", "3x2,2x2,1x1", "--drop-maxpools", "stem", *options, "--out", str(out))
    assert result.exit_code == 0, result.exception
    assert result.stdout == f"{out}: 12 nodes, 2 with a pooled kernel, 1 dropped in {name}-mode\n"
    for other in ("r3", "r2"):
        configs = {other: LowModeConfig(ratio=int(other[1:]), drop_maxpools="stem")}
        pair = rung_pair(build_ladder(small_net(), torch.zeros(2, 3, 36, 36), configs), other)
        draw_pair(pair, choose_part(pair)[1], tmp_path / "other.svg", model[0])
        assert ((tmp_path / "other.svg").read_bytes() == out.read_bytes()) == (other == name)


def test_a_mode_that_is_not_there_is_refused(run: Callable[..., Any]) -> None:
    for options, known in ((("--ladder", "3,2"), "r3, r2"), ((), "low")):
        error = run("test_drawing:small_net", "--input-size", "36", *options, "--mode", "r4").exception
        assert isinstance(error, ValueError) and str(error) == f"--mode 'r4' is no low mode; give {known}"


def test_another_ending_is_refused_before_anything_is_built(run: Callable[..., Any], tmp_path: Path) -> None:
    error = run("no:model", "--out", str(tmp_path / "net.gif")).exception
    assert isinstance(error, ValueError)
    assert "net.gif' is no picture; give a name that ends in .svg, .png or .pdf" in str(error)


def test_an_unknown_preset_is_refused(run: Callable[..., Any]) -> None:
    outcome = run("test_drawing:small_net", "--preset", "papr")
    assert outcome.exit_code == 2 and "'papr' is not one of 'paper'" in outcome.output
