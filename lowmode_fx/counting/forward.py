"""macs of a forward in each mode: fvcore counts every graph of a ladder, and a table of layers adds up to its count.

fvcore is imported only for counting, so that training runs on machines without it.
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
from lowmode_fx.lowering.ladder import Ladder, as_ladder
from lowmode_fx.lowering.mode import Mode
from passes.preserve import copy_apart, copy_spread_out, preserve_attributes, train_mode
from passes.trees import tree_leaves

__all__ = ["FlopReport", "LayerFlops", "UncountedError", "blank_inputs", "count_flops", "full_first"]


class UncountedError(ValueError):
    """A graph has an operator that is neither counted nor known to be free.

    Attributes:
        operator: Its name, as ``aten::cdist``.
    """

    def __init__(self, operator: str) -> None:
        self.operator = operator
        super().__init__(
            f"count_flops: {operator} is neither counted by fvcore nor known to be free; give its macs with "
            f"handles={{{operator!r}: function}}, or None if it multiplies nothing"
        )


def scripted_part(model: torch.nn.Module) -> str | None:
    """The name of the first part that is TorchScript, whose operators can't be counted; ``None`` without one."""
    found = (name or "the model" for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule))
    return next(found, None)


def count_flops(ladder: Ladder, *, handles: Mapping[str, Handle | None] | None = None) -> FlopReport:
    """Count the multiply-adds of every mode's graph with fvcore, on the sizes that the ladder was built for.

    Each graph runs once on blank images; weights, buffers and random number generators do not change. A model on the
    meta device can be counted too. Counts are per image; work on weights alone is counted separately, per step, so that
    no figure depends on how many images the ladder was built with.

    Args:
        ladder: The modes to count, from ``build_pair`` or ``build_ladder``.
        handles: More fvcore handles, ``{"aten::op": handle}``, which count for the whole batch. Their counts are added
            to the products; the handle ``None`` means that the operator is free.

    Returns:
        The report: ``.macs``, ``.full_macs``, ``.low_macs`` and ``.ratio`` of convolutions, linear layers and matrix
        products, as published; norms and the rest beside them.

    Raises:
        UncountedError: A graph has an operator that is neither counted nor known to be free (a ``ValueError``).
        ValueError: The model holds TorchScript.
        TypeError: ``ladder`` is none.
    """
    scripted = scripted_part(as_ladder(ladder).model)
    if scripted is not None:
        raise ValueError(
            f"count_flops: {scripted} is TorchScript, which hides its operators; count the modes of the "
            "model as it is before torch.jit.script"
        )
    with _spread_out(ladder) as copied:
        return _report(ladder, copied, handles or {})


@contextmanager
def _spread_out(ladder: Ladder) -> Iterator[Ladder]:
    """A copy of the ladder that torch.jit can trace for fvcore, so that forwards write nothing to the model.

    torch.jit can't trace on the meta device: there each weight becomes one zero, expanded to its shape.
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
    # The copy shares the model's closures, so the model's attributes are restored too.
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

    Images are ``(N, C, *S)`` in full-mode and ``(N, C, *⌈S/r⌉)`` in a low mode. ``device``: by default the model's.
    """
    like = next((value for value in ladder.model.parameters() if value.is_floating_point()), torch.empty(0))
    return ladder.mode_inputs(mode).blank(device or like.device, like.dtype)


def full_first(ladder: Ladder) -> tuple[Mode, ...]:
    """The modes in the order of a table: full-mode, then the low modes, cheapest first."""
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
    """A graph that returns only its tensors, since torch.jit supports few containers and no numbers in them."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__()
        self.graph_module = graph_module
        self.training = graph_module.training

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaf for leaf in tree_leaves(self.graph_module(*inputs)) if isinstance(leaf, Tensor))


class _quiet:
    """Inside, fvcore does not log unsupported operators: ``_count`` checks for them."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
