"""How much memory a piece of work took at its highest, beyond what the process held before."""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """``with PeakMemory() as peak: …``, then ``peak.megabytes``.

    Where the kernel lets a process reset its own high-water mark, the growth is exact; elsewhere it is what the whole
    process's mark grew by, which earlier work may hide.
    """

    megabytes: float = 0.0

    def __enter__(self) -> PeakMemory:
        try:
            _RESET.write_text("5")
            self._before = _kilobytes("VmRSS")
        except OSError:
            self._before = _high_water()
        return self

    def __exit__(self, *_: object) -> None:
        self.megabytes = max(0, _high_water() - self._before) / 1024


def _high_water() -> int:
    try:
        return _kilobytes("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _kilobytes(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])
