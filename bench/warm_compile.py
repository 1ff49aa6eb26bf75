"""Compile everything that later benchmarks run, in parallel processes, into the compiler's cache on disk.

python -m bench.warm_compile --out OUT --seconds 110       # TORCHINDUCTOR_CACHE_DIR is the cache's folder

There is one process per network and mode, the most important first; finished jobs are noted in ``OUT`` and skipped by a
later call. A step that runs out of memory is compiled nevertheless: the cache is written before it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch._inductor.config as inductor
from torch._dynamo.utils import counters

from bench.gpu_arena import Arena
from bench.gpu_studies import CONV_MIXER, RESNET18, STUDIES
from bench.networks import GPU_CASES, TINY
from bench.step_functions import COMPILED, CONFIGS, GRAPHS, PLAIN_HALF, steps

#: Share of the device's memory for all processes together: tests run at the same time, and each needs some.
SHARE = 0.7
Job = tuple[str, str, str]  # what: a case, or a study of the training; the kind of step; its name


def jobs(small: bool) -> list[Job]:
    """Everything that is run later, in that order."""
    if small:
        return [("tiny", COMPILED, "low")]
    names, (first, second, *others) = ("full", *CONFIGS, PLAIN_HALF), GPU_CASES
    found = [(case, COMPILED, name) for case in (first, second) for name in names]
    found += [(study.name, COMPILED, mode) for study in (RESNET18, CONV_MIXER) for mode in study.modes]
    found += [(case, COMPILED, name) for case in others for name in names]
    return found + [(case, GRAPHS, name) for case in (first, second) for name in ("full", *CONFIGS)]


def run_job(job: Job, share: float) -> None:
    """Compile one step and run it. ``share``: the largest share of the device's memory."""
    what, kind, name = job
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(share)
    began = time.monotonic()
    try:
        # As in the measurement, or the cache would not be hit.
        with inductor.patch({"cpp.enable_kernel_profile": True}) if what not in STUDIES else contextlib.nullcontext():
            if what in STUDIES:
                Arena(STUDIES[what], device).looped(name)
            else:
                case = {**GPU_CASES, **TINY}[what]
                steps(case, device, (kind,), case.batch).kinds[kind][name]()
    except torch.OutOfMemoryError as error:
        print(f"out of memory, compiled nevertheless: {str(error).splitlines()[0][:200]}")
    found = {key: value for key, value in counters["inductor"].items() if "fxgraph" in key}
    print(f"compiled in {time.monotonic() - began:.0f} s: {found}", flush=True)


def run_all(wanted: Sequence[Job], out: Path, seconds: float, at_once: int) -> int:
    """Run jobs, ``at_once`` at a time, until all have ended or ``seconds`` have passed. Returns how many ended well."""
    out.mkdir(parents=True, exist_ok=True)
    began, done, waiting = time.monotonic(), 0, [job for job in wanted if not _note(out, job).exists()]
    running: dict[Job, subprocess.Popen[bytes]] = {}
    with contextlib.ExitStack() as files:
        while (waiting or running) and time.monotonic() - began < seconds:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                log = files.enter_context(_note(out, job).with_suffix(".log").open("wb"))
                command = [
                    sys.executable,
                    "-m",
                    "bench.warm_compile",
                    "--job",
                    *job,
                    "--share",
                    f"{SHARE / at_once:.3f}",
                ]
                running[job] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=_environment())
            for job in _ended(running):
                status = running.pop(job).returncode
                if status == 0:
                    _note(out, job).touch()
                    done += 1
                taken = time.monotonic() - began
                print(f"[{taken:.0f} s] {' / '.join(job)}: {'compiled' if status == 0 else 'FAILED'}", flush=True)
            time.sleep(0.1)
        for process in running.values():
            process.kill()
            process.wait()
    print(f"{done} compiled, {len(running)} stopped, {len(waiting)} not begun", flush=True)
    return done


def _note(out: Path, job: Job) -> Path:
    return out / ("_".join(job).replace(" ", "-").replace("/", "-").replace(",", "") + ".done")


def _ended(running: dict[Job, subprocess.Popen[bytes]]) -> Iterator[Job]:
    yield from [job for job, process in running.items() if process.poll() is not None]


def _environment() -> dict[str, str]:
    # Each process compiles by itself: pools of compilers for all of them would fight for the cores.
    return {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "2", "OMP_NUM_THREADS": "2"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu/compiled"), help="notes of what has been compiled")
    parser.add_argument("--seconds", type=float, default=110, help="seconds after which running jobs are ended")
    parser.add_argument("--at-once", type=int, help="number of processes; by default one per core, at most 14")
    parser.add_argument("--small", action="store_true", help="one small network")
    parser.add_argument("--job", nargs=3, metavar=("WHAT", "KIND", "NAME"), help="this process compiles one step")
    parser.add_argument("--share", type=float, default=1.0, help="share of the device's memory, with --job")
    options = parser.parse_args(argv)
    if options.job:
        run_job(tuple(options.job), options.share)
        return
    at_once = options.at_once or max(1, min(14, len(os.sched_getaffinity(0))))
    run_all(jobs(options.small), options.out, options.seconds, at_once)


if __name__ == "__main__":
    main()
