"""``PairReport``: what the passes did to make a low mode, as data for renderers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from passes import Change, PassReport
from passes.spelling import setting
from passes.wording import sides


class NoEffectWarning(UserWarning):
    """Low-mode differs from full-mode only in the resolution, or not at all; or a mode does what another one does."""


@dataclass(frozen=True)
class PairReport:
    """What the passes did to make the low graph, and for which model and images.

    ``print(pair.report)`` shows it in lines, as ``lowmode-fx report`` does.

    Attributes:
        model: Name of the model's class.
        front_end: The front end that made the graph.
        front_end_failures: Errors of the front ends that were tried before, one line each.
        input_shape: Shape ``(N, C, *S)`` of the example's images in full-mode.
        low_input_shape: Their shape ``(N, C, *⌈S/r⌉)`` in low-mode.
        input_dtype: Their dtype.
        passes: The reports of the passes, in order.
        notes: Notes for the reader: rounded sides, options without effect, maps of another size.
        leaf_modules: Module classes that were not traced into, as the user requested.
        any_size: Whether the graphs hold for images of any size; otherwise for the example's only.
        no_effect: Why no kernel is pooled and no max pool is dropped, although that was requested; empty otherwise.
        least_batch: Smallest batch size that low-mode can normalise.
        equals: Name of the mode of the same ladder that has the same images and kernels; empty if there is none.
    """

    model: str
    front_end: str
    front_end_failures: tuple[str, ...]
    input_shape: tuple[int, ...]
    low_input_shape: tuple[int, ...]
    passes: tuple[PassReport, ...]
    notes: tuple[str, ...]
    input_dtype: torch.dtype = torch.float32
    leaf_modules: tuple[type[nn.Module], ...] = ()
    any_size: bool = True
    no_effect: str = ""
    least_batch: int = 1
    equals: str = ""

    def of(self, name: str) -> PassReport:
        """Return the report of one pass.

        Args:
            name: Name of the pass, such as ``"pool_weights"``.

        Raises:
            KeyError: The pass did not run.
        """
        for report in self.passes:
            if report.name == name:
                return report
        raise KeyError(name)

    @property
    def pooled(self) -> tuple[Change, ...]:
        """The convolutions whose kernels are pooled."""
        return self.of("pool_weights").changes

    def __str__(self) -> str:
        """The report in lines."""
        full, low = (sides(shape[1:]) for shape in (self.input_shape, self.low_input_shape))
        notes = [f"note: {note}" for note in (*self.notes, about_points([self])) if note]
        images = f"{self.model}: images of {low} in low-mode, of {full} in full-mode"
        return "\n".join([images, traced_line(self), *change_lines(self), *notes])


def about_points(reports: Iterable[PairReport]) -> str:
    """A note on kernels of 3×3 that have a single tap in some of these low modes; empty if there are none."""
    pooled = (change for report in reports for change in report.pooled)
    sites = {change.site for change in pooled if (change.before, change.after) == ("3×3", "1×1")}
    if not sites:
        return ""
    kernels = f"{len(sites)} kernels of 3×3 are" if len(sites) > 1 else "1 kernel of 3×3 is"
    return (
        f"{kernels} pooled to 1×1, as in the paper, whose setting ended below full-mode cut to the same time in the "
        f"runs measured here; give {setting('kernel_ratio', 1)} to keep kernels"
    )


def traced_line(report: PairReport) -> str:
    """What traced the model, and what failed to."""
    failures = f" (not by {'; '.join(report.front_end_failures)})" if report.front_end_failures else ""
    return f"traced by {report.front_end}{failures}"


def change_lines(report: PairReport) -> Iterator[str]:
    """What each pass changed and what it left alone, with the reasons; equal changes in one line."""
    for entry in report.passes:
        for (before, after), count in Counter((change.before, change.after) for change in entry.changes).items():
            yield f"{entry.name}: {count} × {before} → {after}"
        for reason, count in Counter(skip.reason for skip in entry.skips).items():
            yield f"{entry.name}: {count} left alone ({reason})"
