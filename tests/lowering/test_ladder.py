"""``build_ladder``: what holds for a pair holds for any number of modes over one model, captured once."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from spec_modules import build_cnn, draw_images
from specs import CNNSpec
from strategies import cnn_specs, low_mode_kwargs
from tiny import IMAGES, Tiny, assert_shared, tensors
from torch import Tensor, nn

from lowmode_fx import (
    Ladder,
    LadderSchedule,
    LowModeConfig,
    LowModeModel,
    Mode,
    NoEffectWarning,
    PassError,
    build_ladder,
    build_pair,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore::lowmode_fx.NoEffectWarning"),
    pytest.mark.filterwarnings("ignore:configs (are not in the ladder's order|has one mode twice):UserWarning"),
]

quick = settings(
    max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
CONFIGS = (LowModeConfig(ratio=2, kernel_ratio=1), LowModeConfig(ratio=4), LowModeConfig(ratio=2))
NAMES = ["r4", "r2", "r2-kept", "full"]


def tiny_ladder(**options: Any) -> Ladder:
    torch.manual_seed(0)
    return build_ladder(Tiny(), torch.zeros(IMAGES), CONFIGS, **options)


def names(ladder: Ladder) -> list[str]:
    return [str(mode) for mode in ladder.modes]


def run(graph_module: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor | None], dict[str, Tensor]]:
    """Output, gradients of a fixed weighted sum of it, and buffers, of one training forward of a copy's graph."""
    torch.manual_seed(1)  # of dropout
    graph_module.zero_grad()
    output = graph_module(images)
    (output * torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in graph_module.named_parameters()}
    return output.detach(), gradients, {name: value.clone() for name, value in graph_module.named_buffers()}


def assert_same_run(ours: nn.Module, theirs: nn.Module, images: Tensor) -> None:
    """Bit by bit."""
    (output, *found), (expected, *wanted) = run(ours, images), run(theirs, images)
    assert torch.equal(output, expected)
    for values, others in zip(found, wanted, strict=True):
        assert values.keys() == others.keys()
        for name, value in others.items():
            other = values[name]
            assert (value is None and other is None) or torch.equal(other, value), name  # type: ignore[arg-type]


# As pairs built one by one -------------------------------------------------------------------------------------------


@quick
@given(cnn_specs(max_size=30), st.lists(low_mode_kwargs(), min_size=1, max_size=3))
def test_the_modes_of_a_random_cnn_are_those_of_pairs_built_one_by_one(
    spec: CNNSpec, options: list[dict[str, Any]]
) -> None:
    """Outputs, gradients and buffers bit by bit, and the reports."""
    model, configs = build_cnn(spec), [LowModeConfig(**each) for each in options]
    images = draw_images(spec)
    untouched = copy.deepcopy(model)
    try:
        ladder = build_ladder(model, images, configs)
    except ValueError as error:  # then a pair is refused, in the same words
        with pytest.raises(type(error)) as alone:
            [build_pair(copy.deepcopy(untouched), images, config) for config in configs]
        assert str(alone.value) == str(error)
        assume(False)
    assert ladder.modes[-1] is Mode.FULL and len(set(ladder.modes)) == len(configs) + 1
    assert_shared(ladder)
    for rung in ladder.rungs:
        other = copy.deepcopy(untouched)
        pair = build_pair(other, images, rung.config)
        # A pair has no other mode that it could equal.
        alone = replace(rung.report, equals="", notes=rung.report.notes[:-1]) if rung.report.equals else rung.report
        assert alone == pair.report
        assert [node.format_node() for node in rung.graph.nodes] == [n.format_node() for n in pair.low.graph.nodes]
        assert_same_run(copy.deepcopy(ladder).graph(rung.mode), pair.low, pair.downsample(images))
    assert_same_run(ladder.full, untouched, images)


FORWARDS: list[str] = []


