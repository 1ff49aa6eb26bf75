"""Pooled kernels in a graph: which convolutions are chosen, how their calls are joined, which transform they get."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from oracle_kernels import naive_pool_kernel
from tiny import named
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lowmode_fx import LowModeConfig, ModePair, PassError, build_pair
from lowmode_fx.cli.spelling import command_spelling
from passes.spelling import spelled

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.usefixtures("double_precision"),
]


def pooled(pair: ModePair) -> dict[str, tuple[str, str]]:
    return {change.site: (change.before, change.after) for change in pair.report.pooled}


def skipped(pair: ModePair) -> dict[str, str]:
    return {skip.site: skip.reason for skip in pair.report.of("pool_weights").skips}


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# Which convolutions --------------------------------------------------------------------------------------------------


def every_kind() -> nn.Sequential:
    return named(
        stem=nn.Conv2d(3, 4, 7, padding=3),
        dense=nn.Conv2d(4, 4, 3, padding=1),
        strided=nn.Conv2d(4, 4, 3, stride=2, padding=1),
        wide=nn.Conv2d(4, 4, (1, 7), padding=(0, 3)),
        five=nn.Conv2d(4, 4, 5, padding=2),
        pointwise=nn.Conv2d(4, 4, 1),
        depthwise3=nn.Conv2d(4, 4, 3, padding=1, groups=4),
        depthwise7=nn.Conv2d(4, 4, 7, padding=3, groups=4),
        grouped=nn.Conv2d(4, 4, 3, padding=1, groups=2),
        patchify=nn.Conv2d(4, 4, 2, stride=2),
        up=nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1),
        up_wide=nn.ConvTranspose2d(4, 4, 5, stride=2, padding=2),
    )


def build(model: nn.Module, **options: Any) -> ModePair:
    return build_pair(model, torch.zeros(2, 3, 16, 16), LowModeConfig(**options))


def test_dense_pools_overlapping_windows_except_the_stem_and_never_makes_a_depthwise_scale() -> None:
    pair = build(every_kind())
    assert pooled(pair) == {
        "dense": ("3×3", "1×1"),
        "strided": ("3×3", "1×1"),
        "wide": ("1×7", "1×3"),
        "five": ("5×5", "3×3"),
        "depthwise7": ("7×7", "3×3"),
        "grouped": ("3×3", "1×1"),
        "up_wide": ("5×5", "3×3"),
    }
    assert skipped(pair) == {
        "stem": "stem: it reads the image",
        "pointwise": "1×1 has nothing to pool",
        "depthwise3": "depthwise: one tap would be left, a scale without spatial extent",
        "patchify": "windows do not overlap (2×2 at stride 2×2)",
        "up": "transposed: 1×1 taps at stride 2×2 leave holes in the output",
    }


def test_all_takes_the_stem_and_patchifying_convs_too() -> None:
    pair = build(every_kind(), pool_convs="all")
    assert {site: sizes for site, sizes in pooled(pair).items() if site in ("stem", "patchify")} == {
        "stem": ("7×7", "3×3"),
        "patchify": ("2×2", "1×1"),
    }
    assert set(skipped(pair)) == {"pointwise", "depthwise3", "up"}


class Fixed(nn.Module):
    """A high-pass filter that no training moves, from a buffer or a constant, behind a convolution."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.stem, self.head, self.how = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), how
        sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).expand(4, 4, 3, 3).clone()
        self.register_buffer("sobel", sobel)
        self.scale = nn.Parameter(torch.ones(4, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        kernel = {"buffer": self.sobel, "computed": self.sobel.abs() / 8, "scaled": self.sobel * self.scale}[self.how]
        return self.head(F.conv2d(x, kernel, padding=1))


@pytest.mark.parametrize("how", ["buffer", "computed"])
def test_a_kernel_that_no_parameter_reaches_is_kept(how: str) -> None:
    pair = build(Fixed(how))
    assert pooled(pair) == {"head": ("3×3", "1×1")}
    assert "no trained parameter reaches it" in skipped(pair).values()


def test_a_fixed_kernel_is_pooled_where_it_is_named() -> None:
    pair = build(Fixed("buffer"), pool_convs=["*conv2d*", "head"])
    assert len(pooled(pair)) == 2


def test_a_kernel_that_a_parameter_scales_is_trained() -> None:
    assert len(pooled(build(Fixed("scaled")))) == 2


def test_a_deformable_convolution_is_reported() -> None:
    class Deformable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.offsets = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 18, 3, padding=1)
            self.deform = torchvision.ops.DeformConv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.deform(x, self.offsets(x))

    pair = build_pair(Deformable().float(), torch.zeros(2, 3, 16, 16, dtype=torch.float32))
    assert pooled(pair) == {"offsets": ("3×3", "1×1")}
    assert skipped(pair)["deform"] == "deformable: each of its taps has its own offset"


def test_globs_are_taken_at_their_word() -> None:
    pair = build(every_kind(), pool_convs=["stem", "depth*", "up"])
    assert pooled(pair) == {
        "stem": ("7×7", "3×3"),
        "depthwise3": ("3×3", "1×1"),
        "depthwise7": ("7×7", "3×3"),
        "up": ("4×4", "1×1"),
    }
    assert skipped(pair)["dense"] == "not in pool_convs"


def test_a_glob_that_names_only_a_patchifying_conv_is_taken_at_its_word() -> None:
    model = named(patch=nn.Conv2d(3, 4, 4, stride=4), act=nn.ReLU(), head=nn.Conv2d(4, 4, 1))
    assert pooled(build(model, pool_convs=["patch"])) == {"patch": ("4×4", "1×1")}


def test_keep_convs_wins() -> None:
    pair = build(every_kind(), keep_convs=["d*", "five"])
    assert set(pooled(pair)) == {"strided", "wide", "grouped", "up_wide"}
    assert skipped(pair)["five"] == "kept by keep_convs"


def test_a_glob_names_everything_inside_a_module() -> None:
    def block() -> nn.Module:
        return named(a=nn.Conv2d(4, 4, 3, padding=1), b=nn.Conv2d(4, 4, 3, padding=1))

    pair = build(named(stem=nn.Conv2d(3, 4, 3), layer1=block(), layer2=block()), pool_convs=["layer2"])
    assert set(pooled(pair)) == {"layer2.a", "layer2.b"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"keep_convs": ["fvie"]},
            "keep_convs: 'fvie' matches no convolution; near matches: five, wide, up_wide, strided (of 12)",
        ),
        (
            {"pool_convs": ["dense", "depthwise9"]},
            "pool_convs: 'depthwise9' matches no convolution; "
            "near matches: depthwise7, depthwise3, pointwise, dense (of 12)",
        ),
        (
            {"pool_convs": ["zzz.*"]},
            "pool_convs: 'zzz.*' matches no convolution; near matches: stem, dense, strided, wide (of 12)",
        ),
    ],
)
def test_a_pattern_that_matches_nothing_lists_near_matches(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PassError) as error:
        build(every_kind(), **options)
    assert str(error.value) == message


