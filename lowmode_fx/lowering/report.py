"""What was done to make a low mode, and what it was made for: data, which renderers print."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from passes import Change, PassReport


class NoEffectWarning(UserWarning):
    """Low-mode differs from full-mode in the resolution only."""


@dataclass(frozen=True)
class PairReport:
    """What was done to make the low graph, and what it was made for.

    ``input_shape`` and ``low_input_shape`` are ``(N, C, *S)`` of the example's images in either mode, ``input_dtype``
    their type. ``leaf_modules``: the classes that were not traced into, by the user's wish. ``any_size``: the graphs
    hold for images of any size, not for the example's alone. ``no_effect``: why no kernel is pooled and no max pool
    dropped, where that was asked for; empty else. ``least_batch``: images that low-mode needs at once.
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
        """The report of one pass. Raises ``KeyError`` where that pass did not run."""
        for report in self.passes:
            if report.name == name:
                return report
        raise KeyError(name)

    @property
    def pooled(self) -> tuple[Change, ...]:
        """The convolutions whose kernels are pooled."""
        return self.of("pool_weights").changes
