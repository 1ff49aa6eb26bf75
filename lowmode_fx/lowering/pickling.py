"""Pickling: a pickled ladder holds its model and how it was built, and is captured again on loading.

Graphs call functions that are created at build time, which can't be pickled.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from lowmode_fx.capture.capture import Captured, capture_call, trace_call
from lowmode_fx.capture.inputs import ModelInputs
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import Ladder, ModePair, Rung, graph_digest
from lowmode_fx.lowering.lower import lower_quietly
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.report import PairReport


def rebuild_ladder(
    kind: type[Ladder],
    model: nn.Module,
    inputs: ModelInputs,
    rungs: Sequence[tuple[Mode, LowModeConfig, PairReport]],
    digest: str,
    live: bool,
) -> Ladder:
    """The ladder that was pickled, captured again from its model.

    Raises ``ValueError`` if the graphs differ.
    """
    report = rungs[0][2]
    # The dtype of the model, and of its images, may have changed since the pair was built.
    front_end: Any = report.front_end
    capture = trace_call if live else capture_call
    traced = capture(model, inputs, inputs.blank_for(model), front_end, report.leaf_modules)
    captured = replace(traced, live=live)
    made = tuple(_lowered_again(captured, *rung) for rung in rungs)
    ladder = kind(model, captured.graph_module, made, captured.inputs, live)
    if graph_digest(ladder) != digest:
        raise ValueError(
            f"the pickled pair of {report.model} no longer matches its model: the model's code, its flags or "
            "the version of torch changed; build the pair again"
        )
    return ladder


def _lowered_again(captured: Captured, mode: Mode, config: LowModeConfig, report: PairReport) -> Rung:
    rung = lower_quietly(captured, config, mode)
    # The configuration was fitted to the model already; only the first report has a note on that.
    return replace(rung, report=replace(rung.report, notes=report.notes))


def _reduce(ladder: Ladder) -> tuple[Callable[..., Ladder], tuple[Any, ...]]:
    kept = tuple((rung.mode, rung.config, rung.report) for rung in ladder.rungs)
    return rebuild_ladder, (type(ladder), ladder.model, ladder.inputs, kept, graph_digest(ladder), ladder.live)


for _kind in (Ladder, ModePair):
    copyreg.pickle(_kind, _reduce)
