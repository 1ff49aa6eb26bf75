"""The configuration: what it allows, how it says no, and its way through JSON."""

from __future__ import annotations

import dataclasses
import json
import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowmode_fx import LowModeConfig

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def half(weight: Tensor, size: tuple[int, ...]) -> Tensor:
    return weight[..., : size[0], : size[1]]


def test_the_defaults() -> None:
    config = LowModeConfig()
    assert (config.ratio, config.kernel_ratio, config.effective_kernel_ratio) == (2, None, 2)
    assert (config.rounding, config.kernel_transform, config.gain) == ("ceil", "avg", "mean")
    assert (config.pool_convs, config.keep_convs, config.drop_maxpools) == ("dense", (), "none")
    assert (config.strides, config.batchnorm, config.input_method) == ({}, "isolate", "gaussian")
    assert config.size_multiple == 1
    assert (config.downsample_input, config.restore_output, config.adapt_head) == (True, False, False)


def test_the_papers_setting() -> None:
    paper = LowModeConfig.paper()
    assert (paper.ratio, paper.effective_kernel_ratio, paper.rounding, paper.kernel_transform) == (2, 2, "ceil", "avg")
    assert (paper.pool_convs, paper.keep_convs, paper.drop_maxpools) == ("dense", (), "stem")
    assert (paper.batchnorm, paper.input_method) == ("share", "gaussian")


def test_the_kernel_ratio_is_the_ratio_unless_given() -> None:
    assert LowModeConfig(ratio=3).effective_kernel_ratio == 3
    assert LowModeConfig(ratio=3, kernel_ratio=1).effective_kernel_ratio == 1
    assert LowModeConfig(ratio=2, kernel_ratio=4).effective_kernel_ratio == 4
    assert LowModeConfig(ratio=(1, 2)).effective_kernel_ratio == (1, 2)


@pytest.mark.parametrize(
    ("spelled", "exact"),
    [(4 / 3, Fraction(4, 3)), ("4/3", Fraction(4, 3)), ([1, 2.0], (1, 2)), ("1x3/2", (1, Fraction(3, 2))), (2.0, 2)],
)
def test_ratios_have_one_form(spelled: Any, exact: Any) -> None:
    config = LowModeConfig(ratio=spelled, kernel_ratio=spelled)
    assert (config.ratio, config.kernel_ratio) == (exact, exact)


def test_kernels_are_pooled_where_their_ratio_is_above_1_on_some_side() -> None:
    pools = {2: True, 1: False, (1, 1): False, (1, 2): True, "4/3": True}
    for kernel_ratio, expected in pools.items():
        assert LowModeConfig(ratio=2, kernel_ratio=kernel_ratio).pools_kernels is expected


def test_what_downsample_is_given() -> None:
    config = LowModeConfig(ratio=(1, 4 / 3), input_method="area", size_multiple=8)
    assert config.downsampling == {"ratio": (1, "4/3"), "method": "area", "size_multiple": 8}
    assert config.low_sides((5, 40)) == (5, 32)  # 30 is nearest to 32
    whole = dataclasses.replace(config, downsample_input=False)
    assert whole.downsampling == {"ratio": 1, "method": "area", "size_multiple": 8}
    assert whole.low_sides((5, 40)) == (5, 40)


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LowModeConfig().ratio = 3  # type: ignore[misc]


def test_lists_become_tuples() -> None:
    config = LowModeConfig(
        pool_convs=["a", "b.*"], keep_convs=["c"], drop_maxpools=["d"], strides={"e": [1, 2], "f": 2}
    )
    assert (config.pool_convs, config.keep_convs, config.drop_maxpools) == (("a", "b.*"), ("c",), ("d",))
    assert config.strides == {"e": (1, 2), "f": 2}


