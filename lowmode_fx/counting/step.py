"""What a training step costs in each mode: forward and backward of every graph, counted by torch on meta tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from lowmode_fx.counting.forward import blank_inputs, full_first
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from passes import propagate_shapes
from passes.preserve import copy_apart, preserve_attributes, train_mode
from passes.trees import tree_leaves


def count_step_flops(ladder: Ladder) -> tuple[int, ...]:
    """flops per image (2 × macs) of forward + backward: full-mode's, then those of the low modes, the cheapest first.

    So ``full, low = count_step_flops(pair)``. Nothing is computed, nor the model changed. Counts what torch's
    ``FlopCounterMode`` counts: convolutions, matrix products and attention.
    """
    meta = copy_apart(ladder, ladder.model, meta=True)
    return tuple(_per_image(ladder, _step_flops(ladder, meta, mode)) for mode in full_first(ladder))


def count_forward_macs(ladder: Ladder) -> tuple[int, ...]:
    """macs per image of one forward, in the order and the way of ``count_step_flops``; takes a second or so."""
    try:
        return _forward_macs_on_meta(ladder)
    except (RuntimeError, NotImplementedError):
        return _forward_macs_on_fakes(ladder)  # a forward that asks for a value, as a norm without momentum does


def _step_flops(ladder: Ladder, meta: Ladder, mode: Mode) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=_HANDLES)
    with preserve_attributes(ladder.model), train_mode(meta.model), counter:
        found = tree_leaves(meta.graph(mode)(*blank_inputs(meta, mode, "meta")))
        outputs = [leaf for leaf in found if isinstance(leaf, Tensor)]
        torch.autograd.backward([output.sum() for output in outputs if output.requires_grad])
    return int(counter.get_total_flops())


def _forward_macs_on_meta(ladder: Ladder) -> tuple[int, ...]:
    meta, counts = copy_apart(ladder, ladder.model, meta=True), []
    for mode in full_first(ladder):
        counter = FlopCounterMode(display=False)
        with preserve_attributes(ladder.model), train_mode(meta.model), torch.no_grad(), counter:
            meta.graph(mode)(*blank_inputs(meta, mode, "meta"))
        counts.append(_per_image(ladder, counter.get_total_flops() / 2))
    return tuple(counts)


def _forward_macs_on_fakes(ladder: Ladder) -> tuple[int, ...]:
    counts = []
    for mode in full_first(ladder):
        counter = FlopCounterMode(display=False)
        with train_mode(ladder.model):
            propagate_shapes(ladder.graph(mode), *blank_inputs(ladder, mode), watch=counter)
        counts.append(_per_image(ladder, counter.get_total_flops() / 2))
    return tuple(counts)


def _per_image(ladder: Ladder, count: float) -> int:
    return round(count / ladder.inputs.image.shape[0])


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
