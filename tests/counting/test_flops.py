"""What a forward and a training step cost, against formulas worked out by hand and against fvcore and torch."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from calls import Returning, images, labels
from fvcore.nn import FlopCountAnalysis
from tiny import named
from torch import Tensor, nn

from lowmode_fx import (
    BernoulliSchedule,
    FlopReport,
    LayerFlops,
    LowModeConfig,
    LowModeModel,
    ModePair,
    build_ladder,
    build_pair,
    count_flops,
    count_step_flops,
)
from lowmode_fx.counting.forward import blank_inputs
from lowmode_fx.counting.step import _forward_macs_on_fakes, count_forward_macs
from passes import propagate_shapes
from passes.shapes import node_shape


def small_cnn() -> nn.Sequential:
    """Images of 16×16; the map is 16×16 behind the stem and 8×8 behind ``body`` (low: 8×8 and 4×4)."""
    return named(
        stem=nn.Conv2d(3, 8, 3, padding=1),
        body=nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        fc=nn.Linear(8, 10),
    )


def build(model: nn.Module, batch: int = 2, **options: Any) -> ModePair:
    return build_pair(model, torch.zeros(batch, 3, 16, 16), LowModeConfig(**options))


def rows(report: FlopReport) -> dict[str, tuple[str, str, int, int]]:
    return {layer.name: (layer.full, layer.low, layer.full_macs, layer.low_macs) for layer in report.layers}


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_small_cnn_by_hand(batch: int) -> None:
    report = count_flops(build(small_cnn(), batch))
    assert rows(report) == {
        "stem": ("3×3", "3×3", 16 * 16 * 8 * 3 * 9, 8 * 8 * 8 * 3 * 9),
        "body": ("3×3", "1×1", 8 * 8 * 8 * 2 * 9, 4 * 4 * 8 * 2 * 1),
        "all adaptive_avg_pool2d": ("", "", 8 * 8 * 8, 8 * 4 * 4),
        "all linear": ("", "", 80, 80),
    }
    full, low = 16 * 16 * 8 * 27 + 64 * 8 * 2 * 9 + 80, 64 * 8 * 27 + 16 * 8 * 2 + 80
    assert (report.full_macs, report.low_macs, report.ratio) == (full, low, low / full)
    assert report.other_macs == {"full": 512, "low": 128} and report.weight_macs == {"full": 0, "low": 0}
    assert report.total_macs == {"full": full + 512, "low": low + 128}
    assert report.total_ratios == {"low": (low + 128) / (full + 512)}
    assert report.step_macs(7) == {"full": 7 * (full + 512), "low": 7 * (low + 128)}


def test_bigger_kernels_and_other_strides_by_hand() -> None:
    model = named(
        stem=nn.Conv2d(3, 4, 7, stride=2, padding=3),
        wide=nn.Conv2d(4, 6, (1, 7), padding=(0, 3)),
        depthwise=nn.Conv2d(6, 6, 5, padding=2, groups=6),
        up=nn.ConvTranspose2d(6, 2, 5, stride=2, padding=2, output_padding=1),
    )
    assert rows(count_flops(build(model))) == {
        "stem": ("7×7", "7×7", 8 * 8 * 4 * 3 * 49, 4 * 4 * 4 * 3 * 49),
        "wide": ("1×7", "1×3", 8 * 8 * 6 * 4 * 7, 4 * 4 * 6 * 4 * 3),
        "depthwise": ("5×5", "3×3", 8 * 8 * 6 * 25, 4 * 4 * 6 * 9),
        "up": ("5×5", "3×3", 8 * 8 * 6 * 2 * 25, 4 * 4 * 6 * 2 * 9),
    }


class Attention(nn.Module):
    """One attention over the pixels of a 4×4 map (low: 2×2), with 2 heads of 3 channels and values of 5."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 22, 5, stride=4, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        query, key, value = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in tokens.split([6, 6, 10], 2))
        return F.scaled_dot_product_attention(query, key, value)


def test_attention_by_hand() -> None:
    report = rows(count_flops(build(Attention(), pool_convs="all")))
    assert report["stem"] == ("5×5", "3×3", 16 * 22 * 3 * 25, 4 * 22 * 3 * 9)
    (name,) = set(report) - {"stem"}
    assert "scaled_dot_product_attention" in name
    assert report[name] == ("", "", 2 * 16 * 16 * (3 + 5), 2 * 4 * 4 * (3 + 5))


