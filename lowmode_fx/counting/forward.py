"""What a forward costs in each mode: fvcore on every graph of a ladder, and a table of layers that adds up.

fvcore is imported where it counts, so that training runs on machines without it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from lowmode_fx.counting.handles import HANDLES, Handle
from lowmode_fx.counting.once_a_step import weights_graph
from lowmode_fx.counting.operators import COMPUTE_OPS, FREE_OPS
from lowmode_fx.counting.per_image import repeated_per_image
from lowmode_fx.counting.report import FlopReport, LayerFlops
from lowmode_fx.counting.rows import Counts, rows
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from passes.preserve import copy_apart, copy_spread_out, preserve_attributes, train_mode
from passes.trees import tree_leaves

__all__ = ["FlopReport", "LayerFlops", "UncountedError", "blank_inputs", "count_flops", "full_first"]


class UncountedError(ValueError):
    """An operator that is neither counted nor known to be free. ``operator``: its name."""

    def __init__(self, operator: str) -> None:
        self.operator = operator
        super().__init__(
            f"count_flops: {operator} is neither counted by fvcore nor known to be free; give its macs with "
            f"handles={{{operator!r}: function}}, or None if it multiplies nothing"
        )


def count_flops(ladder: Ladder, *, handles: Mapping[str, Handle | None] | None = None) -> FlopReport:
    """Multiply-adds of every mode's graph, as fvcore counts them, on the sizes that the ladder was built for.

    Each graph runs once on blank images; weights, buffers and RNG stay as they are. A model on the meta device is
    counted too: its weights are a single zero each, spread over their shapes. Counts are per image; what is done to
    weights alone is counted apart, per step, so that no figure depends on how many images the ladder was built with.

    Args:
        ladder: the modes to count, of ``build_pair`` or ``build_ladder``.
        handles: more fvcore handles, ``{"aten::op": handle}``, which count for the whole batch; what they count stands
            among the products. ``None`` as a handle says that the operator is free.

    Returns:
        The report: ``.macs``, ``.full_macs``, ``.low_macs`` and ``.ratio`` of convolutions, linear layers and matrix
        products, as published; norms and the rest beside them.

    Raises:
        UncountedError: (a ``ValueError``) for an operator that is neither counted nor known to be free.
    """
    with _spread_out(ladder) as copied:
        return _report(ladder, copied, handles or {})


@contextmanager
def _spread_out(ladder: Ladder) -> Iterator[Ladder]:
    """A copy that torch.jit, by which fvcore traces, can run: it does without values, and not without a device.

    A copy also keeps out of the model what forwards write.
    """
    if not any(tensor.is_meta for tensor in (*ladder.model.parameters(), *ladder.model.buffers())):
        yield copy_apart(ladder, ladder.model)
        return
    with torch.device("cpu"):  # whatever device is torch's default here
        yield copy_spread_out(ladder, ladder.model)


def _report(ladder: Ladder, copied: Ladder, handles: Mapping[str, Handle | None]) -> FlopReport:
    counts = Counts(ladder.inputs.image.shape[0])
    free: dict[str, str] = {}
    per_image = repeated_per_image(ladder)
    # Closures are no part of a copy, and generators may be anybody's.
    with preserve_attributes(ladder.model), train_mode(copied.model):
        for mode in full_first(ladder):
            graph = copied.graph(mode)
            whole, skipped = _count(graph, blank_inputs(copied, mode), handles)
            on_weights = weights_graph(graph, per_image)
            counts.add(str(mode), whole, {} if on_weights is None else _count(on_weights, (), handles)[0])
            free |= skipped
    layers, weights = rows(ladder, counts)
    return FlopReport(tuple(map(str, ladder.modes)), layers, free, weights)


def blank_inputs(ladder: Ladder, mode: Mode, device: str | None = None) -> tuple[Tensor, ...]:
    """Zeros for what the graph of a mode takes, of the sizes that the ladder was built for and the model's own type.

    Images are ``(N, C, *S)`` in full-mode and ``(N, C, *⌈S/r⌉)`` in a low one. device: by default the model's own.
    """
    like = next((value for value in ladder.model.parameters() if value.is_floating_point()), torch.empty(0))
    return ladder.mode_inputs(mode).blank(device or like.device, like.dtype)


def full_first(ladder: Ladder) -> tuple[Mode, ...]:
    """The modes as tables tell them: full-mode, then the low ones, the cheapest first."""
    return (Mode.FULL, *ladder.modes[:-1])


def _count(
    graph_module: fx.GraphModule, inputs: tuple[Tensor, ...], handles: Mapping[str, Handle | None]
) -> tuple[dict[str, float], dict[str, str]]:
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(_Tensors(graph_module), inputs)
    for name, handle in HANDLES.items():
        analysis.set_op_handle(name, handle)
    for name, given in handles.items():
        analysis.set_op_handle(name, given)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with warnings.catch_warnings(), _quiet("fvcore"), torch.no_grad():
        warnings.simplefilter("ignore")
        counts, skipped = dict(analysis.by_operator()), analysis.unsupported_ops()
    unknown = sorted(name for name in skipped if name in COMPUTE_OPS or name not in FREE_OPS)
    if unknown:
        raise UncountedError(unknown[0])
    return counts, {name: FREE_OPS[name] for name in sorted(skipped)}


class _Tensors(nn.Module):
    """A graph that returns its tensors alone: torch.jit knows few containers, and wants no numbers in them."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__()
        self.graph_module = graph_module
        self.training = graph_module.training

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaf for leaf in tree_leaves(self.graph_module(*inputs)) if isinstance(leaf, Tensor))


class _quiet:
    """Silence fvcore's logger for what the count itself checks."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