def test_the_stem_is_every_conv_that_reads_the_image() -> None:
    class TwoStems(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.body = (nn.Conv2d(channels, 4, 3, padding=1) for channels in (3, 3, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(torch.cat([self.left(x), self.right(x.flip(-1)).relu()], 1))

    pair = build(TwoStems())
    assert (set(pooled(pair)), set(skipped(pair))) == ({"body"}, {"left", "right"})


def test_convs_with_one_kernel_between_them_keep_their_own_names() -> None:
    model = named(stem=nn.Conv2d(3, 4, 1), first=nn.Conv2d(4, 4, 3, padding=1), second=nn.Conv2d(4, 4, 3, padding=1))
    model.second.weight = model.first.weight
    assert set(pooled(build(model, keep_convs=["second"]))) == {"first"}


def test_kernel_ratio_and_rounding() -> None:
    def sizes(**options: Any) -> list[str]:
        return [change.after for change in build(every_kind(), **options).report.pooled if change.site in ("five",)]

    assert sizes() == ["3×3"]
    assert sizes(rounding="floor") == ["1×1"]
    assert sizes(kernel_ratio=3) == ["1×1"]
    assert sizes(kernel_ratio=1) == []


def test_linear_rewrites_kernels_whose_size_stays() -> None:
    """Three taps that cover three stay three, but the outer ones move inwards by the ratio."""
    pair = build(every_kind(), rounding="cover", kernel_transform="linear")
    assert pooled(pair) == {
        "dense": ("3×3", "3×3"),
        "strided": ("3×3", "3×3"),
        "wide": ("1×7", "1×5"),
        "five": ("5×5", "3×3"),
        "depthwise3": ("3×3", "3×3"),
        "depthwise7": ("7×7", "5×5"),
        "grouped": ("3×3", "3×3"),
    }
    phases = "transposed with a stride: its taps belong to output phases, which resampling would mix"
    assert skipped(pair) == {
        "up": phases,
        "up_wide": phases,
        "stem": "stem: it reads the image",
        "pointwise": "1×1 has nothing to pool",
        "patchify": "windows do not overlap (2×2 at stride 2×2)",
    }


@pytest.mark.parametrize("transform", ["avg", "adaptive", "center"])
def test_other_transforms_leave_kernels_whose_size_stays(transform: Any) -> None:
    pair = build(every_kind(), rounding="cover", kernel_transform=transform)
    assert set(pooled(pair)) == {"wide", "five", "depthwise7", "up", "up_wide"}
    for site in ("dense", "strided", "depthwise3", "grouped"):
        assert skipped(pair)[site] == "3×3 by 2 is rounded to 3×3"
    assert skipped(pair)["pointwise"] == "1×1 has nothing to pool"


def test_kernel_ratio_1_leaves_every_kernel_alone() -> None:
    pair = build(every_kind(), rounding="cover", kernel_transform="linear", kernel_ratio=1)
    assert not pooled(pair)
    assert set(skipped(pair)) == {name for name, _ in every_kind().named_children()}
    assert skipped(pair)["pointwise"] == "1×1 has nothing to pool"
    assert skipped(pair)["dense"] == skipped(pair)["wide"] == "kept: kernel_ratio is 1"
    with spelled(command_spelling({"kernel_ratio"})):
        assert skipped(build(every_kind(), kernel_ratio=(1, 1)))["dense"] == "kept: --kernel-ratio is 1"
    images = torch.randn(2, 3, 16, 16)
    assert_equal(pair.low(images), pair.model(images))


def test_kernel_ratio_1_for_one_side_leaves_kernels_along_it_alone() -> None:
    pair = build(every_kind(), kernel_ratio=(2, 1))
    assert skipped(pair)["wide"] == "1×7 has nothing to pool" and pooled(pair)["five"] == ("5×5", "3×5")


def test_convs_in_a_module_that_is_not_traced_are_reported() -> None:
    class Opaque(nn.Sequential):
        pass

    model = named(stem=nn.Conv2d(3, 4, 3), inner=Opaque(nn.Conv2d(4, 4, 3)), last=nn.Conv2d(4, 4, 3))
    pair = build_pair(model, torch.zeros(2, 3, 16, 16), leaf_modules=[Opaque])
    assert pooled(pair) == {"last": ("3×3", "1×1")}
    assert skipped(pair)["inner.0"] == "inside a module that is not traced"


def test_a_conv_is_named_after_its_module_although_its_kernel_is_computed() -> None:
    model = named(stem=nn.Conv2d(3, 4, 1), body=parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1)))
    assert pooled(build(model)) == {"body": ("3×3", "1×1")}


# Ratios --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["avg", "linear"])
@pytest.mark.parametrize("ratio", ["4/3", (1, 2), ("5/2", "4/3")])
def test_any_ratio_reaches_the_kernels(ratio: Any, transform: Any) -> None:
    """Through the code that the graph generates: it has to compile, and to give the oracle's kernel."""
    model = nn.Conv2d(3, 4, (7, 5), padding=(3, 2))
    pair = build(model, kernel_ratio=ratio, kernel_transform=transform, pool_convs="all")
    compile(pair.low.code, "low", "exec")
    exact = pair.config.effective_kernel_ratio
    kernel = naive_pool_kernel(model.weight, exact, transform=transform)
    assert kernel.shape != model.weight.shape
    images = torch.randn(2, 3, 8, 8)
    expected = F.conv2d(images, kernel, model.bias, padding=tuple(size // 2 for size in kernel.shape[2:]))
    assert_equal(pair.low(images), expected)


def test_a_ratio_for_each_side_leaves_a_side_whole() -> None:
    pair = build(every_kind(), kernel_ratio=(1, 2))
    assert pooled(pair) == {
        "dense": ("3×3", "3×1"),
        "strided": ("3×3", "3×1"),
        "wide": ("1×7", "1×3"),
        "five": ("5×5", "5×3"),
        "depthwise3": ("3×3", "3×1"),
        "depthwise7": ("7×7", "7×3"),
        "grouped": ("3×3", "3×1"),
        "up_wide": ("5×5", "5×3"),
    }


def test_a_ratio_for_each_side_leaves_other_numbers_of_sides_alone() -> None:
    class Attention(nn.Module):
        """Weights of channels, from a convolution along them."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
            self.along = nn.Conv1d(1, 1, 5, padding=2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(self.stem(x))
            return x * self.along(x.mean((2, 3))[:, None]).transpose(1, 2).unsqueeze(-1).sigmoid()

    pair = build(Attention(), ratio=(2, 2))
    assert pooled(pair) == {"body": ("3×3", "1×1")}
    assert skipped(pair)["along"] == "5 has another number of sides than the ratio 2×2"


# How the calls are joined --------------------------------------------------------------------------------------------


def test_a_conv_that_feeds_a_conv() -> None:
    model = named(stem=nn.Conv2d(3, 4, 3, padding=1), body=nn.Conv2d(4, 5, 3), tail=nn.Conv2d(5, 2, 5, padding=2))
    pair = build(model)
    images = torch.randn(2, 3, 8, 8)
    expected = F.conv2d(images, model.stem.weight, model.stem.bias, padding=1)
    expected = F.conv2d(expected[..., 1:-1, 1:-1], model.body.weight.mean((2, 3), keepdim=True), model.body.bias)
    expected = F.conv2d(expected, naive_pool_kernel(model.tail.weight, 2), model.tail.bias, padding=1)
    assert_equal(pair.low(images), expected)


def test_a_conv_called_twice_is_pooled_in_both_places_and_gets_both_gradients() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(self.stem(x)).relu())

    model = Twice()
    pair = build(model)
    assert [change.site for change in pair.report.pooled] == ["conv", "conv"]
    images = torch.randn(2, 3, 8, 8)
    kernel = model.conv.weight.mean((2, 3), keepdim=True)
    expected = F.conv2d(images, model.stem.weight, model.stem.bias)
    expected = F.conv2d(F.conv2d(expected, kernel, model.conv.bias).relu(), kernel, model.conv.bias)
    found = pair.low(images)
    assert_equal(found, expected)
    (ours,) = torch.autograd.grad(found.square().sum(), model.conv.weight)
    (theirs,) = torch.autograd.grad(expected.square().sum(), model.conv.weight)
    assert_equal(ours, theirs)


def test_the_full_graph_keeps_the_whole_kernels() -> None:
    model = every_kind()
    images = torch.randn(2, 3, 16, 16)
    pair = build(model)
    assert torch.equal(pair.full(images), model(images))
    assert not torch.equal(pair.low(images), model(images))


# Transforms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["avg", "adaptive", "center", "linear"])
@pytest.mark.parametrize("gain", ["mean", "sum"])
def test_the_transform_and_gain_that_the_config_names(transform: Any, gain: Any) -> None:
    model = nn.Conv2d(3, 4, 5, padding=2)
    pair = build(model, pool_convs="all", kernel_transform=transform, gain=gain)
    images = torch.randn(2, 3, 8, 8)
    kernel = naive_pool_kernel(model.weight, 2, transform=transform, gain=gain)
    assert_equal(pair.low(images), F.conv2d(images, kernel, model.bias, padding=1))


def test_a_kernel_that_keeps_its_size_reaches_the_low_graph_moved_and_the_weight_gets_its_gradient() -> None:
    model = named(stem=nn.Conv2d(3, 4, 1), body=nn.Conv2d(4, 5, 3, stride=2, padding=1))
    pair = build(model, rounding="cover", kernel_transform="linear")
    images = torch.randn(2, 3, 8, 8)
    kernel = naive_pool_kernel(model.body.weight, 2, rounding="cover", transform="linear")
    assert kernel.shape == model.body.weight.shape
    found, expected = pair.low(images), F.conv2d(model.stem(images), kernel, model.body.bias, stride=2, padding=1)
    assert_equal(found, expected)
    (ours,) = torch.autograd.grad(found.square().sum(), model.body.weight)
    (theirs,) = torch.autograd.grad(expected.square().sum(), model.body.weight)
    assert_equal(ours, theirs)


def test_a_users_transform() -> None:
    def corner(weight: Tensor, size: tuple[int, ...]) -> Tensor:
        return weight[..., : size[0], : size[1]]

    model = nn.Conv2d(3, 4, 5, padding=2)
    images = torch.randn(2, 3, 8, 8)
    low = build(model, pool_convs="all", kernel_transform=corner).low
    assert_equal(low(images), F.conv2d(images, model.weight[..., :3, :3], model.bias, padding=1))
    low = build(model, pool_convs="all", kernel_transform=corner, gain="sum").low
    assert_equal(low(images), F.conv2d(images, model.weight[..., :3, :3] * 25 / 9, model.bias, padding=1))


@pytest.mark.parametrize(
    ("transform", "refusal"),
    [
        (
            lambda weight, size: weight,
            "turned a kernel of shape (4, 3, 5, 5) into (4, 3, 5, 5); give one that returns (4, 3, 3, 3)",
        ),
        (
            lambda weight, size: [weight],
            "turned a kernel of shape (4, 3, 5, 5) into a list; give one that returns (4, 3, 3, 3)",
        ),
        (lambda weight, size: weight.where(), "failed: "),
    ],
)
def test_a_users_transform_that_is_none_is_refused_when_the_pair_is_built(transform: Any, refusal: str) -> None:
    with pytest.raises(ValueError) as error:
        build(nn.Conv2d(3, 4, 5, padding=2), pool_convs="all", kernel_transform=transform)
    assert re.match(rf"\w+: kernel_transform '<lambda>' {re.escape(refusal)}", str(error.value))
