"""A run on two ranks, killed at any moment: does it go on to the bits of a run that nothing disturbed?

python -m bench.kill_ranks --kills 1     # once (two minutes)
python -m bench.kill_ranks               # twenty times (ten minutes or so)

``torchrun … lowmode-fx train`` runs once to its end. Other runs are killed a few times each, some time after each new
checkpoint: SIGKILL ends one rank (the first or the second), or every process of the job; ``--resume`` goes on.
At its end each must have the weights and metrics of the whole run, bit for bit; if not, none of its kills counts.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.harness import RESULTS, header, save

EPOCHS = 8
TRAIN = (
    "train", "mobilenetv3_small_050", "--data", "digits", "--epochs", str(EPOCHS), "--p", "0.5", "--tail", "0.25",
    "--batch-size", "120", "--no-compile", "--device", "cpu",
)  # fmt: skip
#: Kills of one run, at most.
EACH = 6
#: Who is killed, by turns.
VICTIMS = ("rank 0", "rank 1", "all")
#: Columns of metrics.csv that tell what was computed, not how long it took.
TIMES = ("seconds", "time")


def start(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start the run of two ranks, in a process group of its own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--", "lowmode_fx"]
    command = [sys.executable, *launcher, *TRAIN, "--out", str(folder), *more]
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True
        )


def finish(process: subprocess.Popen[bytes]) -> float:
    """Wait for a run that must succeed; seconds that it took."""
    began = time.monotonic()
    if process.wait(timeout=600):
        raise RuntimeError(f"the run failed with status {process.returncode}; see its log")
    return time.monotonic() - began


def kill(process: subprocess.Popen[bytes], victim: str) -> bool:
    """Kill one rank, or all processes of the job; whether there was anything left to kill."""
    if process.poll() is not None:
        return False
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    if victim == "all":  # torchrun gives its ranks sessions of their own
        for child in (process.pid, *map(int, children)):
            os.kill(child, signal.SIGKILL)
    else:
        rank = [child for child in children if _rank(child) == victim.removeprefix("rank ")]
        if not rank:
            return False
        os.kill(int(rank[0]), signal.SIGKILL)
    process.wait(timeout=600)
    return process.returncode != 0


def results(folder: Path) -> dict[str, Any]:
    """What a run has computed: a checksum of its weights, and its metrics without times."""
    weights = hashlib.sha256((folder / "checkpoint" / "model.safetensors").read_bytes()).hexdigest()
    names, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    kept = [place for place, name in enumerate(names) if not any(word in name for word in TIMES)]
    return {"weights": weights, "metrics": [[row[place] for place in kept] for row in rows]}


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[bytes], before: int) -> int:
    """Wait for another checkpoint than the one written at ``before``; when it was written, in nanoseconds."""
    file, written = folder / "checkpoint" / "state.pt", before
    while written == before and process.poll() is None:
        time.sleep(0.02)
        with contextlib.suppress(FileNotFoundError):
            written = file.stat().st_mtime_ns
    return written


def killed_run(folder: Path, waits: Sequence[tuple[float, str]]) -> list[dict[str, Any]]:
    """Start a run, kill it after each wait (seconds, victim) from a new checkpoint on, resume it; what was killed."""
    process, written, kills = start(folder), 0, []
    for seconds, victim in waits:
        written = wait_for_checkpoint(folder, process, written)
        time.sleep(seconds)
        if not kill(process, victim):
            break  # it was over before
        kills.append({"victim": victim, "seconds_after_checkpoint": round(seconds, 2)})
        with contextlib.suppress(FileNotFoundError):
            written = (folder / "checkpoint" / "state.pt").stat().st_mtime_ns
        process = start(folder, "--resume")
    finish(process)
    return kills


def _rank(process: str) -> str | None:
    variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next((entry.decode()[5:] for entry in variables if entry.startswith(b"RANK=")), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "kill_ranks_cpu.json")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary, "whole")
        process = start(whole)
        wait_for_checkpoint(whole, process, 0)
        epoch = finish(process) / (EPOCHS - 1)
        expected = results(whole)
        rows: list[dict[str, Any]] = []
        while len(rows) < options.kills:
            count = min(EACH, options.kills - len(rows))
            victims = [VICTIMS[(len(rows) + place) % len(VICTIMS)] for place in range(count)]
            folder = Path(temporary, f"killed-{len(rows)}")
            kills = killed_run(folder, [(draw.uniform(0, epoch), victim) for victim in victims])
            found = results(folder)
            rows += [{**each, "same_bits": found == expected} for each in kills]
            print(json.dumps(rows), flush=True)
            counted = {"kills": len(rows), "same_bits": sum(row["same_bits"] for row in rows)}
            head = header("bench/kill_ranks.py", command=" ".join(TRAIN), ranks=2, seed=options.seed)
            save(options.out, head, {"count": counted, "kills": rows})


if __name__ == "__main__":
    main()
