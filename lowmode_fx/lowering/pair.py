"""``build_pair`` and ``build_ladder``: capture a model once, and lower it to one mode or to several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from lowmode_fx.capture.capture import capture
from lowmode_fx.capture.frontends import FrontEndName
from lowmode_fx.capture.images import Argument
from lowmode_fx.lowering import pickling as pickling  # which tells pickle how ladders are kept
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import Ladder, ModePair
from lowmode_fx.lowering.lower import lower_quietly, pair_of, warn_of
from lowmode_fx.lowering.rung_names import rung_names
from lowmode_fx.lowering.sharded import is_sharded, over, unsharded_twin
from lowmode_fx.utils.validation import wrong_type
from passes.wording import near_matches_hint


def build_pair(
    model: nn.Module,
    example_input: Any,
    config: LowModeConfig | None = None,
    *,
    front_end: FrontEndName = "auto",
    images: Argument | Iterable[Argument] | None = None,
    leaf_modules: Sequence[type[nn.Module]] = (),
    submodule: str | None = None,
) -> ModePair:
    """Trace ``model`` and make its low graph for images downsampled by ``config.ratio`` (§2.2).

    example_input: what ``forward`` takes in full-mode: images ``(N, C, *S)``, a tuple of arguments, or a mapping of
        keywords (``{"pixel_values": …, "labels": …}``); only shapes, dtypes and devices count.
    front_end: ``"fx"``, ``"export"``, or ``"auto"`` for the first that takes the model.
    images: the arguments that hold images, by name or place, where that is not plain from their shapes.
    leaf_modules: module classes that are not traced into; convolutions inside them stay whole.
    submodule: path of the part to transform (``"backbone"``), which the example is the input of.

    The model is left as it was: no weight, buffer, mode or RNG changes. Warns (``NoEffectWarning``) where no kernel is
    pooled and no max pool dropped. Raises ``PassError`` or ``TraceError`` (``ValueError``) where no pair can be right.
    """
    config = _check_config(config)
    part = _part(model, submodule)
    captured = capture(_traced(part), example_input, front_end, images=images, leaf_modules=leaf_modules)
    pair: ModePair = _of(part, pair_of(captured, config))
    warn_of(pair.report)
    return pair


def build_ladder(
    model: nn.Module,
    example_input: Any,
    configs: Sequence[LowModeConfig] | Mapping[str, LowModeConfig],
    *,
    front_end: FrontEndName = "auto",
    images: Argument | Iterable[Argument] | None = None,
    leaf_modules: Sequence[type[nn.Module]] = (),
    submodule: str | None = None,
) -> Ladder:
    """Trace ``model`` once and make a low mode for each of ``configs``; full-mode is always the last rung.

    configs: the low modes, in any order: the ladder has the smallest images first, and of images of one size pooled
        kernels before kept ones. Modes are named after their ratios (``r2``, ``r4/3``; a single one ``low``), or by the
        keys of a mapping.

    All else, what is raised and what is warned of, is as in ``build_pair``. Raises ``ValueError`` for no config at all.
    """
    named = rung_names(configs if isinstance(configs, Mapping) else [_check_config(config) for config in configs])
    part = _part(model, submodule)
    captured = capture(_traced(part), example_input, front_end, images=images, leaf_modules=leaf_modules)
    rungs = tuple(lower_quietly(captured, _check_config(config), mode) for mode, config in named)
    for rung in rungs:
        warn_of(rung.report)
    ladder: Ladder = _of(part, Ladder(captured.model, captured.graph_module, rungs, captured.inputs, captured.live))
    return ladder


def _part(model: Any, submodule: str | None) -> nn.Module:
    if isinstance(getattr(model, "ladder", None), Ladder):
        raise TypeError("the model is a LowModeModel already, with a pair of its own; give net.pair.model")
    if not isinstance(model, nn.Module):
        raise wrong_type("model", model, "an nn.Module, as timm.create_model makes it")
    return model if submodule is None else _find_submodule(model, submodule)


def _traced(model: nn.Module) -> nn.Module:
    """What is traced for ``model``: itself, or what stands for one that is sharded."""
    return unsharded_twin(model) if is_sharded(model) else model


def _of(model: nn.Module, ladder: Ladder) -> Any:
    return ladder if ladder.model is model else over(ladder, model)


def _check_config(config: Any) -> LowModeConfig:
    if config is not None and not isinstance(config, LowModeConfig):
        raise wrong_type("config", config, "a LowModeConfig, as LowModeConfig(ratio=2)")
    return LowModeConfig() if config is None else config


def _find_submodule(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        names = [name for name, _ in model.named_modules() if name]
        kind, hint = type(model).__name__, near_matches_hint(path, names)
        raise ValueError(f"submodule: {kind} has no {path!r}; {hint}") from None
