"""Every habit of the corpus: right or refused, never wrong."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from semantics.check import CHECKS, product
from semantics.habit import Habit, Kind
from semantics.habits import CORPUS, KINDS
from semantics.known_wrong import KNOWN_WRONG


def judge(checked: str, habit: Habit) -> None:
    verdict = CHECKS[checked](habit)
    known = str(habit) in KNOWN_WRONG[checked]
    if verdict.word == "wrong" and known:
        pytest.xfail(verdict.why)
    assert verdict.word != "wrong", f"{habit}: {verdict.why}"
    assert not known, f"{habit} is {verdict.word}: remove it from KNOWN_WRONG[{checked!r}]"


def habits(checked: str) -> list[Habit]:
    return [habit for habit in CORPUS if habit.takes(checked)]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("habit", habits("full"), ids=str)
def test_full_mode_is_the_model(habit: Habit) -> None:
    judge("full", habit)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("habit", habits("low"), ids=str)
def test_low_mode_is_the_truth_and_leaves_no_trace(habit: Habit) -> None:
    judge("low", habit)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("habit", habits("compiled"), ids=str)
def test_compiled_past_the_recompile_limit(habit: Habit) -> None:
    judge("compiled", habit)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("front_end", ["live", "fx", "export"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_front_end_by_name_is_right_or_refused(kind: Kind, front_end: str) -> None:
    named = partial(product, front_end=front_end)
    verdicts = {str(habit): CHECKS["low"](habit, named) for habit in kind.habits if habit.takes("low")}
    assert not [f"{name}: {verdict.why}" for name, verdict in verdicts.items() if verdict.word == "wrong"]


def test_the_corpus_is_large_and_every_kind_is_compiled() -> None:
    names = Counter(map(str, CORPUS))
    assert max(names.values()) == 1
    assert len(CORPUS) >= 290 and len(habits("compiled")) >= len(CORPUS) // 3
    assert {habit.kind for habit in habits("compiled")} == {habit.kind for habit in CORPUS}


def test_what_is_known_to_be_wrong_is_in_the_corpus() -> None:
    for checked, known in KNOWN_WRONG.items():
        assert known <= {str(habit) for habit in habits(checked)}
