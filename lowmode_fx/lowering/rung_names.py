"""Names and order of a ladder's low modes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction

from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.mode import Mode
from passes.ratios import ratio_text, side_ratios


def rung_names(configs: Sequence[LowModeConfig] | Mapping[str, LowModeConfig]) -> list[tuple[Mode, LowModeConfig]]:
    """Every configuration with the name of its mode, cheapest first.

    The smallest images come first, and for images of one size pooled kernels before kept ones. A mapping names its
    modes. Otherwise a single configuration is ``low``, several are named after their ratios (``r2``, ``r4/3``, ``r1x2``
    for one per side, ``whole`` for full-size images), and those with the same ratio are distinguished by their kernels
    (``r2-kept``) or by a number (``r2-2``).

    Raises ``ValueError`` if there is no configuration, or one is named ``full``.
    """
    if not configs:
        raise ValueError("configs is empty; give at least one LowModeConfig, as [LowModeConfig(ratio=2)]")
    if isinstance(configs, Mapping):
        if Mode.FULL.value in configs:
            raise ValueError("configs names a low mode 'full', which is reserved for full-mode; give it another name")
        cost = _cost(configs.values())
        return sorted(((Mode(name), config) for name, config in configs.items()), key=lambda pair: cost(pair[1]))
    ordered = sorted(configs, key=_cost(configs))
    if len(ordered) == 1:
        return [(Mode.LOW, ordered[0])]
    plain = [_ratio_name(config) for config in ordered]
    kept = [
        f"{name}-kept" if plain.count(name) > 1 and not config.pools_kernels else name
        for name, config in zip(plain, ordered, strict=True)
    ]
    seen: Counter[str] = Counter()
    names = []
    for name in kept:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return [(Mode(name), config) for name, config in zip(names, ordered, strict=True)]


def about_order(configs: Sequence[LowModeConfig], named: Sequence[tuple[Mode, LowModeConfig]]) -> Iterator[str]:
    """What is odd about configurations, a line each: another order than their ladder's, and equal ones.

    named: the modes of ``configs``, as ``rung_names`` gives them.
    """
    if [config for _, config in named] != list(configs):
        order = ", ".join([*(str(mode) for mode, _ in named), str(Mode.FULL)])
        yield (
            f"configs are not in the ladder's order, cheapest first, which is {order}; give epochs, shares and "
            "probabilities of a schedule in that order, or configs too"
        )
    for place, (mode, config) in enumerate(named):
        first = next(other for other, known in named[: place + 1] if known == config)
        if first is not mode:
            yield f"configs has one mode twice: {mode} is the same as {first}; leave one out"


def _ratio_name(config: LowModeConfig) -> str:
    return f"r{ratio_text(config.ratio).replace('×', 'x')}" if config.downsample_input else "whole"


def _cost(configs: Collection[LowModeConfig]) -> Callable[[LowModeConfig], tuple[Fraction, bool]]:
    """Sort key of rungs: the share of pixels, then whether kernels are kept."""
    # A ratio for all sides gives the same order for any number of sides; a ratio per side gives the number.
    count = max((len(config.ratio) for config in configs if isinstance(config.ratio, tuple)), default=1)

    def cost(config: LowModeConfig) -> tuple[Fraction, bool]:
        sides = side_ratios(config.ratio, count) if config.downsample_input else ()
        return 1 / math.prod((Fraction(side) for side in sides), start=Fraction(1)), not config.pools_kernels

    return cost