def test_a_conv_called_twice_has_two_rows() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(self.stem(x)))

    report = count_flops(build(Twice()))
    assert [(layer.name, layer.full_macs) for layer in report.layers] == [
        ("stem", 3072),
        ("conv", 36864),
        ("conv", 36864),
    ]


def test_convs_that_are_not_traced_have_a_row_of_their_own() -> None:
    class Opaque(nn.Sequential):
        pass

    model = named(
        stem=nn.Conv2d(3, 4, 3, padding=1), inner=Opaque(nn.Conv2d(4, 4, 3, padding=1)), last=nn.Conv2d(4, 4, 5)
    )
    pair = build_pair(model, torch.zeros(2, 3, 16, 16), leaf_modules=[Opaque])
    report = count_flops(pair)
    assert rows(report)["convolutions inside untraced modules"] == ("", "", 16 * 16 * 4 * 4 * 9, 8 * 8 * 4 * 4 * 9)
    assert report.full_macs == sum(layer.full_macs for layer in report.layers)


# Against fvcore ------------------------------------------------------------------------------------------------------


def test_resnet18_is_what_fvcore_itself_counts() -> None:
    model = torchvision.models.resnet18()
    report = count_flops(build_pair(model, torch.zeros(2, 3, 224, 224)))
    analysis = FlopCountAnalysis(model.train(), torch.zeros(2, 3, 224, 224))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert report.total_macs["full"] == analysis.total() / 2
    products = sum(count for name, count in analysis.by_operator().items() if name in ("conv", "linear"))
    assert report.full_macs == products / 2 == 1_814_073_344  # published: 1.8 G
    assert sum(layer.full_macs for layer in report.layers) == report.total_macs["full"]
    assert sum(layer.low_macs for layer in report.layers) == report.total_macs["low"]
    assert rows(report)["conv1"] == ("7×7", "7×7", 118013952, 29503488)
    assert rows(report)["layer1.0.conv1"] == ("3×3", "1×1", 56 * 56 * 64 * 64 * 9, 28 * 28 * 64 * 64)
    assert rows(report)["layer2.0.downsample.0"] == ("1×1", "1×1", 28 * 28 * 64 * 128, 14 * 14 * 64 * 128)
    assert len(report.layers) == 20 + 3  # convolutions; the norms, the pool and the head


def test_the_count_is_that_of_training_whatever_mode_the_model_is_in() -> None:
    model = named(stem=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), body=nn.Conv2d(8, 8, 3))
    training = count_flops(build(model))
    assert count_flops(build(model.eval())) == training


# Nothing is counted silently, and nothing changes --------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("batchnorm", ["isolate", "share"])
def test_counting_changes_no_state(frozen: bool, batchnorm: Any) -> None:
    model = named(stem=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), drop=nn.Dropout(), body=nn.Conv2d(4, 4, 3))
    pair = build(model, batchnorm=batchnorm)
    model.norm.train(not frozen)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    versions = [tensor._version for tensor in model.state_dict(keep_vars=True).values()]
    modes = [module.training for module in (*model.modules(), pair.full, pair.low)]
    generators = (torch.get_rng_state(), random.getstate())
    count_flops(pair)
    count_step_flops(pair)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [tensor._version for tensor in model.state_dict(keep_vars=True).values()] == versions
    assert [module.training for module in (*model.modules(), pair.full, pair.low)] == modes
    assert torch.equal(torch.get_rng_state(), generators[0]) and random.getstate() == generators[1]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_free_is_listed_with_its_reason() -> None:
    report = count_flops(
        build(named(stem=nn.Conv2d(3, 4, 3), act=nn.ReLU(), pool=nn.MaxPool2d(2), body=nn.Conv2d(4, 4, 3)))
    )
    assert report.free["aten::max_pool2d"] == "pooling: additions and comparisons"
    assert all(report.free.values())


class Spectrum(nn.Module):
    def __init__(self, op: Any) -> None:
        super().__init__()
        self.stem, self.body, self.op = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(self.body(self.stem(x)))


