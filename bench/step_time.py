"""Time of a low step over a full one: forward, backward and optimizer, eager and compiled, paired and interleaved.

python -m bench.step_time --small                      # two CPU cores: ResNet-18 and ResNet-50 with the CIFAR stem
python -m bench.step_time                              # everything; on a GPU in bf16 and channels_last
python -m bench.step_time --compile-mode cuda-graphs   # the same on a GPU, replayed as CUDA graphs, beside it
python -m bench.step_time --compile-mode off --batch 8 --cases vgg16 --out FILE    # uncompiled, smaller batches

Beside every low step, in the same rounds: images halved and kernels kept (progressive resizing), and the plain compiled
model. Beside every ratio of times that of multiply-adds, the peak memory, and where the time goes.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config as inductor
from torch._dynamo.utils import counters

from bench.case import Case
from bench.harness import RESULTS, header, load_rows, paired_ratio, paired_steps, save, summary
from bench.networks import CASES
from bench.step_profile import marked_pooling, profile_step
from bench.step_report import report
from bench.training_step import training_step
from bench.zoo.measure import PeakMemory
from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, Mode, build_pair, count_step_flops
from lowmode_fx.utils.devices import synchronize

SMALL = ("resnet18-cifar", "resnet50-cifar")
EAGER, COMPILED, GRAPHS = "eager", "compiled", "cuda graphs"
KINDS = {"default": (EAGER, COMPILED), "off": (EAGER,), "cuda-graphs": (GRAPHS,)}
Steps = dict[str, Callable[[], None]]


def steps(case: Case, device: torch.device, kind: str, batch: int) -> tuple[Steps, Any, int]:
    """Training steps of one network over one set of parameters; its pair; the bytes that it holds between two steps."""
    torch.manual_seed(0)
    model = case.build().to(device).train()
    images = torch.randn(batch, 3, case.side, case.side, device=device)
    targets = torch.randint(0, 10, (batch,), device=device)
    autocast = torch.bfloat16 if device.type == "cuda" else None
    # On a CPU the weights stay as they are: gradients of pooled kernels would be copied into theirs.
    images = images.to(memory_format=torch.channels_last)
    if device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    pair = build_pair(model, images[:2])
    resolution = build_pair(model, images[:2], LowModeConfig(kernel_ratio=1))
    options = {"dynamic": False, **({"mode": "reduce-overhead"} if kind == GRAPHS else {})}
    net, half = (
        LowModeModel(each, BernoulliSchedule(0.5), compile=kind != EAGER, compile_options=options)
        for each in (pair, resolution)
    )

    def step(forward: Callable[[torch.Tensor], Any]) -> None:
        if kind == GRAPHS:
            torch.compiler.cudagraph_mark_step_begin()
        training_step(forward, lambda: (images, targets), optimizer, autocast)

    functions = {
        "full": partial(step, partial(net.run, Mode.FULL)),
        "low": partial(step, partial(net.run, Mode.LOW)),
        "resolution only": partial(step, partial(half.run, Mode.LOW)),
    }
    if kind != EAGER:
        functions["plain compiled full"] = partial(step, torch.compile(model, **options))
    # Parameters, their momentum, buffers and the batch; gradients are there within a step only.
    held = [*model.parameters(), *model.parameters(), *model.buffers(), images]
    return functions, pair, sum(tensor.nbytes for tensor in held)


def peak_bytes(step: Callable[[], None], device: torch.device, held: int) -> int:
    """The most memory that one step holds: what the device's allocator says, or ``held`` and the process's growth."""
    if device.type != "cuda":
        with PeakMemory() as peak:
            step()
        return held + round(peak.megabytes * 2**20)
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def measure(
    case: Case, device: torch.device, kind: str, rounds: int, batch: int, mac_ratio: float | None
) -> dict[str, Any]:
    """One kind of step: the ratios of times, memory, profiles; and ``mac_ratio`` where it isn't known yet."""
    with marked_pooling() if kind == EAGER else contextlib.nullcontext():
        return _measured(case, device, kind, rounds, batch, mac_ratio)


