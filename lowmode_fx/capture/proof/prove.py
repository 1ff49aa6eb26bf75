"""``prove``: a model and its graph take the same training steps, in turns, and are held against each other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lowmode_fx.capture.proof.copies import fake_copy, graph_over
from lowmode_fx.capture.proof.fakes import Fakes, Names
from lowmode_fx.capture.proof.recorder import NotProvable
from lowmode_fx.capture.proof.results import Results
from lowmode_fx.capture.proof.side import Side, calm
from lowmode_fx.capture.proof.surroundings import Surroundings
from lowmode_fx.capture.proof.values import Values
from lowmode_fx.capture.proof.verdict import first_difference

_TRAINING_STEPS = 2


@dataclass(frozen=True)
class Proof:
    """Whether a graph does what its model does.

    ``difference``: the first difference, or why there is no proof, in one line; empty where it holds.
    ``seconds``: of CPU time, that it took.
    """

    holds: bool
    difference: str
    seconds: float


def prove(
    model: nn.Module,
    graph_module: fx.GraphModule,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    at: Sequence[Sequence[Any]] = (),
) -> Proof:
    """Hold ``graph_module``, a graph over the model's own registries, against ``model`` on ``args`` and ``kwargs``.

    Both take two training steps in a row in train mode, forward and backward from every output, the second inside of
    autocast that casts nothing, then one step for each of ``at``: other positional arguments, such as images of another
    size that the graph may run on as well. Only shapes, strides, dtypes and devices of tensors count. Compared are
    outputs and their types, gradients, parameters, buffers, Python attributes, draws, which hooks are called, what is
    computed more than once, and after each step all generators and the global names of the model's source files.

    Nothing is computed; the model, its hooks and all generators stay as they are. A branch on an attribute is followed
    as the attribute stands; where the values of tensors decide, there is no proof.
    """
    started = time.process_time()
    steps = [(args, False), (args, True), *((other, False) for other in at)]
    try:
        difference = _difference(model, graph_module, steps, kwargs or {})
    except NotProvable as cause:
        difference = f"not provable: {cause}"
    return Proof(not difference, difference, time.process_time() - started)


def _difference(
    model: nn.Module, graph_module: fx.GraphModule, steps: Sequence[tuple[Any, bool]], kwargs: Mapping[str, Any]
) -> str:
    surroundings = Surroundings(model)
    before = surroundings.take()
    try:
        with calm():
            mode = FakeTensorMode(allow_fallback_kernels=False)
            values, names, results = Values(), Names(model), Results(mode)
            sides = []
            for graph in (None, graph_module):
                fakes = Fakes(mode, results, values, names, source_lines=graph is None)
                copied = fake_copy(model, fakes)
                run = copied if graph is None else graph_over(graph, copied)
                sides.append(Side(copied, run, fakes, surroundings))
            for number, (args, autocast) in enumerate(steps):
                for side in sides:
                    side.step(tuple(args), dict(kwargs), number, autocast)
                found = first_difference(*sides, surroundings)
                if found is not None:
                    return found
                if sides[0].failure:
                    if number < _TRAINING_STEPS:
                        raise NotProvable(sides[0].failure)
                    return ""
                for side in sides:
                    side.update_parameters(number)
    finally:
        surroundings.put(before)
    return ""
