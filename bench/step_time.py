"""Time of a low step divided by a full step's: forward, backward and optimizer, in several kinds.

python -m bench.step_time --small                      # two CPU cores: ResNet-18 and ResNet-50 with the CIFAR stem
python -m bench.step_time                              # everything; on a GPU in bf16 and channels_last
python -m bench.step_time --compile-mode cuda-graphs   # the same on a GPU, inductor's CUDA graphs, beside it
python -m bench.step_time --compile-mode off --batch 8 --cases vgg16 --out FILE    # uncompiled, smaller batches

*eager* and *compiled* steps are run in a loop, kernel by kernel; a *whole step* is one call of ``TrainStep`` over the
same compiled nets, on a GPU one replay of a CUDA graph; compiled and whole steps are measured in the same rounds.
Compared in the same rounds with every low step: images halved and kernels kept (progressive resizing), images of three
quarters, and the plain compiled model as its users run it, on full and on half-size images. Also measured:
the ratio of multiply-adds, memory, the host's time, and where the time goes.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import time
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config as inductor
from torch._dynamo.utils import counters

from bench.case import Case
from bench.harness import RESULTS, header, load_rows, paired_ratio, paired_steps, save, summary, timed
from bench.networks import CASES, GPU_CASES, TINY
from bench.step_functions import (
    COMPILED,
    EAGER,
    GRAPHS,
    KEPT,
    LOW,
    PLAIN_FULL,
    PLAIN_HALF,
    WHOLE,
    Step,
    Steps,
    capture_all,
    captured,
    steps,
)
from bench.step_profile import marked_pooling, profile_step
from bench.step_report import report
from bench.zoo.measure import PeakMemory
from lowmode_fx import count_step_flops
from lowmode_fx.utils.devices import synchronize

SMALL = ("resnet18-cifar", "resnet50-cifar")
#: Kinds of steps, those in one bracket measured in the same rounds.
KINDS = {
    "default": ((EAGER,), (COMPILED, WHOLE)),
    "off": ((EAGER,),),
    "cuda-graphs": ((GRAPHS,),),
    "whole-step": ((COMPILED, WHOLE),),
}
#: Number of steps that are timed at once on a GPU, so that the host runs ahead; fewer if steps are long.
INNER, LONG_SECONDS, LONG_INNER = 10, 0.010, 4
#: Exit status if this process has lost the device and another one may continue.
LOST = 3


def peak_bytes(step: Step, device: torch.device, held: int) -> int:
    """Peak memory of one step: by the device's allocator, or ``held`` plus the process's growth."""
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
    case: Case,
    device: torch.device,
    kinds: tuple[str, ...],
    rounds: int,
    batch: int,
    mac_ratio: float | None = None,
    profiled: bool = True,
    graphs: Any = None,
) -> dict[str, Any]:
    """Kinds of steps in the same rounds: for each the ratios of times, memory and profiles; ``mac_ratio`` once for all.

    ``graphs``: replaces CUDA graphs in tests.
    """
    with marked_pooling() if EAGER in kinds else contextlib.nullcontext():
        counters.clear()
        began = time.monotonic()
        found = steps(case, device, kinds, batch, graphs)
        if mac_ratio is None:
            full, low, *_ = count_step_flops(found.net.ladder)
            mac_ratio = low / full
        built = time.monotonic() - began
        pools = warm_up(found, device)
        ready = time.monotonic() - began - built
        rows = _timed(found, device, rounds, mac_ratio)
        for kind, row in rows.items():
            functions = found.kinds[kind]
            row["compiled"], row["uncompiled modes"] = not found.uncompiled, found.uncompiled
            row["seconds to build"], row["seconds to warm up"] = built, ready
            row["compiler"] = {name: dict(counters[name]) for name in ("frames", "inductor", "aot_autograd")}
            if kind == GRAPHS:
                # Their pools stay allocated, so a peak would not be of one mode.
                row["cudagraph skips"] = counters["inductor"]["cudagraph_skips"]
            elif kind != WHOLE:
                row["peak memory, bytes"] = {
                    mode: peak_bytes(functions[mode], device, found.held) for mode in ("full", LOW, KEPT)
                }
            else:
                row |= _whole_step(found, device) | pools
            if profiled:
                row |= _profiles(functions, device, row)
        return {"mac_ratio": mac_ratio, **rows}


def warm_up(found: Steps, device: torch.device) -> dict[str, Any]:
    """Compile and capture all steps, loops before whole steps. Returns the bytes of the captured steps' pool.

    Of full steps alone, and of all modes, which share one pool.
    """
    for kind, functions in found.kinds.items():
        if kind != WHOLE:
            for function in functions.values():
                function()
                function()
    if found.whole is None:
        return {}
    every, held = list(found.kinds[WHOLE].values()), _reserved(device)
    capture_all(found.whole, every[:1])
    full = _reserved(device) - held
    capture_all(found.whole, every)
    return {"pool, bytes": {"full": full, "all": _reserved(device) - held}} if device.type == "cuda" else {}


def _reserved(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    synchronize(device)
    gc.collect()
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_reserved(device))


def _timed(found: Steps, device: torch.device, rounds: int, mac_ratio: float) -> dict[str, Any]:
    functions = {(kind, name): step for kind, named in found.kinds.items() for name, step in named.items()}
    longest = max(timed(named["full"], device) for named in found.kinds.values())
    inner = 1 if device.type != "cuda" else INNER if longest < LONG_SECONDS else LONG_INNER
    times = paired_steps(functions, device, rounds, warmup=1, inner=inner)
    rows: dict[str, Any] = {}
    for kind, named in found.kinds.items():
        full, looped = times[kind, "full"], {}
        others = {name: times[kind, name] for name in named if name != "full"}
        if kind == WHOLE:  # compared with a loop's steps in the same rounds, and with peers
            looped = {name: times[of, name] for of, name in times if of == COMPILED}
            others |= {name: looped[name] for name in (PLAIN_FULL, PLAIN_HALF) if name in looped}
        row = rows[kind] = {f"{name} / full": paired_ratio(values, full) for name, values in others.items()}
        row["time / macs"] = row[f"{LOW} / full"]["median"] / mac_ratio
        row["seconds"] = {name: summary(values) for name, values in {"full": full, **others}.items()}
        row["full seconds"], row["low seconds"] = row["seconds"]["full"], row["seconds"][LOW]
        if looped:
            row["whole / loop"] = {name: paired_ratio(times[WHOLE, name], looped[name]) for name in named}
    return rows


def _whole_step(found: Steps, device: torch.device, calls: int = 20) -> dict[str, Any]:
    """The captures, and the host's seconds for a call of a captured step: for its launch, and for the rest."""
    whole, graphs = found.whole, found.graphs
    assert whole is not None
    row = captured(whole)
    if device.type != "cuda" or graphs is None:
        return row
    host, launch = [], []
    for _ in range(calls):
        synchronize(device)  # an empty queue, so that no launch waits
        before, began = graphs.seconds, time.perf_counter()
        found.kinds[WHOLE]["full"]()
        host.append(time.perf_counter() - began)
        launch.append(graphs.seconds - before)
    rest = [whole_call - launched for whole_call, launched in zip(host, launch, strict=True)]
    return row | {"host seconds": summary(host), "launch seconds": summary(launch), "runner seconds": summary(rest)}


