"""A run folder: ``metrics.csv``, ``summary.json``, ``curves.png``, ``checkpoint/``; nothing else in it is touched."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowmode_fx.train.names import CURRENT, CURVES, LOCK, METRICS, OWN_NAMES, PREVIOUS, SUMMARY
from lowmode_fx.train.records import EpochRecord, records_to_csv
from lowmode_fx.utils.atomic import write_text
from passes.spelling import setting

if TYPE_CHECKING:  # whether a folder can be used is known before torch is
    import torch

PACKAGES = ("torch", "torchvision", "timm", "numpy")


class RunFolder:
    """The place where one run leaves its files; each file is written atomically.

    ``options``: those of the command line, by parameter, which the summary holds for a run that goes on; else ``None``.
    """

    def __init__(
        self,
        path: Path,
        *,
        resume: bool = False,
        overwrite: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.options = options
        self._resume, self._overwrite = resume, overwrite
        self._checked = False  # one that is made by hand is taken as it is
        #: Whether a run in it has failed: what it had kept by then is still there.
        self.failed = False

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        resume: bool = False,
        overwrite: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> RunFolder:
        """A new folder, or an existing one with ``resume`` or ``overwrite``. Nothing is changed before ``prepare``.

        resume: of a folder that isn't there yet, starts a new run, so that a restarted job needs no other command.
        overwrite: remove the files of the old run and nothing else.

        Raises ``ValueError`` for a folder that holds a run (give one of the two), other things (give another one) or
        results without a checkpoint that could be resumed, and for one in which another process trains.
        """
        path = Path(path).expanduser()
        if resume and overwrite:
            raise ValueError(
                f"{setting('resume', True)} and {setting('overwrite', True)} exclude each other; give one of them"
            )
        if path.exists() and not path.is_dir():
            raise ValueError(f"run folder {str(path)!r} is a file; give another {setting('path')}")
        existing = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not os.access(existing, os.W_OK | os.X_OK):
            raise ValueError(
                f"run folder {str(path)!r} can't be written in {str(existing)!r}; give another {setting('path')}"
            )
        folder = cls(path, resume=resume, overwrite=overwrite, options=options)
        folder._checked = True
        folder._check_entries()
        if (path / LOCK).exists():  # a run that trains there is reported before any work
            with folder._lock():
                pass
        return folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Prepare the folder and keep other processes out. Raises ``ValueError`` where another one trains in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock():
            if self._checked:  # another run may have come and gone since the folder was opened
                self._check_entries()
            self.prepare()
            yield

    @contextmanager
    def _lock(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            path = str(self.path)
            raise ValueError(
                f"another process trains in {path!r}; wait for it, or give another {setting('path')}"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _check_entries(self) -> None:
        path, again, another = str(self.path), setting("overwrite", True), f"another {setting('path')}"
        entries = {child.name for child in self.path.iterdir()} - {LOCK} if self.path.exists() else set()
        if entries and not entries & {SUMMARY, CURRENT, PREVIOUS}:
            raise ValueError(f"folder {path!r} is not empty and holds no run; give {another}")
        if entries and not (self._resume or self._overwrite):
            raise ValueError(f"run folder {path!r} exists; give {setting('resume', True)}, {again} or {another}")
        if self._resume and METRICS in entries and not entries & {CURRENT, PREVIOUS}:
            raise ValueError(
                f"run folder {path!r} holds results and no checkpoint to resume from; give {again} to replace them, or "
                f"{another}"
            )

    def prepare(self) -> None:
        """Make the folder and clear it of a run that is to be overwritten: once all else is known to be right."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self._overwrite:
            for name in OWN_NAMES:
                target = self.path / name
                if target.is_dir():
                    shutil.rmtree(target)
                else:
                    target.unlink(missing_ok=True)
        self._overwrite = False

    def write_metrics(self, runs: Mapping[str, Sequence[EpochRecord]]) -> None:
        write_text(self.path / METRICS, records_to_csv(runs))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_text(self.path / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")

    def write_curves(self, runs: Mapping[str, Sequence[EpochRecord]], title: str = "") -> None:
        from lowmode_fx.train.plots import plot_curves

        if any(runs.values()):
            plot_curves(runs, self.path / CURVES, title=title)


def environment(device: torch.device) -> dict[str, Any]:
    """The hardware and the versions a run took place on, for JSON."""
    import torch

    from lowmode_fx.utils.devices import cpu_name
    from lowmode_fx.utils.version import PACKAGE, __version__

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    versions = {"python": platform.python_version(), PACKAGE: __version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # built from source, without metadata
    hardware = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": gpu,
    }
    return {"hardware": hardware, "versions": versions, "command": " ".join(sys.argv)}
