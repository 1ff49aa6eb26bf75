"""A process that is killed again and again ends with the weights of one that never was."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import pytest
from test_train_checkpoint import assert_equal, final_state
from training import quick_run, quick_settings, run_to_the_end

from lowmode_fx.train.checkpoint import CURRENT, PARTIAL, STATE_FILE, has_checkpoint

EPOCHS_A_KILL = 5


def stamp(folder: Path) -> int:
    """When the newest checkpoint was put in its place; 0 where there is none."""
    try:
        return (folder / CURRENT / STATE_FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def wait_for(condition: Any, process: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition() and process.is_alive():
        assert time.monotonic() < deadline, "nothing was written in a minute"
        time.sleep(0.0005)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_leave_the_weights_of_a_run_that_was_never_killed(kills: int, tmp_path: Path) -> None:
    """Each life makes at least one checkpoint; every third ends while the next one is being written."""
    epochs = EPOCHS_A_KILL * kills
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training", "torch._dynamo", "sklearn.datasets", "sklearn.model_selection"])
    moments, in_writing = random.Random(0), 0
    for kill in range(kills):
        process = context.Process(target=run_to_the_end, args=(str(killed), epochs))
        before = stamp(killed)
        process.start()
        wait_for(lambda before=before: stamp(killed) != before, process)
        if kill % 3 == 0:
            wait_for((killed / PARTIAL).exists, process)
        else:
            time.sleep(moments.uniform(0, 0.1))
        assert process.is_alive(), f"the run ended before its kill number {kill + 1}"
        process.kill()
        process.join()
        in_writing += (killed / PARTIAL).exists()
        assert has_checkpoint(killed)
    assert in_writing > 0, "no kill came while a checkpoint was written"
    last = context.Process(target=run_to_the_end, args=(str(killed), epochs))
    last.start()
    last.join()
    assert last.exitcode == 0
    quick_run(quick_settings(epochs=epochs), straight)
    ours, theirs = final_state(killed), final_state(straight)
    for state in (ours, theirs):  # numpy's and Python's own generators start differently in every process
        for held in (state, *state["ranks"]):
            held["rng"] = {"torch": held["rng"]["torch"]}
    assert_equal(theirs, ours)
