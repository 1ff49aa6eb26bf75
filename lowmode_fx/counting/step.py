"""flops of a training step in each mode: torch counts forward and backward of every graph on meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_flop_count

from lowmode_fx.counting.forward import blank_inputs, full_first
from lowmode_fx.counting.once_a_step import weights_graph
from lowmode_fx.counting.per_image import repeated_per_image
from lowmode_fx.lowering.ladder import Ladder, as_ladder
from lowmode_fx.utils.validation import as_count
from passes import propagate_shapes
from passes.preserve import copy_apart, preserve_attributes, train_mode
from passes.trees import tree_leaves


def count_step_flops(ladder: Ladder, *, batch_size: int | None = None) -> tuple[int, ...]:
    """Count the flops (2 × macs) of forward and backward in each mode.

    It counts what torch's ``FlopCounterMode`` counts: convolutions, matrix products and attention. The tensors have no
    values, and the model does not change.

    Args:
        ladder: The modes to count.
        batch_size: Images of a step.

    Returns:
        Flops of full-mode, then of the low modes, cheapest first (``full, low = count_step_flops(pair)``). By default
        they are per image, without work on weights alone; with ``batch_size`` they are those of a whole step, with work
        on weights (kernels that are pooled by a matrix product).

    Raises:
        ValueError: ``batch_size`` is not a positive integer.
        TypeError: ``ladder`` is none.
    """
    size = None if batch_size is None else as_count("batch_size", batch_size, minimum=1)
    meta, images = copy_apart(as_ladder(ladder), ladder.model, meta=True), ladder.inputs.image.shape[0]
    found, per_image = list[int](), repeated_per_image(ladder)
    with preserve_attributes(ladder.model), train_mode(meta.model):
        for mode in full_first(ladder):
            batch, once = _apart(_step_flops, meta.graph(mode), blank_inputs(meta, mode, "meta"), per_image)
            found.append(round(batch / images if size is None else size * batch / images + once))
    return tuple(found)


def count_forward_macs(ladder: Ladder) -> tuple[int, ...]:
    """macs per image of one forward, counted as ``count_step_flops`` does and in its order; it takes about a second."""
    try:
        return _forward_macs_on_meta(ladder)
    except (RuntimeError, NotImplementedError):
        return _forward_macs_on_fakes(ladder)  # the forward reads a value, as a norm without momentum does


def _apart(
    count: Callable[[fx.GraphModule, tuple[Tensor, ...]], float],
    graph: fx.GraphModule,
    inputs: tuple[Tensor, ...],
    per_image: Set[str],
) -> tuple[float, float]:
    """The count of a graph's work for its batch, and of its work on weights, which is done once."""
    on_weights = weights_graph(graph, per_image)
    once = 0.0 if on_weights is None else count(on_weights, ())
    return count(graph, inputs) - once, once


def _step_flops(graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> float:
    counter = FlopCounterMode(display=False, custom_mapping=_HANDLES)
    with counter:
        outputs = [leaf for leaf in tree_leaves(_on_meta(graph_module, inputs)) if isinstance(leaf, Tensor)]
        torch.autograd.backward([output.sum() for output in outputs if output.requires_grad])
    return float(counter.get_total_flops())


def _forward_macs_on_meta(ladder: Ladder) -> tuple[int, ...]:
    meta, images = copy_apart(ladder, ladder.model, meta=True), ladder.inputs.image.shape[0]
    counts, per_image = list[int](), repeated_per_image(ladder)
    with preserve_attributes(ladder.model), train_mode(meta.model):
        for mode in full_first(ladder):
            batch, _ = _apart(_macs, meta.graph(mode), blank_inputs(meta, mode, "meta"), per_image)
            counts.append(round(batch / images))
    return tuple(counts)


def _macs(graph: fx.GraphModule, inputs: tuple[Tensor, ...]) -> float:
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), counter:  # its hooks take no parameter for a result without gradients
        _on_meta(graph, inputs)
    return counter.get_total_flops() / 2


class _OnMeta(fx.Interpreter):
    """Runs a graph on the meta device, with the tensors that it makes, holds or moves (noise, constants) there too."""

    def run_node(self, n: fx.Node) -> Any:
        if n.target in _TO_A_DEVICE:
            return self.fetch_args_kwargs_from_env(n)[0][0]
        return tree_map_only(Tensor, lambda tensor: tensor.to("meta"), super().run_node(n))

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        if n.target in ("to", Tensor.to):
            args = tuple("meta" if isinstance(value, str) else value for value in args)
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": "meta"}
        return tree_map_only(torch.device, lambda device: torch.device("meta"), (args, kwargs))


def _on_meta(graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> Any:
    with torch.device("meta"):
        return _OnMeta(graph_module).run(*inputs)


def _forward_macs_on_fakes(ladder: Ladder) -> tuple[int, ...]:
    images, counts = ladder.inputs.image.shape[0], list[int]()
    per_image = repeated_per_image(ladder)
    with train_mode(ladder.model):
        for mode in full_first(ladder):
            batch, _ = _apart(_macs_on_fakes, ladder.graph(mode), blank_inputs(ladder, mode), per_image)
            counts.append(round(batch / images))
    return tuple(counts)


def _macs_on_fakes(graph: fx.GraphModule, inputs: tuple[Tensor, ...]) -> float:
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_HANDLES)
    propagate_shapes(graph, *inputs, watch=counter)
    return counter.get_total_flops() / 2


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


def _cpu_attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


_HANDLES = {torch.ops.aten.convolution_backward: _conv_backward_flops}
#: Attention of the CPU, which fake tensors of the CPU run and torch does not count.
_CPU_HANDLES = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops}
#: Calls that move a tensor to the device that they name.
_TO_A_DEVICE = ("cpu", "cuda", Tensor.cpu, Tensor.cuda)
