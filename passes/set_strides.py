"""Give convolutions another stride in low-mode: where the maps shrink is a choice (§2.2.1, r(i))."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from passes.base import Change, PassContext, PassReport, graph_pass
from passes.errors import PassError
from passes.match import ConvSite, conv_sites
from passes.patterns import matches, select_names
from passes.wording import sides


@graph_pass()
def set_strides(
    graph_module: fx.GraphModule, context: PassContext, *, strides: Mapping[str, int | tuple[int, ...]]
) -> PassReport:
    """Set the stride of every convolution that a glob names; of several globs that match, the last one counts.

    Raises ``PassError`` where a glob matches nothing, the stride has the wrong length, or the conv is transposed.
    """
    chosen = chosen_strides(conv_sites(graph_module), strides)
    changes = []
    for site, stride in chosen:
        if stride != site.stride:
            _set_stride(site, stride)
            before, after = (f"stride {sides(each)}" for each in (site.stride, stride))
            changes.append(Change(site.name, site.node.name, before, after))
    return PassReport("set_strides", tuple(changes))


def chosen_strides(
    sites: Sequence[ConvSite], strides: Mapping[str, int | tuple[int, ...]]
) -> list[tuple[ConvSite, tuple[int, ...]]]:
    """The sites that a glob names, each with its stride in low-mode; raises what ``set_strides`` raises."""
    names = [site.name for site in sites]
    for pattern in strides:
        select_names(names, [pattern], "strides", "convolution")
    wanted = [(site, [stride for glob, stride in strides.items() if matches(site.name, glob)]) for site in sites]
    return [(site, _checked(site, found[-1])) for site, found in wanted if found]


def _checked(site: ConvSite, stride: int | tuple[int, ...]) -> tuple[int, ...]:
    dims = len(site.kernel)
    found = (stride,) * dims if isinstance(stride, int) else tuple(stride)
    if len(found) != dims:
        raise PassError(f"strides: {site.name} has {dims} spatial sides, got {len(found)} strides {found}")
    if site.transposed:
        raise PassError(f"strides: {site.name} is a transposed convolution, whose stride sets its output size; keep it")
    if any(before != after for before, after in site.padding):
        # Only padding="same" pads unevenly, and torch allows that at stride 1 alone.
        raise PassError(f"strides: {site.name} pads 'same' with an even kernel, which fixes its stride to 1; keep it")
    return found


def _set_stride(site: ConvSite, stride: tuple[int, ...]) -> None:
    padding = tuple(before for before, _ in site.padding)
    site.node.target = site.function
    site.node.args = (site.input, site.weight, site.bias, stride, padding, site.dilation, site.groups)
    site.node.kwargs = {}
