"""What low-mode meets that its build has not seen: other branches, other layers, functions with a backward of their
own.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from live_checks import low_images, pair_of, step
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lowmode_fx import ModePair, build_pair, count_flops
from lowmode_fx.lowering.live import LiveLowering, LiveLoweringWarning
from passes.pooling_rule import CUSTOM_FUNCTION

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = (2, 3, 16, 16)


def conv(channels: int = 4, filters: int = 4, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, kernel, padding=kernel // 2, **options)


def single_tap(convolution: nn.Conv2d, maps: Tensor) -> Tensor:
    """A 3×3 convolution that is padded by one pixel, its kernel pooled to its mean."""
    return F.conv2d(maps, convolution.weight.mean((2, 3), keepdim=True), convolution.bias)


class Branches(nn.Module):
    """``seen`` takes the branch that the build follows, else the other one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3), conv(), conv()
        self.other_stem, self.pool, self.last = conv(3), nn.MaxPool2d(2), conv(kernel=1)
        self.seen = True

    def forward(self, x: Tensor) -> Tensor:
        if self.seen:
            return self.left(self.stem(x))
        return self.last(self.pool(self.right(self.other_stem(x))))


def unseen_branch(**options: Any) -> tuple[ModePair, LiveLowering]:
    model = Branches()
    pair = pair_of(model, *IMAGES, **options)
    model.seen = False
    return pair, LiveLowering(pair)


def test_another_branch_is_treated_by_the_same_rules_and_reported_once() -> None:
    pair, live = unseen_branch(drop_maxpools="none")
    model: Any = pair.model
    images = low_images(pair)
    with pytest.warns(LiveLoweringWarning) as told:
        found = live.run(images)
        live.run(images)
    torch.testing.assert_close(found, model.last(model.pool(single_tap(model.right, model.other_stem(images)))))
    assert (
        live.notes
        == [str(warning.message) for warning in told]
        == [
            "the convolution other_stem was not seen at the build: its 3×3 kernel is kept (stem: it reads the image)",
            "the convolution right was not seen at the build: its 3×3 kernel is pooled to 1×1",
        ]
    )


@pytest.mark.parametrize(
    ("options", "pooled", "dropped"),
    [
        ({"keep_convs": ["left"], "drop_maxpools": "all"}, True, True),
        ({"pool_convs": ["left"], "drop_maxpools": "stem"}, False, False),
    ],
)
@pytest.mark.filterwarnings("ignore::lowmode_fx.lowering.live.LiveLoweringWarning")
def test_names_and_pools_of_another_branch(options: dict[str, Any], pooled: bool, dropped: bool) -> None:
    pair, live = unseen_branch(**options)
    model: Any = pair.model
    images = low_images(pair)
    maps = model.other_stem(images)
    maps = single_tap(model.right, maps) if pooled else model.right(maps)
    torch.testing.assert_close(live.run(images), model.last(maps if dropped else model.pool(maps)))
    assert any(
        "max pool pool was not seen at the build: it is " + ("dropped" if dropped else "kept") in note
        for note in live.notes
    )


@pytest.mark.filterwarnings("ignore::lowmode_fx.lowering.live.LiveLoweringWarning")
def test_a_layer_that_takes_anothers_place_is_treated_like_it() -> None:
    model = nn.Sequential(conv(3), conv(), conv())
    pair = pair_of(model, *IMAGES, keep_convs=["2"])
    live, images = LiveLowering(pair), low_images(pair)
    live.run(images)
    model[1], model[2] = conv(), conv()
    torch.testing.assert_close(live.run(images), model[2](single_tap(model[1], model[0](images))))
    model[1].weight = nn.Parameter(torch.ones(4, 4, 3, 3))
    torch.testing.assert_close(live.run(images), model[2](single_tap(model[1], model[0](images))))
    model[1] = conv(kernel=1)  # nothing to pool
    assert torch.equal(live.run(images), model(images))
    assert live.notes == []


