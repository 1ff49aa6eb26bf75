"""The drawn CNNs do what the tests that use them take for granted."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from oracle import EagerLowMode, RecordConvShapes
from spec_modules import MAXPOOLS, FunctionalMaxPool, FunctionalReLU, build_cnn, draw_images
from specs import (
    CNNSpec,
    ConcatSpec,
    ConvSpec,
    MaxPoolSpec,
    ResidualSpec,
    TiedSpec,
    TwiceSpec,
    UnitSpec,
    convs_of,
)
from strategies import cnn_specs, low_mode_kwargs
from torch import fx, nn

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]

unhurried = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def check_model(spec: CNNSpec) -> None:
    """Forward at the size and at a half and a third of it, backward at the size, the same from a plain fx trace."""
    model = build_cnn(spec)
    traced = fx.symbolic_trace(model)
    for ratio in (1, 2, 3):
        images = draw_images(spec, ratio)
        assert list(images.shape[2:]) == [math.ceil(length / ratio) for length in spec.size]
        with RecordConvShapes() as record:
            output = model(images)
        assert output.shape == (3, spec.classes) and output.isfinite().all()
        assert 1 <= len(record.shapes) <= 12
        assert all(min(shape) >= 1 for shape in record.shapes)
        assert torch.equal(traced(images), output)
    model(draw_images(spec)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@given(cnn_specs())
@unhurried
def test_models_run_and_trace(spec: CNNSpec) -> None:
    check_model(spec)


@given(cnn_specs(transposed=True, cumulative=True))
@unhurried
def test_models_with_transposed_convs_run_and_trace(spec: CNNSpec) -> None:
    check_model(spec)


@pytest.mark.parametrize("dims", [1, 3])
@given(data=st.data())
@settings(parent=unhurried, max_examples=25)
def test_models_of_other_dimensions_run_and_trace(dims: int, data: st.DataObject) -> None:
    spec = data.draw(cnn_specs(dims=dims, transposed=True))
    assert spec.dims == dims
    check_model(spec)


@given(cnn_specs(max_size=12))
@settings(parent=unhurried, max_examples=25)
def test_models_on_small_maps_run_and_trace(spec: CNNSpec) -> None:
    assert max(spec.size) <= 12
    check_model(spec)


@given(cnn_specs(smooth=True))
@settings(parent=unhurried, max_examples=25)
def test_smooth_models_have_no_kinks(spec: CNNSpec) -> None:
    check_model(spec)
    kinks = (nn.ReLU, FunctionalReLU, FunctionalMaxPool, *MAXPOOLS.values())
    assert not any(isinstance(module, kinks) for module in build_cnn(spec).modules())


@given(cnn_specs())
@settings(parent=unhurried, max_examples=10)
def test_a_spec_always_builds_the_same_model(spec: CNNSpec) -> None:
    ours, theirs = build_cnn(spec), build_cnn(spec)
    assert repr(ours) == repr(theirs)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert torch.equal(draw_images(spec, 2), draw_images(spec, 2))


@pytest.mark.parametrize("kind", [UnitSpec, MaxPoolSpec, ResidualSpec, ConcatSpec, TwiceSpec, TiedSpec])
def test_every_kind_of_node_is_drawn(kind: type) -> None:
    """Each turns up within a few hundred draws; ``find`` raises where one does not."""
    find_spec(lambda spec: any(isinstance(node, kind) for stage in spec.stages for node in stage))


@pytest.mark.parametrize(
    "trait",
    [
        lambda conv: set(conv.kernel) == {7},
        lambda conv: min(conv.kernel) % 2 == 0,
        lambda conv: len(set(conv.kernel)) == 2,
        lambda conv: set(conv.stride) == {2},
        lambda conv: set(conv.dilation) == {2} and min(conv.kernel) > 1,
        lambda conv: conv.groups == conv.inputs > 1 and min(conv.kernel) > 3,
        lambda conv: 1 < conv.groups < conv.inputs,
        lambda conv: conv.padding == "same" and min(conv.kernel) == 4,
        lambda conv: isinstance(conv.padding, tuple) and isinstance(conv.padding[0], tuple) and conv.functional,
        lambda conv: isinstance(conv.padding, tuple) and isinstance(conv.padding[0], tuple) and not conv.functional,
        lambda conv: conv.padding_mode == "reflect" and conv.padding not in (0, (0, 0)),
        lambda conv: conv.padding_mode == "circular" and conv.padding not in (0, (0, 0)),
        lambda conv: conv.padding_mode == "replicate" and conv.padding not in (0, (0, 0)),
        lambda conv: conv.functional and not conv.bias,
    ],
)
def test_every_kind_of_conv_is_drawn(trait: Callable[[ConvSpec], bool]) -> None:
    find_spec(lambda spec: any(map(trait, convs_of(spec))))


def find_spec(condition: Callable[[CNNSpec], bool]) -> CNNSpec:
    relaxed = settings(parent=unhurried, max_examples=2000, phases=[Phase.generate])
    return find(cnn_specs(), condition, settings=relaxed)


@given(low_mode_kwargs(pooling=True))
@settings(parent=unhurried)
def test_pooling_arguments_keep_no_kernel(kwargs: dict[str, object]) -> None:
    assert kwargs["ratio"] in (2, 3) and kwargs["kernel_ratio"] in (None, 2, 3)


@given(cnn_specs())
@settings(parent=unhurried, max_examples=25)
def test_every_model_has_a_kernel_behind_the_stem_that_shrinks(spec: CNNSpec) -> None:
    """By any rounding, so that whatever arguments are drawn with it, something is compared."""
    images = draw_images(spec)
    for ratio, rounding in product((2, 3), ("ceil", "floor", "cover")):
        with EagerLowMode(ratio, rounding=rounding) as mode:
            build_cnn(spec)(images)
        assert mode.pooled_kernels


@pytest.mark.parametrize(("name", "value"), [("rounding", "cover"), ("kernel_transform", "linear")])
def test_every_way_to_pool_is_drawn(name: str, value: str) -> None:
    assert find(low_mode_kwargs(pooling=True), lambda kwargs: kwargs[name] == value)


def test_arguments_that_keep_kernels_are_drawn_too() -> None:
    assert find(low_mode_kwargs(), lambda kwargs: kwargs["kernel_ratio"] == 1)


def test_a_model_is_in_train_mode_and_float64() -> None:
    model = build_cnn(find_spec(lambda _: True))
    assert model.training and all(parameter.dtype == torch.float64 for parameter in model.parameters())
    assert isinstance(model, nn.Module)
