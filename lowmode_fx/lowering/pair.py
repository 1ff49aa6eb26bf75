"""One model, two graphs: ``build_pair`` makes the full and the low graph over the same parameters."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from lowmode_fx.capture.export_frontend import trace_by_export
from lowmode_fx.capture.frontends import FrontEnd, Trace, trace_model, train_mode
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.downsampling import downsampled_sides
from lowmode_fx.lowering.fit import check_poolable, fit, notes, smaller_outputs
from lowmode_fx.lowering.mode_pair import ModePair, PairReport
from passes import (
    GraphPass,
    PassError,
    PassReport,
    adapt_heads,
    bind_graph,
    drop_maxpools,
    isolate_batchnorm,
    pool_weights,
    restore_output,
    run_passes,
    set_strides,
)
from passes.checks import check_geometry, check_outputs, check_reachability, check_sharing
from passes.shapes import ShapeTree

__all__ = ["ModePair", "PairReport", "build_pair", "default_passes"]


def build_pair(
    model: nn.Module,
    example_input: Tensor,
    config: LowModeConfig | None = None,
    *,
    front_end: FrontEnd = "auto",
    leaf_modules: Sequence[type[nn.Module]] = (),
    submodule: str | None = None,
) -> ModePair:
    """Trace ``model`` and make its low graph for images downsampled by ``config.ratio`` (§2.2).

    example_input: ``(N, C, *S)``, the full-mode size; only its shape, dtype and device count.
    front_end: ``"fx"``, ``"export"``, or ``"auto"`` for the first that takes the model.
    leaf_modules: module classes that are not traced into; convolutions inside them stay whole.
    submodule: path of the part to transform (``"backbone"``), which the example is the input of.

    The model is left as it was: no weight, buffer, mode or RNG changes. Warns (``NoEffectWarning``) where no kernel is
    pooled and no max pool dropped. Raises ``PassError`` or ``TraceError`` (``ValueError``) where no pair can be right.
    """
    config = _check_arguments(model, config)
    model = model if submodule is None else _find_submodule(model, submodule)
    example = _check_example(example_input)
    ratio = config.ratio if config.downsample_input else 1
    sides = downsampled_sides(example.shape[2:], ratio)
    low_example = example.new_empty((*example.shape[:2], *sides))
    trace = trace_model(model, example, front_end, leaf_modules)
    full = trace.graph_module
    with train_mode(model):
        _annotate(full, trace.shapes)
        check_poolable(model, full, config)
        low = bind_graph(model, _low_graph(trace, model, low_example), "Draft", draft=True)
        _annotate(low, trace.shapes)
        reports = run_passes(low, default_passes(config, trace.shapes))
        low_shapes, resized = fit(low, full, low_example, reports, trace.shapes, config)
        check_sharing(low, model)
        check_geometry(low, low_shapes)
        check_outputs(trace.shapes, low_shapes, low)
        check_reachability(full, low)
        if config.restore_output:
            reports = (*reports, _restore(low, trace.shapes, low_shapes))
        low = bind_graph(model, low.graph, f"{type(model).__name__}Low")
    if resized:
        reports = (*reports, PassReport("resize_head", resized))
    remarks = notes(example.shape[2:], sides, config, reports) + smaller_outputs(trace.shapes, low, low_shapes, config)
    report = PairReport(
        model=type(model).__name__,
        front_end=trace.front_end,
        front_end_failures=trace.failures,
        input_shape=tuple(example.shape),
        low_input_shape=tuple(low_example.shape),
        passes=reports,
        notes=remarks,
        input_dtype=example.dtype,
        leaf_modules=tuple(leaf_modules),
    )
    return ModePair(model, full, low, config, report)


def default_passes(config: LowModeConfig, full_shapes: Mapping[str, ShapeTree]) -> tuple[GraphPass, ...]:
    """The passes in their order: what shrinks less, then what is pooled, then norms and heads."""
    isolate: tuple[GraphPass, ...] = (isolate_batchnorm,) if config.batchnorm == "isolate" else ()
    return (
        partial(drop_maxpools, which=config.drop_maxpools),
        partial(set_strides, strides=config.strides),
        partial(
            pool_weights,
            ratio=config.effective_kernel_ratio,
            rounding=config.rounding,
            transform=config.kernel_transform,
            gain=config.gain,
            pool_convs=config.pool_convs,
            keep_convs=config.keep_convs,
        ),
        *isolate,
        partial(adapt_heads, full_shapes=full_shapes),
    )


def _check_arguments(model: Any, config: Any) -> LowModeConfig:
    if isinstance(getattr(model, "pair", None), ModePair):
        raise TypeError("the model is a LowModeModel already, with a pair of its own; give net.pair.model")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it must be an nn.Module, as timm.create_model makes it")
    if config is not None and not isinstance(config, LowModeConfig):
        raise TypeError(f"config is a {type(config).__name__}; it must be a LowModeConfig, as LowModeConfig(ratio=2)")
    return LowModeConfig() if config is None else config


def _check_example(example: Any) -> Tensor:
    if (
        not isinstance(example, Tensor)
        or not example.is_floating_point()
        or not (3 <= example.ndim <= 5 and len(example))
    ):
        shape = f"{tuple(example.shape)} of {example.dtype}" if isinstance(example, Tensor) else type(example).__name__
        raise TypeError(
            f"example_input is {shape}; it must be a float tensor (N, C, *S), as torch.randn(2, 3, 224, 224)"
        )
    # A batch of one has no batch statistics on a 1×1 map.
    return example if example.shape[0] > 1 else example.expand(2, *example.shape[1:])


def _find_submodule(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        names = [name for name, _ in model.named_modules() if name]
        near = difflib.get_close_matches(path, names, n=4, cutoff=0.3) or names[:4]
        kind = type(model).__name__
        raise ValueError(f"submodule: {kind} has no {path!r}; near matches: {', '.join(near)}") from None


def _annotate(graph_module: fx.GraphModule, full_shapes: Mapping[str, ShapeTree]) -> None:
    # What the passes need of a kernel that is computed: its shape, which no parameter tells.
    for node in graph_module.graph.nodes:
        if node.name in full_shapes:
            node.meta["shape"] = full_shapes[node.name]


def _low_graph(trace: Trace, model: nn.Module, low_example: Tensor) -> fx.Graph:
    if not trace.static:
        return copy.deepcopy(trace.graph_module.graph)
    try:
        return trace_by_export(model, low_example)
    except Exception as error:
        size = "×".join(map(str, low_example.shape[2:]))
        cause = str(error).strip().splitlines()[0]
        raise PassError(
            f"torch.export can't follow the model on {size} inputs: {cause}; try an input size that halves more often, "
            "or pool kernels alone with downsample_input=False"
        ) from error


def _restore(
    low: fx.GraphModule, full_shapes: Mapping[str, ShapeTree], low_shapes: Mapping[fx.Node, ShapeTree]
) -> PassReport:
    output = next(node for node in low.graph.nodes if node.op == "output")
    return restore_output(low, full_output=full_shapes[output.name], low_output=low_shapes[output])
