"""``min_side``: limit the ratio of the images so that every feature map keeps a smallest side.

Maps are the outputs of convolutions; those that are smaller than that in full-mode are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from torch import fx

from lowmode_fx.lowering.config import LowModeConfig
from passes.checks import unpooled_output_size
from passes.errors import OptionError
from passes.match import ConvSite, conv_sites
from passes.ratios import largest_ratio_within, ratio_terms, ratio_text, side_ratios
from passes.shapes import Shape, ShapeError, ShapeTree, full_shape, node_shape
from passes.spelling import setting


class ShortMap(NamedTuple):
    """A map that is too small in low-mode along dimension ``dim``: its side there, in pixels, in both modes."""

    full: int
    name: str
    dim: int
    low: int


def short_maps(low: fx.GraphModule, least: int, dims: int, error: ShapeError | None = None) -> list[ShortMap]:
    """Maps of a low graph, with its shapes and full-mode's, that fall below ``least`` pixels a side.

    dims: of the images; maps of others have sides of their own. error: where the graph failed, whose maps up to there
    count; a convolution that fails has as many pixels less than none as its kernel lacks.
    """
    found = []
    for site in conv_sites(low):
        before, now = full_shape(site.node), node_shape(site.node) if error is None else _shape_until(error, site)
        if isinstance(before, Shape) and isinstance(now, Shape) and len(before) == len(now) == dims + 2:
            sides = enumerate(zip(before[2:], now[2:], strict=True))
            found += [ShortMap(full, site.name, dim, side) for dim, (full, side) in sides if side < least <= full]
    return found


def short_maps_until(error: ValueError, least: int, dims: int) -> list[ShortMap]:
    """The ``short_maps`` of a low graph that could not be built, as far as it had shapes; empty if it had none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ShapeError):
        cause = cause.__cause__
    low = None if cause is None else cause.node.graph.owning_module
    return [] if low is None else short_maps(low, least, dims, cause)


def _shape_until(error: ShapeError, site: ConvSite) -> ShapeTree:
    if site.node is not error.node:
        return error.shapes.get(site.node)
    given = error.shapes.get(site.input)
    dims = len(site.kernel)
    return Shape((*given[:-dims], *unpooled_output_size(site, given[-dims:]))) if isinstance(given, Shape) else None


def smaller_ratios(
    asked: LowModeConfig, full: fx.GraphModule, image: Sequence[int], short: Sequence[ShortMap]
) -> Iterator[tuple[LowModeConfig, str]]:
    """Configurations of smaller ratios, each with a note: to be tried one by one until no map is too short.

    First the largest ratio that divides every map to ``min_side`` or more; then images as many pixels larger as the
    maps in ``short`` need, which is brought up to date after each trial. It is empty where the ratio asked for failed.

    image: the sides of the images in full-mode. Raises ``ValueError`` if images would stay as they are.
    """
    given = [Fraction(*ratio_terms(ratio)) for ratio in side_ratios(asked.ratio, len(image))]
    ratios, limits = _divided(given, asked.min_side, full)
    if not limits and not short:
        yield asked, ""  # which fails for another reason
    stuck = False
    while True:
        if stuck or ratios != given:
            limits = limits or [(each.full, each.name) for each in short]
            least, name = min(limits)
            told = f"the map at {name} has {least} pixels a side in full-mode"
            if stuck or set(ratios) == {1}:
                raise OptionError(
                    "min_side", asked.min_side, f"leaves images as they are: {told}", "give a smaller value"
                )
            config = replace(asked, ratio=ratios[0] if len(set(ratios)) == 1 else tuple(ratios))
            before, after = ratio_text(asked.ratio), ratio_text(config.ratio)
            limit = setting("min_side", asked.min_side)
            yield config, f"{limit} limits the ratio to {after} instead of {before}: {told}"
        larger = [_enlarged(ratio, dim, image[dim], asked.min_side, short) for dim, ratio in enumerate(ratios)]
        stuck, ratios = larger == ratios, larger  # strides of low-mode's own make maps smaller on whole images, too


def _divided(
    given: Sequence[Fraction], least: int, full: fx.GraphModule
) -> tuple[list[Fraction], list[tuple[int, str]]]:
    """The largest ratios, up to those given, that divide no map below ``least``; and the maps that limit them."""
    shapes = [(site.name, node_shape(site.node)) for site in conv_sites(full)]
    maps = [(name, shape[2:]) for name, shape in shapes if isinstance(shape, Shape) and len(shape) == len(given) + 2]
    ratios: list[Fraction] = []
    limits: list[tuple[int, str]] = []
    for dim, asked in enumerate(given):
        short = [(sides[dim], name) for name, sides in maps if least <= sides[dim] < asked * least]
        limits += short
        ratios.append(largest_ratio_within(Fraction(min(short)[0], least)) if short else asked)
    return ratios, limits


def _enlarged(ratio: Fraction, dim: int, side: int, least: int, short: Sequence[ShortMap]) -> Fraction:
    """A ratio of images that are larger along ``dim`` by what maps lack there, times the pixels of images per theirs.

    Maps grow by whole pixels: where this leads to whole images, a pixel less of each map may do, and is tried first.
    """
    now = -(-side * ratio.denominator // ratio.numerator)
    lacking = [(least - each.low, Fraction(side - now, each.full - each.low)) for each in short if each.dim == dim]
    if not lacking or now == side:
        return ratio
    larger = now + max(math.ceil(pixels * stride) for pixels, stride in lacking)
    if larger >= side:
        larger = now + max(math.floor((pixels - 1) * stride) + 1 for pixels, stride in lacking)
    return largest_ratio_within(Fraction(side, min(side, larger)))
