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

from lowmode_fx.capture.batch_hints import check_batched, failure_hint
from lowmode_fx.capture.frontends import FrontEnd, FrontEndName, front_ends
from lowmode_fx.capture.images import Argument
from lowmode_fx.capture.inputs import ModelInputs, doubled, model_inputs
from lowmode_fx.capture.proof import Proof, prove
from lowmode_fx.utils.channels import channels_hint
from lowmode_fx.utils.validation import as_sequence, wrong_type
from passes import bind_graph, propagate_shapes
from passes.find_maps import mark_images
from passes.preserve import train_mode
from passes.shapes import forget_results, record_shapes
from passes.wording import first_line


class TraceError(ValueError):
    """The model can't be captured: which front end failed, where, and what to do."""


@dataclass(frozen=True)
class Captured:
    """A model and its full-mode graph in train mode, from ``capture``; ``lower`` makes modes of it.

    Attributes:
        model: The model.
        graph_module: The full-mode graph, whose nodes hold their shapes on the example.
        inputs: The call of the model on the example.
        front_end: The front end that made the graph.
        failures: Errors of the front ends that were tried before, one line each.
        leaf_modules: Module classes that were not traced into, as the user requested.
        live: Whether low steps run the model itself; otherwise they run graphs, as the user requested.
    """

    model: nn.Module
    graph_module: fx.GraphModule
    inputs: ModelInputs
    front_end: FrontEnd
    failures: tuple[str, ...] = ()
    leaf_modules: tuple[type[nn.Module], ...] = ()
    live: bool = True

    def graph_for(self, inputs: ModelInputs) -> tuple[fx.Graph, Exception | None]:
        """Return a copy of the graph for images of another size, to be rewritten.

        Args:
            inputs: The call with images of that size.

        Returns:
            The graph and, if the model itself fails at that size, its error. The graph is then that of full-mode, whose
            calls show where a head has to be resized; whether the low mode runs has to be tried.

        Raises:
            Exception: The front end's graphs hold for one size only, and it fails to trace the model on this one.
        """
        if self.front_end.any_size:
            return copy.deepcopy(self.graph_module.graph), None
        with train_mode(self.model):
            (trace, *_) = self.front_end.attempts(self.model, inputs, inputs.blank_for(self.model), self.leaf_modules)
            try:
                graph = trace()
                mark_images(graph, inputs.images)
                return graph, None
            except Exception as error:
                if not self.live:
                    raise
                failed = error
        graph = copy.deepcopy(self.graph_module.graph)
        forget_results(graph)
        return graph, failed

    def require_proof(self, graph_module: fx.GraphModule, inputs: ModelInputs, *, again: bool = False) -> None:
        """Prove that a graph that is to run steps trains as the model does.

        The proof uses a call of these shapes and one with more images.

        Args:
            graph_module: The graph.
            inputs: The call.
            again: The graph holds for any size and was proven on the example: prove one more step on these inputs, or,
                if the model itself does not take them (its head has a fixed size), on more images of the example's
                size.

        Raises:
            TraceError: The graph does not train as the model does, or no proof was found.
        """
        proof = self._proof(graph_module, inputs, again)
        if again and not proof.taken:
            proof = self._proof(graph_module, self.inputs, again)
        if not proof.holds:
            raise TraceError(
                f"the {self.front_end.name} graph of {type(self.model).__name__} does not train as the model does: "
                f"{proof.difference}; leave out front_end, so that low steps run the model itself"
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
    """Capture a model's graph in train mode; ``lower`` makes modes of it without tracing again.

    The model is left as it was: weights, buffers, train or eval mode and random number generators do not change.

    Args:
        model: The model.
        example_input: What ``forward`` takes: a tensor of images ``(N, C, *S)``, a tuple of arguments or a mapping of
            keywords. Of tensors only shapes, dtypes and devices matter; other values are the same in each call.
        front_end: ``"fx"`` or ``"export"``, whose graphs then run low steps, or ``"live"``, which runs the model.
            ``"auto"`` takes the first that gives a graph, for counting and planning, and low steps run the model
            itself.
        images: The arguments that hold images, by name, position or a path (``"batch.image"``), if shapes alone do not
            show it.
        leaf_modules: Module classes that are not traced into; convolutions inside them are not pooled.

    Returns:
        The captured model.

    Raises:
        TraceError: No front end gives a graph that runs, or the graph of a front end given by name does not train as
            the model does (a ``ValueError``).
        TypeError: The example holds no images, or values that are not supported.
        ValueError: The example does not fit ``forward``, or it is ambiguous which arguments are images.
    """
    _check_weights(model)
    _check_classes(leaf_modules)
    inputs, example = model_inputs(model, example_input, images)
    batch_of_two = doubled(inputs, example)
    if batch_of_two is not None:
        with contextlib.suppress(TraceError):  # a tensor of length one may not belong to the batch
            return capture_call(model, *batch_of_two, front_end, leaf_modules)
    return capture_call(model, inputs, example, front_end, leaf_modules)


def _check_classes(leaf_modules: Any) -> None:
    give = "a list of module classes, as [torch.nn.ReLU]"
    for each in as_sequence("leaf_modules", leaf_modules, give):
        if not (isinstance(each, type) and issubclass(each, nn.Module)):
            raise wrong_type("leaf_modules", each, give)


def _check_weights(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if any(map(is_lazy, module.parameters(recurse=False))):
            kind = type(module).__name__
            raise ValueError(
                f"{path or 'the model'} is a lazy layer ({kind}) without weights; run the model once on a batch first"
            )


def capture_call(
    model: nn.Module,
    inputs: ModelInputs,
    example: Sequence[Tensor],
    front_end: FrontEndName,
    leaf_modules: Sequence[type[nn.Module]],
) -> Captured:
    """``capture`` for a known call; ``example`` holds values for its leaves."""
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
    """``capture_call`` without a proof of the graph of a front end given by name."""
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
                check_batched(model, graph_module, inputs)
                told, live = tuple(dict.fromkeys(failures)), front_end in ("auto", "live")
                return Captured(model, graph_module, inputs, each, told, tuple(leaf_modules), live)
    shapes = ", ".join(f"{leaf.shape} of {leaf.dtype}" for leaf in inputs.leaves)
    if tried[-1].name == "live":  # it runs the model itself, so its error is the model's own
        cause = failures[-1].partition(": ")[2]
        hint = failure_hint(model, inputs, cause)
        problem = channels_hint(model, cause) or f"{cause}{f'; {hint}' if hint else ''}"
        raise TraceError(f"{type(model).__name__} fails on {shapes}: {problem}")
    raise TraceError(
        f"{type(model).__name__} can't be traced on {shapes}: {'; '.join(dict.fromkeys(failures))}; check that the "
        "model takes this input, give the module that fails as leaf_modules=, or give submodule="
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
    kind = "KeyError: " if isinstance(error, KeyError) else ""  # which says its key alone
    return f"{kind}{first_line(error)}{place}"