@pytest.mark.filterwarnings("ignore::lowmode_fx.lowering.live.LiveLoweringWarning")
def test_a_layer_that_is_added() -> None:
    model = nn.Sequential(conv(3), conv())
    pair = pair_of(model, *IMAGES)
    live, images = LiveLowering(pair), low_images(pair)
    model.append(conv())
    torch.testing.assert_close(live.run(images), single_tap(model[2], single_tap(model[1], model[0](images))))
    assert len(live.notes) == 1


def test_a_layer_that_is_put_between_others_moves_no_decision() -> None:
    """In an ``nn.Sequential`` names are places: what stands behind goes by another name from then on."""
    torch.manual_seed(0)
    model = nn.Sequential(conv(3), nn.BatchNorm2d(4), nn.MaxPool2d(2), conv(), nn.MaxPool2d(2), conv())
    pair = pair_of(model, *IMAGES, keep_convs=["5"], drop_maxpools=["4"])
    live, images = LiveLowering(pair), low_images(pair)
    first, norm, pool, second, _, last = model
    model.insert(1, conv())
    expected = last(single_tap(second, pool(norm(single_tap(model[1], first(images))))))
    with pytest.warns(LiveLoweringWarning) as told:
        torch.testing.assert_close(live.run(images), expected)
    assert [str(warning.message) for warning in told] == [
        "the convolution 1 was not seen at the build: its 3×3 kernel is pooled to 1×1"
    ]
    del model[1]
    torch.testing.assert_close(live.run(images), last(single_tap(second, pool(norm(first(images))))))


def test_a_new_layer_has_nothing_of_the_module_around_it() -> None:
    """The model's own forward calls a convolution that is computed and kept, and so has a plan for its place."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.layers, self.scale = conv(3), nn.Sequential(), nn.Parameter(torch.ones(1))
            self.register_buffer("blur", torch.full((4, 4, 3, 3), 0.1))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(F.conv2d(self.stem(x), self.blur, padding=1) * self.scale)

    torch.manual_seed(0)
    model = Around()
    pair = pair_of(model, *IMAGES)
    live, images = LiveLowering(pair), low_images(pair)
    torch.testing.assert_close(live.run(images), model(images))
    model.layers.append(parametrizations.weight_norm(conv()))
    expected = single_tap(model.layers[0], F.conv2d(model.stem(images), model.blur, padding=1) * model.scale)
    with pytest.warns(LiveLoweringWarning):
        torch.testing.assert_close(live.run(images), expected)


def test_a_kernel_that_the_graph_takes_for_a_constant_is_trained() -> None:
    """torch.fx works out what comes of parameters alone, once."""

    class Halved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = conv(3), conv()

        def forward(self, x: Tensor) -> Tensor:
            values = {name: value * 0.5 for name, value in self.body.named_parameters()}
            return torch.func.functional_call(self.body, values, (self.stem(x),))

    torch.manual_seed(0)
    model = Halved()
    pair = pair_of(model, *IMAGES)
    live, images = LiveLowering(pair), low_images(pair)
    if pair.report.pooled:
        pytest.skip("the graph has it right")
    with pytest.warns(
        LiveLoweringWarning, match="the convolution body was not seen at the build: its 3×3 kernel is pooled to 1×1"
    ):
        torch.testing.assert_close(live.run(images), single_tap(model.body, model.stem(images)) / 2)


@pytest.mark.parametrize("kept", [False, True])
def test_a_kernel_that_stops_being_a_parameter_is_treated_as_before(kept: bool) -> None:
    """Pruning: the weight is computed from then on."""
    torch.manual_seed(0)
    model = nn.Sequential(conv(3), conv(), conv())
    pair = pair_of(model, *IMAGES, keep_convs=["1"] if kept else [])
    live, images = LiveLowering(pair), low_images(pair)
    prune.l1_unstructured(model[1], "weight", amount=0.5)
    maps = model[0](images)
    expected = single_tap(model[2], model[1](maps) if kept else single_tap(model[1], maps))
    torch.testing.assert_close(live.run(images), expected)
    assert live.notes == []


# Functions with a backward of their own ------------------------------------------------------------------------------


class Binary(torch.autograd.Function):
    """A convolution with binary weights, whose backward is written for the whole kernel."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        return F.conv2d(maps, weight.sign(), padding=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        maps, weight = ctx.saved_tensors
        to_maps = torch.nn.grad.conv2d_input(maps.shape, weight.sign(), gradient, padding=1)
        return to_maps, torch.nn.grad.conv2d_weight(maps, weight.shape, gradient, padding=1)


