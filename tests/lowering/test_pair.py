"""``build_pair``: the model is left as it was, both graphs hold its own tensors, and what can't be right is refused."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import random
import re
from typing import Any

import pytest
import timm
import torch
import torchvision
from tiny import IMAGES, Tiny, assert_shared, named, tensors, tiny_pair
from torch import Tensor, nn

from lowmode_fx import LowModeConfig, NoEffectWarning, PassError, TraceError, build_pair, capture, lower

# The model is left as it was -----------------------------------------------------------------------------------------


def traits(model: nn.Module) -> Any:
    """Everything of a model that building a pair might disturb, apart from the values of its tensors."""
    modules = dict(model.named_modules())
    hooks = [
        {name: list(value) for name, value in vars(module).items() if name.endswith("_hooks") and value is not None}
        for module in modules.values()
    ]
    return (
        {name: (module.training, type(module), sorted(vars(module))) for name, module in modules.items()},
        {name: (id(tensor), tensor._version, tensor.requires_grad) for name, tensor in tensors(model).items()},
        {name: id(parameter.grad) for name, parameter in model.named_parameters()},
        hooks,
    )


def watch(module: nn.Module, inputs: Any, output: Any = None) -> None:
    """A hook that does nothing."""


@pytest.mark.filterwarnings("ignore:For backward hooks to be called")  # the hook is met while tracing
@pytest.mark.parametrize("front_end", ["auto", "live", "fx", "export"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(front_end: Any, training: bool) -> None:
    model = Tiny().train(training)
    model.blocks[0].train(not training)
    model.stem.requires_grad_(False)
    model.fc.weight.grad = torch.ones(5, 4)
    model.register_forward_hook(watch)
    model.fc.register_forward_pre_hook(watch)
    model.blocks[2].register_full_backward_hook(watch)
    model.register_state_dict_pre_hook(watch)
    before, state = traits(model), copy.deepcopy(model.state_dict())
    generators = (torch.get_rng_state(), random.getstate())

    if front_end in ("fx", "export"):  # whose graphs call no hook
        with pytest.raises(TraceError, match="does not train as the model does: hooks: the forward"):
            build_pair(model, torch.zeros(IMAGES), front_end=front_end)
    else:
        build_pair(model, torch.zeros(IMAGES), front_end=front_end)

    assert traits(model) == before
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generators[0]) and random.getstate() == generators[1]


class AssigningNorm(nn.BatchNorm2d):
    """Keeps its statistics by assignment, as hand-written norms do, and registers a buffer on its way."""

    def forward(self, input: Tensor) -> Tensor:
        self.num_batches_tracked += 1
        self.running_mean = 0.9 * self.running_mean + 0.1 * input.detach().mean((0, 2, 3))
        self.register_buffer("seen", input.detach()[:1], persistent=False)
        return super().forward(input)


def test_buffers_that_a_forward_assigns_stay_the_models_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), AssigningNorm(4), nn.Conv2d(4, 4, 3))
    before = {name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    build_pair(model, torch.zeros(IMAGES))
    assert model.state_dict().keys() == before.keys() and not hasattr(model[1], "seen")
    for name, value in model.state_dict(keep_vars=True).items():
        assert value is before[name][0] and torch.equal(value, before[name][1]), name
    model(torch.zeros(IMAGES))


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def test_a_scripted_part_does_not_run_while_a_pair_is_built() -> None:
    """It runs below torch's functions, where nothing can take the place of its real statistics."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), torch.jit.script(Mixing()), nn.Conv2d(4, 4, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with contextlib.suppress(ValueError):
        build_pair(model, torch.zeros(IMAGES))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_refused_model_is_left_as_it_was() -> None:
    model = named(stem=nn.Conv2d(3, 4, 3, padding=1), norm=nn.BatchNorm2d(4), flat=nn.Flatten(), fc=nn.Linear(1024, 2))
    model.eval()
    model.norm.train()
    before = traits(model)
    with pytest.raises(PassError):
        build_pair(model, torch.zeros(IMAGES), LowModeConfig(pool_convs="all"))
    assert traits(model) == before


def test_the_example_is_left_as_it_was_and_its_values_do_not_count() -> None:
    example = torch.full(IMAGES, float("nan"))
    pair = build_pair(Tiny(), example)
    assert example.isnan().all() and example._version == 0
    assert pair.full(torch.zeros(IMAGES)).isfinite().all()


