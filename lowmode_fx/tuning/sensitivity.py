"""Sensitivity per site: the saving if this kernel alone is pooled, and the agreement that it costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowmode_fx.counting.forward import count_flops
from lowmode_fx.counting.handles import Handle
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.lower import pair_of
from lowmode_fx.tuning.candidates import try_pair
from lowmode_fx.tuning.trials import Point, Probe


@dataclass(frozen=True)
class SiteProbe:
    """One convolution, pooled alone: ``saved`` macs as a share of the full forward's, and the ``lost`` cosine.

    ``lost_error``: standard error over the batches. ``lost`` is negative if pooling brings the gradients closer.
    """

    name: str
    kernel: str
    pooled: str
    saved: float
    lost: float
    lost_error: float


@dataclass(frozen=True)
class ModelProbe:
    """The whole model with its kernels kept and with all of them pooled, and each site.

    Cosines with the full gradients of the same batches; ``ceiling``: those of two different full batches. ``step``:
    full steps before measuring.
    """

    step: int
    kept: float
    pooled: float
    ceiling: float
    kept_macs: float
    pooled_macs: float
    sites: tuple[SiteProbe, ...]


def probe_sites(
    probe: Probe,
    config: LowModeConfig,
    on_site: Callable[[str, int], None] = lambda name, total: None,
    *,
    handles: Mapping[str, Handle | None] | None = None,
) -> ModelProbe:
    """Measure at the probe's last point. ``config``: of the low mode whose sites are pooled one by one.

    ``handles``: for ``count_flops``. Raises ``PassError`` (a ``ValueError``) if ``config`` gives no pair.
    """
    point = probe.points[-1]
    probe.model.load_state_dict(point.state)
    pooled = pair_of(probe.captured, config)
    kept, reason = try_pair(probe.captured, replace(config, kernel_ratio=1))
    if kept is None:
        raise ValueError(reason)
    pooled_flops, kept_flops = (count_flops(pair, handles=handles) for pair in (pooled, kept))
    low_macs = {layer.name: layer.low_macs for layer in pooled_flops.layers}
    saved = {layer.name: layer.low_macs - low_macs.get(layer.name, 0) for layer in kept_flops.layers}
    at_kept = cosines(probe, point, kept)
    changes = {change.site: change for change in pooled.report.pooled}
    sites = []
    for name, change in changes.items():
        on_site(name, len(changes))
        alone = pair_of(probe.captured, replace(config, pool_convs=(name,), keep_convs=()))
        losses = [before - after for before, after in zip(at_kept, cosines(probe, point, alone), strict=True)]
        error = statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else math.nan
        share = saved.get(name, 0) / kept_flops.full_macs
        sites.append(SiteProbe(name, change.before, change.after, share, statistics.fmean(losses), error))
    return ModelProbe(
        point.step,
        statistics.fmean(at_kept),
        statistics.fmean(cosines(probe, point, pooled)),
        _ceiling(point.full),
        kept_flops.ratio,
        pooled_flops.ratio,
        tuple(sites),
    )


def cosines(probe: Probe, point: Point, pair: ModePair) -> list[float]:
    """The cosine of both gradients on each of the probe's batches; the model must be at the point."""
    low = probe.low_gradients(pair)
    return [_cosine(a, b) for a, b in zip(point.full, low, strict=True)]


def _ceiling(full: Sequence[Tensor]) -> float:
    return statistics.fmean(_cosine(full[index - 1], full[index]) for index in range(len(full)))


def _cosine(first: Tensor, second: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=0))
