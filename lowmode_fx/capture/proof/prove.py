"""``prove``: a model and its graph take the same training steps in turn and are compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from lowmode_fx.capture.proof.complaints import NotProvable
from lowmode_fx.capture.proof.copies import fake_copy, graph_over
from lowmode_fx.capture.proof.fakes import Fakes, Names
from lowmode_fx.capture.proof.results import Results
from lowmode_fx.capture.proof.side import Side, calm
from lowmode_fx.capture.proof.surroundings import Surroundings
from lowmode_fx.capture.proof.values import Values
from lowmode_fx.capture.proof.verdict import first_difference
from passes.preserve import preserve_state
from passes.torch_internals import fake_tensor_mode_without_kernels
from passes.wording import first_line

#: Arguments of a call by position and by name.
Call = tuple[Sequence[Any], Mapping[str, Any]]
#: The tensors of a call, in the order in which a graph takes them.
Leaves = Callable[[Sequence[Any], Mapping[str, Any]], Sequence[Tensor]]
#: A call, and whether autocast is on.
Step = tuple[Call, bool]

#: Seed of torch's generator, so that a forward that seeds it is detected.
_UNUSED_SEED = 0x9E3779B97F4A7C15


class _Untaken(NotProvable):
    """The model itself does not take a call."""


@dataclass(frozen=True)
class Proof:
    """Whether a graph does what its model does.

    ``difference``: the first difference, or why there is no proof, in one line; empty if the proof holds. ``seconds``:
    its CPU time. ``taken``: whether the model itself takes the call at all.
    """

    holds: bool
    difference: str
    seconds: float
    taken: bool = True


def prove(
    model: nn.Module,
    graph_module: fx.GraphModule,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    leaves: Leaves | None = None,
    second: Call | None = None,
    at: Sequence[Call] = (),
    steps: int = 2,
) -> Proof:
    """Compare ``graph_module``, a graph over the model's own registries, with ``model`` on ``args`` and ``kwargs``.

    Both take two consecutive training steps in train mode, forward and backward from every output, the second with
    autocast on, to a dtype that casts nothing. Compared are outputs and their types, gradients, parameters, buffers,
    Python attributes, random draws, hook calls, recomputation, and everything that a step changes outside of the model:
    generators, and global names of its source files.

    Only shapes, strides, dtypes and devices of tensors matter. Nothing is computed, and the model, its hooks and all
    generators stay as they are. A branch on an attribute is followed as the attribute is now; where the values of
    tensors decide, there is no proof.

    ``leaves``: the tensors that the graph takes, from a call of the model; by default the graph is called like the
    model. ``second``: another call for the second step, with another number of images; if the model does not take it,
    both steps use the first. ``steps``: 1 for the second step only, of a graph that is already proven for other images.
    ``at``: further calls, one step each, with images of another size or number that the graph must run on too: without
    them a graph is proven for these inputs only, for which an exported one may be specialised.
    """
    started = time.process_time()
    call = args, kwargs or {}
    more = [(each, False) for each in at]

    def found(last: Call) -> str:
        training = [(call, False), (last, True)][-steps:]
        return _difference(model, graph_module, leaves, training, more)

    try:
        try:
            difference = found(second or call)
        except _Untaken:
            if second is None:
                raise
            difference = found(call)
    except _Untaken as cause:
        return Proof(False, f"not provable: {first_line(cause)}", time.process_time() - started, taken=False)
    except Exception as cause:  # a model's properties, copies and hooks may raise anything
        difference = f"not provable: {first_line(cause)}"
    return Proof(not difference, difference, time.process_time() - started)


def _difference(
    model: nn.Module,
    graph_module: fx.GraphModule,
    leaves: Leaves | None,
    training: Sequence[Step],
    more: Sequence[Step],
) -> str:
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise NotProvable("the model holds TorchScript, which runs real tensors")
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        raise NotProvable("the model has lazy layers without weights; run one forward first")
    surroundings = Surroundings(model)
    before = surroundings.take()
    try:
        # Code may reach the model itself through references that are not copied.
        with preserve_state(model, buffers=False, gradients=True), calm():
            torch.default_generator.manual_seed(_UNUSED_SEED)
            ours, theirs = _sides(model, graph_module, leaves, surroundings)
            for number, (call, autocast) in enumerate([*training, *more]):
                for side in (ours, theirs):
                    side.step(call, number, autocast)
                if ours.failure and number < len(training):
                    raise _Untaken(ours.failure)
                found = first_difference(ours, theirs, surroundings)
                if found is not None or ours.failure:
                    return found or ""
                for side in (ours, theirs):
                    side.update_parameters(number)
    finally:
        surroundings.put(before)
    return ""


def _sides(
    model: nn.Module, graph_module: fx.GraphModule, leaves: Leaves | None, surroundings: Surroundings
) -> Iterator[Side]:
    mode = fake_tensor_mode_without_kernels()
    values, names, results = Values(), Names(model), Results(mode)
    for graph in (None, graph_module):
        fakes = Fakes(mode, results, values, names, source_lines=graph is None)
        copied = fake_copy(model, fakes)
        run: Callable[..., Any] = copied if graph is None else _caller(graph_over(graph, copied), leaves)
        yield Side(copied, run, fakes, surroundings)


def _caller(graph_module: fx.GraphModule, leaves: Leaves | None) -> Callable[..., Any]:
    if leaves is None:
        return graph_module
    return lambda *args, **kwargs: graph_module(*leaves(args, kwargs))
