"""Places to a file, by matplotlib."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline
from torch import Tensor

from lowmode_fx.cli.drawing.boxes import Box, Kernel, Kind, Link, Row, column
from lowmode_fx.cli.drawing.layout import KERNEL, LANE, NODE, SPACE, TRANSFORM, Side, align, lay_out, shorten
from lowmode_fx.cli.outputs import PICTURES, check_output
from lowmode_fx.lowering.downsampling import downsample
from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.utils.atomic import write_atomically
from lowmode_fx.utils.plotting import BLUE, INK, MUTED, PALE_BLUE, PALE_VERMILLION, VERMILLION, picture_style
from passes.ratios import largest_ratio, ratio_text
from passes.wording import sides

FORMATS = PICTURES


@dataclass(frozen=True)
class _Style:
    line: str
    fill: str = "white"
    radius: float = 5.0
    dashed: bool = False


_FAINT, _GROUND = "#bcc3cd", "#f1f3f6"
#: Parameters are blue, and what low-mode makes of them is vermillion; as text on a pale ground it is darker.
_POOLED_TEXT = "#b84a00"
_SHARED, _POOLED = _Style(BLUE, PALE_BLUE, radius=3), _Style(VERMILLION, PALE_VERMILLION, radius=3)
_STYLES: dict[Kind, _Style] = {
    "image": _Style(INK),
    "input": _Style(INK),
    "conv": _Style(INK),
    "call": _Style(_FAINT),
    "slim": _Style(_FAINT),
    "added": _Style(VERMILLION),
    "ghost": _Style(MUTED, dashed=True),
    "gap": _Style(_GROUND, _GROUND),
}


def draw_pair(pair: ModePair, shown: AbstractSet[str], path: Path, title: str = "") -> tuple[Row, ...]:
    """Write a picture of both graphs to ``path`` (.svg, .png or .pdf); returns its rows.

    shown: names of the nodes to draw; what lies between them becomes a gap. The images are always drawn.

    Raises ``ValueError`` for another ending, ``OSError`` where the file can't be written.
    """
    check_format(path)
    rows = pair_rows(pair, shown)
    with picture_style():
        figure = _Picture(rows, pair).figure(title)
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower(), {})
        write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=144, metadata=metadata))
    return rows


def pair_svg(pair: ModePair, shown: AbstractSet[str], title: str = "") -> str:
    """The same picture as an ``<svg>`` element to stand in a page, as wide as its place."""
    with picture_style():
        figure, stream = _Picture(pair_rows(pair, shown), pair).figure(title), io.StringIO()
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    element = stream.getvalue()
    head, tail = element[element.index("<svg") :].split(">", 1)
    sizeless = re.sub(r' (width|height|version)="[^"]*"', "", head)
    return f'{sizeless} role="img" aria-label="both graphs, node by node">{tail}'


def check_format(path: Path) -> None:
    """Raises ``ValueError`` where the ending of ``path`` names no format that a picture can have."""
    check_output(path, FORMATS, "picture")


def pair_rows(pair: ModePair, shown: AbstractSet[str]) -> tuple[Row, ...]:
    """The rows of the picture of ``pair``; shapes are those of the image sizes that it was built for."""
    known = {node.name for node in pair.full.graph.nodes}
    full, low = (column(pair.graph(mode), pair.mode_inputs(mode), known) for mode in (Mode.FULL, pair.modes[0]))
    return align(full, low, shown)


class _Picture:
    """The drawing itself: a pixel of the layout is a point of the page."""

    def __init__(self, rows: Sequence[Row], pair: ModePair) -> None:
        self.rows, self.config, self.mode, self.place = rows, pair.config, pair.modes[0], lay_out(rows)
        self.page = Figure(figsize=(self.place.width / 72, self.place.height / 72), facecolor="white")
        FigureCanvasAgg(self.page)
        self.axes = self.page.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, self.place.width), ylim=(self.place.height, 0))
        self.axes.axis("off")

    def figure(self, title: str) -> Figure:
        place = self.place
        for mode, side in ((Mode.FULL, place.full), (self.mode, place.low)):
            self._text(side.node + NODE / 2, 24, f"{mode}-mode", 16, align="center", bold=True)
            for link in side.links:
                self._link(side, link)
        if any(row.full and row.full.kernel for row in self.rows):
            self._text(place.full.kernel + KERNEL / 2, 26, "shared parameters", 12, BLUE, "center", bold=True)
        for row, top, height in zip(self.rows, place.tops, place.heights, strict=True):
            middle = top + height / 2
            if row.full:
                self._node(row.full, f"full:{row.full.name}", place.full.node, top, height)
            if row.low:
                self._node(row.low, f"low:{row.low.name}", place.low.node, top, height)
            if row.full and row.full.kind == "image":
                self._arrow([(place.full.node + NODE, middle), (place.low.node, middle)], MUTED)
                self._text(
                    (place.full.node + NODE + place.low.node) / 2, middle - 11, "downsample", 12, MUTED, "center"
                )
            if row.full and row.full.kernel:
                self._full_kernel(row.full.kernel, f"full:{row.full.name}", middle)
            if row.low and row.low.kernel:
                self._low_kernel(row.low.kernel, f"low:{row.low.name}", middle, row.full is not None)
        self._footer(title)
        return self.page

    def _node(self, box: Box, name: str, x: float, top: float, height: float) -> None:
        pooled = box.kernel is not None and box.kernel.pooled is not None
        middle, right = top + height / 2, x + NODE - 8
        self._box(x, top, NODE, height, name, replace(_POOLED, radius=5.0) if pooled else _STYLES[box.kind])
        if box.kind == "image":
            self._image(box, name.startswith("low"), x, middle)
        elif box.kind == "gap":
            self._text(x + NODE / 2, middle, box.title, 11, MUTED, "center")
        elif box.kind == "slim":
            self._text(x + 8, middle, box.title, 11, MUTED)
            self._text(right, middle, shorten(box.path, 20), 11, MUTED, "right")
        else:
            ghost = box.kind == "ghost"
            ink = _POOLED_TEXT if pooled else MUTED if ghost else INK
            self._text(x + 8, top + 13.5, box.title, min(13, 330 / max(len(box.title), 1)), ink, bold=not ghost)
            self._text(x + 8, top + 30.5, shorten(box.path, 27 - len(box.shape)), 11, MUTED)
            self._text(right, top + 30.5, box.shape, 11.5, INK, "right")

    def _image(self, box: Box, low: bool, x: float, middle: float) -> None:
        icon = _landscape(16)
        if low:
            icon = downsample(icon, min(largest_ratio(self.config.ratio), 8), self.config.input_method)
        cells = icon.shape[-1]
        steps = [44 * (step - cells / 2) / 16 for step in range(cells + 1)]
        edges = [x + 30 + step for step in steps], [middle + step for step in steps]
        self.axes.pcolormesh(*edges, icon[0, 0].tolist(), cmap="cividis", vmin=0, vmax=1, ec="face", lw=0.2, zorder=3)
        how = f"({self.config.input_method}, r = {ratio_text(self.config.ratio)})" if low else ""
        self._text(x + 60, middle - 10 * bool(how), box.shape, 13, bold=True)
        self._text(x + 60, middle + 10, how, 11.5, MUTED)

    def _full_kernel(self, kernel: Kernel, name: str, y: float) -> None:
        side = self.place.full
        self._kernel(side.kernel, y, "W", kernel.shape, f"{name}:kernel", _SHARED)
        self._arrow([(side.kernel, y), (side.node + NODE, y)], BLUE)

    def _low_kernel(self, kernel: Kernel, name: str, y: float, shared: bool) -> None:
        left, side = self.place.full.kernel, self.place.low
        if not shared:
            self._kernel(left, y, "W", kernel.shape, f"{name}:kernel", _SHARED)
        if kernel.pooled is None:
            self._arrow([(left + KERNEL, y), (side.node, y)], BLUE)
            return
        transform = left + KERNEL + SPACE
        for start, stop in (
            (left + KERNEL, transform),
            (transform + TRANSFORM, side.kernel),
            (side.kernel + KERNEL, side.node),
        ):
            self._arrow([(start, y), (stop, y)], VERMILLION)
        self._box(transform, y - 13, TRANSFORM, 26, f"{name}:transform", _Style(VERMILLION, _POOLED_TEXT, radius=13))
        label = f"T: {self._transform()}"
        self._text(transform + TRANSFORM / 2, y, label, min(10.5, 132 / len(label)), "white", "center", bold=True)
        self._kernel(side.kernel, y, "Ŵ", kernel.pooled, f"{name}:pooled", _POOLED)

    def _transform(self) -> str:
        how = self.config.kernel_transform
        if callable(how):
            return "custom"
        return f"{how}, {self.config.gain}" if how in ("avg", "adaptive") else how

    def _kernel(self, x: float, y: float, label: str, shape: tuple[int, ...], name: str, style: _Style) -> None:
        self._box(x, y - 21, KERNEL, 42, name, style)
        ink = _POOLED_TEXT if style is _POOLED else style.line
        self._text(x + 8, y - 8, label, 13, ink, bold=True)
        rows, columns = (1, *shape[2:])[-2:]
        cell = min(5.2, 16 / max(rows, columns))
        grid = _grid(x + KERNEL - 8 - cell * columns, y - 9 - cell * rows / 2, rows, columns, cell)
        self.axes.add_patch(PathPatch(grid, fc="white", ec=style.line, linewidth=0.6, zorder=3))
        size = sides(shape)
        self._text(x + KERNEL / 2, y + 10.5, size, min(11.5, 130 / len(size)), INK, "center")

    def _footer(self, title: str) -> None:
        y, right = self.place.height - 62, self.place.width - 14
        boxes = [row.low for row in self.rows if row.low]
        self._text(14, y, title, 12, bold=True)
        self._text(14, y + 19, "Norms and linear layers are shared too.", 11, MUTED)
        if any(box.title.endswith(", isolated") for box in boxes):
            self._text(14, y + 38, "isolated: running statistics are full-mode's alone", 11, MUTED)
        self._text(right, y, "W: a kernel, one parameter of both modes", 11, BLUE, "right")
        if any(box.kernel and box.kernel.pooled for box in boxes):
            self._text(right, y + 19, "T: the kernel transform, which pools W", 11, _POOLED_TEXT, "right")
            text = f"Ŵ = T(W) in each {self.mode}-mode step; its gradient goes on to W"
            self._text(right, y + 38, text, 11, _POOLED_TEXT, "right")

    def _link(self, side: Side, link: Link) -> None:
        tops, heights = self.place.tops, self.place.heights
        start, end = tops[link.source] + heights[link.source], tops[link.target]
        if link.lane == 0:
            self._arrow([(side.node + NODE / 2, start), (side.node + NODE / 2, end)], MUTED)
            return
        edge = side.node + NODE * (side.outward > 0)
        lane = edge + side.outward * LANE * (link.lane + 0.2)
        start, end = start - 0.3 * heights[link.source], end + 0.3 * heights[link.target]
        self._arrow([(edge, start), (lane, start), (lane, end), (edge, end)], MUTED)

    def _box(self, x: float, y: float, width: float, height: float, name: str, style: _Style) -> None:
        shape = f"round,pad=0,rounding_size={style.radius}"
        patch = FancyBboxPatch((x, y), width, height, shape, fc=style.fill, ec=style.line, linewidth=1.1, zorder=2)
        patch.set_linestyle((0, (4, 3)) if style.dashed else "solid")
        patch.set_gid(name)
        self.axes.add_patch(patch)

    def _text(
        self, x: float, y: float, text: str, size: float, colour: str = INK, align: str = "left", bold: bool = False
    ) -> None:
        weight = "bold" if bold else "normal"
        self.axes.text(x, y, text, size=size, color=colour, ha=align, va="center_baseline", weight=weight, zorder=4)

    def _arrow(self, points: Sequence[tuple[float, float]], colour: str, dashed: bool = False) -> None:
        head = "-" if dashed else "-|>,head_length=4.5,head_width=2.4"
        patch = FancyArrowPatch(path=_rounded(points), arrowstyle=head, mutation_scale=1, color=colour, zorder=1)
        patch.set(linewidth=1.2, linestyle=(0, (3, 2.5)) if dashed else "solid", capstyle="butt")
        self.axes.add_patch(patch)


def _grid(left: float, top: float, rows: int, columns: int, cell: float) -> Outline:
    """The cells of a kernel, as one path."""
    cells = [(left + cell * column, top + cell * row) for row, column in product(range(rows), range(columns))]
    square = ((0, 0), (cell, 0), (cell, cell), (0, cell), (0, 0))
    codes = [Outline.MOVETO, Outline.LINETO, Outline.LINETO, Outline.LINETO, Outline.CLOSEPOLY]
    return Outline([(x + dx, y + dy) for x, y in cells for dx, dy in square], codes * len(cells))


def _rounded(points: Sequence[tuple[float, float]], radius: float = 6.0) -> Outline:
    """A path along ``points`` whose corners are rounded."""
    vertices, codes = [points[0]], [Outline.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        vertices += [_towards(corner, before, radius), corner, _towards(corner, after, radius)]
        codes += [Outline.LINETO, Outline.CURVE3, Outline.CURVE3]
    return Outline([*vertices, points[-1]], [*codes, Outline.LINETO])


def _towards(start: tuple[float, float], end: tuple[float, float], step: float) -> tuple[float, float]:
    share = min(step / max(math.dist(start, end), step), 0.5)
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _landscape(side: int) -> Tensor:
    """A picture ``(1, 1, side, side)`` to downsample, in [0, 1]: sky, sun and mountains."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    image = torch.where((x - 0.72) ** 2 + (y - 0.26) ** 2 < 0.022, 1.0, 0.55 + 0.25 * y)
    image = torch.where(y > 0.42 + 0.9 * (x - 0.35).abs(), 0.08, image)
    return torch.where(y > 0.66 + 0.5 * (x - 0.8).abs(), 0.3, image)[None, None]
