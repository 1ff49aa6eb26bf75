"""``capture``: a model's full-mode graph, without a configuration; every mode is made from it."""

from __future__ import annotations

import contextlib
import copy
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from lowmode_fx.capture.frontends import FrontEnd, FrontEndName, front_ends
from lowmode_fx.capture.images import Argument
from lowmode_fx.capture.inputs import ModelInputs, doubled, model_inputs
from lowmode_fx.capture.proof import Proof, prove
from lowmode_fx.utils.channels import channels_hint
from passes import bind_graph, propagate_shapes
from passes.find_maps import mark_images
from passes.preserve import train_mode
from passes.shapes import forget_results, record_shapes
from passes.wording import first_line


class TraceError(ValueError):
    """No front end could trace the model: which failed, where, and what to do."""


@dataclass(frozen=True)
class Captured:
    """A model and its full-mode graph, in train mode, whose nodes hold their shapes on the example.

    ``failures``: of the front ends that were tried before, a line each. ``leaf_modules``: classes that were not traced
    into, by the user's wish. ``live``: low steps are to run the model itself; else the graphs, which were asked for.
    """

    model: nn.Module
    graph_module: fx.GraphModule
    inputs: ModelInputs
    front_end: FrontEnd
    failures: tuple[str, ...] = ()
    leaf_modules: tuple[type[nn.Module], ...] = ()
    live: bool = True

    def graph_for(self, inputs: ModelInputs) -> fx.Graph:
        """A copy of the graph for images of another size, to be rewritten.

        Raises whatever the front end raises where its graphs hold for one size alone, and it can't follow the model on
        this one.
        """
        if self.front_end.any_size:
            return copy.deepcopy(self.graph_module.graph)
        with train_mode(self.model):
            (trace, *_) = self.front_end.attempts(self.model, inputs, inputs.blank_for(self.model), self.leaf_modules)
            try:
                graph = trace()
                mark_images(graph, inputs.images)
                return graph
            except Exception:
                if not self.live:
                    raise
        # The model fails there as it is: with its full-mode calls it can be said where, and a head be resized.
        graph = copy.deepcopy(self.graph_module.graph)
        forget_results(graph)
        return graph

    def require_proof(self, graph_module: fx.GraphModule, inputs: ModelInputs, *, again: bool = False) -> None:
        """Hold a graph that is to run steps against the model, on a call of these shapes and on one of more images.

        again: a graph for any size, which has taken its steps on the example, takes one more on these; or, where the
            model itself doesn't take any such, as one whose head has a fixed size, on more images of the example's.

        Raises ``TraceError`` where it does not train as the model does, or where that can't be told.
        """
        proof = self._proof(graph_module, inputs, again)
        if again and not proof.taken:
            proof = self._proof(graph_module, self.inputs, again)
        if not proof.holds:
            raise TraceError(
                f"{self.front_end.name}'s graph of {type(self.model).__name__} does not train as the model does: "
                f"{proof.difference}; leave front_end out, and low steps run the model itself"
            )

    def _proof(self, graph_module: fx.GraphModule, inputs: ModelInputs, again: bool) -> Proof:
        call, more = (each.call(each.blank_for(self.model)) for each in (inputs, inputs.with_more_images()))
        second = more if again or not self.front_end.any_size else None
        leaves = partial(inputs.flatten, self.model)
        return prove(self.model, graph_module, *call, leaves=leaves, second=second, steps=1 if again else 2)