# One set of parameters (invariant 2) ---------------------------------------------------------------------------------


@pytest.mark.parametrize("front_end", ["fx", "export"])
def test_both_graphs_hold_the_models_own_tensors_and_modules(front_end: Any) -> None:
    pair = build_pair(Tiny(), torch.zeros(IMAGES), front_end=front_end)
    assert_shared(pair)
    for graph_module in (pair.full, pair.low):
        assert graph_module.get_submodule("blocks") is pair.model.blocks
        assert list(graph_module.state_dict()) == list(pair.model.state_dict())


def test_they_still_do_after_a_change_of_dtype() -> None:
    for change in (lambda pair: pair.model, lambda pair: pair.full, lambda pair: pair.low):
        pair = tiny_pair()
        change(pair).to(torch.float64)
        assert_shared(pair)
        assert all(tensor.dtype != torch.float32 for tensor in tensors(pair.low).values())
        assert pair.low(torch.zeros(2, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64


def test_they_still_do_after_tensors_were_assigned() -> None:
    pair, other = tiny_pair(), Tiny()
    before = tensors(pair.model)
    pair.model.load_state_dict(other.state_dict(), assign=True)
    assert_shared(pair)
    assert tensors(pair.low)["scale"] is not before["scale"]
    assert tensors(pair.low)["stem.weight"].data_ptr() == other.stem.weight.data_ptr()
    pair.low.load_state_dict(Tiny().state_dict(), assign=True)
    assert_shared(pair)


def test_they_still_do_after_a_parameter_or_module_was_replaced() -> None:
    pair = tiny_pair()
    pair.model.scale = nn.Parameter(torch.zeros(4, 1, 1))
    pair.model.blocks[2] = nn.Conv2d(4, 4, 3, padding=1)
    assert_shared(pair)
    pair.low(torch.randn(2, 3, 8, 8)).sum().backward()
    assert pair.model.scale.grad is not None


def test_state_dicts_load_in_each_other_strictly() -> None:
    pair = tiny_pair()
    for source, target in [(pair.low, Tiny()), (Tiny(), pair.full), (Tiny(), pair.low)]:
        target.load_state_dict(source.state_dict(), strict=True)
    assert "scratch" not in pair.low.state_dict()


# A copy of a pair ----------------------------------------------------------------------------------------------------


def test_a_deep_copy_is_a_pair_of_its_own() -> None:
    pair = tiny_pair()
    pair.model.drop.p = 0.0
    copied = copy.deepcopy(pair)
    assert_shared(copied)
    assert not {id(t) for t in tensors(copied.model).values()} & {id(t) for t in tensors(pair.model).values()}

    images = torch.randn(2, 3, 8, 8)
    expected = pair.low(images)
    assert torch.equal(copied.low(images), expected)
    with torch.no_grad():
        for parameter in copied.model.parameters():
            parameter.add_(1)
    copied.full(images)
    assert torch.equal(pair.low(images), expected)
    assert not torch.equal(copied.low(images), expected)
    assert (pair.model.blocks[0].num_batches_tracked.item(), copied.model.blocks[0].num_batches_tracked.item()) == (
        0,
        1,
    )


def test_a_deep_copy_of_something_that_holds_a_pair_and_its_model() -> None:
    pair = tiny_pair()
    copied = copy.deepcopy({"pair": pair, "model": pair.model})
    assert copied["pair"].model is copied["model"]


# Inputs --------------------------------------------------------------------------------------------------------------


def test_a_side_that_the_ratio_does_not_divide_is_rounded_up_and_noted() -> None:
    model = named(stem=nn.Conv2d(3, 2, 3, stride=2), body=nn.Conv2d(2, 2, 3))
    report = build_pair(model, torch.zeros(2, 3, 299, 299)).report
    assert report.low_input_shape == (2, 3, 150, 150)
    assert report.notes[0] == "299×299 is not divisible by 2: low-mode images are 150×150 (rounded up)"


def test_a_side_that_the_ratio_divides_is_not_noted() -> None:
    report = tiny_pair().report
    assert (report.input_shape, report.low_input_shape, report.notes) == ((2, 3, 16, 16), (2, 3, 8, 8), ())


def test_the_pair_downsamples_for_itself() -> None:
    pair = tiny_pair(ratio=4, input_method="area")
    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert pair.downsample(images).tolist() == [[[[7.5]]]]


def test_an_example_of_one_image_is_enough() -> None:
    model = named(stem=nn.Conv2d(3, 4, 3, padding=1), body=nn.Conv2d(4, 4, 3, padding=1), pool=nn.AdaptiveAvgPool2d(1),
                  norm=nn.BatchNorm2d(4))  # fmt: skip
    pair = build_pair(model, torch.zeros(1, 3, 16, 16))
    assert pair.low(torch.zeros(3, 3, 8, 8)).shape == (3, 4, 1, 1)


@pytest.mark.parametrize("batch", [2, 5])
def test_the_graphs_take_any_batch(batch: int) -> None:
    pair = tiny_pair()
    assert pair.full(torch.zeros(batch, 3, 16, 16)).shape == pair.low(torch.zeros(batch, 3, 8, 8)).shape == (batch, 5)


@pytest.mark.parametrize(
    ("example", "found"),
    [
        (torch.zeros(3, 16), "(3, 16) of torch.float32"),
        ([1.0], "of type list, without a tensor"),
        (None, "of type NoneType, without a tensor"),
        pytest.param(torch.zeros(0, 3, 16, 16), "(0, 3, 16, 16) of torch.float32"),
    ],
)
def test_an_example_that_is_no_batch_of_images(example: Any, found: str) -> None:
    with pytest.raises(TypeError) as error:
        build_pair(Tiny(), example)
    assert str(error.value) == (
        f"example_input is {found}; give a float tensor (N, C, *S), as torch.randn(2, 3, 224, 224), or "
        "a tuple or mapping of forward's arguments that holds one"
    )


@pytest.mark.parametrize("image", [torch.zeros(3, 16, 16), torch.zeros(1, 16, 15)])
def test_an_image_without_a_batch_is_refused(image: torch.Tensor) -> None:
    """Also where the model would take it: its width alone would be downsampled."""
    channels = len(image)
    takes_it = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(0))
    hint = "give images (N, C, *S), as image.unsqueeze(0)"
    shape = tuple(image.shape)
    with pytest.raises(ValueError) as error:
        build_pair(takes_it, image)
    assert str(error.value) == f"input is {shape}, an image without a batch; {hint}"
    with pytest.raises(ValueError) as error:
        build_pair(nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4)), image)
    assert str(error.value) == (
        f"Sequential fails on {shape} of torch.float32: expected 4D input (got 3D input); if this is an image without "
        f"a batch, {hint}"
    )


