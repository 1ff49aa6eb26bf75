"""Dense prediction: maps come back at their full-mode size, and outputs keep their structure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, Mode, ModePair, PassError, build_pair


class Pyramid(nn.Module):
    """Two maps of different sizes, logits, and a count, in whatever structure ``pack`` makes."""

    def __init__(self, pack: Any) -> None:
        super().__init__()
        self.stem, self.deep, self.fc = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 6, 3, 2, 1), nn.Linear(6, 5)
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        wide = self.stem(x)
        deep = self.deep(wide)
        return self.pack(wide, deep, self.fc(deep.mean((2, 3))))


class Maps(NamedTuple):
    wide: Tensor
    deep: Tensor


STRUCTURES: dict[str, Any] = {
    "dict": lambda wide, deep, logits: {"wide": wide, "deep": deep, "logits": logits},
    "OrderedDict": lambda wide, deep, logits: OrderedDict(logits=logits, maps=[wide, deep]),
    "tuple": lambda wide, deep, logits: (wide, deep, logits, 3),
    "list": lambda wide, deep, logits: [wide, [deep, logits]],
    "namedtuple": lambda wide, deep, logits: (Maps(wide, deep), logits, None),
    "nested": lambda wide, deep, logits: {"out": (wide, {"aux": deep}), "logits": [logits]},
}


def build(model: nn.Module, restore: bool = True, **options: Any) -> ModePair:
    config = LowModeConfig(restore_output=restore, kernel_ratio=1)
    return build_pair(model, torch.zeros(2, 3, 16, 16), config, **options)


def assert_same_tree(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same_tree(found[key], value)
    elif isinstance(expected, tuple | list):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert_same_tree(ours, theirs)
    else:
        assert found == expected


@pytest.mark.parametrize("front_end", ["fx", "export"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_low_mode_returns_full_modes_structure_and_sizes(name: str, front_end: Any) -> None:
    if front_end == "export" and name == "namedtuple":
        pytest.skip("torch.export takes named tuples that are registered with it")
    model = Pyramid(STRUCTURES[name])
    pair = build(model, front_end=front_end)
    images = torch.randn(2, 3, 8, 8)

    def enlarged(value: Tensor, side: int) -> Tensor:
        return F.interpolate(value, size=(side, side), mode="bilinear", align_corners=False)

    wide = model.stem(images)
    deep = model.deep(wide)
    expected = STRUCTURES[name](enlarged(wide, 16), enlarged(deep, 8), model.fc(deep.mean((2, 3))))
    assert_same_tree(pair.low(images), expected)
    full = torch.randn(2, 3, 16, 16)
    assert_same_tree(pair.full(full), model(full))


def test_the_report_says_which_outputs_are_resized() -> None:
    changes = build(Pyramid(STRUCTURES["tuple"])).report.of("restore_output").changes
    assert [(c.site, c.before, c.after) for c in changes] == [("output 0", "8×8", "16×16"), ("output 1", "4×4", "8×8")]


def test_maps_stay_small_where_nothing_else_was_asked_for() -> None:
    pair = build(Pyramid(STRUCTURES["tuple"]), restore=False)
    wide, deep, logits, three = pair.low(torch.zeros(2, 3, 8, 8))
    assert (wide.shape[2:], deep.shape[2:], logits.shape, three) == ((8, 8), (4, 4), (2, 5), 3)
    with pytest.raises(KeyError):
        pair.report.of("restore_output")


@pytest.mark.parametrize(("conv", "sides"), [(nn.Conv1d, (16,)), (nn.Conv3d, (8, 8, 8))])
def test_other_dimensions(conv: Any, sides: tuple[int, ...]) -> None:
    model = nn.Sequential(conv(3, 4, 3, padding=1), conv(4, 4, 3, padding=1))
    pair = build_pair(model, torch.zeros(2, 3, *sides), LowModeConfig(restore_output=True))
    assert pair.low(torch.zeros(2, 3, *(side // 2 for side in sides))).shape == (2, 4, *sides)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_a_segmentation_model_trains_on_full_size_targets(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4)
    images, targets = torch.randn(2, 3, 96, 96), torch.randint(0, 4, (2, 96, 96))
    pair = build_pair(model, images, LowModeConfig(restore_output=True))
    net = LowModeModel(pair, BernoulliSchedule(p=1.0, seed=0), compile=False).train()
    output = net(images)
    assert net.last_mode is Mode.LOW
    assert list(output) == list(model.train()(images))
    F.cross_entropy(output["out"], targets).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_another_structure_in_low_mode_is_refused() -> None:
    class Splitting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.deep = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)

        def forward(self, x: Tensor) -> Any:
            return self.deep(self.stem(x)).split(4, dim=2)

    with pytest.raises(PassError, match=r"^low-mode returns .* where full-mode returns "):
        build(Splitting())


# A part of a model ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
def test_a_detector_trains_with_its_backbone_in_low_mode() -> None:
    """The detector itself is no graph: it calls its backbone, and there the pair's low graph takes its place."""
    torch.manual_seed(0)
    detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )
    before = list(detector.state_dict())
    pair = build_pair(detector, torch.zeros(2, 3, 320, 320), LowModeConfig(restore_output=True), submodule="backbone")
    assert pair.model is detector.backbone
    full, low = pair.model.train()(torch.zeros(2, 3, 320, 320)), pair.low(torch.zeros(2, 3, 160, 160))
    assert [(key, value.shape) for key, value in low.items()] == [(key, value.shape) for key, value in full.items()]

    detector.backbone = LowModeModel(pair, BernoulliSchedule(p=1.0, seed=0), compile=False)
    assert list(detector.state_dict()) == before
    targets = [{"boxes": torch.tensor([[20.0, 20.0, 200.0, 180.0]]), "labels": torch.tensor([1])}] * 2
    losses = detector.train()(list(torch.rand(2, 3, 320, 320)), targets)
    assert detector.backbone.last_mode is Mode.LOW
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in detector.backbone.parameters())
    with torch.no_grad():
        assert len(detector.eval()(list(torch.rand(2, 3, 320, 320)))) == 2
