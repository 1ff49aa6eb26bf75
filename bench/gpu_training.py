"""Time to accuracy on one GPU: full-mode, ladders and other packages' schedules, each step one captured graph.

python -m bench.gpu_training --data PATH --seconds 200     # ResNet-18, CIFAR-10, batch 500; call again for more seeds
python -m bench.gpu_training --data PATH --study convmixer-13          # large kernels: a ConvMixer, batch 250
python -m bench.gpu_training --data PATH --small           # a small network, 400 images, uncompiled: tests the script

``PATH`` holds ``cifar10_a.zip``, with or without ``cifar10_b.zip`` (20,000 or 50,000 images). Rows go to a file of JSON
lines as they come: seconds, accuracy, steps, images seen, cost in full epochs, and whether steps were captured.
``--plan NAME FILE`` adds an arm: a JSON list of [mode, epochs]. ``--tune SECONDS`` trains the tuner's plan instead,
which is made on this device in so many seconds, once for a file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from bench.cifar_archives import Split, find_archives, load_archives
from bench.gpu_arena import Arena
from bench.gpu_studies import SMALL, STUDIES
from bench.gpu_tuned import tuned, tuned_study
from bench.harness import header, standard_error
from bench.plans import FULL, Arm, cost, planned
from lowmode_fx import Tuning
from lowmode_fx.utils.tables import markdown_table

SMALL_IMAGES = 400


class Rows:
    """A file of JSON lines, which is read when it is opened and extended row by row."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        text = path.read_text() if path.exists() else ""
        self.rows = [row for row in map(_parsed, text.splitlines()) if row is not None]
        if text and not text.endswith("\n"):  # cut off: the next row starts on a new line
            path.write_text(text + "\n")

    def add(self, row: dict[str, Any]) -> None:
        """Write a row at once, since the process may end later."""
        self.rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def trained(self) -> list[dict[str, Any]]:
        """The rows of finished runs."""
        return [row for row in self.rows if row["what"] == "arm"]

    def failed(self) -> list[dict[str, Any]]:
        """The rows of failed runs."""
        return [row for row in self.rows if row["what"] == "failed"]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:  # cut off when its process ended
        return None
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one row per arm, mean and standard error over seeds, in the order in which they finished."""
    lines = []
    for key in dict.fromkeys(map(_series, rows)):
        found = [row for row in rows if _series(row) == key]
        accuracies = [row["accuracy"] for row in found]
        mean = f"{statistics.fmean(accuracies):.2f}"
        if len(found) > 1:
            mean += f" ± {standard_error(accuracies):.2f}"
        cells = [key[0], key[1], f"{key[2]:,}", str(len(found)), mean]
        for name, digits in (("seconds", 1), ("cost, full epochs", 1), ("seconds by a loop", 1)):
            cells.append(f"{statistics.fmean(row[name] for row in found):.{digits}f}")
        cells += [f"{found[0]['steps']:,}", f"{found[0]['images']:,}"]
        share = statistics.fmean(row["replays"] / row["steps"] for row in found)
        lines.append([*cells, f"{100 * share:.0f}"])
    head = [
        "network",
        "arm",
        "images in the set",
        "seeds",
        "accuracy, %",
        "seconds",
        "full epochs of time",
        "seconds by a loop (from costs)",
    ]
    return markdown_table([*head, "steps", "images", "% of steps replayed"], lines, left=2)


def _series(row: dict[str, Any]) -> tuple[str, str, int]:
    """The key that rows of several seeds share."""
    return row["study"], row["arm"], row["images in the set"]


def run_arm(arena: Arena, arm: Arm, seed: int, splits: dict[str, Split], costs: dict[str, Any]) -> dict[str, Any]:
    """Run an arm; return its row."""
    per_epoch = len(splits["train"].labels) // arena.batch
    relative = relative_costs(costs)
    modes = arm.modes(per_epoch, relative, seed)
    found = arena.train(modes, splits["train"], seed, arm.over_macs)
    return {
        "what": "arm",
        "study": arena.study.name,
        "arm": arm.name,
        "seed": seed,
        "accuracy": arena.accuracy(splits["test"]),
        **found,
        "cost, full epochs": cost(modes, relative, per_epoch),
        "seconds by a loop": sum(costs["loop"][mode] for mode in modes),
        "share of each mode": {mode: modes.count(mode) / len(modes) for mode in arena.study.modes if mode in modes},
        "images in the set": len(splits["train"].labels),
        "batch": arena.batch,
        **arena.told(),
    }


def _tuned_before(rows: Rows, of: dict[str, Any]) -> Tuning | None:
    """The plan of an earlier call with the same file, made for the same run: ``of``."""
    plans = [row["tuning"] for row in rows.rows if row["what"] == "tuning" and row["of"] == of]
    return Tuning.from_dict(plans[-1]) if plans else None


def relative_costs(costs: dict[str, Any]) -> dict[str, float]:
    """The time of a captured step of each mode, divided by a full step's."""
    whole = costs["whole step"]
    return {mode: seconds / whole[FULL] for mode, seconds in whole.items()}


