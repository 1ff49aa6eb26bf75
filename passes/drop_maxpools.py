"""Drop max pools, so that low-mode's maps shrink later: the other part of the paper's r(i) (§2.2.1, §4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import fx, nn

from passes.base import Change, PassContext, PassReport, Skip, graph_pass
from passes.choices import NamedMaxPools
from passes.errors import PassError
from passes.match import MaxPoolSite, first_on_paths, max_pool_sites
from passes.patterns import select_names
from passes.spelling import setting
from passes.wording import sides

_PADS = (nn.modules.padding._ConstantPadNd, nn.modules.padding._ReflectionPadNd, nn.modules.padding._ReplicationPadNd)


@graph_pass()
def drop_maxpools(
    graph_module: fx.GraphModule, context: PassContext, *, which: NamedMaxPools | Sequence[str]
) -> PassReport:
    """Replace the chosen max pools by their input (§2.2.1, §4).

    Args:
        graph_module: The graph, which is rewired in place.
        context: The full-mode graph and the inputs.
        which: ``"none"``, ``"stem"`` (the first max pool on each path from the image; the paper's choice), ``"all"``,
            or globs over module names.

    Returns:
        The max pools that were dropped and kept.

    Raises:
        PassError: A glob matches nothing, a pool's indices are used, or a pool's input is padded just for it.
    """
    sites = max_pool_sites(graph_module)
    chosen = chosen_maxpools(graph_module, sites, which)
    changes, skips = [], []
    for site in reversed(sites):  # last first, so that no site's input has been removed
        if site.node not in chosen:
            skips.append(Skip(site.name, site.node.name, f"kept: not in {setting('drop_maxpools')}"))
            continue
        _check_droppable(graph_module, site)
        site.node.replace_all_uses_with(site.input)
        graph_module.graph.erase_node(site.node)
        before = f"{sides(site.kernel)} stride {sides(site.stride)}"
        changes.append(Change(site.name, site.node.name, before, "dropped"))
    return PassReport("drop_maxpools", tuple(reversed(changes)), tuple(reversed(skips)))


def chosen_maxpools(
    graph_module: fx.GraphModule, sites: Sequence[MaxPoolSite], which: NamedMaxPools | Sequence[str]
) -> set[fx.Node]:
    """The nodes of the max pools that low-mode drops. Raises ``PassError`` if a glob matches nothing."""
    if which == "none":
        return set()
    if which == "all":
        return {site.node for site in sites}
    if which != "stem":
        names = select_names([site.name for site in sites], which, "drop_maxpools", "max pool")
        return {site.node for site in sites if site.name in names}
    return first_on_paths(graph_module.graph, sites)


def _check_droppable(graph_module: fx.GraphModule, site: MaxPoolSite) -> None:
    if site.with_indices:
        raise PassError(f"drop_maxpools: {site.name} returns indices that are used; keep this max pool")
    source = site.input
    padded = source.op == "call_module" and isinstance(graph_module.get_submodule(str(source.target)), _PADS)
    if padded or source.target in (F.pad, "pad"):
        raise PassError(
            f"{setting('drop_maxpools')}: the input of {site.name} is padded just for it ({source.name}); keep this "
            "max pool"
        )
