"""Rungs of a ladder that do the same: by rounding, other ratios may give images and kernels of the same size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lowmode_fx.lowering.ladder import Rung
from passes.pooling_rule import RESAMPLING
from passes.wording import sides


def noted_equals(rungs: Sequence[Rung]) -> tuple[Rung, ...]:
    """The rungs, each that has the images and the kernels of an earlier one with a note of it."""
    first: dict[object, Rung] = {}
    found = []
    for rung in rungs:
        other = first.setdefault(_work(rung), rung)
        found.append(rung if other is rung else _noted(rung, other))
    return tuple(found)


def _noted(rung: Rung, other: Rung) -> Rung:
    images = sides(rung.report.low_input_shape[2:])
    same = f"images of {images} and kernels of the same sizes"
    note = f"the mode is {other.mode} again: {same}; leave one out, or give other ratios"
    return replace(rung, report=replace(rung.report, notes=(*rung.report.notes, note), equals=other.mode.value))


def _work(rung: Rung) -> object:
    """What a low step does: equal for rungs that differ in nothing but names and rounded ratios."""
    report, config = rung.report, rung.config
    changes = tuple((each.name, each.changes) for each in report.passes)
    images = (report.low_input_shape, config.input_method if config.downsample_input else "")
    ratio = config.effective_kernel_ratio if config.kernel_transform in RESAMPLING else None
    return images, changes, (config.kernel_transform, config.gain, ratio) if report.pooled else ()