GLOBS = "a list of globs over module names"
RATIOS = "give a number of at least 1, as 2, 4/3 or '4/3', or one per side, as (1, 2)"
TRANSFORMS = "'avg', 'adaptive', 'center', 'linear', 'bicubic', 'pi_resize' or a function (kernel, size) → kernel"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"ratio": 1},
            "ratio=1 leaves images as they are; give one above 1 for some side",
        ),
        (
            {"ratio": (1, 1)},
            "ratio=(1, 1) leaves images as they are; give one above 1 for some side",
        ),
        ({"ratio": -2}, f"ratio=-2 is out of range; {RATIOS}"),
        ({"kernel_ratio": 0}, f"kernel_ratio=0 is out of range; {RATIOS}"),
        (
            {"kernel_ratio": 1.333},
            "kernel_ratio=1.333 is not a fraction with a denominator of up to 100; give the nearest, '4/3'",
        ),
        (
            {"ratio": (1, 2), "kernel_ratio": (1, 2, 2)},
            "kernel_ratio=(1, 2, 2) has 3 sides, but ratio=(1, 2) has 2; give both one value per side of the images",
        ),
        ({"size_multiple": 0}, "size_multiple=0 is too small; give an int of at least 1"),
        ({"rounding": "up"}, "rounding='up' is unknown; give 'ceil', 'floor' or 'cover'"),
        (
            {"kernel_transform": "max"},
            f"kernel_transform='max' is unknown; give {TRANSFORMS}",
        ),
        (
            {"kernel_transform": None},
            f"kernel_transform=None is unknown; give {TRANSFORMS}",
        ),
        ({"gain": "max"}, "gain='max' is unknown; give 'mean', 'sum' or 'norm'"),
        ({"batchnorm": "frozen"}, "batchnorm='frozen' is unknown; give 'isolate' or 'share'"),
        ({"input_method": "nearest"}, "input_method='nearest' is unknown; give 'gaussian', 'bilinear' or 'area'"),
        (
            {"pool_convs": "layer4"},
            f"pool_convs='layer4' is unknown; give 'dense', 'all', 'large' or {GLOBS}, as in ['layer4']",
        ),
        ({"keep_convs": "conv1"}, f"keep_convs='conv1' is unknown; give {GLOBS}, as in ['conv1']"),
        (
            {"drop_maxpools": "first"},
            f"drop_maxpools='first' is unknown; give 'none', 'stem', 'all' or {GLOBS}, as in ['first']",
        ),
        ({"strides": {"a": 0}}, "strides['a']=0 is out of range; give an int of at least 1, or one per side"),
        ({"strides": {"a": True}}, "strides['a']=True is out of range; give an int of at least 1, or one per side"),
        ({"strides": {"a": 1.0}}, "strides['a']=1.0 is out of range; give an int of at least 1, or one per side"),
        ({"strides": {"a": ()}}, "strides['a']=() is out of range; give an int of at least 1, or one per side"),
        ({"strides": {"a": "12"}}, "strides['a']='12' is out of range; give an int of at least 1, or one per side"),
        (
            {"strides": {"b": 1, "a": (1, 0)}},
            "strides['a']=(1, 0) is out of range; give an int of at least 1, or one per side",
        ),
    ],
)
def test_a_value_that_is_not_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        LowModeConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": True}, f"ratio=True is of type bool; {RATIOS}"),
        ({"ratio": None}, f"ratio=None is of type NoneType; {RATIOS}"),
        ({"size_multiple": 32.0}, "size_multiple=32.0 is of type float; give an int of at least 1"),
        ({"pool_convs": None}, f"pool_convs=None is not a list of names; give {GLOBS}, as in ['layer4.*']"),
        ({"pool_convs": {"a"}}, f"pool_convs={{'a'}} is not a list of names; give {GLOBS}, as in ['layer4.*']"),
        ({"keep_convs": [1]}, f"keep_convs=[1] is not a list of names; give {GLOBS}, as in ['layer4.*']"),
        ({"drop_maxpools": 3}, f"drop_maxpools=3 is not a list of names; give {GLOBS}, as in ['layer4.*']"),
        ({"strides": [("a", 1)]}, "strides=[('a', 1)] is not a mapping; give strides by glob, as in {'conv1': 1}"),
    ],
)
def test_a_value_of_the_wrong_type(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        LowModeConfig(**options)


@pytest.mark.parametrize("name", ["downsample_input", "restore_output", "adapt_head"])
@pytest.mark.parametrize("value", ["no", None, 1])
def test_a_flag_is_true_or_false(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name}={value!r} is of type .*; give True or False$"):
        LowModeConfig(**{name: value})


def test_a_glob_is_text() -> None:
    with pytest.raises((TypeError, ValueError)):
        LowModeConfig(strides={1: 1})  # type: ignore[dict-item]


# To a dictionary and back --------------------------------------------------------------------------------------------


globs = st.lists(st.text(min_size=1, max_size=8), max_size=3)
fractions = st.fractions(1, 9, max_denominator=100)


def a_side(ratio: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Of two sides, so that every two fit together."""
    return ratio | st.tuples(ratio, fractions)


configs = st.builds(
    LowModeConfig,
    ratio=a_side(st.integers(2, 9) | fractions.filter(lambda ratio: ratio > 1)),
    kernel_ratio=st.none() | a_side(st.integers(1, 9) | fractions),
    rounding=st.sampled_from(["ceil", "floor", "cover"]),
    kernel_transform=st.sampled_from(["avg", "adaptive", "center", "linear"]),
    gain=st.sampled_from(["mean", "sum"]),
    pool_convs=st.sampled_from(["dense", "all"]) | globs,
    keep_convs=globs,
    drop_maxpools=st.sampled_from(["none", "stem", "all"]) | globs,
    strides=st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.integers(1, 4) | st.lists(st.integers(1, 4), min_size=1, max_size=3),
        max_size=3,
    ),
    batchnorm=st.sampled_from(["isolate", "share"]),
    input_method=st.sampled_from(["gaussian", "bilinear", "area"]),
    size_multiple=st.integers(1, 32),
    downsample_input=st.booleans(),
    restore_output=st.booleans(),
    adapt_head=st.booleans(),
)


@given(configs)
@quick
def test_through_json_and_back(config: LowModeConfig) -> None:
    assert LowModeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(configs)
@quick
def test_the_order_of_strides_survives(config: LowModeConfig) -> None:
    restored = LowModeConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert list(restored.strides.items()) == list(config.strides.items())  # the last glob that matches counts


def test_the_dictionary_holds_every_option() -> None:
    values = LowModeConfig(strides={"a": (1, 2)}, keep_convs=["b"], size_multiple=32, min_side=2).to_dict()
    assert {name: values[name] for name in ("ratio", "kernel_ratio", "strides", "keep_convs", "drop_maxpools")} == {
        "ratio": 2,
        "kernel_ratio": None,
        "strides": {"a": [1, 2]},
        "keep_convs": ["b"],
        "drop_maxpools": "none",
    }
    assert set(values) == {entry.name for entry in dataclasses.fields(LowModeConfig)}


def test_a_dictionary_spells_ratios_as_text() -> None:
    values = LowModeConfig(ratio=4 / 3, kernel_ratio=(1, 1.5)).to_dict()
    assert (values["ratio"], values["kernel_ratio"]) == ("4/3", [1, "3/2"])


def test_a_dictionary_from_before_a_multiple_could_be_set_is_the_same() -> None:
    """A checkpoint of then can be resumed: its configuration is compared with the present one."""
    assert "size_multiple" not in LowModeConfig().to_dict()
    assert LowModeConfig.from_dict({"ratio": 2, "kernel_ratio": None}) == LowModeConfig()


def test_a_part_of_the_options_is_enough() -> None:
    assert LowModeConfig.from_dict({"ratio": 4}) == LowModeConfig(ratio=4)


def test_an_unknown_option() -> None:
    with pytest.raises(ValueError, match=r"^LowModeConfig has no 'ration'; near matches: ratio, "):
        LowModeConfig.from_dict({"ratio": 2, "ration": 3})
    with pytest.raises(TypeError, match=r"^values=2 is of type int; give a mapping, as to_dict\(\) returns$"):
        LowModeConfig.from_dict(2)  # type: ignore[arg-type]


def test_from_dict_validates() -> None:
    with pytest.raises(ValueError, match=r"^ratio=1 leaves"):
        LowModeConfig.from_dict({"ratio": 1})


def test_a_function_is_allowed_but_cannot_be_saved() -> None:
    config = LowModeConfig(kernel_transform=half)
    with pytest.raises(TypeError) as error:
        config.to_dict()
    assert str(error.value) == (
        "kernel_transform is a function, which can't be serialised; give one of 'avg', 'adaptive', 'center', 'linear', "
        "'bicubic', 'pi_resize'"
    )
