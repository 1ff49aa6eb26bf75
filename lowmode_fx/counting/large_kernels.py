"""The share of large kernels in a model's multiply-adds, and the cost that would be left if they were resized."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lowmode_fx.counting.once_a_step import work_on_weights
from lowmode_fx.counting.report import FlopReport
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from passes.match import conv_sites
from passes.pool_weights import reasons_to_keep
from passes.wording import sides

_FULL = str(Mode.FULL)


@dataclass(frozen=True)
class LargeKernels:
    """The kernels that ``pool_convs="large"`` selects.

    Attributes:
        counts: Number of kernels of each size, as ``{"13×13": 4}``.
        share: Their share of full-mode's macs.
        ratios: The macs of each low mode divided by full-mode's, if these kernels shrank with its images; kernels that
            are smaller already stay as they are.
        kept: The same if these kernels kept their size.
    """

    counts: Mapping[str, int]
    share: float
    ratios: Mapping[str, float]
    kept: Mapping[str, float]


def large_kernels(ladder: Ladder, flops: FlopReport) -> LargeKernels | None:
    """The large kernels of a ladder, given its count; ``None`` if no kernel is large or nothing was counted."""
    sites = conv_sites(ladder.full)
    macs, kept = dict(flops.macs), dict(flops.macs)
    if not macs[_FULL]:
        return None
    counts: Counter[str] = Counter()
    share = 0
    rules = {
        str(rung.mode): replace(rung.config, kernel_ratio=None, pool_convs="large", keep_convs=()).pooling_rule
        for rung in ladder.rungs
    }
    reasons = {mode: reasons_to_keep(ladder.full, sites, rule) for mode, rule in rules.items()}
    apart = work_on_weights(ladder)
    places = [place for place, site in enumerate(sites) if site.node.name not in apart]
    # The first rows are the convolutions of images, in the order of the sites.
    for place, layer in zip(places, flops.layers, strict=False):
        site = sites[place]
        large = [mode for mode in rules if reasons[mode][place] is None]
        if large:
            counts[sides(site.kernel)] += 1
            share += layer.full_macs
        for mode in large:
            taps = math.prod(map(int, layer.kernels[mode].split("×")))
            resized = layer.macs[mode] * math.prod(rules[mode].pooled(site.kernel)) // taps
            macs[mode] += min(resized, layer.macs[mode]) - layer.macs[mode]
            kept[mode] += layer.macs[mode] * math.prod(site.kernel) // taps - layer.macs[mode]
    if not counts:
        return None
    total = macs[_FULL]
    ratios, kept_ratios = ({mode: each[mode] / total for mode in rules} for each in (macs, kept))
    return LargeKernels(dict(counts), share / total, ratios, kept_ratios)
