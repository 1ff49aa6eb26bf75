"""Random command lines and image folders: does every one end in a result or in a one-line message?

python -m bench.fuzz_cli --small     # 200 command lines, 30 folders
python -m bench.fuzz_cli             # 2,000 and 300

Each runs in this process, in a folder of its own. It counts results (status 0), refusals (status 2 and one line on
standard error) and faults: a traceback, another status, a message of several lines or with Python code in it
(``low_weight=``, ``PosixPath``), a hang, or a run folder that a refused command has changed. A command hangs that
takes more than five minutes of this process's CPU time, however busy the machine is, or waits for half an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import torch
import typer
from torch import nn

from bench.fuzz_folders import draw_folder
from bench.harness import RESULTS, header, load_rows, save
from lowmode_fx import cli

MODEL = "bench.fuzz_cli:tiny"
CPU_SECONDS = 300
SECONDS = 1800  # on the wall: for a command that waits, and takes no CPU time
#: Wrong values, for any option.
ODD: tuple[str, ...] = (
    *("", " ", ",", ",,", "-1", "0", "nan", "inf", "-inf", "1e300", "10²¹", "9" * 20, "abc", "0.5x", "x", "🦆", "a=b"),
    *("%s", "{}", "../..", "/", "1/0", "4/3/2", "0.1,0.2", "None", "true"),
)
#: Plausible values, by option; an option without a list takes any of them.
PLAIN: dict[str, Sequence[str]] = {
    "ratio": ("2", "4/3", "1x2", "1.5", "3"),
    "kernel_ratio": ("1", "2", "3/2"),
    "size_multiple": ("1", "2", "4"),
    "pool_convs": ("dense", "all", "0", "3,0"),
    "keep_convs": ("0", "3"),
    "drop_maxpools": ("none", "stem", "all"),
    "strides": ("0=1", "3=1x1"),
    "ladder": ("2x1,1x1", "4x1,2x1,1x1", "2,1", "2"),
    "shares": ("0.5,0.5", "0.5,0.25,0.25"),
    "p": ("0.5", "1", "0.8,0", "0.5x1,0x1"),
    "tail": ("0.5", "0", "1"),
    "period": ("2", "3"),
    "measure_every": ("100", "80"),
    "hold_epochs": ("0", "1"),
    "low_weight": ("0.5", "1"),
    "epochs": ("1", "2"),
    "batch_size": ("250", "300"),
    "lr": ("0.1", "0.01"),
    "milestones": ("1", "1,2"),
    "warmup_epochs": ("0", "1"),
    "weight_decay": ("0", "0.001"),
    "momentum": ("0", "0.9"),
    "clip_grad_norm": ("1", "0.01"),
    "label_smoothing": ("0", "0.1"),
    "optimizer": ("sgd", "adamw", "lamb"),
    "lr_gamma": ("0.5", "1"),
    "decay_epochs": ("1", "2"),
    "patience_epochs": ("0", "1"),
    "class_weights": ("balanced", "1,1,1,1,1,1,1,1,1,5"),
    "criterion": ("cross_entropy", "bce", "torch.nn:CrossEntropyLoss"),
    "ema": ("0.9", "0"),
    "augment": ("none", "standard", "strong", "auto,mixup", "flip,cutmix=0.5", "crop,trivialaugment"),
    "precise_bn": ("0", "2"),
    "seed": ("0", "7"),
    "device": ("cpu", "auto"),
    "image_size": ("8",),
    "in_chans": ("1", "3"),
    "workers": ("0", "1"),
    "steps": ("2", "4"),
    "batches": ("2",),
    "ratios": ("2", "2,1"),
    "seconds": ("2",),
    "num_classes": ("2", "10"),
    "input_size": ("8", "8x16"),
    "submodule": ("0", "3"),
    "mode": ("low", "r2"),
    "part": ("0", "3"),
    "out": ("out.svg", "out.json", "out.png", "run"),
    "tuned": ("nowhere.json",),
}
ANY = tuple(value for values in PLAIN.values() for value in values)
MODELS: tuple[str, ...] = (*(MODEL,) * 24, "bench.fuzz_cli:raises", "bench.fuzz_cli:prints", "bench.fuzz_cli:nothing")
MODELS += ("no.such:thing", "resnet999", "", "torchvision:none", "bench.fuzz_cli:returns_a_dict", "json:dumps")
DATA = ("digits",) * 30 + (
    "mnist",
    "folder:nowhere",
    "folder:",
    "cifar10:.",
    "",
    "digits:x",
    "folder:.",
    "parquet:.",
    "webdataset:nowhere",
)
#: Given first, so that random options override them: small images, few steps, no compiler.
QUICK = {
    "train": ("--image-size", "8", "--epochs", "2", "--batch-size", "250", "--no-compile", "--device", "cpu"),
    "tune": ("--image-size", "8", "--epochs", "2", "--measure", "macs", "--seconds", "2", "--device", "cpu"),
    "probe": ("--image-size", "8", "--steps", "2", "--batches", "2", "--device", "cpu"),
    "report": ("--input-size", "8"),
    "draw": ("--input-size", "8"),
}
WEIGHTS = {"train": 9, "report": 6, "draw": 3, "probe": 2, "tune": 1}


def tiny(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(in_chans, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


def raises(num_classes: int = 10) -> nn.Module:
    raise KeyError("depth")


def prints(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    print("a callable that prints")
    return tiny(num_classes, in_chans)


def returns_a_dict(num_classes: int = 10) -> Any:
    return {"model": tiny(num_classes)}


def parameters() -> dict[str, list[Any]]:
    """The options of each command, from typer."""
    group: Any = typer.main.get_command(cli.app)
    return {
        name: [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
        for name, command in group.commands.items()
    }


def draw_line(rng: random.Random, options: dict[str, list[Any]]) -> list[str]:
    """A command line: a command, its model and data, and up to four options, valid or not."""
    command = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    line = [command, rng.choice(MODELS)]
    if command in ("train", "tune", "probe"):
        line += ["--data", rng.choice(DATA)]
    line += QUICK[command]
    for option in rng.sample(options[command], rng.randint(0, 4)):
        if option.name in ("data", "compile"):  # compiling is slow and tests nothing of the command line
            continue
        line.append(rng.choice(option.opts))
        if not option.is_flag:
            choices = get_args(option.type_descriptor.annotation) or PLAIN.get(option.name, ANY)
            line.append(rng.choice(ODD if rng.random() < 0.2 else choices))
    if rng.random() < 0.02:
        line.insert(rng.randint(0, len(line)), rng.choice(("--nope", "extra", "-x", "--help")))
    return line


class TooLongError(BaseException):
    """The time limit is over."""


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLongError(
        f"more than {CPU_SECONDS} s of CPU time" if number == signal.SIGPROF else f"more than {SECONDS} s"
    )


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise ``TooLongError`` in what takes longer than ``CPU_SECONDS`` of CPU time, or ``SECONDS`` on the wall."""
    timers = {
        signal.ITIMER_PROF: (signal.SIGPROF, CPU_SECONDS),
        signal.ITIMER_REAL: (signal.SIGALRM, SECONDS),
    }
    handlers = {number: signal.signal(number, _too_long) for number, _ in timers.values()}
    try:
        for timer, (_, seconds) in timers.items():
            signal.setitimer(timer, seconds)
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def captured(encoding: str) -> Iterator[tuple[io.TextIOWrapper, io.TextIOWrapper]]:
    """Standard output and error, in an encoding."""
    streams = tuple(io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        yield streams[0], streams[1]


def run(line: Sequence[str], encoding: str = "utf-8") -> tuple[str, str]:
    """The outcome of a command line (``result``, ``refused`` or a fault), and its last line or the fault's text."""
    argv, sys.argv = sys.argv, ["lowmode-fx", *line]
    status: Any = 0
    try:
        with limited(), captured(encoding) as (_, error):
            try:
                cli.main()
            except SystemExit as ended:
                status = ended.code or 0
        said = bytes(error.buffer.getvalue()).decode(encoding)  # type: ignore[attr-defined]
    except TooLongError as too_long:
        return "hang", str(too_long)
    except BaseException as error_:
        return "traceback", f"{type(error_).__name__}: {error_}"
    finally:
        sys.argv = argv
    if status == 0:
        return "result", ""
    errors = [text for text in said.splitlines() if text.startswith("error: ")]
    if status != 2 or len(errors) != 1 or not said.rstrip().splitlines()[-1].startswith("error: "):
        return "no single line", f"status {status}: {said[-300:]}"
    if "set LOWMODE_FX_TRACEBACK" in errors[0]:
        return "refused by type alone", errors[0]
    if re.search(r"PosixPath|<[\w.]+ object at|\b[a-z]+_[a-z_]+=|settings\.", errors[0]):
        return "speaks Python", errors[0]
    return "refused", errors[0]


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


class Tally:
    """Counts of the outcomes so far, and the faults; ``rows`` holds them from one run to the next.

    keep: called when ``rows`` have changed, once in ``every`` outcomes.
    """

    def __init__(self, rows: dict[str, Any], keep: Callable[[], None], every: int) -> None:
        self.counts, self.faults = Counter(rows.get("counts", {})), list(rows.get("faults", ()))
        self.done = sum(self.counts.values())
        self._rows, self._keep, self._every = rows, keep, every

    def add(self, case: dict[str, Any], outcome: str, words: str, last: bool) -> None:
        """Count the outcome of a case."""
        self.counts[outcome] += 1
        self.done += 1
        if outcome not in ("result", "refused"):
            self.faults.append({**case, "outcome": outcome, "words": words[:400]})
        if last or self.done % self._every == 0:
            self._rows.update(counts=dict(self.counts), faults=self.faults)
            self._keep()


def fuzz_lines(rng: random.Random, count: int, rows: dict[str, Any], keep: Callable[[], None]) -> None:
    """Command lines; one in three trains into the folder of an earlier run."""
    options, tally = parameters(), Tally(rows, keep, every=50)
    for number in range(count):
        line, encoding = draw_line(rng, options), rng.choice(("utf-8", "utf-8", "ascii", "latin-1", "cp1252"))
        occupied = rng.random() < 0.33
        if number < tally.done:
            continue
        with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
            if occupied:
                shutil.copytree(finished_run(), "run")
                if line[0] == "train" and "--out" not in line:
                    line += ["--out", "run"]
            before = snapshot(Path("run"))
            outcome, words = run(line, encoding)
            if outcome.startswith("refused") and not set(before) <= set(snapshot(Path("run"))):
                outcome, words = "silent loss", words
        tally.add({"line": line}, outcome, words, number == count - 1)


_finished: list[Path] = []


def finished_run() -> Path:
    """The folder of a complete run, made once."""
    if not _finished:
        folder = Path(tempfile.mkdtemp(prefix="fuzz")) / "run"
        outcome, words = run(["train", MODEL, "--data", "digits", *QUICK["train"], "--out", str(folder)])
        if outcome != "result":
            raise RuntimeError(f"the run to copy ended with {outcome}: {words}")
        _finished.append(folder)
    return _finished[0]


def fuzz_folders(rng: random.Random, count: int, rows: dict[str, Any], keep: Callable[[], None]) -> None:
    """Image folders with irregular files, as the data of a short run."""
    tally = Tally(rows, keep, every=10)
    for number in range(count):
        seed = rng.random()
        if number < tally.done:
            continue
        with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
            kinds = draw_folder(random.Random(seed), Path("set"))
            outcome, words = run(["train", MODEL, "--data", "folder:set", *QUICK["train"], "--batch-size", "2"])
        tally.add({"folder": kinds}, outcome, words, number == count - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="200 command lines and 30 folders")
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--folders", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="keep the rows in the result file")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz_cli.json")
    options = parser.parse_args()
    lines, folders = (200, 30) if options.small else (options.lines, options.folders)
    out = options.out.resolve()
    head = header("fuzz_cli", lines=lines, folders=folders, seed=options.seed)
    rows: dict[str, Any] = load_rows(out, options.resume)
    os.environ["COLUMNS"] = "80"

    def keep() -> None:
        save(out, head, rows)

    began = time.process_time()
    fuzz_lines(random.Random(options.seed), lines, rows.setdefault("lines", {}), keep)
    fuzz_folders(random.Random(options.seed + 1), folders, rows.setdefault("folders", {}), keep)
    for name, row in rows.items():
        print(f"{name}: {', '.join(f'{count} {outcome}' for outcome, count in sorted(row['counts'].items()))}")
    print(f"{time.process_time() - began:.0f} s of CPU time")


if __name__ == "__main__":
    main()
