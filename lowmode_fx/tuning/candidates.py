"""The configurations that the tuner tries: families for the whole model, then parts of the best one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lowmode_fx.capture.capture import Captured
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.lower import pair_of
from lowmode_fx.tuning.tried_ratios import LARGEST_RATIO
from passes import PassError
from passes.match import conv_sites
from passes.ratios import RatioLike, largest_ratio, ratio_text, read_ratio
from passes.shapes import Shape, node_shape
from passes.wording import one_line, sides


@dataclass(frozen=True)
class Choice:
    """A configuration with a name for reports; ``family``: the name of the family that it is a part of, if any."""

    name: str
    config: LowModeConfig
    family: str = ""


def families(
    base: LowModeConfig, ratios: Sequence[RatioLike], stem_maxpool: bool, most_pooled: float = LARGEST_RATIO
) -> Iterator[Choice]:
    """Every ratio with kernels kept, resampled, averaged, and the large ones resized; with and without a stem max pool.

    ``base``: its options for norms, heads and outputs apply to all. Ratio 1 pools kernels on full-size images, where
    they are averaged, since resampling does nothing. Without large kernels, resizing them is the same as keeping all.
    Above ``most_pooled`` all kernels are kept.
    """
    drops = ("none", "stem") if stem_maxpool else ("none",)
    for ratio in map(read_ratio, ratios):
        for drop in drops:
            note = ", no stem max pool" if drop == "stem" else ""
            common = replace(
                base, drop_maxpools=drop, kernel_ratio=None, pool_convs="dense", kernel_transform="avg", rounding="ceil"
            )
            if ratio == 1:
                whole = replace(common, downsample_input=False, ratio=2)
                yield Choice(f"whole images, kernels averaged{note}", whole)
                continue
            at, r = replace(common, ratio=ratio), f"r = {ratio_text(ratio)}"
            yield Choice(f"{r}, kernels kept{note}", replace(at, kernel_ratio=1))
            if largest_ratio(ratio) > most_pooled:
                continue
            resampled = replace(at, kernel_transform="linear")
            yield Choice(f"{r}, kernels resampled (cover){note}", replace(resampled, rounding="cover"))
            yield Choice(f"{r}, kernels resampled{note}", replace(resampled, rounding="ceil"))
            yield Choice(f"{r}, kernels averaged{note}", at)
            large = replace(at, pool_convs="large", kernel_transform="pi_resize")
            yield Choice(f"{r}, large kernels resized{note}", large)
            if largest_ratio(ratio) > 2:
                yield Choice(f"{r}, kernels averaged by 2{note}", replace(at, kernel_ratio=2))


def try_pair(captured: Captured, config: LowModeConfig) -> tuple[ModePair | None, str]:
    """The pair, or ``None`` and the reason why it was refused; the capture serves every configuration."""
    try:
        return pair_of(captured, config), ""
    except (PassError, ValueError) as error:
        return None, one_line(error)


def graph_signature(pair: ModePair) -> tuple[object, ...]:
    """The low graph apart from its name: equal for configurations that have the same effect."""
    changes = tuple((report.name, report.changes) for report in pair.report.passes)
    pools = bool(pair.report.pooled)
    how = (pair.config.kernel_transform, pair.config.effective_kernel_ratio) if pools else ()
    return (pair.report.low_input_shape, changes, how)


def stages(pair: ModePair) -> dict[str, tuple[str, ...]]:
    """The pooled sites by the size of their full-mode output map: ``{"32×32": ("layer1.0.conv1", …)}``."""
    pooled = {change.site for change in pair.report.pooled}
    found: dict[str, list[str]] = {}
    for site in conv_sites(pair.full):
        shape = node_shape(site.node)
        if site.name in pooled and isinstance(shape, Shape):
            names = found.setdefault(sides(shape[2:]), [])
            if site.name not in names:
                names.append(site.name)
    return {size: tuple(names) for size, names in found.items()}