class BinaryWithSetup(Binary):
    """The newer form, whose forward is not told the context."""

    @staticmethod
    def forward(maps: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        return F.conv2d(maps, weight.sign(), padding=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)


class Holding(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.stem, self.last, self.function = conv(3), conv(), function
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function.apply(self.stem(x), self.weight))


@pytest.mark.filterwarnings("ignore::lowmode_fx.lowering.live.LiveLoweringWarning")
@pytest.mark.parametrize("function", [Binary, BinaryWithSetup])
def test_a_convolution_inside_a_function_stays_whole_and_is_reported(function: Any) -> None:
    torch.manual_seed(0)
    model = Holding(function)
    pair = pair_of(model, *IMAGES)
    live, images = LiveLowering(pair), low_images(pair)
    (found,), gradients = step(model, live.run, images)
    (expected,), theirs = step(
        model, lambda x: single_tap(model.last, function.apply(model.stem(x), model.weight)), images
    )
    torch.testing.assert_close(found, expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, theirs[name])
    assert live.notes == [
        f"convolutions in the custom autograd.Function {function.__name__} keep their kernels: its "
        "backward is written for the full kernels"
    ]


class Branching(Holding):
    """A branch on a size, which torch.fx can't trace."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[-1] > 4 else x.flip(-1))


@pytest.mark.parametrize(
    ("kind", "front_end", "by"), [(Holding, "auto", "fx"), (Branching, "auto", "export"), (Holding, "live", "live")]
)
@pytest.mark.parametrize("function", [Binary, BinaryWithSetup])
def test_the_report_and_the_counts_keep_a_convolution_inside_a_function(
    function: Any, kind: Any, front_end: Any, by: str
) -> None:
    pair = build_pair(kind(function), torch.randn(*IMAGES), front_end=front_end)
    assert pair.report.front_end == by
    assert [change.site for change in pair.report.pooled] == ["last"]
    assert [skip.reason for skip in pair.report.of("pool_weights").skips][1] == CUSTOM_FUNCTION
    taps = 3 * 4 * 9 + 4 * 4 * 9 + 4 * 4 * 1  # the stem, the function's, the last one pooled
    assert count_flops(pair).macs["low"] == 8 * 8 * taps


def test_a_frozen_part_under_no_grad_is_no_such_function() -> None:
    torch.manual_seed(0)

    class Teacher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.student, self.teacher = conv(3), conv(), conv()

        def forward(self, x: Tensor) -> Tensor:
            maps = self.stem(x)
            with torch.no_grad():
                target = self.teacher(maps)
            return self.student(maps) - target

    model = Teacher()
    pair = pair_of(model, *IMAGES)
    live, images = LiveLowering(pair), low_images(pair)
    maps = model.stem(images)
    torch.testing.assert_close(live.run(images), single_tap(model.student, maps) - single_tap(model.teacher, maps))
    assert live.notes == []


class Call(nn.Module):
    """A convolution by a function, with a kernel of its own."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, self.weight, padding=self.weight.shape[-1] // 2)


@pytest.mark.parametrize("front_end", ["live", "fx", "export", "auto"])
def test_a_kernel_that_two_modules_hold_goes_by_its_first_name(front_end: str) -> None:
    """Whichever name the capture meets, the plan is found and nothing is told."""
    kernel = conv(kernel=5).weight
    model = nn.Sequential(conv(3), Call(kernel), nn.ReLU(), conv(kernel=5, bias=False))
    model[3].weight = kernel
    pair = pair_of(model, *IMAGES, front_end=front_end)
    assert [change.site for change in pair.report.pooled] == ["1", "3"]
    live = LiveLowering(pair)
    live.run(low_images(pair))
    assert live.notes == []
