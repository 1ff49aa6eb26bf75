"""Print what becomes of every habit, kind by kind.

``PYTHONPATH=tests:tests/support python -m semantics.run [check …] [front end] [part of a name …]`` from the root. The
checks are ``full``, ``low`` (both by default) and ``compiled``.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from functools import partial

import torch

from semantics.check import CHECKS, Verdict, product
from semantics.habit import Habit
from semantics.habits import CORPUS, KINDS
from semantics.known_wrong import KNOWN_WRONG

WORDS = ("right", "refused", "wrong")
FRONT_ENDS = ("auto", "live", "fx", "export")


def run(check: str, habits: list[Habit], front_end: str) -> dict[Habit, Verdict]:
    """The verdicts of a check, each printed as it comes where it is not ``right``."""
    found = {}
    for habit in habits:
        started = time.process_time()
        found[habit] = verdict = CHECKS[check](habit, partial(product, front_end=front_end))
        if verdict.word != "right":
            seconds = time.process_time() - started
            print(f"{check:<9}{habit!s:<48} {verdict.word:<8} {seconds:4.1f} s  {verdict.why}", flush=True)
    return found


def table(found: dict[Habit, Verdict]) -> str:
    """``right``, ``refused`` and ``wrong``, counted by kind."""
    rows = [("", *WORDS)]
    for kind in KINDS:
        counts = Counter(verdict.word for habit, verdict in found.items() if habit.kind == kind.name)
        if counts:
            rows.append((kind.name, *(str(counts[word]) for word in WORDS)))
    counts = Counter(verdict.word for verdict in found.values())
    rows.append(("all", *(str(counts[word]) for word in WORDS)))
    return "\n".join(f"{name:<16}" + "".join(f"{cell:>9}" for cell in cells) for name, *cells in rows)


def changes(check: str, found: dict[Habit, Verdict]) -> list[str]:
    """What ``known_wrong.py`` has otherwise."""
    wrong = {str(habit) for habit, verdict in found.items() if verdict.word == "wrong"}
    known = {str(habit) for habit in found} & KNOWN_WRONG[check]
    return [f"{name} is no longer wrong" for name in sorted(known - wrong)] + [
        f"{name} is wrong, and was not" for name in sorted(wrong - known)
    ]


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    checks = [word for word in words if word in CHECKS] or ["full", "low"]
    front_end = next((word for word in words if word in FRONT_ENDS), "auto")
    parts = [word for word in words if word not in CHECKS and word not in FRONT_ENDS]
    for check in checks:
        habits = [habit for habit in CORPUS if habit.takes(check) and (not parts or any(map(str(habit).count, parts)))]
        started = time.process_time()
        found = run(check, habits, front_end)
        seconds = time.process_time() - started
        print(f"\n{check}, front_end={front_end}: {len(habits)} habits, {seconds:.0f} s of CPU time\n{table(found)}\n")
        print(*changes(check, found), sep="\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
