"""A run to its checkpoint and back: what a checkpoint's state is made of, and what it is read back into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from lowmode_fx.loading.augmentation import UNCHANGED
from lowmode_fx.loading.draws import DRAWS
from lowmode_fx.train.checkpoint import (
    load_checkpoint,
    load_weights,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from lowmode_fx.train.records import EpochRecord, unfinished_steps
from lowmode_fx.train.run import Run
from lowmode_fx.train.run_folder import RunFolder
from lowmode_fx.train.same_run import require_same_run
from lowmode_fx.train.saved_state import check_state, fitting_state
from lowmode_fx.train.sharding import sharded_optimizer, sharded_weights, whole


def save(run: Run) -> None:
    """Write a checkpoint of the run, and its metrics; nothing for a run without a folder."""
    if run.folder is None:
        return
    # What is each rank's own.
    each = run.ranks.gather({"rng": rng_state(), "loss_sum": run.loss_sum.cpu()})
    weights, optimizer = whole(run.net.state_dict()), whole(run.optimizer.state_dict())
    if not run.writes:
        return
    state = {
        "identity": run.identity,
        "epoch": run.epoch,
        "step": run.step,
        "taken": run.taken,
        "mode_steps": dict(run.mode_steps),
        "seconds": run.seconds,
        "loading_seconds": run.loading.seconds(),
        "mode_seconds": run.step_clock.seconds(),
        "loss_sum": run.loss_sum.cpu(),
        "compile_seconds": run.compile_seconds,
        "records": [record.to_dict() for record in run.records],
        "optimizer": optimizer,
        "learning_rate": run.learning_rate.state_dict(),
        "scaler": run.scaler.state_dict(),
        "schedule": run.low_mode.schedule_state() if run.low_mode is not None else {},
        "draws": DRAWS,
        "rng": rng_state(),
        "ranks": each,
        **({} if run.ema is None else {"ema": run.ema.state_dict()}),
    }
    save_checkpoint(run.folder.path, weights, state)
    run.folder.write_metrics({run.label: run.records})


def load(run: Run, folder: RunFolder) -> None:
    """Bring the run to where the folder's newest whole checkpoint has it.

    Raises ``CheckpointError`` for one that is damaged, of another run, or that doesn't fit.
    """
    check = partial(check_state, steps=run.steps)
    saved = run.ranks.from_first(partial(load_checkpoint, folder.path, check))
    for problem in saved.damage:
        run.reporter.say(f"{problem}; going on from {saved.folder.name} instead")
    state = saved.state
    require_same_run(state["identity"], run.identity, folder.path)
    load_weights(run.net, replace(saved, weights=sharded_weights(run.net, saved.weights)))
    with fitting_state(saved.folder):
        run.optimizer.load_state_dict(sharded_optimizer(run.optimizer, state["optimizer"]))
        # Older checkpoints hold none: their rates are functions of the place in the run.
        rates = state.get("learning_rate") or run.learning_rate.state_at(state["epoch"], state["step"])
        run.learning_rate.load_state_dict(rates)
        run.scaler.load_state_dict(state["scaler"])
        if run.low_mode is not None:
            run.low_mode.load_schedule_state(state["schedule"])
        if run.ema is not None:
            run.ema.load_state_dict(state["ema"])
    run.epoch, run.step = state["epoch"], state["step"]
    run.taken = int(state.get("taken", run.step * run.settings.batch_size))
    steps = unfinished_steps(state)
    run.mode_steps = {mode: steps.get(mode, 0) for mode in run.mode_steps}
    run.seconds, run.compile_seconds = state["seconds"], state["compile_seconds"]
    run.loading.restart(state.get("loading_seconds", 0.0))
    run.step_clock.restart(state.get("mode_seconds"))
    run.records = [EpochRecord.from_dict(record) for record in state["records"]]
    with fitting_state(saved.folder):
        _load_draws(run, state)
    done = run.epoch >= run.settings.epochs
    where = f"all {run.epoch} epochs are done" if done else f"going on from epoch {run.epoch + 1}, step {run.step}"
    run.reporter.say(f"{where} ({saved.folder})")
    if not done and state.get("draws") != DRAWS and run.splits.augmentation != UNCHANGED:
        run.reporter.say("the run began under another version's draws: its coming crops and flips are others")


def _load_draws(run: Run, state: Mapping[str, Any]) -> None:
    """What each rank had of its own, where there are as many of them as there were."""
    each = state.get("ranks", [{"rng": state["rng"], "loss_sum": state["loss_sum"]}])
    if len(each) == run.ranks.size:
        mine = each[run.ranks.rank]
        set_rng_state(mine["rng"])
        run.loss_sum = mine["loss_sum"].to(run.loss_sum)
    else:
        run.loss_sum = (sum(rank["loss_sum"] for rank in each) / len(each)).to(run.loss_sum)
        ranks = f"{len(each)} rank{'s' * (len(each) > 1)}"
        run.reporter.say(f"the run was on {ranks}, now {run.ranks.size}: its random numbers start again")