class Spectrograms(nn.Module):
    """Takes (N, T, F): it makes the channel itself, for all or one by one."""

    one_by_one = False

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, sounds: torch.Tensor) -> torch.Tensor:
        if self.one_by_one:
            return torch.stack([self.conv(sound[None]).mean((1, 2)) for sound in sounds.unbind()])
        return self.conv(sounds[:, None]).mean((2, 3))


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_that_gets_its_channel_inside_is_no_image_without_a_batch(one_by_one: bool, count: int) -> None:
    model = Spectrograms()
    model.one_by_one = one_by_one
    assert build_pair(model, torch.zeros(count, 16, 16), LowModeConfig(pool_convs="all")).report.pooled


class WithPlaces(nn.Module):
    """Adds each pixel's place as two channels, with a batch and without one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        places = torch.stack(torch.meshgrid(*(torch.arange(side) / side for side in images.shape[-2:]), indexing="ij"))
        places = places.expand(*images.shape[:-3], -1, -1, -1)
        return self.conv(torch.cat([images, places], dim=-3)).mean((-2, -1))


class OneImage(nn.Module):
    """Takes an image (C, H, W), and no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image[None]).mean((2, 3))


BATCH = "images (N, C, *S), as image.unsqueeze(0)"
PART = "the part that takes batches as submodule, and images (N, C, *S) for it"


