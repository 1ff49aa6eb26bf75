"""Do gradients predict the gain of low steps? Predictions and trial runs compared, for several low modes.

python -m bench.rehearsal --small --data folder:PATH    # a small ResNet, a subset of CIFAR-10, on one CPU core
python -m bench.rehearsal --data folder:PATH            # one GPU: ResNet-18, all of CIFAR-10

Both are the tuner's own measurements (``lowmode_fx.tuning``): by gradients, at the weights of a full run after half and
all of its steps, and by trial runs of that length, two thirds of them low. Gains are in full steps.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.ablation_studies import LARGE, SMALL, Study, load, network
from bench.harness import RESULTS, header, load_rows, save
from lowmode_fx import LowModeConfig, count_step_flops
from lowmode_fx.lowering.lower import pair_of
from lowmode_fx.train.batches import EpochBatches
from lowmode_fx.tuning.sensitivity import cosines
from lowmode_fx.tuning.trials import Probe
from lowmode_fx.utils.tables import markdown_table

#: The two measurements, as rows name them.
KINDS = ("gain by gradients", "gain in trial runs")


def configs(last_stage: str) -> dict[str, LowModeConfig]:
    return {
        "kernels kept": LowModeConfig(kernel_ratio=1),
        "kernels resampled (cover)": LowModeConfig(kernel_transform="linear", rounding="cover"),
        "last stage averaged": LowModeConfig(pool_convs=(last_stage,)),
        "kernels averaged (the paper's)": LowModeConfig(),
        "kernels kept, r = 3": LowModeConfig(ratio=3, kernel_ratio=1),
    }


def full_run(study: Study, data: str, steps: int, seed: int) -> Probe:
    """A probe that takes its gradients at half and at the end of its full run."""

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=study.lr / 2, momentum=0.9, weight_decay=5e-4, nesterov=True)

    splits, _ = load(study, data)
    model = network(study, seed)
    device = next(model.parameters()).device
    probe = Probe(model, EpochBatches(splits.to(device), 125, device, seed), F.cross_entropy, optimizer, kept=8)
    probe.run((steps // 2, steps))
    return probe


def measure(probe: Probe, config: LowModeConfig, steps: int) -> dict[str, Any]:
    pair = pair_of(probe.captured, config)
    progress = probe.progress(pair)
    probe.model.load_state_dict(probe.points[-1].state)
    full, low = count_step_flops(pair)
    return {
        "low / full macs": low / full,
        "cosine": statistics.fmean(cosines(probe, probe.points[-1], pair)),
        "gain by gradients": [each.gain for each in progress],
        "standard error": [each.gain_error for each in progress],
        "gain in trial runs": [probe.trial_run(pair, steps // 2), probe.trial_run(pair, steps)],
    }


def table(rows: dict[str, Any]) -> str:
    """Markdown: one row per low mode; arrows go from half of the steps to all of them."""
    lines = []
    for key, row in rows.items():
        gains = (" → ".join(f"{each:.2f}" for each in row[kind]) for kind in KINDS)
        lines.append((key.partition(" / ")[2], f"{row['low / full macs']:.2f}", f"{row['cosine']:.2f}", *gains))
    return markdown_table(("low-mode", "low / full macs", "cosine", *KINDS), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder:PATH or cifar10:PATH")
    parser.add_argument("--small", action="store_true", help="a small network and a subset")
    parser.add_argument("--steps", type=int, default=600, help="steps of the full run and of the longer trial runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="keep the rows in the result file")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = options.out or RESULTS / f"rehearsal_{device}.json"
    head = header("rehearsal", small=options.small, steps=options.steps, seed=options.seed)
    rows = load_rows(path, options.resume)
    study = (SMALL if options.small else LARGE)[0]
    probe: Probe | None = None
    for name, config in configs(study.last_stage).items():
        key = f"{study.network} / {name}"
        if key in rows:
            continue
        if probe is None:
            probe = full_run(study, options.data, options.steps, options.seed)
        rows[key] = measure(probe, config, options.steps)
        save(path, head, rows)
        row = rows[key]
        by_gradients, tried = (" → ".join(f"{gain:.2f}" for gain in row[kind]) for kind in KINDS)
        print(
            f"{key}: macs {row['low / full macs']:.2f}, cosine {row['cosine']:.2f}, gain by gradients {by_gradients}, "
            f"in trial runs {tried}",
            flush=True,
        )
    print(table(rows))


if __name__ == "__main__":
    main()