def _profiles(functions: dict[str, Step], device: torch.device, row: dict[str, Any]) -> dict[str, Any]:
    try:
        return {
            "profile": {
                mode: profile_step(functions[mode], device, row[f"{mode} seconds"]["median"]) for mode in ("full", LOW)
            }
        }
    except RuntimeError as error:  # a machine that does not let profilers see kernels; the times are valid
        return {"profile failed": str(error)}


def line(name: str, row: dict[str, Any], kind: str) -> str:
    found, ratio = row[kind], row[kind]["low / full"]
    plain, loop = found.get(f"{PLAIN_FULL} / full"), found.get("whole / loop", {}).get("full")
    return (
        f"{name:21} {kind:11} low/full {ratio['median']:.3f} (quartiles {ratio['q1']:.3f} to {ratio['q3']:.3f}, "
        f"n = {ratio['n']})  resolution only {found['resolution only / full']['median']:.3f}  "
        f"macs {row['mac_ratio']:.3f}  time/macs {found['time / macs']:.2f}"
        + (f"  plain compiled {plain['median']:.3f}" if plain else "")
        + (f"  over the loop's {loop['median']:.3f}" if loop else "")
        + (
            ""
            if found.get("compiled", True) or kind == EAGER
            else f"  UNCOMPILED: {', '.join(found.get('uncompiled modes', ()))}"
        )
        + (f"  UNCAPTURED: {found['uncaptured']}" if found.get("uncaptured") else "")
        + (f"  optimizer outside: {found['optimizer outside']}" if found.get("optimizer outside") else "")
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"only {', '.join(SMALL)}")
    parser.add_argument("--cases", nargs="*", choices=[*{**CASES, **GPU_CASES, **TINY}], help="instead of all")
    parser.add_argument("--gpu-cases", action="store_true", help=f"{', '.join(GPU_CASES)}")
    parser.add_argument(
        "--compile-mode", choices=KINDS, default="default", help="off: eager alone; cuda-graphs: on a GPU only"
    )
    parser.add_argument("--rounds", type=int, help="9 on a CPU, 31 of ten steps each on a GPU")
    parser.add_argument("--batch", type=int, help="batch size, instead of each case's own")
    parser.add_argument(
        "--combo-kernels", action="store_true", help="let inductor merge small kernels, such as casts of weights"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no measurement after this many")
    parser.add_argument("--no-profile", action="store_true", help="do not profile where the time goes")
    parser.add_argument("--resume", action="store_true", help="keep the rows of the result file; failed ones come last")
    parser.add_argument("--skip-failed", action="store_true", help="with --resume: skip cases that failed before")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    device, began = torch.device("cuda" if torch.cuda.is_available() else "cpu"), time.monotonic()
    if options.compile_mode == "cuda-graphs" and device.type == "cpu":
        parser.error("--compile-mode cuda-graphs needs a GPU")
    rounds = options.rounds or (31 if device.type == "cuda" else 9)
    torch.backends.cudnn.benchmark = True  # as in training loops with images of one size
    path = options.out or RESULTS / f"step_time_{device.type}.json"
    precision = "bf16, channels_last" if device.type == "cuda" else "float32, channels_last images"
    head = header(
        "step_time", rounds=rounds, small=options.small, precision=precision, combo_kernels=options.combo_kernels
    )
    rows, cases = load_rows(path, options.resume), {**CASES, **GPU_CASES, **TINY}
    others = {name: row["batch"] for name, row in rows.items() if row["batch"] != (options.batch or cases[name].batch)}
    if others:
        parser.error(f"{path} was measured with other batches, {others}; give another --out")
    failed = False
    every = SMALL if options.small else GPU_CASES if options.gpu_cases else CASES
    # What has failed before may fail again, and end the process: nothing waits behind it.
    for name in sorted(options.cases or every, key=lambda name: bool(rows.get(name, {}).get("failures"))):
        case = cases[name]
        batch = options.batch or case.batch
        for kinds in KINDS[options.compile_mode]:
            row = rows.setdefault(name, {"batch": batch, "side": case.side})
            failures = row.setdefault("failures", {})
            label = " and ".join(kinds)
            if all(kind in row for kind in kinds) or (options.skip_failed and label in failures):
                continue
            if time.monotonic() - began > options.seconds:
                continue
            # If this process dies here, the next one skips the case.
            failures[label] = "began, and did not end"
            save(path, head, rows)
            try:
                # Names for the kernels that a compiler makes for a CPU; those for a GPU have them anyway.
                merged = {"combo_kernels": options.combo_kernels, "benchmark_combo_kernel": False}
                with inductor.patch({"cpp.enable_kernel_profile": True, **merged}):
                    profiled = not options.no_profile
                    row |= measure(case, device, kinds, rounds, batch, row.get("mac_ratio"), profiled)
            except Exception as error:  # out of memory, or a compiler's own fault: the other cases go on
                failures[label] = f"{type(error).__name__}: {str(error).strip()[:500]}"
                print(f"{name:21} {label:11} FAILED: {failures[label]}", flush=True)
                failed = True
            else:
                del failures[label]
                for kind in kinds:
                    print(line(name, row, kind), flush=True)
                report(_measured(rows), path, device.type)
            save(path, head, rows)
            if not _forget(device):
                raise SystemExit(LOST)
    report(_measured(rows), path, device.type)
    if failed:
        raise SystemExit(1)


def _measured(rows: dict[str, Any]) -> dict[str, Any]:
    """The rows with a measurement."""
    return {name: row for name, row in rows.items() if "mac_ratio" in row}


def _forget(device: torch.device) -> bool:
    """Release what one measurement compiled and allocated, so that the next one starts like the first.

    Returns whether the device still works.
    """
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        try:
            synchronize(device)
            torch.cuda.empty_cache()
        except RuntimeError as error:  # as after an illegal memory access, from which a process can't recover
            print(f"the device is lost: {str(error).strip()[:200]}", flush=True)
            return False
    return True


if __name__ == "__main__":
    main()