@pytest.mark.parametrize("front_end", ["auto", "live"])
@pytest.mark.parametrize(
    ("model", "shape", "hint"),
    [
        (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3)), (3, 16, 16), BATCH),
        (nn.Sequential(nn.Conv3d(3, 4, 3), nn.Flatten(-3)), (3, 8, 8, 8), BATCH),
        (WithPlaces(), (3, 16, 16), BATCH),
        (OneImage(), (3, 16, 16), PART),
    ],
)
def test_an_image_without_a_batch_whose_channels_are_made_inside_is_refused(
    model: nn.Module, shape: tuple[int, ...], hint: str, front_end: Any
) -> None:
    name = "input" if isinstance(model, nn.Sequential) else "image" if isinstance(model, OneImage) else "images"
    with pytest.raises(ValueError) as error:
        build_pair(model, torch.zeros(shape), front_end=front_end)
    assert str(error.value) == f"{name} is {shape}, an image without a batch; give {hint}"
    if hint == BATCH:  # it helps
        pair = build_pair(model, torch.zeros(2, *shape), LowModeConfig(kernel_ratio=1), front_end=front_end)
        assert pair.report.low_input_shape == (2, 3, *(side // 2 for side in shape[1:]))


class Clip(nn.Module):
    """Takes the frames (T, C, H, W) of one clip, and convolves each of them and all together."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Conv2d(3, 4, 3)
        self.clip = nn.Conv3d(3, 4, (1, 3, 3))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.frames(frames).mean((2, 3)) + self.clip(frames.transpose(0, 1)).mean((2, 3)).T


@pytest.mark.parametrize("front_end", ["auto", "live"])
@pytest.mark.parametrize("count", [3, 4])
def test_a_clip_with_as_many_frames_as_channels_is_a_batch_of_frames(count: int, front_end: Any) -> None:
    report = build_pair(Clip(), torch.zeros(count, 3, 8, 8), LowModeConfig(kernel_ratio=1), front_end=front_end).report
    assert report.low_input_shape == (count, 3, 4, 4)


class Sized(nn.Module):
    """Takes a size, and labels in train mode, which it asks for."""

    def __init__(self, asks: bool) -> None:
        super().__init__()
        self.asks, self.conv = asks, nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor, size: Any = None, labels: Any = None) -> Tensor:
        if self.asks and labels is None:
            raise ValueError("labels are required in train mode")
        return self.conv(images) + torch.zeros(7)


def test_an_argument_that_a_model_asks_for_is_named_and_no_other() -> None:
    with pytest.raises(TraceError, match=r"; give labels in the example too, as one of its arguments$"):
        build_pair(Sized(True), torch.zeros(IMAGES))
    with pytest.raises(TraceError, match=r"The size of tensor a \(14\) must match the size of tensor b") as error:
        build_pair(Sized(False), torch.zeros(IMAGES))
    assert "give" not in str(error.value)


IMAGE, BOXES = torch.zeros(3, 64, 64), {"boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]]), "labels": torch.tensor([1])}


@pytest.mark.parametrize(
    ("example", "told"),
    [
        (torch.zeros(2, 3, 64, 64), "fails on (2, 3, 64, 64) of torch.float32: targets should not be none when in"),
        ([IMAGE], "fails on (3, 64, 64) of torch.float32: targets should not be none when in training mode"),
        (([IMAGE, IMAGE],), "images.0 is (3, 64, 64), an image without a batch, which low-mode needs; give the part"),
        (([IMAGE], [BOXES]), "images.0 is (3, 64, 64), an image without a batch, which low-mode needs; give the part"),
    ],
)
def test_a_detector_names_its_backbone(example: Any, told: str) -> None:
    detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=2, width_mult=0.25
    )
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        build_pair(detector, example)
    assert str(error.value).endswith(
        "; give the part that takes batches, submodule='backbone', and images (N, C, *S) for it"
    )
    after = detector.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert build_pair(detector, torch.zeros(2, 3, 64, 64), submodule="backbone").report.pooled


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"submodule": 0}, "submodule=0 is of type int; give the path of a module, such as 'backbone'"),
        ({"submodule": nn.ReLU()}, "submodule is of type ReLU; give the path of a module, such as 'backbone'"),
        (
            {"images": torch.zeros(2, 3, 16, 16)},
            "images is of type Tensor; give the name or the position of an argument of forward, or several",
        ),
        (
            {"leaf_modules": [nn.ReLU()]},
            "leaf_modules is of type ReLU; give a list of module classes, as [torch.nn.ReLU]",
        ),
        (
            {"leaf_modules": ["ReLU"]},
            "leaf_modules='ReLU' is of type str; give a list of module classes, as [torch.nn.Re",
        ),
        (
            {"leaf_modules": nn.ReLU},
            "leaf_modules=<class 'torch.nn.modules.activation.ReLU'> is not a sequence; give a ",
        ),
    ],
)
def test_an_option_of_another_type_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as error:
        build_pair(Tiny(), torch.zeros(2, 3, 16, 16), **options)
    assert str(error.value).startswith(message)


def test_lower_takes_a_capture_and_a_config() -> None:
    with pytest.raises(
        TypeError, match=r"^captured is of type Tiny; give what capture\(model, example_input\) returned$"
    ):
        lower(Tiny(), LowModeConfig())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^config=2 is of type int; give a LowModeConfig, such as LowModeConfig"):
        lower(capture(Tiny(), torch.zeros(2, 3, 16, 16)), 2)  # type: ignore[arg-type]


def test_images_of_another_dtype_than_the_weights() -> None:
    with pytest.raises(ValueError, match=r"; give images of the weights' dtype, as images\.to\(torch\.float32\)$"):
        build_pair(Tiny(), torch.zeros(2, 3, 16, 16, dtype=torch.float64))


def test_an_example_of_integers_is_reported_to_be_scaled() -> None:
    with pytest.raises(TypeError, match=r"^x is \(2, 3, 16, 16\) of torch\.uint8, but images need a floating dtype"):
        build_pair(Tiny(), torch.zeros(2, 3, 16, 16, dtype=torch.uint8))


def test_a_ratio_that_leaves_no_pixels() -> None:
    with pytest.raises(ValueError, match=r"^ratio=17 is too large for images with sides \(16, 16\); give at most 16"):
        tiny_pair(ratio=17)


# Modes ---------------------------------------------------------------------------------------------------------------


def test_a_pair_of_a_model_in_eval_mode_is_for_training() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.dropout(self.norm(self.body(self.stem(x))), 0.5, self.training)

    model = Functional().eval()
    pair = build_pair(model, torch.zeros(IMAGES))
    assert not any(module.training for module in model.modules())
    model.train()
    assert ((pair.full(torch.randn(2, 3, 16, 16)) == 0).float().mean() - 0.5).abs() < 0.1
    assert model.norm.num_batches_tracked.item() == 1


# A part of a model ---------------------------------------------------------------------------------------------------


def test_a_submodule_is_paired_alone() -> None:
    model = nn.ModuleDict({"backbone": Tiny(), "unused": nn.LSTM(3, 3)})
    pair = build_pair(model, torch.zeros(IMAGES), submodule="backbone")
    assert pair.model is model["backbone"]
    assert_shared(pair)


def test_kernels_alone_may_be_pooled_for_images_of_full_size() -> None:
    pair = tiny_pair(downsample_input=False)
    assert pair.report.low_input_shape == pair.report.input_shape
    images = torch.randn(IMAGES)
    assert pair.downsample(images) is images
    assert pair.low(images).shape == (2, 5) and len(pair.report.pooled) == 1


def test_a_submodule_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"^submodule='block' is no module of Tiny; near matches: blocks"):
        build_pair(Tiny(), torch.zeros(IMAGES), submodule="block")


# Nothing to do -------------------------------------------------------------------------------------------------------


def test_a_pair_without_a_pooled_kernel_warns_where_it_was_built() -> None:
    with pytest.warns(NoEffectWarning) as warned:
        pair = tiny_pair(keep_convs=["blocks"])
    note = "no kernel is pooled, only the resolution is lower (kept by keep_convs; stem: it reads the image)"
    assert pair.report.notes == (note,)
    assert [str(warning.message) for warning in warned] == [f"{note}; see pool_convs"]


@pytest.mark.parametrize("options", [{"kernel_ratio": 1}, {}])
def test_images_that_rounding_leaves_as_they_are_warn(options: dict[str, Any]) -> None:
    note = "low-mode saves nothing: 16×16 by 21/20 is rounded to 16×16, and no kernel is pooled"
    with pytest.warns(NoEffectWarning, match=f"^{note}; see ratio and pool_convs$"):
        pair = tiny_pair(ratio=1.05, **options)
    assert pair.report.notes[-1] == note == pair.report.no_effect


def test_the_warning_points_at_the_callers_line() -> None:
    with pytest.warns(NoEffectWarning) as warned:
        build_pair(Tiny(), torch.zeros(IMAGES), LowModeConfig(keep_convs=["blocks"]))
    assert warned[0].filename == __file__


@pytest.mark.filterwarnings("error::lowmode_fx.NoEffectWarning")
@pytest.mark.parametrize("options", [{"kernel_ratio": 1}, {"keep_convs": ["blocks"], "strides": {"stem": 2}}])
def test_kept_kernels_that_were_asked_for_do_not_warn(options: dict[str, Any]) -> None:
    assert tiny_pair(**options).report.notes == ()


KEEPS = "kernel_ratio is 1, which keeps every kernel"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kernel_ratio": 1, "keep_convs": ["blocks"]}, [f"keep_convs does nothing here: {KEEPS}"]),
        (
            {"kernel_ratio": (1, 1), "pool_convs": "all", "kernel_transform": "linear"},
            [f"kernel_transform does nothing here: {KEEPS}", f"pool_convs does nothing here: {KEEPS}"],
        ),
        ({"kernel_ratio": (1, 2), "keep_convs": ["stem"]}, []),
        ({"kernel_transform": "linear", "gain": "sum"}, []),
        (
            {"kernel_transform": "linear", "gain": "norm"},
            ["gain does nothing here: kernel_transform='linear' always preserves the sum"],
        ),
        (
            {"downsample_input": False, "min_side": 4, "ratio": 3},
            ["min_side does nothing here: images stay at full size"],
        ),
        (
            {"downsample_input": False, "kernel_ratio": 2, "ratio": 3},
            ["ratio does nothing here: images stay at full size, and kernel_ratio is given"],
        ),
        ({"restore_output": True}, ["restore_output=True found no map to resize"]),
        ({"restore_output": True, "downsample_input": False}, []),
    ],
)
def test_an_option_that_another_leaves_without_effect_is_noted(options: dict[str, Any], told: list[str]) -> None:
    assert list(tiny_pair(**options).report.notes) == told


def test_a_model_with_nothing_to_pool() -> None:
    model = timm.create_model("vit_tiny_patch16_224")
    with pytest.raises(PassError) as error:
        build_pair(model, torch.zeros(2, 3, 224, 224))
    assert str(error.value) == (
        "VisionTransformer has nothing to pool: the kernel of its only convolution is not larger than its stride; "
        "use a convolutional network, or set kernel_ratio=1 to shrink only the images"
    )


def test_hints_for_a_model_with_nothing_to_pool_end_in_one_that_helps() -> None:
    """Neither whole images nor a resized map would help a transformer: no message sends its reader there."""
    example = torch.zeros(2, 3, 32, 32)
    model, other = (
        timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, dynamic_img_size=dynamic)
        for dynamic in (False, True)
    )
    with pytest.raises(PassError, match=r"a convolutional network, or give kernel_ratio=1 instead of downsample_in"):
        build_pair(model, example, LowModeConfig(downsample_input=False))
    hint = (
        "the model itself can't take 16×16 inputs: at _assert in patch_embed: Input height doesn't match model (32); "
        "make the model take images of other sizes (some of timm's by dynamic_img_size=True)"
    )
    with pytest.raises(PassError) as error:
        build_pair(model, example, LowModeConfig(kernel_ratio=1))
    assert str(error.value) == hint
    with pytest.raises(PassError) as error:
        build_pair(model, example, LowModeConfig(kernel_ratio=1, adapt_head=True))
    assert str(error.value) == f"adapt_head=True finds no map of a convolution to resize: {hint}"
    assert build_pair(other, example, LowModeConfig(kernel_ratio=1)).report.low_input_shape[2:] == (16, 16)


def test_a_model_without_a_convolution() -> None:
    with pytest.raises(PassError, match=r"^Sequential has nothing to pool: it has no convolution; use a conv"):
        build_pair(named(flat=nn.Flatten(), fc=nn.Linear(768, 2)), torch.zeros(IMAGES))


def test_images_alone() -> None:
    model = named(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(3, 2))
    pair = build_pair(model, torch.zeros(IMAGES), LowModeConfig(kernel_ratio=1))
    assert pair.low(torch.zeros(2, 3, 8, 8)).shape == (2, 2)


# The report ----------------------------------------------------------------------------------------------------------


def test_the_report_of_a_pass() -> None:
    report = tiny_pair().report
    assert report.model == "Tiny"
    assert [entry.name for entry in report.passes] == [
        "drop_maxpools", "set_strides", "pool_weights", "isolate_batchnorm", "adapt_heads",
        "resize_head",
    ]  # fmt: skip
    assert report.of("pool_weights").to_dict()["skips"][0] == {
        "site": "stem",
        "node": report.of("pool_weights").skips[0].node,
        "reason": "stem: it reads the image",
    }
    with pytest.raises(KeyError, match="restore_output"):
        report.of("restore_output")


def test_a_report_prints_in_lines() -> None:
    report = tiny_pair().report
    changes = [
        "pool_weights: 1 × 3×3 → 1×1",
        "pool_weights: 1 left alone (stem: it reads the image)",
        "isolate_batchnorm: 2 × updates running statistics → batch statistics only",
    ]
    head = ["Tiny: images of 3×8×8 in low-mode, of 3×16×16 in full-mode", "traced by fx"]
    points = (
        "note: 1 kernel of 3×3 is pooled to 1×1, as in the paper, whose setting ended below full-mode cut to the same "
        "time in the runs measured here; give kernel_ratio=1 to keep kernels"
    )
    assert str(report).splitlines() == [*head, *changes, points]
    failed = dataclasses.replace(
        report, front_end="live", front_end_failures=("fx: a", "export: b"), notes=("one", "two")
    )
    head[1] = "traced by live (not by fx: a; export: b)"
    assert str(failed).splitlines() == [*head, *changes, "note: one", "note: two", points]
    assert "pooled to" not in str(tiny_pair(kernel_ratio=1).report)  # as the note says
    assert repr(report).startswith("PairReport(model='Tiny', front_end='fx', ")


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("mode", ["full", "low"])
def test_a_copy_reads_its_own_parameter_whatever_its_name(mode: str, copies: int) -> None:
    class Coded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.code = nn.Conv2d(3, 4, 3, padding=1), nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return (self.conv(x) * self.code).mean((2, 3))

    pair = build_pair(Coded(), torch.randn(2, 3, 8, 8), LowModeConfig(pool_convs="all"))
    copied = pair
    for _ in range(copies):
        copied = copy.deepcopy(copied)
    with torch.no_grad():
        copied.model.code.zero_()
    output = getattr(copied, mode)(torch.randn(2, 3, 8, 8))
    output.sum().backward()
    assert not output.any()
    assert copied.model.code.grad is not None
    assert pair.model.code.grad is None


class Checked(nn.Module):
    """Checks the size of its images, or of a map, in Python."""

    def __init__(self, check: str) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.check = check

    def forward(self, x: Tensor) -> Tensor:
        if self.check == "assert":
            assert x.shape[-1] == 16, "expects 16 pixels"
        if self.check == "raise" and x.shape[-1] != 16:
            raise ValueError("expects 16 pixels")
        maps = self.stem(x)
        if self.check == "map" and maps.shape[-1] != 16:
            raise RuntimeError("expects 16 pixels")
        return self.conv(maps).mean((2, 3))


@pytest.mark.parametrize("front_end", ["auto", "live"])
@pytest.mark.parametrize("check", ["assert", "raise", "map"])
def test_a_model_that_checks_its_images_in_python_is_refused_at_the_build(check: str, front_end: Any) -> None:
    model, images = Checked(check), torch.randn(2, 3, 16, 16)
    told = "the model itself can't take 8×8 inputs: expects 16 pixels; make the model take images of other sizes"
    whole = ", or set downsample_input=False to pool kernels only"
    for options, way in (({"kernel_ratio": 1}, ""), ({}, whole)):  # with kernels kept it would change nothing
        with pytest.raises(PassError) as error:
            build_pair(model, images, LowModeConfig(**options), front_end=front_end)
        assert str(error.value) == f"{told}{way}"
    pair = build_pair(model, images, LowModeConfig(downsample_input=False), front_end=front_end)
    assert [change.site for change in pair.report.pooled] == ["conv"]


def test_a_trial_of_a_low_step_leaves_no_trace() -> None:
    class Counting(Checked):
        def __init__(self) -> None:
            super().__init__("raise")
            self.norm, self.calls = nn.BatchNorm2d(3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(self.norm(x) * torch.rand(1))

    model = Counting()
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(PassError, match="expects 16 pixels"):
        build_pair(model, torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert model.calls == 0 and torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
