"""A picture of a pair: both graphs side by side, node by node, with the kernels that they share in between.

Graphs become boxes (``boxes``), boxes become rows with places (``layout``), and those become a file (``picture``).
"""

from lowmode_fx.cli.drawing.boxes import Box, Kernel, Link, Row, node_paths
from lowmode_fx.cli.drawing.layout import align, connect, lay_out, shorten
from lowmode_fx.cli.drawing.picture import FORMATS, check_format, draw_pair, pair_rows, pair_svg

__all__ = [
    "FORMATS",
    "Box",
    "Kernel",
    "Link",
    "Row",
    "align",
    "check_format",
    "connect",
    "draw_pair",
    "lay_out",
    "node_paths",
    "pair_rows",
    "pair_svg",
    "shorten",
]