def capture(
    model: nn.Module,
    example_input: Any,
    front_end: FrontEndName = "auto",
    *,
    images: Argument | Iterable[Argument] | None = None,
    leaf_modules: Sequence[type[nn.Module]] = (),
) -> Captured:
    """Trace ``model`` in train mode; ``lower`` makes modes of the result, each without another trace.

    example_input: what ``forward`` takes, as a tensor of images ``(N, C, *S)``, a tuple of arguments or a mapping of
        keywords; of tensors only shapes, dtypes and devices count, all else is the same in each call.
    front_end: ``"fx"`` or ``"export"``, whose graphs then run low steps, or ``"live"``, which runs the model;
        ``"auto"`` takes the first that gives a graph to count and to plan by, and low steps run the model itself.
    images: what holds images, by the argument's name or place or a path into it (``"batch.image"``), where that is not
        plain from the shapes.
    leaf_modules: module classes that are not traced into; convolutions inside them stay whole.

    The model is left as it was: no weight, buffer, mode or generator changes. Raises ``TraceError`` (a ``ValueError``)
    where no front end gives a graph that runs, or the one that was named gives a graph that does not train as the model
    does; ``TypeError`` or ``ValueError`` for an example that is none.
    """
    _check_weights(model)
    inputs, example = model_inputs(model, example_input, images)
    batch_of_two = doubled(inputs, example)
    if batch_of_two is not None:
        with contextlib.suppress(TraceError):  # a tensor of length one need not be one of the batch
            return capture_call(model, *batch_of_two, front_end, leaf_modules)
    return capture_call(model, inputs, example, front_end, leaf_modules)


def _check_weights(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if any(map(is_lazy, module.parameters(recurse=False))):
            kind = type(module).__name__
            raise ValueError(
                f"{path or 'the model'} is a lazy layer ({kind}), whose weights have no shape yet; run the model once "
                "on a batch first"
            )


def capture_call(
    model: nn.Module,
    inputs: ModelInputs,
    example: Sequence[Tensor],
    front_end: FrontEndName,
    leaf_modules: Sequence[type[nn.Module]],
) -> Captured:
    """``capture`` for a call that is known already; ``example`` are values for its leaves."""
    captured = trace_call(model, inputs, example, front_end, leaf_modules)
    if not captured.live:
        captured.require_proof(captured.graph_module, inputs)
    return captured


def trace_call(
    model: nn.Module,
    inputs: ModelInputs,
    example: Sequence[Tensor],
    front_end: FrontEndName,
    leaf_modules: Sequence[type[nn.Module]] = (),
) -> Captured:
    """``capture_call``, without a proof of what a front end that was named gives."""
    tried = front_ends(front_end)
    failures: list[str] = []
    with train_mode(model):
        for each in tried:
            for trace in each.attempts(model, inputs, example, leaf_modules):
                try:
                    graph = trace()
                    mark_images(graph, inputs.images)
                    graph_module = bind_graph(model, graph, f"{type(model).__name__}Full")
                    record_shapes(propagate_shapes(graph_module, *example))
                except Exception as error:
                    failures.append(f"{each.name}: {_where(error)}")
                    continue
                told, live = tuple(dict.fromkeys(failures)), front_end in ("auto", "live")
                return Captured(model, graph_module, inputs, each, told, tuple(leaf_modules), live)
    shapes = ", ".join(f"{leaf.shape} of {leaf.dtype}" for leaf in inputs.leaves)
    if tried[-1].name == "live":  # which runs the model itself: what went wrong there says it all
        cause = failures[-1].partition(": ")[2]
        raise TraceError(f"{type(model).__name__} fails on {shapes}: {channels_hint(model, cause) or cause}")
    raise TraceError(
        f"{type(model).__name__} can't be traced on {shapes}; {'; '.join(dict.fromkeys(failures))}. Check that the "
        "model takes this input; then mark the module at fault with leaf_modules=, or give submodule="
    )


def _where(error: Exception) -> str:
    """The error's first line, and the last line of the model's own code that led to it."""
    ours = ("/torch/", "/lowmode_fx/", "/passes/")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(part in frame.filename.replace("\\", "/") for part in ours) and not frame.filename.startswith("<")
    ]
    place = f" (line {frames[-1].lineno} of {frames[-1].filename.rsplit('/', 1)[-1]})" if frames else ""
    return f"{first_line(error)}{place}"
