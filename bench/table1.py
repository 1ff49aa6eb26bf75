"""The paper's Table 1 and its Fig. 3 and 4: full-mode against low-mode on CIFAR-10, by the paper's recipe (§4).

python -m bench.table1 --small --data folder:PATH    # two CPU cores: a small ResNet on a part of CIFAR-10, 20 epochs
python -m bench.table1 --data folder:PATH            # one GPU: ResNet-18 and ResNet-50, 200 epochs, compiled

Two controls beside the paper's two runs: full-mode cut to the time that low-mode takes, and low-mode with its images
halved and its kernels kept. Every run has a folder of its own with a checkpoint of each epoch; ``--resume`` continues
from there, also if ``--seconds`` or a signal ended a run.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.harness import RESULTS, header, load_rows, paired_ratio, save, summary
from bench.table1_recipe import (
    ARMS,
    CONFIGS,
    LOW,
    NETWORKS,
    SAME_TIME,
    SMALL,
    WHOLE,
    control_epochs,
    count_modes,
    load,
    network,
    recipe,
    schedule,
)
from bench.table1_report import report
from bench.training_step import mode_times
from lowmode_fx import BernoulliSchedule, LowModeModel, build_pair
from lowmode_fx.train import DataSplits, RunFolder, TrainSettings, train
from lowmode_fx.train.batches import steps_per_epoch, train_batches
from lowmode_fx.train.interrupts import Interrupts


def measure_cost(name: str, arm: str, splits: DataSplits, rounds: int, batch_size: int) -> dict[str, Any]:
    """The time of a low iteration divided by a full one's: batch, augmentation, forward, backward, optimizer."""
    settings = recipe(1, 0, batch_size)
    model = network(name, splits.num_classes, 0)
    device = next(model.parameters()).device
    local = splits.to(device)
    example = torch.zeros(2, *splits.image_shape, device=device)
    net = LowModeModel(build_pair(model, example, CONFIGS[arm]), BernoulliSchedule(0.5), compile=settings.compile)
    net.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=settings.weight_decay)
    epochs = (train_batches(local, batch_size=batch_size, seed=0, epoch=e, device=device) for e in itertools.count())
    batches = itertools.chain.from_iterable(epochs)

    times = mode_times(net, partial(next, batches), optimizer, rounds, torch.bfloat16)
    ratio = paired_ratio(times["low"], times["full"])
    return {"low / full": ratio, "full seconds": summary(times["full"]), "low seconds": summary(times["low"])}


def run_one(
    name: str, arm: str, settings: TrainSettings, splits: DataSplits, folder: Path, resume: bool
) -> tuple[dict[str, Any], int]:
    """One run, or the next piece of it: its record, and the signal that ended it or 0."""
    model, epochs, seed = network(name, splits.num_classes, settings.seed), settings.epochs, settings.seed
    if arm in CONFIGS:
        example = torch.zeros(2, *splits.image_shape, device=next(model.parameters()).device)
        pair = build_pair(model, example, CONFIGS[arm])
        model = LowModeModel(pair, schedule(epochs, seed), compile=settings.compile)
    place = RunFolder.open(folder, resume=resume, overwrite=not resume)
    title = f"{name}, {arm}, seed {seed}"
    result = train(model, splits, settings, place, label=title, resume=resume, identity={"model": name, "arm": arm})
    record = {
        "network": name,
        "arm": arm,
        "seed": seed,
        "epochs": epochs,
        "complete": len(result.records) == epochs,
        "accuracy": result.final_accuracy,
        "best accuracy": result.best_accuracy,
        "seconds": result.train_seconds,
        "compile seconds": result.compile_seconds,
        "curve": [[r.full_steps, r.low_steps, r.val_accuracy, r.total_seconds] for r in result.records],
    }
    return record, result.interrupted


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """After ``seconds``, send this process SIGTERM, upon which a run saves its state and ends."""

    def end(*_: Any) -> None:
        if isinstance(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), Interrupts):
            signal.raise_signal(signal.SIGTERM)

    if math.isinf(seconds):
        yield
        return
    before = signal.signal(signal.SIGALRM, end)
    # Again every second: no handler is set while a step is timed or a model is built.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder:PATH or cifar10:PATH")
    parser.add_argument("--small", action="store_true", help=f"{SMALL.networks[0]}, {SMALL.epochs} epochs, a subset")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, help="instead of the form's")
    parser.add_argument("--epochs", type=int, help="instead of the form's; milestones and holds are scaled")
    parser.add_argument("--batch-size", type=int, default=125)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="of timing a step")
    parser.add_argument("--seconds", type=float, default=math.inf, help="save and stop after this many")
    parser.add_argument("--resume", action="store_true", help="keep finished runs, continue the others")
    parser.add_argument("--out", type=Path, help="the result file")
    parser.add_argument("--runs", type=Path, default=Path("runs/table1"), help="folder of the runs' folders")
    options = parser.parse_args(argv)
    began = time.monotonic()
    torch.backends.cudnn.benchmark = True  # as in training loops with images of one size
    form = SMALL if options.small else WHOLE
    form = replace(form, networks=tuple(options.networks or form.networks), epochs=options.epochs or form.epochs)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = options.out or RESULTS / f"table1_{device}.json"
    kind = "small form" if options.small else "full form"
    head = header("table1", form=kind, epochs=form.epochs, images=form.train, seeds=options.seeds)
    rows, splits = load_rows(path, options.resume), load(options.data, form)
    steps = steps_per_epoch(splits.train, options.batch_size)
    with alarm(options.seconds):
        for name, seed, arm in itertools.product(form.networks, range(options.seeds), ARMS):
            key, costs = f"{name} / {arm} / {seed}", f"{name} / costs"
            if rows.get(key, {}).get("complete") or time.monotonic() - began > options.seconds:
                continue
            timed = LOW if arm == SAME_TIME else arm
            if timed in CONFIGS and timed not in rows.setdefault(costs, {}):
                rows[costs][timed] = measure_cost(name, timed, splits, options.rounds, options.batch_size)
                save(path, head, rows)
            epochs = form.epochs
            if arm == SAME_TIME:
                cost = rows[costs][LOW]["low / full"]["median"]
                epochs = control_epochs(*count_modes(form.epochs, steps, seed), cost, steps)
            folder = options.runs / re.sub(r"\W+", "-", f"{name}-{arm}-{seed}")
            settings = recipe(epochs, seed, options.batch_size)
            rows[key], ended = run_one(name, arm, settings, splits, folder, options.resume)
            save(path, head, rows)
            done = f"{len(rows[key]['curve'])}/{epochs} epochs, {rows[key]['accuracy']:.2%}"
            print(f"{time.monotonic() - began:6.0f} s  {key}: {done}", flush=True)
            if ended and time.monotonic() - began < options.seconds:  # a signal from outside
                raise SystemExit(128 + ended)
    print(report(rows, path, device, kind), flush=True)


if __name__ == "__main__":
    main()
