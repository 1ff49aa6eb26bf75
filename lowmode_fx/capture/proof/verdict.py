"""Compares the results of a step on both sides: the first difference in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lowmode_fx.capture.proof.compare import difference
from lowmode_fx.capture.proof.side import Side
from lowmode_fx.capture.proof.surroundings import Surroundings


def first_difference(model: Side, graph: Side, surroundings: Surroundings) -> str | None:
    """The first difference between the last steps of ``model`` and ``graph``, in one line; ``None`` if none."""
    if model.failure or graph.failure:
        return _of_failures(model.failure, graph.failure)

    def between(ours: Any, theirs: Any, path: str) -> str | None:
        return difference(ours, theirs, lambda one, other: _of_tensors(one, other, model, graph), path)

    return (
        between(model.outputs, graph.outputs, "output")
        or between(_gradients(model), _gradients(graph), "gradient")
        or between(model.module, graph.module, "")
        or between(model.inputs, graph.inputs, "input")
        or _of_calls(model.recorder.calls, graph.recorder.calls)
        or between(dict(model.recorder.draws), dict(graph.recorder.draws), "draws")
        or _of_values_asked_for(model, graph)
        or _of_work(model, graph)
        or between(surroundings.names(model.left_behind), surroundings.names(graph.left_behind), "")
        or _of_settings(model, graph)
    )


def _of_failures(model: str, graph: str) -> str | None:
    if model and graph:
        return None  # neither takes these inputs
    return f"the model fails, but not the graph: {model}" if model else f"the graph fails, but not the model: {graph}"


def _of_tensors(one: Tensor, other: Tensor, model: Side, graph: Side) -> str | None:
    (_, ours, our_geometry), (_, theirs, their_geometry) = model.recorder.read(one), graph.recorder.read(other)
    values = model.recorder.values
    if ours != theirs:
        in_model, in_graph = values.parting(ours, theirs)
        return f"{in_model} in the model, {in_graph} in the graph"
    if our_geometry != their_geometry:
        return f"{values.layout(our_geometry)} in the model, {values.layout(their_geometry)} in the graph"
    if one.requires_grad is not other.requires_grad:
        return f"requires a gradient in the {'model' if one.requires_grad else 'graph'} only"
    return None


def _gradients(side: Side) -> dict[str, Tensor]:
    return {name: each.grad for name, each in side.module.named_parameters() if each.grad is not None}


def _of_calls(model: Sequence[str], graph: Sequence[str]) -> str | None:
    ours, theirs = Counter(model), Counter(graph)
    for hook in ours | theirs:
        if ours[hook] != theirs[hook]:
            counts = f"{_times(ours[hook])} in the model, {_times(theirs[hook])} in the graph"
            return f"hooks: the {hook} is called {counts}"
    return None


def _of_settings(model: Side, graph: Side) -> str | None:
    for name, state in model.left_behind.settings.items():
        if difference(state, graph.left_behind.settings[name], lambda *_: None, "") is not None:
            return f"{name}: the state after the step differs between graph and model"
    return None


def _of_values_asked_for(model: Side, graph: Side) -> str | None:
    for value in model.recorder.asked:
        if value not in graph.recorder.asked and not model.recorder.values.is_constant(value):
            return f"values: the model reads that of {model.recorder.values.told(value)}, the graph does not"
    return None


def _of_work(model: Side, graph: Side) -> str | None:
    """What the model computes again, as checkpointing does. Unused work that a graph leaves out is not a difference."""
    for value, times in model.recorder.computed.items():
        others = graph.recorder.computed[value]
        if others and others != times:
            named = model.recorder.values.told(value)
            return f"work: {named} {_times(times)} in the model, {_times(others)} in the graph"
    return None


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")
