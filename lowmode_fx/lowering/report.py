"""``PairReport``: what the passes did to make a low mode, as data for renderers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from passes import Change, PassReport


class NoEffectWarning(UserWarning):
    """Low-mode differs from full-mode only in the resolution, or not at all."""


@dataclass(frozen=True)
class PairReport:
    """What the passes did to make the low graph, and for which model and images.

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
