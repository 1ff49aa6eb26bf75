"""Each option that a refusal offers is followed: then the pair is built, and its low-mode is cheaper than full-mode."""

from __future__ import annotations

import dataclasses
import re
from ast import literal_eval
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowmode_fx import LowModeConfig, ModePair, build_pair, count_flops

#: Options as messages write them: a bool, a number or a tuple of numbers.
OFFERED = re.compile(
    r"\b(ratio|kernel_ratio|downsample_input|adapt_head|restore_output|size_multiple)=(\([^)]*\)|[\w/.]+)"
)


class Network(nn.Module):
    """Two convolutions and the end that a kind asks for."""

    def __init__(self, end: str, side: int = 16) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.late = nn.MaxPool2d(2), nn.Conv2d(4, 4, 5)
        self.fc, self.end = nn.Linear(4 * side * side, 5), end
        self.table = nn.Parameter(torch.zeros(1, side * side, 4))

    def forward(self, images: Tensor) -> Any:
        maps = self.body(self.stem(images))
        match self.end:
            case "flatten":
                return self.fc(maps.flatten(1))
            case "features":
                return maps.flatten(1)
            case "folded":
                return self.fc(maps.reshape(-1, self.fc.in_features))
            case "table":
                return (maps.flatten(2).transpose(1, 2) + self.table).mean(1)
            case "unet":
                up = nn.functional.interpolate(self.pool(maps), scale_factor=2)
                return (maps + up).mean((2, 3))
            case "left out":
                return (self.late(maps) if maps.shape[-1] > 8 else maps).mean((2, 3))
            case "asserted":
                assert maps.shape[-1] == 16, "images must have 16 pixels"
                return maps.mean((2, 3))
            case "small":
                return self.late(self.pool(self.pool(maps))).mean((2, 3))
            case "images":
                return maps
            case "two":
                return (maps, maps.mean((2, 3))) if maps.shape[-1] > 8 else [maps, maps.mean((2, 3))]
        raise AssertionError(self.end)


class Patches(nn.Module):
    """Tokens of patches, by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 16, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(nn.functional.unfold(images, 4, stride=4).transpose(1, 2)).mean(1)


def network(name: str) -> nn.Module:
    match name:
        case "perceptron":
            return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
        case "pooled perceptron":
            return nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
        case "patches":
            return Patches()
        case "patches by a convolution":
            return nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(), nn.Linear(64, 5))
        case "stem":
            return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 16 * 16, 5))
        case "deep":
            body = (nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(8))
            return nn.Sequential(*body, nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(2))
    return Network(name)


PERCEPTRONS = ("perceptron", "pooled perceptron")
NAMES = (
    "flatten",
    "features",
    "folded",
    "table",
    "left out",
    "asserted",
    "two",
    "deep",
    "stem",
    "patches",
    *PERCEPTRONS,
)
IMAGES = torch.zeros(2, 3, 16, 16)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"kernel_ratio": 1},
    {"downsample_input": False},
    {"ratio": 32},
    {"ratio": 32, "kernel_ratio": 1},
    {"ratio": 16},
    {"restore_output": True},
    {"drop_maxpools": "all", "kernel_ratio": 1},
)


def offered(model: nn.Module, config: LowModeConfig, front_end: Any) -> list[dict[str, Any]] | None:
    """The options that a refusal offers, each as a change of the configuration; ``None`` if there is no refusal."""
    try:
        build_pair(model, IMAGES, config, front_end=front_end)
    except ValueError as error:
        hints = str(error).rpartition("; ")[2]
        # ``instead of`` stands for what is left out.
        named = OFFERED.finditer(hints.replace("instead of downsample_input=False", "and downsample_input=True"))
        found = [{each[1]: literal_eval(each[2])} for each in named]
        return [found[0] | found[1]] if {"downsample_input": True} in found else found
    return None


def is_cheaper(pair: ModePair) -> bool:
    """Whether a convolution or a linear layer has less to do: fewer taps, or a smaller map."""
    costs = count_flops(pair)
    return costs.low_macs < costs.full_macs


@pytest.mark.parametrize("front_end", ["auto", "live", "export"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::lowmode_fx.NoEffectWarning")
def test_every_option_that_a_refusal_offers_helps(name: str, front_end: Any) -> None:
    for options in OPTIONS:
        config = LowModeConfig(**options)
        for ways in offered(network(name), config, front_end) or ():
            pair = build_pair(network(name), IMAGES, dataclasses.replace(config, **ways), front_end=front_end)
            assert is_cheaper(pair), (options, ways)


WHOLE, ADAPTED = {"downsample_input": False}, {"adapt_head": True}


@pytest.mark.parametrize(
    ("name", "options", "ways"),
    [
        ("flatten", {}, [ADAPTED, WHOLE]),
        ("flatten", {"kernel_ratio": 1}, [ADAPTED]),  # whole images with whole kernels would be full-mode
        ("folded", {}, [ADAPTED, WHOLE]),
        ("features", {}, [WHOLE]),  # what the model returns is its map, and nothing reads it
        ("features", {"kernel_ratio": 1}, []),
        ("table", {}, [ADAPTED, WHOLE]),
        ("table", {"keep_convs": ["*"]}, [ADAPTED]),
        ("left out", {}, [WHOLE]),
        ("left out", {"kernel_ratio": 1}, []),
        ("asserted", {}, [WHOLE]),
        ("asserted", {"kernel_ratio": 1}, []),
        ("stem", {}, [ADAPTED]),  # the stem's kernel is not pooled
        ("two", {"restore_output": True}, [{"restore_output": False}]),
        ("perceptron", {}, []),
        ("perceptron", {"kernel_ratio": 1}, []),  # its images would be made small, then large again
        ("pooled perceptron", {"kernel_ratio": 1}, []),
        ("patches", {}, [{"kernel_ratio": 1}]),
        ("patches", {"kernel_ratio": 1}, None),
        ("patches by a convolution", {"downsample_input": False}, [{"kernel_ratio": 1, "downsample_input": True}]),
        ("flatten", {"ratio": 32, "kernel_ratio": 1}, []),
        ("flatten", {"ratio": 32}, [WHOLE]),
        ("perceptron", {"ratio": 32}, []),
    ],
)
def test_options_are_offered_where_they_help(name: str, options: dict[str, Any], ways: Any) -> None:
    assert offered(network(name), LowModeConfig(**options), "auto") == ways


def test_a_ratio_of_one_is_refused_with_what_keeps_images_whole() -> None:
    with pytest.raises(ValueError, match=r"; give one above 1 for some side, with downsample_input=False to pool"):
        LowModeConfig(ratio=1)
    assert build_pair(network("deep"), IMAGES, LowModeConfig(ratio=2, downsample_input=False)).report.pooled
