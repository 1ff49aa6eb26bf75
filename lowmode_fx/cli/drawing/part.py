"""Which part of a pair is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from lowmode_fx.cli.drawing.boxes import node_paths
from lowmode_fx.cli.options import comma_list
from lowmode_fx.lowering.ladder import ModePair
from passes.match import conv_sites
from passes.patterns import matches, select_names

#: Nodes: a whole model up to here is drawn; a block has at least so many; a picture can't hold more.
_WHOLE, _BLOCK, _MOST = 40, 6, 400


def choose_part(pair: ModePair, part: str | None = None) -> tuple[str, frozenset[str]]:
    """What to draw of a pair: a label, and the names of the full graph's nodes.

    part: globs over module paths, ``"conv1,layer1.0"``; ``None`` for the whole model where that is small, else for the
    first block that holds a pooled convolution.

    Raises ``ValueError`` for a glob that matches nothing, with near matches, and for more nodes than a picture holds.
    """
    paths = node_paths(pair.full)
    if part is not None:
        globs = comma_list(part, "part")
        modules = dict.fromkeys(module for path in paths.values() for module in (*_parents(path), path) if module)
        select_names(list(modules), globs, "part", "module")
        shown = [name for name, path in paths.items() if any(matches(path, glob) for glob in globs)]
    elif len(paths) <= _WHOLE:
        part, shown = "", list(paths)
    else:
        part, shown = _first_block(pair, paths)
    if len(shown) > _MOST:
        raise ValueError(
            f"--part: {len(shown)} nodes are too many for a picture (at most {_MOST}); give a block's name"
        )
    return part, frozenset(shown)


def _first_block(pair: ModePair, paths: Mapping[str, str]) -> tuple[str, list[str]]:
    """The smallest module around the first pooled convolution (any, where none is) that is neither tiny nor huge."""
    changes = [change.node for change in pair.report.pooled] or [site.node.name for site in conv_sites(pair.full)]
    names = list(paths)
    anchor = next((name for name in changes if name in paths), names[0])
    for block in reversed(list(_parents(paths[anchor]))):
        inside = [name for name, path in paths.items() if matches(path, block)]
        if _BLOCK <= len(inside) <= _WHOLE:
            return block, inside
    start = max(0, names.index(anchor) - 2)
    return f"around {paths[anchor] or anchor}", names[start : start + _WHOLE // 2]


def _parents(path: str) -> Iterator[str]:
    """``a``, ``a.b`` for ``a.b.c``."""
    return accumulate(path.split(".")[:-1], "{}.{}".format)