@pytest.mark.parametrize(
    ("op", "name"),
    [
        (lambda x: torch.fft.hfft(x), "aten::fft_hfft"),
        (lambda x: torch.linalg.matrix_exp(x), "aten::linalg_matrix_exp"),
    ],
)
def test_an_uncounted_operator_fails_the_count(op: Any, name: str) -> None:
    pair = build(Spectrum(op), kernel_ratio=1)
    with pytest.raises(ValueError) as error:
        count_flops(pair)
    assert str(error.value) == (
        f"count_flops: {name} is neither counted by fvcore nor known to be free; give its macs with "
        f"handles={{'{name}': function}}, or None if it multiplies nothing"
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_part_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3), torch.jit.script(nn.Conv2d(4, 4, 3)))
    with pytest.raises(ValueError, match="count_flops: 2 is TorchScript, which hides its operators"):
        count_flops(build_pair(model, torch.zeros(2, 3, 16, 16)))


def test_a_handle_counts_it_and_none_declares_it_free() -> None:
    pair = build(Spectrum(torch.fft.hfft))
    free = count_flops(pair, handles={"aten::fft_hfft": None})
    counted = count_flops(pair, handles={"aten::fft_hfft": lambda inputs, outputs: 2 * 700})  # two images
    assert counted.full_macs - free.full_macs == counted.low_macs - free.low_macs == 700


def test_the_report_as_plain_values() -> None:
    rows = (
        LayerFlops("a", {"r3": "1×1", "r2": "1×1", "full": "3×3"}, {"r3": 2, "r2": 4, "full": 10}),
        LayerFlops("b", {}, {"r3": 0, "r2": 1, "full": 0}, "other"),
    )
    weights = (LayerFlops("c", {}, {"r3": 7, "r2": 8, "full": 0}),)
    report = FlopReport(("r3", "r2", "full"), rows, {"aten::relu": "why"}, weights)
    assert report.to_dict() == {
        "full_macs": 10,
        "low_macs": 2,
        "ratio": 0.2,
        "macs": {"r3": 2, "r2": 4, "full": 10},
        "other_macs": {"r3": 0, "r2": 1, "full": 0},
        "total_macs": {"r3": 2, "r2": 5, "full": 10},
        "weight_macs": {"r3": 7, "r2": 8, "full": 0},
        "layers": [
            {
                "name": "a",
                "kind": "product",
                "full": "3×3",
                "low": "1×1",
                "full_macs": 10,
                "low_macs": 2,
                "kernels": {"r3": "1×1", "r2": "1×1", "full": "3×3"},
                "macs": {"r3": 2, "r2": 4, "full": 10},
            },
            {
                "name": "b",
                "kind": "other",
                "full": "",
                "low": "",
                "full_macs": 0,
                "low_macs": 0,
                "kernels": {},
                "macs": {"r3": 0, "r2": 1, "full": 0},
            },
        ],
        "weights": [
            {
                "name": "c",
                "kind": "product",
                "full": "",
                "low": "",
                "full_macs": 0,
                "low_macs": 7,
                "kernels": {},
                "macs": {"r3": 7, "r2": 8, "full": 0},
            },
        ],
        "free": {"aten::relu": "why"},
    }
    assert report.step_macs(3) == {"r3": 13, "r2": 23, "full": 30}
    assert (
        report.ratios == {"r3": 0.2, "r2": 0.4}
        and report.total_ratios == {"r3": 0.2, "r2": 0.5}
        and report.layers[0].ratios == {"r3": 0.2, "r2": 0.4}
    )
    assert report.layers[0].ratio == 0.2 and math.isnan(report.layers[1].ratio)


def test_nothing_to_count_is_no_share() -> None:
    report = count_flops(build_pair(nn.ReLU(), torch.zeros(2, 3, 8, 8), LowModeConfig(kernel_ratio=1)))
    assert (report.full_macs, report.low_macs, report.layers) == (0, 0, ()) and math.isnan(report.ratio)


# Several modes -------------------------------------------------------------------------------------------------------

CONFIGS = (LowModeConfig(ratio=4), LowModeConfig(ratio=2, kernel_ratio=1), LowModeConfig(ratio=2))


