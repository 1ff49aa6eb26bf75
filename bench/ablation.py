"""Accuracy against time on CIFAR-10: which low-mode saves time, compared with controls of the same length.

python -m bench.ablation --small --data folder:PATH    # two CPU cores: small ResNets with 3×3 and 5×5 kernels, a subset
python -m bench.ablation --data folder:PATH            # one GPU: ResNet-18, all of CIFAR-10

Time is counted in full epochs: full steps plus low steps times the cost of one, measured paired and interleaved before
any training. So runs may share the machine (``--jobs``), and figures do not depend on its load.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bench.ablation_arms import BUDGETS, full_lengths, ladders, longer_low, low_modes, one_low_mode
from bench.ablation_report import report
from bench.harness import RESULTS, header, load_rows, paired_ratio, save
from bench.networks import resnet, small_resnet
from bench.plans import FULL, Arm
from bench.training_step import mode_times
from lowmode_fx import LadderSchedule, LowModeConfig, LowModeModel, Mode, build_ladder
from lowmode_fx.train import DataSplits, TrainSettings, load_data, train
from lowmode_fx.train.batches import EpochBatches
from lowmode_fx.train.evaluate import evaluate
from lowmode_fx.train.images import MemoryImages
from lowmode_fx.train.settings import LrOver
from lowmode_fx.tuning.result import Tuning
from lowmode_fx.tuning.tune import tune
from lowmode_fx.utils.progress import progress

BATCH = 125
NETWORKS = {
    "resnet8": lambda: small_resnet(blocks=1, kernel=3),
    "resnet8-5x5": lambda: small_resnet(blocks=1, kernel=5),
    "resnet18": lambda: resnet(18, "cifar", 10),
}


@dataclass(frozen=True)
class Study:
    """One network on one part of CIFAR-10.

    ``epochs``: length of the full-mode run that arms are compared with. ``variations``: whether to add arms that vary
    the norms and the weights of low steps.
    """

    network: str
    epochs: int
    images: int
    curve_images: int
    lr: float
    last_stage: str
    variations: bool = True


SMALL = (
    Study("resnet8", 16, 12_000, 2_000, 0.1, "5"),
    Study("resnet8-5x5", 12, 8_000, 2_000, 0.1, "5", variations=False),
)
LARGE = (Study("resnet18", 30, 50_000, 10_000, 0.1, "layer4"),)


@cache
def load(study: Study, data: str) -> tuple[DataSplits, DataSplits]:
    """The training subset with a part of the test set for the curves, and with all of the test set."""
    whole = load_data(data)
    assert isinstance(whole.train, MemoryImages) and isinstance(whole.val, MemoryImages)
    chosen = torch.randperm(len(whole.train), generator=torch.Generator().manual_seed(0))[: study.images]
    shown = torch.randperm(len(whole.val), generator=torch.Generator().manual_seed(0))[: study.curve_images]
    final = replace(whole, train=MemoryImages(whole.train.images[chosen], whole.train.labels[chosen]))
    return replace(final, val=MemoryImages(whole.val.images[shown], whole.val.labels[shown])), final


def settings(study: Study, epochs: int, seed: int, lr_over: LrOver = "steps") -> TrainSettings:
    """The recipe, which is the same for all arms but for what the learning rate falls over."""
    return TrainSettings(
        epochs=epochs,
        batch_size=BATCH,
        lr=study.lr,
        lr_schedule="cosine",
        lr_over=lr_over,
        warmup_epochs=1,
        nesterov=True,
        autocast="bf16",
        seed=seed,
        compile=torch.cuda.is_available(),
    )


def network(study: Study, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return NETWORKS[study.network]().to(device).to(memory_format=torch.channels_last)


def loader(splits: DataSplits) -> EpochBatches:
    return EpochBatches(splits, BATCH, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def tuned(study: Study, splits: DataSplits, seconds: float, modes: int) -> Tuning:
    """The tuner's choice with its default options, of up to ``modes`` modes; of more than two in 0.6 of the time."""

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=study.lr / 2, momentum=0.9, weight_decay=5e-4, nesterov=True)

    with progress() as tell:
        return tune(
            network(study, seed=1000),
            loader(splits),
            epochs=study.epochs,
            optimizer=optimizer,
            autocast=torch.bfloat16,
            modes=modes,
            time_budget=BUDGETS[0] if modes > 2 else 1.0,
            seconds=seconds,
            on_progress=tell,
        )


