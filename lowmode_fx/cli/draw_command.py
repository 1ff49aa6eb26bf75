"""``lowmode-fx draw MODEL``: a picture of the full and a low graph, node by node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import typer

from lowmode_fx.cli.drawing import check_format, draw_pair, node_paths
from lowmode_fx.cli.ladder_options import LadderOption, low_mode_configs, read_ladder, rung_pair
from lowmode_fx.cli.options import (
    Channels,
    Classes,
    InputSize,
    Low,
    ModelName,
    Preset,
    Submodule,
    low_mode_options,
    names_or_set,
)
from lowmode_fx.cli.report_command import model_ladder
from lowmode_fx.lowering.ladder import ModePair
from passes.match import conv_sites
from passes.patterns import matches, select_names

#: Nodes: a whole model up to here is drawn; a block has at least so many; a picture can't hold more.
_WHOLE, _BLOCK, _MOST = 40, 6, 400


@low_mode_options()
def draw(
    model: ModelName,
    low: Mapping[str, Any],
    ladder: LadderOption = None,
    mode: Annotated[str | None, Low(help="Of --ladder, the low mode to draw: r2. (default: the cheapest)")] = None,
    input_size: InputSize = None,
    in_chans: Channels = 3,
    num_classes: Classes = None,
    submodule: Submodule = None,
    preset: Preset = "",
    part: Annotated[
        str | None, typer.Option(help="Globs of modules: a,b. (default: a block with a pooled conv)")
    ] = None,
    out: Annotated[Path, typer.Option(help="A .svg, .png or .pdf file.")] = Path("pair.svg"),
) -> None:
    """Draw the full and a low graph side by side, with the parameters they share and what pools them.

    A model of up to 40 nodes is drawn whole.
    """
    check_format(out)
    configs = low_mode_configs(preset, read_ladder(ladder) if ladder else None, low)
    pair = rung_pair(model_ladder(model, configs, input_size, in_chans, num_classes, submodule), mode)
    label, shown = choose_part(pair, part)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = draw_pair(pair, shown, out, f"{model}{label and f': {label}'}")
    drawn = [row.low for row in rows if row.low]
    pooled = sum(box.kernel is not None and box.kernel.pooled is not None for box in drawn)
    dropped = sum(box.kind == "ghost" for box in drawn)
    typer.echo(f"{out}: {len(shown)} nodes, {pooled} with a pooled kernel, {dropped} dropped in {pair.modes[0]}-mode")


def choose_part(pair: ModePair, part: str | None = None) -> tuple[str, frozenset[str]]:
    """What to draw of a pair: a label, and the names of the full graph's nodes.

    part: globs over module paths, ``"conv1,layer1.0"``; ``None`` for the whole model where that is small, else for the
    first block that holds a pooled convolution.

    Raises ``ValueError`` for a glob that matches nothing, with near matches, and for more nodes than a picture holds.
    """
    paths = node_paths(pair.full)
    if part:
        globs = names_or_set(part, ())
        modules = dict.fromkeys(module for path in paths.values() for module in (*_parents(path), path) if module)
        select_names(list(modules), globs, "--part", "module")
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
