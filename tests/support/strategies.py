"""Hypothesis strategies that draw whole random CNNs, as data, and the arguments of low-mode.

``cnn_specs()`` draws a ``CNNSpec``. Every drawn model runs on maps of ``spec.size`` and of a half and a third of it.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from specs import CNNSpec, ConvSpec, NodeSpec, UnitSpec, units_of
from strategies_drawing import Drawing
from torch import Tensor


def _is_surely_pooled(conv: ConvSpec) -> bool:
    """Dense at every ratio and rounding, as long as another conv feeds it; three taps may stay three (``"cover"``)."""
    shrinks = max(conv.kernel) > 3  # and overlaps: no stride that is drawn is larger than 2
    return shrinks and not conv.transposed and (conv.groups == 1 or conv.groups < conv.inputs)


@st.composite
def cnn_specs(
    draw: st.DrawFn,
    dims: int = 2,
    *,
    transposed: bool = False,
    max_size: int | None = None,
    smooth: bool = False,
    cumulative: bool = False,
) -> CNNSpec:
    """Whole CNNs on ``dims``-dimensional maps, with at least one conv behind the stem that any ratio above 1 pools.

    ``transposed`` adds transposed convs, ``cumulative`` batch norms with ``momentum=None``. ``smooth`` leaves out what
    has kinks (ReLU, maxpool), where finite differences mean nothing.
    """
    lowest, highest, convs, max_kernel = {1: (24, 40, 8, 7), 2: (24, 40, 8, 7), 3: (9, 14, 4, 5)}[dims]
    highest = highest if max_size is None else max_size
    size = tuple(draw(st.integers(min(lowest, highest), highest)) for _ in range(dims))
    channels = draw(st.integers(1, 4))
    drawing = Drawing(draw, size, channels, convs=convs, max_kernel=max_kernel, smooth=smooth, cumulative=cumulative)
    stages: list[tuple[NodeSpec, ...]] = []
    for _ in range(draw(st.integers(1, 3))):
        stage: list[NodeSpec] = []
        for _ in range(draw(st.integers(1, 3))):
            if drawing.convs_left > 1:
                stage.append(drawing.node(first=not stages and not stage, transposed=transposed))
        if stage:
            stages.append(tuple(stage))
    behind_the_stem = [unit for node in [node for stage in stages for node in stage][1:] for unit in units_of(node)]
    if not any(_is_surely_pooled(unit.conv) for unit in behind_the_stem):
        taps, ones = (5,) * dims, (1,) * dims
        conv = ConvSpec(drawing.channels, 4, taps, ones, ones, padding=2)
        stages.append((UnitSpec(conv, "batch", "silu"),))
        drawing.channels = 4
    return CNNSpec(
        stages=tuple(stages),
        channels=channels,
        features=drawing.channels,
        classes=draw(st.integers(2, 4)),
        size=size,
        head=draw(st.sampled_from(["module", "mean"])),
        seed=draw(st.integers(0, 2**16)),
    )


def corner_taps(weight: Tensor, pooled_size: tuple[int, ...]) -> Tensor:
    """A kernel transform of a user's own: the first taps of each dimension."""
    corner: Any = (..., *(slice(0, length) for length in pooled_size))
    return weight[corner]


def low_mode_kwargs(*, pooling: bool = False) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of ``LowModeConfig``; ``pooling=True`` leaves out those that keep every kernel."""
    return st.fixed_dictionaries(
        {
            "ratio": st.sampled_from([2, 3]),
            "kernel_ratio": st.sampled_from([None, 2, 3] if pooling else [None, 2, 3, 1]),
            "rounding": st.sampled_from(["ceil", "floor", "cover"]),
            "kernel_transform": st.sampled_from(["avg", "adaptive", "center", "linear", corner_taps]),
            "gain": st.sampled_from(["mean", "sum"]),
            "batchnorm": st.sampled_from(["isolate", "share"]),
            "pool_convs": st.sampled_from(["dense", "all"]),
            "drop_maxpools": st.sampled_from(["none", "all"]),
        }
    )
