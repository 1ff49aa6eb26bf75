"""Give convolutions another stride in low-mode, which moves where maps shrink (§2.2.1, r(i))."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from passes.base import Change, PassContext, PassReport, graph_pass
from passes.errors import PassError
from passes.match import ConvSite, conv_sites
from passes.patterns import matches, select_names
from passes.spelling import setting
from passes.wording import sides


@graph_pass()
def set_strides(
    graph_module: fx.GraphModule, context: PassContext, *, strides: Mapping[str, int | tuple[int, ...]]
) -> PassReport:
    """Set the strides of convolutions in low-mode (§2.2.1, r(i)).

    Args:
        graph_module: The graph, which is rewired in place.
        context: The full-mode graph and the inputs.
        strides: ``{glob: stride}``; the last matching glob applies.

    Returns:
        The convolutions whose stride changed.

    Raises:
        PassError: A glob matches nothing, a stride has the wrong length, or the convolution is transposed.
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
    """The sites that a glob matches, each with its stride in low-mode; raises what ``set_strides`` raises."""
    names = [site.name for site in sites]
    for pattern in strides:
        select_names(names, [pattern], "strides", "convolution")
    wanted = [(site, [stride for glob, stride in strides.items() if matches(site.name, glob)]) for site in sites]
    return [(site, _checked(site, found[-1])) for site, found in wanted if found]


def _checked(site: ConvSite, stride: int | tuple[int, ...]) -> tuple[int, ...]:
    dims = len(site.kernel)
    found = (stride,) * dims if isinstance(stride, int) else tuple(stride)
    if len(found) != dims:
        raise PassError(
            f"{setting('strides')}: {site.name} has {dims} spatial sides, but {len(found)} strides {found}; give one "
            "per side"
        )
    if site.transposed:
        raise PassError(
            f"{setting('strides')}: {site.name} is a transposed convolution, whose stride sets its output size; leave "
            "it out"
        )
    if any(before != after for before, after in site.padding):
        # Only padding="same" pads unevenly, and torch allows that only at stride 1.
        raise PassError(
            f"{setting('strides')}: {site.name} pads 'same' with an even kernel, which fixes its stride to 1; leave it "
            "out"
        )
    return found


def _set_stride(site: ConvSite, stride: tuple[int, ...]) -> None:
    padding = tuple(before for before, _ in site.padding)
    site.node.target = site.function
    site.node.args = (site.input, site.weight, site.bias, stride, padding, site.dilation, site.groups)
    site.node.kwargs = {}