def load(data: Path, device: torch.device, small: bool, images: int | None = None) -> dict[str, Split]:
    """The images, on the device; a few of each class for a small run, or ``images`` to train on."""
    found = load_archives(find_archives(data))
    if small:
        found = {name: _thinned(each, SMALL_IMAGES) for name, each in found.items()}
    if images is not None:
        found["train"] = _thinned(found["train"], images)
    return {name: Split(each.images.to(device), each.labels.to(device)) for name, each in found.items()}


def _thinned(split: Split, count: int) -> Split:
    """A part of the images, with as many of each class, sorted by class."""
    chosen = torch.linspace(0, len(split.labels) - 1, min(count, len(split.labels))).long()
    return Split(split.images[chosen], split.labels[chosen])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds cifar10_a.zip")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu/training.jsonl"), help="a file of JSON lines")
    parser.add_argument("--study", choices=STUDIES, default="resnet18", help="the network and its recipe")
    parser.add_argument("--images", type=int, help="number of training images, as many of each class; by default all")
    parser.add_argument("--epochs", type=int, help="epochs of full-mode, instead of the study's")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no run that would end after this many seconds"
    )
    parser.add_argument("--seeds", type=int, help="9, with --small 1")
    parser.add_argument("--plan", nargs=2, action="append", default=[], metavar=("NAME", "FILE"), help="one more arm")
    parser.add_argument(
        "--tune", type=float, metavar="SECONDS", help="train the plan that the tuner makes in so many seconds, alone"
    )
    parser.add_argument("--skip-failed", action="store_true", help="skip runs that failed before")
    parser.add_argument("--small", action="store_true", help="a small network and few images")
    options = parser.parse_args(argv)
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    study = (SMALL if options.small else STUDIES)[options.study]
    epochs = options.epochs or study.epochs
    rows = Rows(options.out)

    def said(text: str) -> None:
        print(f"[{time.monotonic() - began:.0f} s] {text}", flush=True)

    head = header(
        "gpu_training",
        study=study.name,
        small=options.small,
        epochs=epochs,
        batch=study.batch,
        peak_rate=study.peak_rate,
    )
    splits = load(options.data, device, options.small, options.images)
    said(f"{len(splits['train'].labels)} + {len(splits['test'].labels)} images")
    if options.tune is not None:
        of = {"epochs": epochs, "images": len(splits["train"].labels), "batch": study.batch, "device": head["device"]}
        plan = _tuned_before(rows, of)
        if plan is None:
            plan = tuned(study, splits["train"], epochs, options.tune, device)
            rows.add({"what": "tuning", "study": study.name, "of": of, "tuning": plan.to_dict()})
        print(*plan.reasons, sep="\n", flush=True)
        study = tuned_study(study, plan)
    arena = Arena(study, device)
    costs = arena.costs()
    loading = arena.loading_seconds(splits["train"])
    row = {
        "what": "prices",
        "study": study.name,
        "seconds": costs,
        "loading an epoch, seconds": loading,
        **arena.told(),
        "header": head,
    }
    rows.add(row)
    shown = ", ".join(f"{mode} {cost:.3f}" for mode, cost in relative_costs(costs).items())
    full_ms = 1000 * costs["whole step"][FULL]
    said(f"full step {full_ms:.2f} ms; over it {shown}; loading an epoch {loading:.2f} s; {arena.told()}")

    every = [planned(name, json.loads(Path(file).read_text())) for name, file in options.plan]
    every += study.arms(epochs, relative_costs(costs))
    count = len(splits["train"].labels)
    per_epoch = count // study.batch
    ended = [*rows.trained(), *(rows.failed() if options.skip_failed else [])]
    known = {(row["study"], row["arm"], row["seed"], row["images in the set"]) for row in ended}
    late = False
    for seed in range(options.seeds or (1 if options.small else 9)):
        for arm in every:
            if (study.name, arm.name, seed, count) in known:
                continue
            modes = arm.modes(per_epoch, relative_costs(costs), seed)
            images = study.batch * sum(study.multipliers.get(mode, 1.0) for mode in modes)
            expected = 1.1 * (sum(costs["whole step"][mode] for mode in modes) + loading * images / count) + 1
            if time.monotonic() - began + expected > options.seconds:
                late = True
                continue  # a shorter run may still fit
            try:
                row = run_arm(arena, arm, seed, splits, costs)
            except Exception as error:  # the other arms go on, whatever the error
                text = f"{type(error).__name__}: {str(error).strip()[:500]}"
                row = {
                    "what": "failed",
                    "study": study.name,
                    "arm": arm.name,
                    "seed": seed,
                    "images in the set": count,
                    "error": text,
                }
                rows.add(row)
                said(f"seed {seed}  {arm.name:44} FAILED {text}")
                traceback.print_exc()
                if not _alive(device):
                    raise SystemExit(3) from error
                continue
            rows.add(row)
            said(
                f"seed {seed}  {arm.name:44} {row['accuracy']:.2f} %  {row['seconds']:6.1f} s  "
                f"{row['cost, full epochs']:5.1f} full epochs  {row['replays']} of {row['steps']} steps replayed"
                + (
                    ""
                    if row["compiled"] or not study.compile
                    else f", UNCOMPILED: {', '.join(row['uncompiled modes'])}"
                )
            )
            options.out.with_suffix(".md").write_text(f"# Time to accuracy\n\n{table(rows.trained())}\n")
        if late:
            break
    print(table(rows.trained()))


def _alive(device: torch.device) -> bool:
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


if __name__ == "__main__":
    main()
