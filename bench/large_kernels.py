"""Large kernels: full-mode's accuracy in how much of its time? Resized and kept kernels compared on CIFAR-10.

python -m bench.large_kernels --small --data folder:PATH    # two CPU cores: 4,000 images
python -m bench.large_kernels --data folder:PATH            # one GPU: all of CIFAR-10

Time is counted in full epochs: full steps, plus low steps at their costs, which are measured paired and interleaved
before any training, all in one run. Rows are saved one by one; ``--resume`` continues.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bench.depthwise_gradient import ProductGradients
from bench.harness import RESULTS, header, load_rows, paired_ratio, paired_steps, save
from bench.large_kernels_arms import BUDGETS, LONGER, MODES, Arm, arms
from bench.large_kernels_report import report
from bench.large_networks import SMALL
from lowmode_fx import LadderSchedule, LowModeConfig, LowModeModel, build_ladder
from lowmode_fx.train import DataSplits, load_data
from lowmode_fx.train.batches import train_batches, val_batches
from lowmode_fx.train.images import MemoryImages
from lowmode_fx.train.precise_bn import recompute_statistics
from lowmode_fx.utils.allocator import keep_freed_memory

#: The price of a full step whose kernels had gradients as in low steps, which would change the model's bits.
CONTROL = "full, gradients by products"


@dataclass(frozen=True)
class Study:
    """One network on a part of CIFAR-10, trained by AdamW at the rate ``lr``; ``epochs``: of the longest run.

    ``batch``: images of a step.
    """

    network: str
    epochs: int
    images: int
    test_images: int
    lr: float = 1e-2
    weight_decay: float = 5e-3
    batch: int = 125

    @property
    def key(self) -> str:
        return f"{self.network}, {self.images} images, {self.epochs} epochs"


SMALL_STUDIES = (
    Study("convmixer-13", 10, 4_000, 4_000),
    Study("convmixer-9", 10, 4_000, 4_000),
    Study("replknet-small", 10, 2_000, 2_000, lr=4e-3, batch=50),
    Study("convnext-small", 10, 4_000, 4_000, lr=4e-3),
    Study("inceptionnext-small", 10, 4_000, 4_000, lr=4e-3),
    Study("efficientnet-small", 10, 4_000, 4_000, lr=4e-3),
)
LARGE_STUDIES = tuple(Study(each.network, 30, 50_000, 10_000, each.lr) for each in SMALL_STUDIES)


@cache
def load(study: Study, data: str) -> DataSplits:
    """The first images of the training and the test set in a random order (seed 0), at the network's size."""
    side = SMALL[study.network].side
    whole = load_data(data, None if side == 32 else side)
    parts = []
    for source, count in ((whole.train, study.images), (whole.val, study.test_images)):
        assert isinstance(source, MemoryImages)
        chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))[:count]
        parts.append(MemoryImages(source.images[chosen], source.labels[chosen]))
    return replace(whole, train=parts[0], val=parts[1])


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network(study: Study, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    # Without it depthwise kernels take three times as long on a CPU, especially in full-mode.
    return SMALL[study.network].build().to(device()).to(memory_format=torch.channels_last)


def adam(study: Study, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=study.lr, weight_decay=study.weight_decay)


def step(
    forward: Any, images: torch.Tensor, labels: torch.Tensor, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Forward, cross entropy, backward, clipping at 1, optimizer."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        loss = F.cross_entropy(forward(images), labels)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def measure_costs(
    study: Study, data: str, rounds: int, configs: Mapping[str, LowModeConfig] | None = None
) -> dict[str, dict[str, float]]:
    """The time of a step of each low mode divided by a full step's, paired and interleaved."""
    splits, model = load(study, data), network(study, 0)
    images, labels = next(train_batches(splits, batch_size=study.batch, seed=0, epoch=0, device=device()))
    batch = images.contiguous(memory_format=torch.channels_last), labels
    gpu = batch[0].is_cuda
    ladder = build_ladder(model, batch[0][:2], MODES if configs is None else configs)
    net = LowModeModel(ladder, LadderSchedule((1,) * len(ladder.modes)), compile=gpu).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    steps = {str(mode): partial(step, partial(net.run, mode), *batch, model, optimizer) for mode in net.modes}
    if configs is None and not gpu:
        steps[CONTROL] = partial(_with_products, steps["full"])
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times = paired_steps(steps, device(), rounds, warmup=1, clock=clock)
    costs = {mode: paired_ratio(times[mode], times["full"]) for mode in times if mode != "full"}
    return {**costs, "seconds of a full step": {"median": statistics.median(times["full"])}}


def _with_products(step: Callable[[], object]) -> None:
    with ProductGradients():
        step()


def schedule(arm: Arm, epochs: Mapping[str, int], modes: tuple[str, ...], seed: int) -> LadderSchedule:
    """The schedule of an arm: by epochs or, if its low modes are mixed, by probabilities."""
    if not arm.mixed:
        return LadderSchedule([epochs[mode] for mode in modes], modes=modes)
    low = sum(epochs[mode] for mode in modes[:-1])
    row = tuple(epochs[mode] / low for mode in modes[:-1])
    rows = [(*row, 0.0)] * low + [(*(0.0,) * len(row), 1.0)]
    return LadderSchedule(probabilities=rows, modes=modes, seed=seed)


def run(study: Study, data: str, arm: Arm, costs: Mapping[str, float], seed: int) -> dict[str, Any]:
    """One training run: the rate rises over a fifth of the arm's own steps, or of its time, and then falls."""
    splits, model = load(study, data), network(study, seed)
    epochs = arm.epochs(study.epochs, costs)
    forward: nn.Module = model
    net: LowModeModel | None = None
    if len(epochs) > 1:
        example = torch.zeros(2, *splits.image_shape, device=device())
        ladder = build_ladder(model, example, {mode: MODES[mode] for mode in epochs if mode != "full"})
        names = tuple(map(str, ladder.modes))
        forward = net = LowModeModel(ladder, schedule(arm, epochs, names, seed), compile=device().type == "cuda")
    optimizer = adam(study, model)
    if net is not None:
        net.attach(optimizer)
    total, done, spent = sum(epochs.values()), 0, 0.0
    time_in_all = sum(count * costs.get(mode, 1.0) for mode, count in epochs.items())
    began = time.process_time()
    for epoch in range(total):
        if net is not None:
            net.set_epoch(epoch)
        for images, labels in train_batches(splits, batch_size=study.batch, seed=seed, epoch=epoch, device=device()):
            share = spent / time_in_all if arm.over_time else done * study.batch / (total * study.images)
            for group in optimizer.param_groups:
                group["lr"] = study.lr * min(share / 0.2 + 1e-3, 1.0, (1 - share) / 0.8 + 1e-3)
            step(forward.train(), images.contiguous(memory_format=torch.channels_last), labels, model, optimizer)
            mode = str(net.last_mode) if net is not None else "full"
            spent += costs.get(mode, 1.0) * study.batch / study.images
            done += 1
    record = {"study": study.key, "arm": arm.name, "budget": arm.budget, "seed": seed, "epochs": dict(epochs)}
    seconds = time.process_time() - began
    # For all arms: a short full tail leaves running statistics near where they began.
    batches = train_batches(splits, batch_size=study.batch, seed=seed, epoch=total, device=device())
    images_alone = (images.contiguous(memory_format=torch.channels_last) for images, _ in batches)
    recompute_statistics(model.train(), images_alone, min(16, study.images // study.batch))
    return {**record, "time": spent, "accuracy": accuracy(model, splits), "cpu seconds": seconds}


def accuracy(model: nn.Module, splits: DataSplits) -> float:
    """Test accuracy of the model in eval mode."""
    model.eval()
    with torch.no_grad():
        right = sum(
            int((model(images).argmax(1) == labels).sum())
            for images, labels in val_batches(splits, batch_size=500, device=device())
        )
    return right / len(splits.val)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder:PATH or cifar10:PATH")
    parser.add_argument("--small", action="store_true", help="4,000 images and 10 epochs, for two CPU cores")
    parser.add_argument("--networks", nargs="*", help="run only these studies")
    parser.add_argument("--images", type=int, help="training images, and at most test images, instead of the study's")
    parser.add_argument("--epochs", type=int, help="epochs of full-mode, instead of the study's")
    parser.add_argument("--arms", nargs="*", help="run only arms of these names")
    parser.add_argument("--budgets", nargs="*", type=float, default=[1.0, LONGER, *BUDGETS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7, help="of timing a step")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no run after this many")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--resume", action="store_true", help="keep the rows in the result file")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    began = time.monotonic()
    path = options.out or RESULTS / f"large_kernels_{'cuda' if torch.cuda.is_available() else 'cpu'}.json"
    head, rows = header("large_kernels", small=options.small), load_rows(path, options.resume)
    studies = SMALL_STUDIES if options.small else LARGE_STUDIES
    for study in studies:
        if options.networks and study.network not in options.networks:
            continue
        images, epochs = options.images or study.images, options.epochs or study.epochs
        study = replace(study, images=images, epochs=epochs, test_images=min(study.test_images, images))
        key = f"{study.key} / prices"
        if key not in rows:
            found = measure_costs(study, options.data, options.rounds)
            rows[key] = {"study": asdict(study), "prices": found}
        untimed = {mode: config for mode, config in MODES.items() if mode not in rows[key]["prices"]}
        if untimed:  # they came later
            rows[key]["prices"] = {**measure_costs(study, options.data, options.rounds, untimed), **rows[key]["prices"]}
        save(path, head, rows)
        costs = {mode: found["median"] for mode, found in rows[key]["prices"].items()}
        print(study.key, {mode: round(cost, 3) for mode, cost in costs.items()}, flush=True)
        # Every arm's first seed before any second one: a run that is cut short compares all arms.
        for seed in range(options.seeds):
            for arm in arms(costs):
                name = f"{study.key} / {arm.name} / {arm.budget:g} / {seed}"
                wanted = arm.budget in options.budgets and (not options.arms or arm.name in options.arms)
                if not wanted or name in rows or time.monotonic() - began > options.seconds:
                    continue
                rows[name] = record = run(study, options.data, arm, costs, seed)
                save(path, head, rows)
                told = f"{record['accuracy']:.2%} in {record['time']:.2f} full epochs, {record['epochs']}"
                print(f"{time.monotonic() - began:6.0f} s  {name}: {told}", flush=True)
    report(rows, path)


if __name__ == "__main__":
    main()
