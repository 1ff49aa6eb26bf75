"""``lower``: make one low mode from a captured model and a configuration (§2.2)."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import fx

from lowmode_fx.capture.capture import Captured
from lowmode_fx.capture.inputs import ModelInputs
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.draft import Draft
from lowmode_fx.lowering.equal_rungs import noted_equals
from lowmode_fx.lowering.ladder import Ladder, ModePair, Rung
from lowmode_fx.lowering.least_side import ShortMap, short_maps, short_maps_until, smaller_ratios
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.notes import no_effect, notes
from lowmode_fx.lowering.report import NoEffectWarning, PairReport
from lowmode_fx.lowering.trial_step import try_step
from lowmode_fx.utils.validation import wrong_type
from passes import (
    GraphPass,
    PassContext,
    PassError,
    adapt_heads,
    bind_graph,
    drop_maxpools,
    isolate_batchnorm,
    pool_weights,
    resize_head,
    restore_output,
    run_passes,
    set_strides,
)
from passes.checks import check_poolable, single_pixel_norms, works_on_less
from passes.errors import WHOLE, OptionError, Way, whole_images
from passes.preserve import train_mode
from passes.shapes import record_full_shapes
from passes.spelling import setting
from passes.wording import first_line, sides


def low_mode_passes(config: LowModeConfig) -> tuple[GraphPass, ...]:
    """The passes in their order: max pools and strides, kernels, norms, then heads and outputs."""
    isolate: tuple[GraphPass, ...] = (isolate_batchnorm,) if config.batchnorm == "isolate" else ()
    restore: tuple[GraphPass, ...] = (restore_output,) if config.restore_output else ()
    return (
        partial(drop_maxpools, which=config.drop_maxpools),
        partial(set_strides, strides=config.strides),
        partial(pool_weights, rule=config.pooling_rule),
        *isolate,
        adapt_heads,
        partial(resize_head, adapt_head=config.adapt_head),
        *restore,
    )


def lower(captured: Captured, config: LowModeConfig | None = None, mode: Mode = Mode.LOW) -> Rung:
    """Make one low mode of a captured model; a capture serves any number of them.

    Args:
        captured: The model, from ``capture``.
        config: Options of the low mode; by default ``LowModeConfig()``.
        mode: Name of the low mode.

    Returns:
        The rung, for a ``Ladder``.

    Raises:
        PassError: No correct low mode exists for this model and configuration (a ``ValueError``).
        TypeError: An argument has the wrong type.

    Warns:
        NoEffectWarning: No kernel is pooled and no max pool is dropped.
    """
    if not isinstance(captured, Captured):
        raise wrong_type("captured", captured, "what capture(model, example_input) returned")
    rung = lower_quietly(captured, check_config(config), mode)
    warn_of(rung.report)
    return rung


def check_config(config: Any, name: str = "config") -> LowModeConfig:
    """The configuration; for ``None`` that of the defaults. Raises ``TypeError`` for anything else."""
    if config is not None and not isinstance(config, LowModeConfig):
        raise wrong_type(name, config, "a LowModeConfig, such as LowModeConfig(ratio=2)")
    return LowModeConfig() if config is None else config


def lower_quietly(captured: Captured, config: LowModeConfig, mode: Mode) -> Rung:
    """``lower`` without its warning. A refusal offers what helps: its ways are tried."""
    try:
        return _lower_to_fit(captured, config, mode)
    except PassError as error:
        error.offer([way for way in error.ways if helps(captured, config, way.options)])
        raise
    except OptionError as error:
        if error.parameter == "ratio" and helps(captured, config, WHOLE):
            error.hint += f", or {setting('downsample_input', False)} to keep them at full size"
        raise


def helps(captured: Captured, config: LowModeConfig, options: Mapping[str, Any]) -> bool:
    """Whether these options, beside the others, give a low mode that does less than full-mode; ``True`` for none."""
    if not options:
        return True
    try:
        rung, low = _lower(captured, replace(config, **options), Mode.LOW)
    except ValueError:
        return False
    return bool(rung.report.pooled) or (options != WHOLE and works_on_less(low))


def _lower_to_fit(captured: Captured, config: LowModeConfig, mode: Mode) -> Rung:
    if config.min_side == 1 or not config.downsample_input:
        return _lower(captured, config, mode)[0]
    image = captured.inputs.image.shape[2:]
    short: list[ShortMap] = []

    def tried(config: LowModeConfig, note: str = "") -> Rung | None:
        """The rung if no map is too short. Raises ``ValueError`` where a model fails for another reason."""
        try:
            rung, low = _lower(captured, config, mode, note)
        except ValueError as error:
            short[:] = short_maps_until(error, config.min_side, len(image))
            if not short:
                raise
            return None
        short[:] = short_maps(low, config.min_side, len(image))
        return None if short else rung

    with contextlib.suppress(ValueError):  # smaller images may be none, or none that the model takes
        if (rung := tried(config)) is not None:
            return rung
    for smaller, note in smaller_ratios(config, captured.graph_module, image, short):
        if (rung := tried(smaller, note)) is not None:
            return rung
    raise AssertionError("smaller ratios come to an end by an error")


def _lower(captured: Captured, config: LowModeConfig, mode: Mode, fitted: str = "") -> tuple[Rung, fx.GraphModule]:
    """One low mode, and its graph with its shapes. fitted: a note on how the configuration was changed."""
    model, full = captured.model, captured.graph_module
    inputs = low_inputs(captured.inputs, config)
    if config.pools_kernels:
        check_poolable(full, type(model).__name__, config.pool_convs, config.downsample_input)
    with train_mode(model):
        graph, failed = _low_graph(captured, inputs)
        low = bind_graph(model, graph, "Draft", draft=True)
        draft = None if captured.live else _proven_draft(captured, low.graph, inputs)
        record_full_shapes(low.graph, full.graph)
        context = PassContext(full, inputs.blank_for(model), captured.front_end.any_size)
        run_passes(low, low_mode_passes(config), context)
    full_sides, low_sides = captured.inputs.image.shape[2:], inputs.image.shape[2:]
    effect, lone = no_effect(config, context, low_sides, full_sides), single_pixel_norms(full, low)
    report = PairReport(
        model=type(model).__name__,
        front_end=captured.front_end.name,
        front_end_failures=captured.failures,
        input_shape=captured.inputs.image.shape,
        low_input_shape=inputs.image.shape,
        passes=tuple(context.reports),
        notes=tuple(filter(None, (fitted, *notes(full_sides, low_sides, config, context, low, effect, lone)))),
        input_dtype=captured.inputs.image.dtype,
        leaf_modules=captured.leaf_modules,
        any_size=captured.front_end.any_size,
        no_effect=effect,
        least_batch=2 if lone else 1,
    )
    rung = Rung(mode, model, low.graph, config, inputs, report, draft)
    if failed is not None:
        try_step(Ladder(model, full, (rung,), captured.inputs, captured.live), rung)
    return rung, low


def pair_of(captured: Captured, config: LowModeConfig) -> ModePair:
    """A captured model with one low mode, as from ``build_pair``, without a warning. Raises as ``lower`` does."""
    rung = lower_quietly(captured, config, Mode.LOW)
    return ModePair(captured.model, captured.graph_module, (rung,), captured.inputs, captured.live)


def ladder_of(captured: Captured, named: Sequence[tuple[Mode, LowModeConfig]]) -> Ladder:
    """A captured model with several low modes, cheapest first, as from ``build_ladder``. Raises as ``lower`` does."""
    rungs = tuple(lower_quietly(captured, config, mode) for mode, config in named)
    return Ladder(captured.model, captured.graph_module, noted_equals(rungs), captured.inputs, captured.live)


def low_inputs(inputs: ModelInputs, config: LowModeConfig) -> ModelInputs:
    """The model's call on images of low-mode's size. Raises ``ValueError`` if the ratio is too large for them."""
    return inputs.with_image_sides(config.low_sides) if config.downsample_input else inputs


def warn_of(report: PairReport) -> None:
    """Warn the caller of a public function if low-mode has no effect beyond the resolution."""
    if report.no_effect:
        smaller = report.low_input_shape != report.input_shape
        see = setting("pool_convs") if smaller else f"{setting('ratio')} and {setting('pool_convs')}"
        warnings.warn(f"{report.no_effect}; see {see}", NoEffectWarning, stacklevel=3)


def _proven_draft(captured: Captured, graph: fx.Graph, inputs: ModelInputs) -> Draft:
    draft = Draft(captured, copy.deepcopy(graph), inputs)
    return draft.proven(again=captured.front_end.any_size)


def _low_graph(captured: Captured, inputs: ModelInputs) -> tuple[fx.Graph, Exception | None]:
    try:
        return captured.graph_for(inputs)
    except Exception as error:
        size = sides(inputs.image.shape[2:])
        cause = first_line(error)
        raise PassError(
            f"{captured.front_end.name} can't trace the model on {size} inputs: {cause}",
            *(Way("use an input size that can be halved more often"), whole_images()),
        ) from error