def _measured(
    case: Case, device: torch.device, kind: str, rounds: int, batch: int, mac_ratio: float | None
) -> dict[str, Any]:
    counters.clear()
    functions, pair, held = steps(case, device, kind, batch)
    found: dict[str, Any] = {}
    if mac_ratio is None:
        full, low = count_step_flops(pair)
        found["mac_ratio"] = mac_ratio = low / full
    times = paired_steps(functions, device, rounds)
    found["low / full"] = paired_ratio(times["low"], times["full"])
    for name in list(functions)[2:]:
        found[f"{name} / full"] = paired_ratio(times[name], times["full"])
    found["time / macs"] = found["low / full"]["median"] / mac_ratio
    found["full seconds"], found["low seconds"] = summary(times["full"]), summary(times["low"])
    if kind == GRAPHS:
        # The pools of all graphs stay allocated: a peak would tell nothing of one mode. A skip would spoil the figure.
        found["cudagraph skips"] = counters["inductor"]["cudagraph_skips"]
    else:
        found["peak memory, bytes"] = {mode: peak_bytes(functions[mode], device, held) for mode in ("full", "low")}
    try:
        found["profile"] = {
            mode: profile_step(functions[mode], device, statistics.median(times[mode])) for mode in ("full", "low")
        }
    except RuntimeError as error:  # a machine that lets nobody see its kernels; the times are still good
        found["profile failed"] = str(error)
    return found


def line(name: str, row: dict[str, Any], kind: str) -> str:
    found, ratio = row[kind], row[kind]["low / full"]
    plain = found.get("plain compiled full / full")
    return (
        f"{name:21} {kind:11} low/full {ratio['median']:.3f} (quartiles {ratio['q1']:.3f} to {ratio['q3']:.3f}, "
        f"n = {ratio['n']})  resolution only {found['resolution only / full']['median']:.3f}  "
        f"macs {row['mac_ratio']:.3f}  time/macs {found['time / macs']:.2f}"
        + (f"  plain compiled {plain['median']:.3f}" if plain else "")
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"only {', '.join(SMALL)}")
    parser.add_argument("--cases", nargs="*", choices=CASES, help="instead of all")
    parser.add_argument(
        "--compile-mode", choices=KINDS, default="default", help="off: eager alone; cuda-graphs: on a GPU only"
    )
    parser.add_argument("--rounds", type=int, help="9 on a CPU, 31 of ten steps each on a GPU")
    parser.add_argument("--batch", type=int, help="instead of each case's own")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no measurement after so many")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the result file has")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    device, began = torch.device("cuda" if torch.cuda.is_available() else "cpu"), time.monotonic()
    if options.compile_mode == "cuda-graphs" and device.type == "cpu":
        parser.error("--compile-mode cuda-graphs needs a GPU")
    rounds = options.rounds or (31 if device.type == "cuda" else 9)
    torch.backends.cudnn.benchmark = True  # as training loops with images of one size have it
    path = options.out or RESULTS / f"step_time_{device.type}.json"
    precision = "bf16, channels_last" if device.type == "cuda" else "float32, channels_last images"
    head = header("step_time", rounds=rounds, small=options.small, precision=precision)
    rows = load_rows(path, options.resume)
    others = {name: row["batch"] for name, row in rows.items() if row["batch"] != (options.batch or CASES[name].batch)}
    if others:
        parser.error(f"{path} was measured with other batches, {others}; give another --out")
    failed = False
    for name in options.cases or (SMALL if options.small else CASES):
        case = CASES[name]
        batch = options.batch or case.batch
        for kind in KINDS[options.compile_mode]:
            row = rows.get(name, {"batch": batch, "side": case.side})
            if kind in row or time.monotonic() - began > options.seconds:
                continue
            try:
                # Names for the kernels that a compiler makes for a CPU; those for a GPU have them anyway.
                with inductor.patch({"cpp.enable_kernel_profile": True}):
                    found = measure(case, device, kind, rounds, batch, row.get("mac_ratio"))
            except Exception as error:  # out of memory, or a compiler's own fault: the other cases are still wanted
                print(f"{name:21} {kind:11} FAILED: {type(error).__name__}: {str(error).strip()[:500]}", flush=True)
                failed = True
            else:
                rows[name] = {**row, "mac_ratio": found.pop("mac_ratio", row.get("mac_ratio")), kind: found}
                save(path, head, rows)
                print(line(name, rows[name], kind), flush=True)
            _forget(device)
    report(rows, path, device.type)
    if failed:
        raise SystemExit(1)


def _forget(device: torch.device) -> None:
    """Give back what one measurement compiled and held, so that the next one starts as the first did."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
