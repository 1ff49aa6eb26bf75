"""How soon the command line answers: CPU seconds of whole processes that print help or refuse their arguments.

python -m bench.startup --small     # each command once (half a minute)
python -m bench.startup             # seven times

CPU time (user and system, of the process and its children) measures a command however busy the machine is. For
comparison, the smallest command that needs torch is measured too: a report of a small model.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.harness import RESULTS, header, load_rows, save, summary

TRAIN = ("train", "resnet18", "--data", "digits")
#: Command lines by their kind; all but the last answer without a model.
COMMANDS: dict[str, tuple[str, ...]] = {
    "no command": (),
    "help": ("--help",),
    **{f"help of {name}": (name, "--help") for name in ("report", "probe", "tune", "train", "evaluate", "draw")},
    "unknown command": ("trian",),
    "mistyped option": (*TRAIN, "--epoch", "3"),
    "missing option": ("train", "resnet18"),
    "unknown choice": ("report", "resnet18", "--format", "xml"),
    "unknown data": ("train", "resnet18", "--data", "mnist"),
    "missing folder": ("train", "resnet18", "--data", "folder:nowhere"),
    "rate out of range": (*TRAIN, "--lr", "-1"),
    "p out of range": (*TRAIN, "--p", "1.5"),
    "ratio out of range": (*TRAIN, "--ratio", "1"),
    "ladder out of order": (*TRAIN, "--ladder", "2x1,3x1"),
    "unknown model": ("train", "resnet81", "--data", "digits"),
    "unknown optimizer": (*TRAIN, "--optimizer", "adamv"),
    "unknown recipe": (*TRAIN, "--augment", "strog"),
    "unknown device": (*TRAIN, "--device", "toaster"),
    "no picture": ("draw", "resnet18", "--out", "pair.gif"),
    "tuned.json is missing": (*TRAIN, "--tuned", "nowhere.json"),
    "a report": ("report", "torchvision:squeezenet1_1", "--input-size", "64"),
}
NEEDS_TORCH = ("a report",)


def cpu_seconds(arguments: tuple[str, ...], folder: Path) -> float:
    """CPU time of ``lowmode-fx ARGUMENTS`` in an empty folder, from its start to its end."""
    command = [sys.executable, "-c", "from lowmode_fx.cli import main; main()", *arguments]
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 2):
        raise RuntimeError(f"{' '.join(arguments)} ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="each command once")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--resume", action="store_true", help="keep the rows in the result file")
    parser.add_argument("--out", type=Path, default=RESULTS / "startup_cpu.json")
    options = parser.parse_args()
    rounds = 1 if options.small else options.rounds
    head = header("startup", rounds=rounds)
    rows: dict[str, Any] = load_rows(options.out, options.resume)
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in COMMANDS.items():
            if name in rows:
                continue
            seconds = [cpu_seconds(arguments, Path(folder)) for _ in range(rounds)]
            rows[name] = {"command": " ".join(("lowmode-fx", *arguments)), "cpu seconds": summary(seconds)}
            rows[name]["cpu seconds"]["most"] = max(seconds)
            save(options.out, head, rows)
            print(f"{name}: {rows[name]['cpu seconds']['median']:.2f} s of CPU time", flush=True)
    quick = [row["cpu seconds"]["most"] for name, row in rows.items() if name not in NEEDS_TORCH]
    print(f"{len(quick)} answers without a model: at most {max(quick):.2f} s")


if __name__ == "__main__":
    main()