def measure_costs(
    study: Study, splits: DataSplits, configs: Mapping[str, LowModeConfig], rounds: int
) -> dict[str, Any]:
    """The time of a step of each low mode divided by a full step's, in bf16 as in runs.

    Forward, backward and optimizer, all modes paired and interleaved in one run. On a CPU also in float32, under
    ``"float32"``, where small convolutions follow their multiply-adds better.
    """
    images, labels = next(iter(loader(splits)))
    model = network(study, 0)
    ladder = build_ladder(model, images[:2], configs)
    net = LowModeModel(ladder, LadderSchedule((1,) * len(ladder.modes)), compile=images.is_cuda).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, nesterov=True)
    found: dict[str, Any] = {}
    for dtype in (torch.bfloat16,) if images.is_cuda else (torch.bfloat16, None):
        times = mode_times(net, lambda: (images, labels), optimizer, rounds, dtype)
        for mode in configs:
            ratio = paired_ratio(times[mode], times[FULL])
            found[mode] = ratio if dtype is not None else found[mode] | {"float32": ratio}
    return found


def prepare(study: Study, splits: DataSplits, tune_seconds: float, modes: int) -> dict[str, Any]:
    """The tuner's choice and its measurements."""
    print(f"{study.network}: tuning, {modes} modes", flush=True)
    choice = tuned(study, splits, tune_seconds, modes)
    print("\n".join(f"  {reason}" for reason in choice.reasons), flush=True)
    tried = {
        f"{each.name}, low gradients × {each.weight:g}": {
            "cost": each.cost,
            "gain by gradients": [progress.gain for progress in each.progress],
            "gain in trial runs": each.trial_gains,
            "predicted time": each.plan.time,
        }
        for each in choice.candidates
        if each.trial_gains
    }
    return {"tuning": choice.to_dict(), "trial runs": tried}


@dataclass(frozen=True)
class Compared:
    """The arms of a study, with the configuration and the median cost of each low mode by name."""

    arms: list[Arm]
    configs: Mapping[str, LowModeConfig]
    costs: Mapping[str, float]

    @classmethod
    def of(cls, study: Study, row: Mapping[str, Any]) -> Compared:
        """From the row of a study in a result file, with the tuner's choices and, once measured, the costs."""
        choice = Tuning.from_dict(row["tuning"])
        several = Tuning.from_dict(row["ladder"]["tuning"]) if "ladder" in row else None
        configs = low_modes(study.last_stage, choice, several)
        costs = {FULL: 1.0, **{mode: cost["median"] for mode, cost in row["costs"].items()}}
        found = [*full_lengths(study.epochs), *one_low_mode(study.epochs, choice, study.variations)]
        found += longer_low(study.network)
        if set(configs) <= set(costs):
            found += ladders(study.network, study.epochs, study.images // BATCH, costs, several)
        return cls(found, configs, costs)


@dataclass(frozen=True)
class Listed:
    """The schedule of a list of modes, one a step."""

    modes: Sequence[str]

    def mode(self, step: int, epoch: int) -> Mode:
        return Mode(self.modes[min(step, len(self.modes) - 1)])


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
        model = LowModeModel(ladder, Listed(modes), low_weight=arm.weight, compile=recipe.compile)
    result = train(model, curves, recipe, label=arm.name, quiet=True)
    if result.interrupted:  # an interrupted run is not recorded
        raise RuntimeError(f"signal {result.interrupted} ended {arm.name}; --resume continues")
    accuracy = evaluate(model, final, recipe, next(model.parameters()).device)
    record = {
        "accuracy": accuracy,
        "seed": seed,
        "arm": arm.name,
        "network": study.network,
        "seconds": result.train_seconds,
        "curve": [(dict(each.steps), each.val_accuracy) for each in result.records],
    }
    return f"{study.network} / {arm.name} / {seed}", record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder:PATH or cifar10:PATH")
    parser.add_argument("--small", action="store_true", help="small networks and subsets, for two CPU cores")
    parser.add_argument("--seeds", type=int, help="2 in the small form, else 3")
    parser.add_argument("--jobs", type=int, default=2, help="number of runs at the same time (CPU only)")
    parser.add_argument("--tune-seconds", type=float, default=420.0)
    parser.add_argument("--rounds", type=int, default=15, help="of timing a step")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no run after this many")
    parser.add_argument("--networks", nargs="*", help="run only these studies")
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
    for study in SMALL if options.small else LARGE:
        if options.networks and study.network not in options.networks:
            continue
        key = f"{study.network} / study"
        splits = load(study, options.data)[0]
        rows.setdefault(key, {"study": asdict(study), "costs": {}})
        row = rows[key]
        if "tuning" not in row:
            row |= prepare(study, splits, options.tune_seconds, 2)
        if "ladder" not in row:
            row["ladder"] = prepare(study, splits, options.tune_seconds, 3)
        save(path, head, rows)
        configs = Compared.of(study, row).configs
        if options.time_again or not set(configs) <= set(row["costs"]):
            row["costs"] = measure_costs(study, splits, configs, options.rounds)
            save(path, head, rows)
        compared = Compared.of(study, row)
        for seed in range(seeds):
            for arm in compared.arms:
                wanted = any(fnmatchcase(arm.name, glob) for glob in options.arms)
                if wanted and f"{study.network} / {arm.name} / {seed}" not in rows:
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
