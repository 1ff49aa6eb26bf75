"""Give convolutions another stride in low-mode: where the maps shrink is a choice (§2.2.1, r(i))."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from passes.base import Change, PassContext, PassReport, graph_pass
from passes.errors import PassError
from passes.match import ConvSite, conv_sites
from passes.patterns import matches, select_names


@graph_pass()
def set_strides(
    graph_module: fx.GraphModule, context: PassContext, *, strides: Mapping[str, int | tuple[int, ...]]
) -> PassReport:
    """Set the stride of every convolution that a glob names; of several globs that match, the last one counts.

    Raises ``PassError`` where a glob matches nothing, the stride has the wrong length, or the conv is transposed.
    """
    if not strides:
        return PassReport("set_strides")
    sites = conv_sites(graph_module)
    names = [site.name for site in sites]
    for pattern in strides:
        select_names(names, [pattern], "strides", "convolution")
    changes = []
    for site in sites:
        wanted = [stride for pattern, stride in strides.items() if matches(site.name, pattern)]
        if wanted:
            change = _set_stride(site, wanted[-1])
            if change.before != change.after:
                changes.append(change)
    return PassReport("set_strides", tuple(changes))


def _set_stride(site: ConvSite, stride: int | tuple[int, ...]) -> Change:
    sides = (stride,) * len(site.kernel) if isinstance(stride, int) else tuple(stride)
    if len(sides) != len(site.kernel):
        raise PassError(f"strides: {site.name} has {len(site.kernel)} spatial sides, got {len(sides)} strides {sides}")
    if site.transposed:
        raise PassError(f"strides: {site.name} is a transposed convolution, whose stride sets its output size; keep it")
    if any(before != after for before, after in site.padding):
        # Only padding="same" pads unevenly, and torch allows that at stride 1 alone.
        raise PassError(f"strides: {site.name} pads 'same' with an even kernel, which fixes its stride to 1; keep it")
    padding = tuple(before for before, _ in site.padding)
    site.node.target = site.function
    site.node.args = (site.input, site.weight, site.bias, sides, padding, site.dilation, site.groups)
    site.node.kwargs = {}
    return Change(site.name, site.node.name, f"stride {_show(site.stride)}", f"stride {_show(sides)}")


def _show(sides: tuple[int, ...]) -> str:
    return "×".join(map(str, sides))
