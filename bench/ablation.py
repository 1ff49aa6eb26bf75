"""Accuracy against time on CIFAR-10: which low-mode saves time, compared with controls of the same length.

python -m bench.ablation --small --data folder:PATH    # two CPU cores: small ResNets with 3×3 and 5×5 kernels, a subset
python -m bench.ablation --data folder:PATH            # one GPU: ResNet-18, all of CIFAR-10
python -m bench.ablation --small --data-set Fashion-MNIST --data torchvision:FashionMNIST=PATH

Time is counted in full epochs: full steps plus low steps times the cost of one, measured paired and interleaved before
any training. So runs may share the machine (``--jobs``), and figures do not depend on its load.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from bench.ablation_arms import RUNG
from bench.ablation_compared import Compared
from bench.ablation_measure import measure_costs, prepare
from bench.ablation_report import report
from bench.ablation_studies import BATCH, CIFAR, LARGE, LR, SMALL, Study, chosen, load, network, settings
from bench.harness import RESULTS, header, load_rows, save
from bench.planned_modes import PlannedModes
from lowmode_fx import LowModeModel, build_ladder
from lowmode_fx.train import train
from lowmode_fx.train.evaluate import evaluate


def run_one(task: tuple[Study, str, Mapping[str, Any], int, str, int]) -> tuple[str, dict[str, Any]]:
    """One training run in a process of its own; returns its key and its record."""
    study, name, row, seed, data, threads = task
    torch.set_num_threads(threads)
    curves, final = load(study, data)
    compared = Compared.of(study, row)
    arm = next(each for each in compared.arms if each.name == name)
    per_epoch = study.images // BATCH
    modes = arm.modes(per_epoch, compared.costs, seed)
    model: torch.nn.Module = network(study, seed)
    recipe = settings(study, len(modes) // per_epoch, seed, "macs" if arm.over_macs else "steps")
    low = {mode: config for mode, config in compared.configs.items() if mode in modes}
    if low:
        example = torch.zeros(2, *curves.image_shape, device=next(model.parameters()).device)
        ladder = build_ladder(model, example, low)
        model = LowModeModel(ladder, PlannedModes(modes), low_weight=arm.weight, compile=recipe.compile)
    result = train(model, curves, recipe, label=arm.name, quiet=True)
    if result.interrupted:  # an interrupted run is not recorded
        raise RuntimeError(f"signal {result.interrupted} ended {arm.name}; --resume continues")
    accuracy = evaluate(model, final, recipe, next(model.parameters()).device)
    record = {
        "accuracy": accuracy,
        "seed": seed,
        "arm": arm.name,
        "network": study.key,
        "seconds": result.train_seconds,
        "curve": [(dict(each.steps), each.val_accuracy) for each in result.records],
    }
    return f"{study.key} / {arm.name} / {seed}", record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder:PATH, cifar10:PATH, …")
    parser.add_argument("--data-set", default=CIFAR, help="the studies of this data set, which --data holds")
    parser.add_argument("--small", action="store_true", help="small networks and subsets, for two CPU cores")
    parser.add_argument("--seeds", type=int, help="2 in the small form, else 3")
    parser.add_argument("--jobs", type=int, default=2, help="number of runs at the same time (CPU only)")
    parser.add_argument("--tune-seconds", type=float, default=420.0)
    parser.add_argument("--rounds", type=int, default=15, help="of timing a step")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no run after this many")
    parser.add_argument("--networks", nargs="*", help="only these studies: resnet8, 'resnet8, rate 0.4' …")
    parser.add_argument("--arms", nargs="*", default=["*"], help="run only arms whose names match one of these globs")
    parser.add_argument("--time-again", action="store_true", help="steps, if nothing else runs on the machine")
    parser.add_argument("--resume", action="store_true", help="keep the runs in the result file")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seeds = options.seeds or (2 if options.small else 3)
    began = time.monotonic()
    gpu = torch.cuda.is_available()
    path = options.out or RESULTS / f"ablation_{'cuda' if gpu else 'cpu'}.json"
    if not gpu:
        torch.set_num_threads(1)  # as in the runs
    head, rows = header("ablation", small=options.small, seeds=seeds), load_rows(path, options.resume)
    tasks = []
    studies = chosen(SMALL if options.small else LARGE, options.data_set, options.networks)
    if not studies:
        parser.error(f"no study of {options.data_set} is named {options.networks}")
    for study in studies:
        key = f"{study.key} / study"
        splits = load(study, options.data)[0]
        rows.setdefault(key, {"study": asdict(study), "costs": {}})
        row = rows[key]
        # One network's costs are those of one run, whatever the rate of a study; a mode that came later is added.
        row["costs"] = row["costs"] or rows.get(f"{replace(study, lr=LR).key} / study", row)["costs"]
        for modes in study.tuner:
            if modes == 2 and "tuning" not in row:
                row |= prepare(study, splits, options.tune_seconds, modes)
            if modes > 2 and "ladder" not in row:
                row["ladder"] = prepare(study, splits, options.tune_seconds, modes)
                # Those of another plan's modes have the same names.
                row["costs"] = {mode: each for mode, each in row["costs"].items() if not mode.startswith(RUNG)}
        save(path, head, rows)
        configs = Compared.of(study, row).configs
        untimed = {mode: each for mode, each in configs.items() if options.time_again or mode not in row["costs"]}
        if untimed:
            row["costs"] = {**row["costs"], **measure_costs(study, splits, untimed, options.rounds)}
            save(path, head, rows)
        compared = Compared.of(study, row)
        for seed in range(seeds):
            for arm in compared.arms:
                wanted = any(fnmatchcase(arm.name, glob) for glob in options.arms)
                if wanted and f"{study.key} / {arm.name} / {seed}" not in rows:
                    threads = 1 if not gpu else torch.get_num_threads()
                    tasks.append((study, arm.name, row, seed, options.data, threads))
    # Every arm's first seed before any second one: a run that is cut short compares all arms.
    tasks.sort(key=lambda task: task[3])
    for key, record in _results(tasks, 1 if gpu else options.jobs, began + options.seconds):
        rows[key] = record
        save(path, head, rows)
        print(f"{time.monotonic() - began:6.0f} s  {key}: {record['accuracy']:.2%}", flush=True)
    report(rows, path)


def _results(tasks: list[Any], jobs: int, deadline: float) -> Any:
    if jobs == 1:
        for task in tasks:
            if time.monotonic() > deadline:
                return
            yield run_one(task)
        return
    with mp.get_context("spawn").Pool(jobs) as pool:
        waiting = iter(tasks)
        running = [pool.apply_async(run_one, (task,)) for _, task in zip(range(jobs), waiting, strict=False)]
        while running:
            done = next((each for each in running if each.ready()), None)
            if done is None:
                time.sleep(0.5)
                continue
            running.remove(done)
            yield done.get()
            following = next(waiting, None)
            if following is not None and time.monotonic() < deadline:
                running.append(pool.apply_async(run_one, (following,)))


if __name__ == "__main__":
    main()
