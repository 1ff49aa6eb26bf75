"""What a training step costs: forward and backward of both graphs, counted by torch on meta tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from lowmode_fx.counting.forward import example_inputs
from lowmode_fx.lowering.ladder import ModePair
from passes import propagate_shapes
from passes.preserve import copy_apart, preserve_attributes, train_mode


def count_step_flops(pair: ModePair) -> tuple[int, int]:
    """flops per image (2 × macs) of forward + backward, as (full, low). Nothing is computed, nor the model changed.

    Counts what torch's ``FlopCounterMode`` counts: convolutions, matrix products and attention.
    """
    meta = copy_apart(pair, pair.model, meta=True)
    counts = []
    for graph_module, images in zip((meta.full, meta.low), example_inputs(pair, "meta"), strict=True):
        counter = FlopCounterMode(display=False, custom_mapping=_HANDLES)
        with preserve_attributes(pair.model), train_mode(meta.model), counter:
            outputs = [leaf for leaf in tree_leaves(graph_module(images)) if isinstance(leaf, Tensor)]
            torch.autograd.backward([output.sum() for output in outputs if output.requires_grad])
        counts.append(round(counter.get_total_flops() / images.shape[0]))
    return counts[0], counts[1]


def count_forward_macs(pair: ModePair) -> tuple[int, int]:
    """macs per image of one forward, as (full, low), counted as ``count_step_flops`` does; takes a second or so."""
    try:
        return _forward_macs_on_meta(pair)
    except (RuntimeError, NotImplementedError):
        return _forward_macs_on_fakes(pair)  # a forward that asks for a value, as a norm without momentum does


def _forward_macs_on_meta(pair: ModePair) -> tuple[int, int]:
    meta, counts = copy_apart(pair, pair.model, meta=True), []
    for graph_module, images in zip((meta.full, meta.low), example_inputs(pair, "meta"), strict=True):
        counter = FlopCounterMode(display=False)
        with preserve_attributes(pair.model), train_mode(meta.model), torch.no_grad(), counter:
            graph_module(images)
        counts.append(_macs_per_image(counter, images))
    return counts[0], counts[1]


def _forward_macs_on_fakes(pair: ModePair) -> tuple[int, int]:
    counts = []
    for graph_module, images in zip((pair.full, pair.low), example_inputs(pair), strict=True):
        counter = FlopCounterMode(display=False)
        with train_mode(pair.model):
            propagate_shapes(graph_module, images, watch=counter)
        counts.append(_macs_per_image(counter, images))
    return counts[0], counts[1]


def _macs_per_image(counter: FlopCounterMode, images: Tensor) -> int:
    return round(counter.get_total_flops() / 2 / images.shape[0])


def _conv_backward_flops(
    grad_output: Any,
    images: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    output_mask: tuple[bool, ...],
    **_: Any,
) -> int:
    # Either gradient multiplies as often as the forward does; torch's own handle overcounts grouped kernels.
    return (output_mask[0] + output_mask[1]) * int(conv_flop_count(images, weight, grad_output, transposed))


_HANDLES = {torch.ops.aten.convolution_backward: _conv_backward_flops}
