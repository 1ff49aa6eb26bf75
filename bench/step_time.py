"""Time of a low step over a full one: forward, backward and optimizer, eager and compiled, paired and interleaved.

python -m bench.step_time --small      # two CPU cores: ResNet-18 with the CIFAR stem
python -m bench.step_time              # everything
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.harness import RESULTS, header, load_rows, paired_ratio, paired_times, save, summary
from bench.networks import CASES, Case
from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, Mode, build_pair, count_step_flops

SMALL = ("resnet18-cifar",)


def steps(case: Case, device: torch.device, compile: bool, batch: int) -> tuple[dict[str, Callable[[], None]], Any]:
    """A full, a low and a resolution-only training step of one network, over one set of parameters; and its pair."""
    torch.manual_seed(0)
    model = case.build().to(device).train()
    images = torch.randn(batch, 3, case.side, case.side, device=device)
    targets = torch.randint(0, 10, (batch,), device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    if device.type == "cuda":
        model, images = (value.to(memory_format=torch.channels_last) for value in (model, images))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    pair = build_pair(model, images[:2])
    resolution = build_pair(model, images[:2], LowModeConfig(kernel_ratio=1))
    nets = {
        name: LowModeModel(pair, BernoulliSchedule(0.5), compile=compile)
        for name, pair in (("pair", pair), ("resolution", resolution))
    }

    def step(name: str, mode: Mode) -> None:
        with autocast:
            loss = F.cross_entropy(nets[name].run(mode, images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    functions = {
        "full": lambda: step("pair", Mode.FULL),
        "low": lambda: step("pair", Mode.LOW),
        "resolution only": lambda: step("resolution", Mode.LOW),
    }
    return functions, pair


def measure(case: Case, device: torch.device, rounds: int, batch: int) -> dict[str, Any]:
    row: dict[str, Any] = {"batch": batch, "side": case.side}
    for compiled in (False, True):
        torch.compiler.reset()
        functions, pair = steps(case, device, compiled, batch)
        if "mac_ratio" not in row:
            full, low = count_step_flops(pair)
            row["mac_ratio"] = low / full
        times = paired_times(functions, device, rounds)
        row["compiled" if compiled else "eager"] = {
            "low / full": paired_ratio(times["low"], times["full"]),
            "resolution only / full": paired_ratio(times["resolution only"], times["full"]),
            "full seconds": summary(times["full"]),
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"only {', '.join(SMALL)}")
    parser.add_argument("--cases", nargs="*", choices=CASES, help="instead of all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, help="instead of each case's own")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the result file has")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = options.out or RESULTS / f"step_time_{device.type}.json"
    head, rows = header("step_time", rounds=options.rounds), load_rows(path, options.resume)
    for name in options.cases or (SMALL if options.small else CASES):
        if name in rows:
            continue
        case = CASES[name]
        rows[name] = measure(case, device, options.rounds, options.batch or case.batch)
        save(path, head, rows)
        for kind in ("eager", "compiled"):
            low, other = (rows[name][kind][key] for key in ("low / full", "resolution only / full"))
            print(
                f"{name:18} {kind:8} low/full {low['median']:.3f} (quartiles {low['q1']:.3f} to {low['q3']:.3f}, "
                f"n = {low['n']})  resolution only {other['median']:.3f}  macs {rows[name]['mac_ratio']:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