def test_a_model_is_run_no_oftener_for_many_modes_than_for_one() -> None:
    """It is captured once: what a mode costs is passes over a copy of the graph."""

    class Counting(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            FORWARDS.append(type(x).__name__)  # where no build puts it back, as it does a class's own attributes
            return super().forward(x)

    counts = []
    for configs in ([LowModeConfig()], [*CONFIGS, *(LowModeConfig(input_method="area", ratio=r) for r in (2, 3, 4))]):
        FORWARDS.clear()
        build_ladder(Counting(), torch.zeros(IMAGES), configs)
        counts.append(len(FORWARDS))
    assert counts[0] == counts[1] > 0


# One model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front_end", ["fx", "export"])
def test_every_mode_holds_the_models_own_tensors(front_end: Any) -> None:
    ladder = tiny_ladder(front_end=front_end)
    assert_shared(ladder)
    assert names(ladder) == NAMES


@pytest.mark.parametrize("front_end", ["auto", "fx", "export"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(front_end: Any, training: bool) -> None:
    model = Tiny().train(training)
    model.blocks[0].train(not training)
    before = {name: (value, value._version, value.detach().clone()) for name, value in tensors(model).items()}
    modes, generator = [module.training for module in model.modules()], torch.get_rng_state()
    build_ladder(model, torch.zeros(IMAGES), CONFIGS, front_end=front_end)
    assert tensors(model).keys() == before.keys()
    for name, value in tensors(model).items():
        tensor, version, kept = before[name]
        assert value is tensor and value._version == version and torch.equal(value, kept), name
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_copy_has_its_own_model_under_all_of_its_modes() -> None:
    ladder = tiny_ladder()
    copied = copy.deepcopy(ladder)
    assert copied.model is not ladder.model and type(copied) is Ladder and names(copied) == NAMES
    assert_shared(copied)
    ours = {id(value) for value in tensors(ladder.model).values()}
    assert not any(id(value) in ours for value in tensors(copied.model).values())
    for mode in ladder.modes:
        leaves = ladder.inputs_of(mode, [torch.randn(IMAGES)])
        assert_same_run(copied.graph(mode), ladder.graph(mode), *leaves)


@pytest.mark.parametrize("front_end", ["auto", "fx", "export"])
def test_a_pickle_holds_every_mode(front_end: Any) -> None:
    ladder = tiny_ladder(front_end=front_end)
    ours = pickle.loads(pickle.dumps(ladder))
    assert type(ours) is Ladder and names(ours) == NAMES and ours.live == ladder.live
    assert [rung.report for rung in ours.rungs] == [rung.report for rung in ladder.rungs]
    assert [rung.config for rung in ours.rungs] == [rung.config for rung in ladder.rungs]
    assert_shared(ours)
    for mode in ladder.modes:
        assert_same_run(ours.graph(mode), ladder.graph(mode), *ladder.inputs_of(mode, [torch.randn(IMAGES)]))


def test_without_configurations_it_has_the_modes_of_the_default_schedule() -> None:
    """Smaller images, kernels kept: names, places and number are those that ``LadderSchedule.default`` goes by."""
    ladder = build_ladder(Tiny(), torch.zeros(IMAGES))
    assert [str(mode) for mode in ladder.modes] == ["r2", "r4/3", "full"]
    assert [rung.config for rung in ladder.rungs] == [LowModeConfig(ratio=r, kernel_ratio=1) for r in (2, 4 / 3)]
    net = LowModeModel(ladder, LadderSchedule.default(10), compile=False)
    seen = []
    for epoch in range(10):
        net.set_epoch(epoch)
        net(torch.zeros(IMAGES))
        seen.append(str(net.last_mode))
    assert seen == ["r2"] * 5 + ["r4/3"] * 3 + ["full"] * 2


def test_a_mode_that_can_not_be_right_is_refused_with_the_whole_ladder() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 5), nn.Conv2d(4, 4, 5))
    build_ladder(model, torch.zeros(2, 3, 32, 32), [LowModeConfig(ratio=2)])
    with pytest.raises(PassError, match=r"the model itself can't take 7×7 inputs: at .*, given 2×4×3×3"):
        build_ladder(model, torch.zeros(2, 3, 32, 32), [LowModeConfig(ratio=2), LowModeConfig(ratio=5)])


def test_a_mode_without_effect_warns_where_the_ladder_was_built() -> None:
    configs = [LowModeConfig(ratio=3, keep_convs=["blocks"]), LowModeConfig(ratio=2)]
    with pytest.warns(NoEffectWarning) as warned:
        build_ladder(Tiny(), torch.zeros(IMAGES), configs)
    assert [warning.filename for warning in warned] == [__file__]


# Names and order -----------------------------------------------------------------------------------------------------


def cost(config: LowModeConfig) -> tuple[float, bool]:
    """What the order goes by: sides of the images, then whether kernels are kept."""
    return 1 / config.ratio if config.downsample_input else 1.0, config.effective_kernel_ratio == 1


SMALL = st.builds(
    LowModeConfig,
    ratio=st.integers(2, 4),
    kernel_ratio=st.sampled_from([None, 1]),
    downsample_input=st.booleans(),
    input_method=st.sampled_from(["gaussian", "area"]),
)


@quick
@given(st.lists(SMALL, min_size=2, max_size=4), st.randoms())
def test_the_cheapest_mode_comes_first_in_whatever_order_they_are_given(configs: list[Any], random: Any) -> None:
    ladder = build_ladder(Tiny(), torch.zeros(IMAGES), configs)
    costs = [cost(rung.config) for rung in ladder.rungs]
    assert costs == sorted(costs) and sorted(map(repr, configs)) == sorted(repr(r.config) for r in ladder.rungs)
    found = names(ladder)
    assert len(set(found)) == len(found) and found[-1] == "full" and "full" not in found[:-1]
    for rung in ladder.rungs:
        assert str(rung.mode).startswith(f"r{rung.config.ratio}" if rung.config.downsample_input else "whole")
    random.shuffle(configs)
    assert names(build_ladder(Tiny(), torch.zeros(IMAGES), configs)) == found


TOLD = "configs are not in the ladder's order, cheapest first, which is {}; give epochs, shares and probabilities of a "
TWICE = "configs has one mode twice: {} is the same as {}; leave one out"


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        (["4/3", 2], [TOLD.format("r2, r4/3, full")]),
        ([2, 3, 4], [TOLD.format("r4, r3, r2, full")]),
        ([2, "4/3"], []),
        ([3], []),
        ([2, 2], [TWICE.format("r2-2", "r2")]),
        ([4, 2, 2, 2], [TWICE.format("r2-2", "r2"), TWICE.format("r2-3", "r2")]),
        (["4/3", 2, "4/3"], [TOLD.format("r2, r4/3, r4/3-2, full"), TWICE.format("r4/3-2", "r4/3")]),
    ],
)
def test_another_order_than_the_ladders_and_equal_modes_are_told(ratios: list[Any], told: list[str]) -> None:
    configs = [LowModeConfig(ratio=ratio) for ratio in ratios]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build_ladder(Tiny(), torch.zeros(IMAGES), configs)
        build_ladder(Tiny(), torch.zeros(IMAGES), {f"mode{place}": each for place, each in enumerate(configs)})
    found = [str(each.message) for each in caught if str(each.message).startswith("configs")]
    assert len(found) == len(told) and all(map(str.startswith, found, told)), found
    assert all(each.filename == __file__ for each in caught if str(each.message).startswith("configs"))


