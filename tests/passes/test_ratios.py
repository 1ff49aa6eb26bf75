"""Ratios: one exact form of every spelling, what is refused and how, and the plain form that goes through JSON."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.ratios import divides, largest_ratio, plain_ratio, ratio_terms, ratio_text, read_ratio, side_ratios

quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)

THIRD = Fraction(4, 3)


@pytest.mark.parametrize(
    ("spelled", "exact"),
    [
        (2, 2),
        (2.0, 2),
        ("2", 2),
        ("6/3", 2),
        (Fraction(4, 2), 2),
        (4 / 3, THIRD),
        (1 + 1 / 3, THIRD),
        (1.3333333333, THIRD),
        (np.float64(4 / 3), THIRD),
        (THIRD, THIRD),
        ("4/3", THIRD),
        ("8/6", THIRD),
        (1.5, Fraction(3, 2)),
        ("1.5", Fraction(3, 2)),
        (1.33, Fraction(133, 100)),
        (1, 1),
        ((1, 2), (1, 2)),
        ([1, 4 / 3], (1, THIRD)),
        ((2, 2.0), (2, 2)),
        ("1x2", (1, 2)),
        ("1×4/3", (1, THIRD)),
        ((1, "4/3", 1.5), (1, THIRD, Fraction(3, 2))),
    ],
)
def test_one_form_of_every_spelling(spelled: Any, exact: Any) -> None:
    found = read_ratio(spelled)
    assert found == exact
    kinds = [type(side) for side in (found if isinstance(found, tuple) else (found,))]
    assert kinds == [type(side) for side in (exact if isinstance(exact, tuple) else (exact,))]


FRACTIONS = st.fractions(1, 50, max_denominator=100)


@given(FRACTIONS)
@quick
def test_every_fraction_is_known_by_its_float(fraction: Fraction) -> None:
    for spelled in (fraction, float(fraction), str(fraction), f"{fraction.numerator}/{fraction.denominator}"):
        assert read_ratio(spelled) == fraction
        assert ratio_terms(spelled) == (fraction.numerator, fraction.denominator)


@given(FRACTIONS | st.lists(FRACTIONS, min_size=1, max_size=3))
@quick
def test_the_plain_form_goes_through_json_and_code(ratio: Any) -> None:
    plain = plain_ratio(ratio)
    assert read_ratio(json.loads(json.dumps(plain))) == read_ratio(ratio)
    assert eval(repr(plain)) == plain  # as generated code spells the arguments of a node
    assert plain_ratio(plain) == plain


def test_plain_forms_and_texts() -> None:
    assert [plain_ratio(each) for each in (2.0, 4 / 3, (1, 1.5))] == [2, "4/3", (1, "3/2")]
    assert [ratio_text(each) for each in (2.0, 4 / 3, (1, 1.5))] == ["2", "4/3", "1×3/2"]
    assert [largest_ratio(each) for each in (2.0, 4 / 3, (1, 1.5), (1, 1))] == [2, THIRD, Fraction(3, 2), 1]


def test_a_ratio_of_each_side() -> None:
    assert side_ratios("4/3", 2) == ("4/3", "4/3")
    assert side_ratios([1, 2], 2) == (1, 2)
    message = "ratio=(1, 2) has 2 sides, but there are 3; give one for all sides, or one per side"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        side_ratios((1, 2), 3)


def test_what_divides() -> None:
    assert divides(2, (8, 6)) and not divides(2, (8, 7))
    assert divides("4/3", (32, 4)) and not divides("4/3", (32, 6))
    assert divides((1, 2), (7, 8)) and not divides((2, 1), (7, 8))


ALLOWED = "give a number of at least 1, as 2, 4/3 or '4/3', or one per side, as (1, 2)"
NO_FRACTION = "is not a fraction with a denominator of up to 100; give the nearest,"


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, f"ratio=0 is out of range; {ALLOWED}"),
        (-2, ValueError, f"ratio=-2 is out of range; {ALLOWED}"),
        (0.5, ValueError, f"ratio=0.5 is out of range; {ALLOWED}"),
        (Fraction(1, 2), ValueError, f"ratio=Fraction(1, 2) is out of range; {ALLOWED}"),
        (float("nan"), ValueError, f"ratio=nan is out of range; {ALLOWED}"),
        (float("inf"), ValueError, f"ratio=inf is out of range; {ALLOWED}"),
        ("1/0", ValueError, f"ratio='1/0' is not a ratio; {ALLOWED}"),
        ("half", ValueError, f"ratio='half' is not a ratio; {ALLOWED}"),
        ("1x", ValueError, f"ratio='1x' is not a ratio; {ALLOWED}"),
        ("", ValueError, f"ratio='' is not a ratio; {ALLOWED}"),
        ((), ValueError, f"ratio=() is empty; {ALLOWED}"),
        ((2, 0), ValueError, f"ratio=0 is out of range; {ALLOWED}"),
        (1.333, ValueError, f"ratio=1.333 {NO_FRACTION} '4/3', or another"),
        (2**0.5, ValueError, f"ratio=1.4142135623730951 {NO_FRACTION} '140/99', or another"),
        (Fraction(1001, 1000), ValueError, f"ratio=Fraction(1001, 1000) {NO_FRACTION} '1', or another"),
        ("3.14159", ValueError, f"ratio='3.14159' {NO_FRACTION} '311/99', or another"),
        (True, TypeError, f"ratio=True is of type bool; {ALLOWED}"),
        (None, TypeError, f"ratio=None is of type NoneType; {ALLOWED}"),
        ((1, None), TypeError, f"ratio=None is of type NoneType; {ALLOWED}"),
        ({2}, TypeError, f"ratio={{2}} is of type set; {ALLOWED}"),
        (((1, 2), 2), TypeError, f"ratio=(1, 2) is of type tuple; {ALLOWED}"),
    ],
)
def test_what_is_refused(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        read_ratio(value)
    with pytest.raises(error, match=f"^kernel_{re.escape(message)}$"):
        read_ratio(value, "kernel_ratio")
