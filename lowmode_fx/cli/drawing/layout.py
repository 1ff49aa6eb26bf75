"""Boxes to rows, arrows and places: plain values in, plain values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from lowmode_fx.cli.drawing.boxes import Box, Kind, Link, Row


def align(full: Mapping[str, Box], low: Mapping[str, Box], shown: AbstractSet[str]) -> tuple[Row, ...]:
    """Rows in full-mode's order, dropped nodes as ghosts; every run of nodes that are not ``shown`` is one gap.

    A node that only low-mode has stands before the node it leads to. It is shown along with that one, or with a
    convolution right before it. Inputs are always shown.
    """
    order = _merged(full, low)
    visible = _visible(order, full, shown)
    places: dict[str, str] = {}
    place = ""
    for name in order:
        if name in visible:
            place = name
        elif not place.startswith("⋮"):
            place = f"⋮{name}"
        places[name] = place
    rows = []
    for place in dict.fromkeys(places.values()):
        ours, theirs = _placed(place, full, places), _placed(place, low, places)
        if ours and not theirs and ours.kind != "gap":
            theirs = replace(ours, title=f"{ours.title.partition(',')[0]}, dropped", shape="", sources=(), kind="ghost")
        if theirs and not ours and theirs.kind != "gap":
            theirs = replace(theirs, kind="added")
        rows.append(Row(ours, theirs))
    return tuple(rows)


def _merged(full: Mapping[str, Box], low: Mapping[str, Box]) -> list[str]:
    before: dict[str, list[str]] = {}
    waiting: list[str] = []
    for name in low:
        if name in full:
            before[name], waiting = waiting, []
        else:
            waiting.append(name)
    return [name for common in full for name in (*before.get(common, ()), common)] + waiting


def _visible(order: Sequence[str], full: Mapping[str, Box], shown: AbstractSet[str]) -> set[str]:
    visible = {name for name in order if name in shown or (name in full and full[name].kind in ("image", "input"))}
    for names, needs_conv in ((order, True), (order[::-1], False)):
        neighbour = ""
        for name in names:
            if name in full:
                neighbour = name
            elif neighbour in shown and (full[neighbour].kind == "conv" or not needs_conv):
                visible.add(name)
    return visible


def _placed(place: str, boxes: Mapping[str, Box], places: Mapping[str, str]) -> Box | None:
    members = [box for name, box in boxes.items() if places[name] == place]
    sources = dict.fromkeys(places[source] for box in members for source in box.sources)
    if not place.startswith("⋮"):
        return replace(members[0], sources=tuple(sources)) if members else None
    # From gap to gap, arrows would only show what the picture leaves out.
    seen = tuple(source for source in sources if not source.startswith("⋮"))
    return Box(place, f"⋮  {len(members)} more nodes", sources=seen, kind="gap")


def connect(boxes: Sequence[Box | None]) -> tuple[Link, ...]:
    """Arrows between the boxes of one mode; of those that pass a box and would overlap, longer ones move outwards."""
    rows = {box.name: row for row, box in enumerate(boxes) if box and box.kind != "ghost"}
    below = dict(pairwise(rows.values()))
    spans = [(rows[name], rows[box.name]) for box in boxes if box for name in box.sources if name in rows]
    links = [Link(top, bottom) for top, bottom in spans if below.get(top) == bottom]
    lanes: list[list[tuple[int, int]]] = []
    passing = [(top, bottom) for top, bottom in spans if below.get(top) != bottom]
    for top, bottom in sorted(passing, key=lambda span: span[1] - span[0]):
        fits = (all(bottom <= start or end <= top for start, end in lane) for lane in lanes)
        lane = next((index for index, fit in enumerate(fits) if fit), len(lanes))
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append((top, bottom))
        links.append(Link(top, bottom, lane + 1))
    return tuple(links)


def shorten(path: str, limit: int) -> str:
    """The end of a module path in at most ``limit`` characters, cut at a dot where one is."""
    if len(path) <= limit:
        return path
    tail = path[len(path) - limit + 1 :]
    return "…" + (tail.partition(".")[2] or tail)


#: Pixels: a node, a kernel, its transform; the space for an arrow, a lane. A README shows some 800 of them.
NODE, KERNEL, TRANSFORM, SPACE, LANE = 206.0, 92.0, 88.0, 15.0, 11.0
_NODE_HEIGHT = 42.0
_HEIGHTS: dict[Kind, float] = {"image": 64.0, "slim": 20.0, "gap": 20.0}
_TOP, _BETWEEN, _BOTTOM = 48.0, 13.0, 88.0


@dataclass(frozen=True)
class Side:
    """One mode: where its nodes and its kernels begin, and its arrows, which pass on the ``outward`` side (−1 or 1).

    Full-mode's kernels are the shared parameters, low-mode's what is made of them.
    """

    node: float
    kernel: float
    outward: int
    links: tuple[Link, ...]


@dataclass(frozen=True)
class Layout:
    """Where everything stands, in pixels from the top left corner; ``tops`` and ``heights`` are the rows'."""

    tops: tuple[float, ...]
    heights: tuple[float, ...]
    full: Side
    low: Side
    width: float
    height: float


def lay_out(rows: Sequence[Row]) -> Layout:
    """Places for ``rows``, left to right: lanes, full-mode's nodes, kernels, pooled ones, low-mode's nodes, lanes."""
    heights = tuple(max(_HEIGHTS.get(box.kind, _NODE_HEIGHT) for box in (row.full, row.low) if box) for row in rows)
    tops = tuple(accumulate(heights[:-1], lambda top, height: top + height + _BETWEEN, initial=_TOP))
    links = connect([row.full for row in rows]), connect([row.low for row in rows])
    left, right = (12 + LANE * (1 + max((link.lane for link in side), default=0)) for side in links)
    full = Side(left, left + NODE + SPACE + 6, -1, links[0])
    pooled = full.kernel + KERNEL + TRANSFORM + 2 * SPACE
    low = Side(pooled + KERNEL + SPACE + 6, pooled, 1, links[1])
    return Layout(tops, heights, full, low, low.node + NODE + right, tops[-1] + heights[-1] + _BOTTOM)
