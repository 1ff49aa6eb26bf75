"""Arguments come out in plain types, or a line says what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowmode_fx.utils.validation import (
    as_choice,
    as_count,
    as_flag,
    as_number,
    as_probability,
    as_seed,
    as_sequence,
    as_share,
    check_names,
    wrong_type,
)

ZERO_TO_ONE, UP_TO_ONE = "of at least 0, below 1", "above 0, at most 1"


@pytest.mark.parametrize("value", [3, np.int8(3), torch.tensor(3)])
def test_a_count_is_a_plain_int(value: Any) -> None:
    assert type(as_count("epochs", value, 3)) is int and as_count("epochs", value, 3) == 3


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), Fraction(1, 2)])
@pytest.mark.parametrize("check", [as_probability, as_share, partial(as_number, least=0.5, most=0.5)])
def test_a_number_is_a_plain_float(check: Callable[[str, Any], float], value: Any) -> None:
    assert type(check("p", value)) is float and check("p", value) == 0.5


@given(st.floats(), *[st.floats(-10, 10)] * 4)
def test_a_number_lies_within_its_bounds_or_is_refused(
    value: float, least: float, above: float, most: float, below: float
) -> None:
    allowed = least <= value <= most and above < value < below
    try:
        found = as_number("x", value, least=least, above=above, most=most, below=below)
    except ValueError:
        assert not allowed
    else:
        assert allowed and found == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_is_finite(value: float) -> None:
    for check in (as_number, as_probability, as_share):
        with pytest.raises(ValueError, match=r"^x="):
            check("x", value)


def test_what_is_right_is_given_back() -> None:
    assert as_seed(2**64 - 1) == 2**64 - 1
    assert as_flag("compile", False) is False
    assert as_choice("gain", "sum", ("mean", "sum")) == "sum"
    assert as_sequence("milestones", iter([1, 2]), "epochs") == (1, 2)
    check_names("TrainSettings", ["lr"], iter(["epochs", "lr"]))


@pytest.mark.parametrize(
    ("check", "error", "message"),
    [
        (lambda: as_count("epochs", True), TypeError, "epochs=True is of type bool; give an int of at least 0"),
        (lambda: as_count("epochs", 2.0, 1), TypeError, "epochs=2.0 is of type float; give an int of at least 1"),  # type: ignore[arg-type]
        (lambda: as_count("epochs", -1), ValueError, "epochs=-1 is too small; give an int of at least 0"),
        (lambda: as_seed(2**64), ValueError, f"seed={2**64} does not fit in 64 bits; give an int from 0 to 2**64 - 1"),
        (lambda: as_number("lr", "1", above=0), TypeError, "lr='1' is of type str; give a number above 0"),  # type: ignore[arg-type]
        (lambda: as_number("m", 2, above=0, most=1), ValueError, f"m=2 is out of range; give a number {UP_TO_ONE}"),
        (lambda: as_number("m", 1, least=0, below=1), ValueError, f"m=1 is out of range; give a number {ZERO_TO_ONE}"),
        (lambda: as_number("lr", math.inf), ValueError, "lr=inf is out of range; give a finite number"),
        (lambda: as_probability("p", 1.5), ValueError, "p=1.5 is not a probability; give a number from 0 to 1"),
        (lambda: as_share("tail", True), TypeError, "tail=True is of type bool; give a number from 0 to 1"),
        (lambda: as_flag("compile", 1), TypeError, "compile=1 is of type int; give True or False"),  # type: ignore[arg-type]
        (lambda: as_choice("gain", "max", ("mean", "sum")), ValueError, "gain='max' is unknown; give 'mean' or 'sum'"),
        (lambda: as_choice("t", None, ("a",), "a function"), ValueError, "t=None is unknown; give 'a' or a function"),
        (lambda: as_choice("preset", "", ("paper",)), ValueError, "preset='' is unknown; give 'paper'"),
        (lambda: as_sequence("modes", "r2", "names"), TypeError, "modes='r2' is not a sequence; give names"),
        (lambda: as_sequence("modes", 2, "names"), TypeError, "modes=2 is not a sequence; give names"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_the_wording(check: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        check()
    assert str(caught.value) == message


def test_long_values_are_not_shown() -> None:
    assert str(wrong_type("model", torch.zeros(9, 9), "a module")) == "model is of type Tensor; give a module"


def test_an_unknown_name_is_reported_with_near_matches() -> None:
    names = ["ratio", "rounding", "gain", "strides", "batchnorm", "keep_convs"]
    with pytest.raises(ValueError, match=r"^LowModeConfig has no 'ration'; near matches: ratio, .* \(of 6\)$"):
        check_names("LowModeConfig", ["gain", "ration"], names)