AGAIN = "{}: the mode is {} again: images of {} and kernels of the same sizes; leave one out, or give other ratios"


@pytest.mark.parametrize(
    ("configs", "again"),
    [
        ([{"ratio": 2.1}, {"ratio": 2}], [("r2", "r21/10", "8×8")]),  # 16 by 2.1 is 7.6
        ([{"ratio": 2.1, "kernel_ratio": 1}, {"ratio": 2, "kernel_ratio": 1}], [("r2", "r21/10", "8×8")]),
        ([{"ratio": 2.1}, {"ratio": 2, "kernel_ratio": 1}], []),
        ([{"ratio": 3}, {"ratio": 2}], []),
        ([{"ratio": 2}, {"ratio": 2, "input_method": "area"}], []),
        ([{"ratio": 2}, {"ratio": 2, "batchnorm": "share"}], []),
        ([{"ratio": 2}, {"ratio": 2, "kernel_transform": "center"}], []),
        ([{"ratio": 2}, {"ratio": 2, "pool_convs": "all"}], []),
        ([{"ratio": 2, "pool_convs": ["blocks"]}, {"ratio": 2}], [("r2-2", "r2", "8×8")]),
        ([{"ratio": 4, "min_side": 8}, {"ratio": 2}], [("r2", "r4", "8×8")]),
        *[
            ([{"kernel_transform": name, "rounding": "cover", "kernel_ratio": ratio} for ratio in (2, "4/3")], told)
            for name, told in (("linear", []), ("avg", [("r2-2", "r2", "8×8")]))
        ],
        ([{"ratio": 2}, {"ratio": 2}], []),  # told of the configurations already
    ],
)
@pytest.mark.filterwarnings("ignore:no kernel is pooled")
def test_modes_that_do_the_same_are_told(configs: list[dict[str, Any]], again: list[tuple[str, str, str]]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ladder = build_ladder(Tiny(), torch.zeros(IMAGES), [LowModeConfig(**options) for options in configs])
    found = [(str(each.message), each.category, each.filename) for each in caught if " again: " in str(each.message)]
    assert found == [(AGAIN.format(*each), NoEffectWarning, __file__) for each in again]
    for mode, other, _ in again:
        report = ladder.rung(mode).report
        assert report.equals == other and f"note: the mode is {other} again: " in str(ladder)


def test_equal_modes_of_a_mapping_are_told() -> None:
    with pytest.warns(NoEffectWarning, match="^b: the mode is a again: images of 8×8 and kernels of the same sizes; "):
        build_ladder(Tiny(), torch.zeros(IMAGES), {"a": LowModeConfig(), "b": LowModeConfig()})


def test_one_low_mode_alone_is_low() -> None:
    ladder = build_ladder(Tiny(), torch.zeros(IMAGES), [LowModeConfig(ratio=3)])
    assert names(ladder) == ["low", "full"]


def test_a_mapping_names_its_modes() -> None:
    configs = {"half": LowModeConfig(ratio=2), "quarter": LowModeConfig(ratio=4)}
    ladder = build_ladder(Tiny(), torch.zeros(IMAGES), configs)
    assert names(ladder) == ["quarter", "half", "full"]
    assert ladder.rung(Mode("half")).config == configs["half"]


@pytest.mark.parametrize(
    ("configs", "error", "message"),
    [
        ([], ValueError, "configs is empty; give at least one LowModeConfig, as [LowModeConfig(ratio=2)]"),
        ({}, ValueError, "configs is empty; give at least one LowModeConfig, as [LowModeConfig(ratio=2)]"),
        (
            {"full": LowModeConfig()},
            ValueError,
            "configs names a low mode 'full', which is reserved for full-mode; give it another name",
        ),
        ([2, 3], TypeError, "configs[0]=2 is of type int; give a LowModeConfig, such as LowModeConfig(ratio=2)"),
        (
            {"half": 2},
            TypeError,
            "configs['half']=2 is of type int; give a LowModeConfig, such as LowModeConfig(ratio=2)",
        ),
        (
            "2,4/3",
            TypeError,
            "configs='2,4/3' is of type str; give a list of LowModeConfig, such as [LowModeConfig(ratio=2)]",
        ),
    ],
)
def test_what_makes_no_ladder(configs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as refused:
        build_ladder(Tiny(), torch.zeros(IMAGES), configs)
    assert str(refused.value) == message


def test_a_mode_is_found_by_its_name_and_by_its_place() -> None:
    ladder = tiny_ladder()
    for place, mode in enumerate(ladder.modes):
        assert ladder.resolve(mode) is ladder.resolve(Mode.at(place, 4)) is ladder.resolve(str(mode)) is mode
        assert ladder.graph(Mode.at(place, 4)) is ladder.graph(mode) is ladder.graph(str(mode))
    sides = [ladder.mode_inputs(mode).image.shape[2:] for mode in ladder.modes]
    assert sides == [(4, 4), (8, 8), (8, 8), (16, 16)]
    for name in ("low", "r3", "rung7"):
        with pytest.raises(ValueError, match=f"mode '{name}' is not one of this ladder's 4: 'r4', 'r2', 'r2-kept'"):
            ladder.graph(Mode(name))
    with pytest.raises(
        ValueError, match="mode 'full' is not a low mode: it runs the model as it is; give the name of a low mode"
    ):
        ladder.rung(Mode.FULL)
    with pytest.raises(TypeError, match=r"^mode=0 is of type int; give the name of a mode, such as 'full'$"):
        ladder.resolve(0)  # type: ignore[arg-type]


def test_images_are_downsampled_for_each_mode_as_its_pair_does_it() -> None:
    ladder, images = tiny_ladder(), torch.randn(IMAGES)
    for rung in ladder.rungs:
        pair = build_pair(Tiny(), torch.zeros(IMAGES), rung.config)
        (found,) = ladder.inputs_of(rung.mode, [images])
        assert torch.equal(found, pair.downsample(images))
    assert ladder.inputs_of(Mode.FULL, [images])[0] is images
    sizes = [tuple(ladder.inputs_of(mode, [images])[0].shape[2:]) for mode in ladder.modes]
    assert all(small <= large for small, large in itertools.pairwise(sizes))


def test_one_configuration_is_no_list_of_them() -> None:
    with pytest.raises(
        TypeError,
        match=r"^configs is of type LowModeConfig; give a list of LowModeConfig, such as \[LowModeConfig\(ratio=2\)\]",
    ):
        build_ladder(nn.Conv2d(3, 4, 3), torch.zeros(2, 3, 16, 16), LowModeConfig(2))