@pytest.mark.parametrize("count", [count_flops, count_step_flops])
def test_what_is_no_ladder_is_not_counted(count: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^ladder is of type Sequential; give a ModePair or Ladder, as from build_pair\("
    ):
        count(small_cnn())
    net = LowModeModel(build_pair(small_cnn(), torch.zeros(2, 3, 16, 16)), BernoulliSchedule(0.5), compile=False)
    with pytest.raises(TypeError, match=r"^ladder is of type LowModeModel; give its ladder, net\.ladder$"):
        count(net)


def test_the_modes_of_a_ladder_by_hand() -> None:
    """The body is 2×2 behind its stride at r = 4; at r = 2 its kernel is pooled in one mode, and kept in the other."""
    report = count_flops(build_ladder(small_cnn(), torch.zeros(2, 3, 16, 16), CONFIGS))
    assert report.modes == ("r4", "r2", "r2-kept", "full")
    rows = {layer.name: (dict(layer.kernels), dict(layer.macs)) for layer in report.layers}
    stem, body = 8 * 3 * 9, 8 * 2
    assert rows == {
        "stem": (
            dict.fromkeys(report.modes, "3×3"),
            {"r4": 16 * stem, "r2": 64 * stem, "r2-kept": 64 * stem, "full": 256 * stem},
        ),
        "body": (
            {"r4": "1×1", "r2": "1×1", "r2-kept": "3×3", "full": "3×3"},
            {"r4": 4 * body, "r2": 16 * body, "r2-kept": 16 * 9 * body, "full": 64 * 9 * body},
        ),
        "all adaptive_avg_pool2d": ({}, {"r4": 4 * 8, "r2": 16 * 8, "r2-kept": 16 * 8, "full": 64 * 8}),
        "all linear": ({}, dict.fromkeys(report.modes, 80)),
    }
    assert report.total_macs == {mode: sum(macs[mode] for _, macs in rows.values()) for mode in report.modes}
    pooled = rows["all adaptive_avg_pool2d"][1]
    assert report.macs == {mode: report.total_macs[mode] - pooled[mode] for mode in report.modes}
    assert (report.full_macs, report.low_macs) == (report.macs["full"], report.macs["r4"])
    assert report.ratio == report.ratios["r4"] == report.macs["r4"] / report.macs["full"]


def test_a_ladder_counts_what_its_modes_count_as_pairs() -> None:
    model = timm.create_model("test_resnet")
    example = torch.zeros(2, 3, 64, 64)
    ladder = build_ladder(model, example, CONFIGS)
    pairs = [build_pair(model, example, rung.config) for rung in ladder.rungs]
    report, reports = count_flops(ladder), [count_flops(pair) for pair in pairs]
    for rung, alone in zip(ladder.rungs, reports, strict=True):
        mode = str(rung.mode)
        found = [(layer.name, layer.full, layer.kernels.get(mode, ""), layer.macs[mode]) for layer in report.layers]
        assert found == [(layer.name, layer.full, layer.low, layer.low_macs) for layer in alone.layers]
        assert (report.full_macs, report.macs[mode]) == (alone.full_macs, alone.low_macs)
        assert report.ratios[mode] == alone.ratio
    for count in (count_step_flops, count_forward_macs):
        full, *low = count(ladder)
        assert [(full, each) for each in low] == [count(pair) for pair in pairs]


class Conditioned(nn.Module):
    """Takes a weight a class, images, a map of the same size that stays whole, and labels; returns a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 5, padding=2)
        self.side, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 6)

    def forward(self, weights: Tensor, pixels: Tensor, depth: Tensor, labels: Tensor) -> Tensor:
        seen = self.body(self.stem(pixels)).mean((2, 3)) + self.side(depth).mean((2, 3))
        return F.cross_entropy(self.fc(seen), labels, weights)


def test_a_model_of_several_inputs_by_hand() -> None:
    """Only what is said to hold images shrinks; a count is per image, however many labels or maps come with one."""
    example = {
        "weights": torch.zeros(6),
        "pixels": torch.zeros(3, 3, 16, 16),
        "depth": torch.zeros(3, 1, 16, 16),
        "labels": torch.zeros(3, dtype=torch.long),
    }
    ladder = build_ladder(Conditioned(), example, CONFIGS[::2], images="pixels")
    report = count_flops(ladder)
    rows = {layer.name: dict(layer.macs) for layer in report.layers}
    assert rows == {
        "stem": {"r4": 16 * 108, "r2": 64 * 108, "full": 256 * 108},
        "body": {"r4": 16 * 16, "r2": 64 * 16 * 9, "full": 256 * 16 * 25},
        "side": dict.fromkeys(report.modes, 256 * 36),
        "all linear": dict.fromkeys(report.modes, 24),
    }
    assert count_forward_macs(ladder) == (report.macs["full"], report.macs["r4"], report.macs["r2"])
    full, r4, r2 = count_step_flops(ladder)
    assert [full, r4, r2] == [
        2 * (2 * rows["stem"][mode] + 3 * rows["body"][mode] + 2 * rows["side"][mode] + 3 * 24)
        for mode in ("full", "r4", "r2")
    ]


@pytest.mark.parametrize("returned", ["dictionary", "dataclass", "model output", "nested"])
def test_what_a_model_returns_its_tensors_in_is_nothing_to_the_count(returned: str) -> None:
    def counted(kind: str) -> tuple[dict[str, int], tuple[int, ...]]:
        pair = build_pair(Returning(kind=kind), (images(4), labels(4)))
        return count_flops(pair).macs, count_step_flops(pair)

    assert counted(returned) == counted("tuple")


@pytest.mark.parametrize("options", [{}, {"restore_output": True}, {"drop_maxpools": "all", "batchnorm": "share"}])
def test_the_shapes_on_the_nodes_are_those_of_a_run(options: dict[str, Any]) -> None:
    """Counts and pictures read them: no mode is run again to tell its shapes."""
    model = named(
        stem=nn.Conv2d(3, 4, 3, stride=2, padding=1), norm=nn.BatchNorm2d(4), pool=nn.MaxPool2d(2, 1),
        valid=nn.Conv2d(4, 4, 5), up=nn.ConvTranspose2d(4, 6, 5, stride=2, padding=2, output_padding=1),
    )  # fmt: skip
    ladder = build_ladder(model, torch.zeros(2, 3, 32, 32), [LowModeConfig(ratio=r, **options) for r in (2, 3)])
    for mode in ladder.modes:
        graph = ladder.graph(mode)
        found = propagate_shapes(graph, *blank_inputs(ladder, mode))
        assert {node.name: node_shape(node) for node in graph.graph.nodes} == {n.name: s for n, s in found.items()}


# Steps ---------------------------------------------------------------------------------------------------------------


def test_a_step_is_a_forward_and_twice_that_backward_but_for_the_images_gradient() -> None:
    model = named(
        stem=nn.Conv2d(3, 8, 3, padding=1),
        grouped=nn.Conv2d(8, 8, 3, padding=1, groups=4),
        depthwise=nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=8),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        fc=nn.Linear(8, 10),
    )
    full = 2 * 16 * 16 * 8 * 27 + 3 * (16 * 16 * 8 * 2 * 9 + 8 * 8 * 8 * 25 + 80)
    low = 2 * 8 * 8 * 8 * 27 + 3 * (8 * 8 * 8 * 2 * 1 + 4 * 4 * 8 * 9 + 80)
    for batch in (1, 3):
        assert count_step_flops(build(model, batch)) == (2 * full, 2 * low)


@pytest.mark.parametrize("front_end", ["live", "fx"])
def test_a_step_of_a_model_that_makes_tensors(front_end: Any) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(16, 4)

        def forward(self, images: Tensor) -> Tensor:
            found = self.conv(images).mean((2, 3))
            noise = torch.randn(len(found), 8) if front_end == "live" else torch.ones(8, device="cpu").expand(2, 8)
            return self.head(torch.cat([found, noise], 1))

    pair = build_pair(Noisy(), torch.zeros(2, 3, 16, 16), LowModeConfig(kernel_ratio=1), front_end=front_end)
    # Twice a convolution without the image's gradient, three times a linear layer, in flops.
    assert count_step_flops(pair) == tuple(2 * (2 * 8 * 27 * side**2 + 3 * 64) for side in (16, 8))


@pytest.mark.parametrize("front_end", ["live", "fx"])
@pytest.mark.parametrize(
    "moved",
    [
        lambda x: x.to("cpu"),
        lambda x: x.to(torch.device("cpu"), torch.float32),
        lambda x: x.to(x.device),
        lambda x: x.cpu(),
    ],
)
def test_a_step_of_a_model_that_moves_tensors(front_end: Any, moved: Any) -> None:
    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, images: Tensor) -> Tensor:
            return moved(self.conv(images)) * 2

    pair = build_pair(Moving(), torch.zeros(2, 3, 16, 16), LowModeConfig(kernel_ratio=1), front_end=front_end)
    assert count_step_flops(pair) == tuple(2 * 2 * 8 * 27 * side**2 for side in (16, 8))


def test_a_step_of_a_transposed_conv() -> None:
    model = named(stem=nn.Conv2d(3, 4, 1), up=nn.ConvTranspose2d(4, 6, 5, stride=2, padding=2, groups=2))
    full = 2 * 16 * 16 * 12 + 3 * 16 * 16 * 4 * 3 * 25
    low = 2 * 8 * 8 * 12 + 3 * 8 * 8 * 4 * 3 * 9
    assert count_step_flops(build(model)) == (2 * full, 2 * low)


def test_a_frozen_layer_costs_its_forward_only() -> None:
    model = named(stem=nn.Conv2d(3, 8, 3, padding=1), body=nn.Conv2d(8, 4, 3, padding=1))
    model.stem.requires_grad_(False)
    full = 16 * 16 * 8 * 27 + 2 * 16 * 16 * 4 * 72
    low = 8 * 8 * 8 * 27 + 2 * 8 * 8 * 4 * 8
    assert count_step_flops(build(model)) == (2 * full, 2 * low)


def test_a_step_with_norms_in_any_mode() -> None:
    model = named(stem=nn.Conv2d(3, 8, 3, padding=1), norm=nn.BatchNorm2d(8), body=nn.Conv2d(8, 4, 3, padding=1))
    full = 2 * 16 * 16 * 8 * 27 + 3 * 16 * 16 * 4 * 72
    low = 2 * 8 * 8 * 8 * 27 + 3 * 8 * 8 * 4 * 8
    assert count_step_flops(build(model)) == count_step_flops(build(model.eval())) == (2 * full, 2 * low)


@pytest.mark.parametrize(
    ("op", "macs"),
    [
        (lambda x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2]), 12**3),
        (lambda x: x * torch.mv(x.new_ones(5, 7), x.new_ones(7)).sum(), 35),
        (lambda x: x * torch.dot(x.new_ones(9), x.new_ones(9)), 9),
    ],
)
def test_products_that_fvcore_leaves_out_are_counted(op: Any, macs: int) -> None:
    plain, with_op = (count_flops(build(Spectrum(each), kernel_ratio=1)).full_macs for each in (torch.clone, op))
    batch = 1 if macs == 12**3 else 2  # what has no batch is counted once for two images
    assert with_op - plain == round(macs / batch)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_forward_macs_are_the_same_on_meta_and_on_fake_tensors(momentum: float | None) -> None:
    """A norm without momentum reads its counter, which meta tensors don't have."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=momentum), nn.Conv2d(4, 6, 3, padding=1)
    )
    pair = build_pair(model, torch.zeros(2, 3, 16, 16))
    counts = count_forward_macs(pair)
    assert counts == _forward_macs_on_fakes(pair) == (256 * 9 * (3 * 4 + 4 * 6), 64 * (9 * 3 * 4 + 4 * 6))


def test_a_padding_in_words_by_hand() -> None:
    """``padding="same"``, as timm's ConvMixer has it, among the other convolutions."""
    model = named(
        stem=nn.Conv2d(3, 4, 3, padding="same"),
        large=nn.Conv2d(4, 4, 5, padding="same", groups=4, dilation=2),
        head=nn.Conv2d(4, 2, 1),
    )
    report = count_flops(build_pair(model, torch.zeros(2, 3, 8, 8), LowModeConfig(pool_convs="large")))
    found = {layer.name: (layer.full_macs, layer.low_macs) for layer in report.layers}
    assert found == {
        "stem": (64 * 4 * 27, 16 * 4 * 27),
        "large": (64 * 4 * 25, 16 * 4 * 9),
        "head": (64 * 8, 16 * 8),
    }
