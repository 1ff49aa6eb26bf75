"""Sizes and near matches as messages spell them."""

from __future__ import annotations

import pytest
import torch

from passes.wording import any_of, first_line, near_matches, near_matches_hint, one_line, sides

STAGES = [f"layer{stage}.{block}.conv{conv}" for stage in (1, 2) for block in (0, 1) for conv in (1, 2)]


@pytest.mark.parametrize(
    ("sizes", "spelled"), [((3, 5), "3×5"), ([7], "7"), (torch.Size((2, 3, 4)), "2×3×4"), ((), "")]
)
def test_sizes_have_a_multiplication_sign_between_them(sizes: list[int], spelled: str) -> None:
    assert sides(sizes) == spelled


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("one\ntwo"), "one"), (ValueError("\n one\n"), "one"), (AssertionError(), "AssertionError")],
)
def test_an_error_is_reported_in_one_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("one\n  two"), "one two"), (ValueError("\n one\n"), "one"), (AssertionError(), "AssertionError")],
)
def test_all_that_an_error_says_in_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


@pytest.mark.parametrize(("choices", "listed"), [(["a"], "a"), (["a", "b"], "a or b"), (["a", "b", "c"], "a, b or c")])
def test_choices_are_listed_as_a_person_does(choices: list[str], listed: str) -> None:
    assert any_of(choices) == listed


def test_near_matches_are_at_most_four_each_once_the_nearest_first() -> None:
    found = near_matches("layer2.1.conv3", [*STAGES, *STAGES])
    assert len(found) == 4 == len(set(found))
    assert set(found[:2]) == {"layer2.1.conv1", "layer2.1.conv2"}


def test_a_name_unlike_all_others_has_no_near_match() -> None:
    assert near_matches("~~~~", STAGES) == []


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("conv3", ["conv1", "fc", "conv1"], "near matches: conv1 (of 2)"),
        ("conv3", ["conv1", "conv2"], "near matches: conv2, conv1"),
        ("~~~~", STAGES, f"near matches: {', '.join(STAGES[:4])} (of 8)"),
    ],
)
def test_a_hint_says_how_many_names_it_leaves_out_and_always_lists_some(name: str, known: list[str], hint: str) -> None:
    assert near_matches_hint(name, known) == hint
