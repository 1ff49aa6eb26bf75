"""Modes by name: one object a name, wherever it travels, and the names of places in a ladder."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowmode_fx import Mode


@given(st.text(min_size=1))
def test_one_name_is_one_object_wherever_it_travels(name: str) -> None:
    mode = Mode(name)
    assert mode is Mode(name) is copy.copy(mode) is copy.deepcopy(mode) is pickle.loads(pickle.dumps(mode))
    assert str(mode) == mode.value == name
    assert (mode is Mode.FULL) == (name == "full")


def test_modes_of_places() -> None:
    assert [Mode.at(place, 2) for place in range(2)] == [Mode.LOW, Mode.FULL]
    assert [Mode.at(place, 4).value for place in range(4)] == ["rung0", "rung1", "rung2", "full"]
    for place in (-1, 3):
        with pytest.raises(ValueError, match=f"^place={place} is out of range for 3 modes; give one from 0 to 2$"):
            Mode.at(place, 3)


@pytest.mark.parametrize("name", ["", 2, None])
def test_what_is_no_name(name: object) -> None:
    with pytest.raises(ValueError, match="is not a name; give one, such as 'full' or 'low'"):
        Mode(name)  # type: ignore[arg-type]


def test_a_mode_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="Mode is immutable: value can't be set"):
        Mode.FULL.value = "low"
