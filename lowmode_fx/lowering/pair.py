"""``build_pair`` and ``build_ladder``: capture a model once, and lower it to one mode or several."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lowmode_fx.capture.capture import capture
from lowmode_fx.capture.frontends import FrontEndName
from lowmode_fx.capture.images import Argument
from lowmode_fx.lowering import pickling as pickling  # registers how ladders are pickled
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import Ladder, ModePair
from lowmode_fx.lowering.lower import check_config, ladder_of, pair_of, warn_of
from lowmode_fx.lowering.report import NoEffectWarning
from lowmode_fx.lowering.rung_names import about_order, rung_names
from lowmode_fx.lowering.sharded import is_sharded, over, unsharded_twin
from lowmode_fx.utils.collector import no_collections
from lowmode_fx.utils.validation import wrong_type
from passes.errors import OptionError
from passes.wording import near_matches_hint

#: The low modes of ``LadderSchedule.default(epochs)``, measured in docs/benchmarks/accuracy.md.
DEFAULT_LADDER = (LowModeConfig(ratio=2, kernel_ratio=1), LowModeConfig(ratio="4/3", kernel_ratio=1))


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
    """Capture a model and build its low-mode for downsampled images (§2.2).

    The model is left as it was: weights, buffers, train or eval mode and random number generators do not change.

    Args:
        model: The model, a ``torch.nn.Module``.
        example_input: What ``forward`` takes in full-mode: images ``(N, C, *S)``, a tuple of arguments, or a mapping of
            keywords (``{"pixel_values": …, "labels": …}``). Only shapes, dtypes and devices matter.
        config: Options of the low mode; by default ``LowModeConfig()``.
        front_end: What captures the graph: ``"fx"``, ``"export"``, ``"live"``, or ``"auto"`` for the first that works.
        images: The arguments that hold images, by name or position, if shapes alone do not show it.
        leaf_modules: Module classes that are not traced into; convolutions inside them are not pooled.
        submodule: Path of the part to transform (``"backbone"``); ``example_input`` is then the input of that part.

    Returns:
        The pair, for ``LowModeModel``.

    Raises:
        TraceError: The model can't be captured (a ``ValueError``).
        PassError: No correct low mode exists for this model and configuration (a ``ValueError``).
        ValueError: The example or the configuration does not fit the model.
        TypeError: An argument has the wrong type.

    Warns:
        NoEffectWarning: No kernel is pooled and no max pool is dropped.
    """
    config = check_config(config)
    part = _part(model, submodule)
    with no_collections():
        captured = capture(_traced(part), example_input, front_end, images=images, leaf_modules=leaf_modules)
        pair: ModePair = _of(part, pair_of(captured, config))
    warn_of(pair.report)
    return pair


def build_ladder(
    model: nn.Module,
    example_input: Any,
    configs: Sequence[LowModeConfig] | Mapping[str, LowModeConfig] | None = None,
    *,
    front_end: FrontEndName = "auto",
    images: Argument | Iterable[Argument] | None = None,
    leaf_modules: Sequence[type[nn.Module]] = (),
    submodule: str | None = None,
) -> Ladder:
    """Capture a model once and build a low mode for each configuration; full-mode is always the last rung.

    Args:
        model: The model, as in ``build_pair``.
        example_input: What ``forward`` takes, as in ``build_pair``.
        configs: Options of the low modes, in any order: the ladder puts the smallest images first, and for images of
            one size pooled kernels before kept ones. Modes are named after their ratios (``r2``, ``r4/3``; a single one
            ``low``), or by the keys of a mapping. By default r = 2 and 4/3 with kernels kept, the modes of
            ``LadderSchedule.default(epochs)``.
        front_end: As in ``build_pair``.
        images: As in ``build_pair``.
        leaf_modules: As in ``build_pair``.
        submodule: As in ``build_pair``.

    Returns:
        The ladder, for ``LowModeModel``.

    Raises:
        TraceError: The model can't be captured (a ``ValueError``).
        PassError: A low mode can't be built correctly (a ``ValueError``).
        ValueError: There is no configuration, or the example does not fit the model.
        TypeError: An argument has the wrong type.

    Warns:
        NoEffectWarning: In some mode no kernel is pooled and no max pool is dropped, or it does what another one does.
        UserWarning: A sequence of configurations is in another order than the ladder's, or has equal ones.
    """
    configs = DEFAULT_LADDER if configs is None else configs
    if not isinstance(configs, Iterable) or isinstance(configs, str):
        raise wrong_type("configs", configs, "a list of LowModeConfig, such as [LowModeConfig(ratio=2)]")
    given = _check_configs(configs)
    named = rung_names(given)
    for line in about_order(given, named) if isinstance(given, list) else ():
        warnings.warn(line, stacklevel=2)
    part = _part(model, submodule)
    with no_collections():
        captured = capture(_traced(part), example_input, front_end, images=images, leaf_modules=leaf_modules)
        built = ladder_of(captured, named)
    for rung in built.rungs:
        warn_of(rung.report)
        if rung.report.equals and not (isinstance(given, list) and given.count(rung.config) > 1):
            warnings.warn(f"{rung.mode}: {rung.report.notes[-1]}", NoEffectWarning, stacklevel=2)
    ladder: Ladder = _of(part, built)
    return ladder


def _part(model: Any, submodule: str | None) -> nn.Module:
    if isinstance(getattr(model, "ladder", None), Ladder):
        raise TypeError("model is already a LowModeModel; give net.pair.model")
    if not isinstance(model, nn.Module):
        raise wrong_type("model", model, "an nn.Module, such as timm.create_model returns")
    if isinstance(model, DistributedDataParallel):
        warnings.warn(
            "model is in DistributedDataParallel already, so the keys of its state dict begin with 'module.'; build of "
            "the model itself, then wrap or prepare the LowModeModel",
            stacklevel=3,
        )
    return model if submodule is None else _find_submodule(model, submodule)


def _traced(model: nn.Module) -> nn.Module:
    """The model to trace: itself, or its unsharded twin if it is sharded."""
    return unsharded_twin(model) if is_sharded(model) else model


def _of(model: nn.Module, ladder: Ladder) -> Any:
    return ladder if ladder.model is model else over(ladder, model)


def _check_configs(
    configs: Mapping[str, LowModeConfig] | Iterable[LowModeConfig],
) -> dict[str, LowModeConfig] | list[LowModeConfig]:
    """The configurations, each of which is one. Raises ``TypeError`` that names the first that isn't."""
    if isinstance(configs, Mapping):
        return {name: check_config(config, f"configs[{name!r}]") for name, config in configs.items()}
    return [check_config(config, f"configs[{place}]") for place, config in enumerate(configs)]


def _find_submodule(model: nn.Module, path: str) -> nn.Module:
    if not isinstance(path, str):
        raise wrong_type("submodule", path, "the path of a module, such as 'backbone'")
    try:
        return model.get_submodule(path)
    except AttributeError:
        names = [name for name, _ in model.named_modules() if name]
        kind, hint = type(model).__name__, near_matches_hint(path, names)
        raise OptionError("submodule", path, f"is no module of {kind}", hint) from None
