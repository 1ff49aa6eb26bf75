"""From a model to a graph that runs: front ends tried in order, saying which served and why the others did not."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, fx, nn

from lowmode_fx.capture.export_frontend import trace_by_export
from lowmode_fx.capture.fx_frontend import ConvTracer, holds_untraceable_convs, trace_symbolically
from passes import bind_graph, propagate_shapes
from passes.shapes import ShapeTree

FrontEnd = Literal["auto", "fx", "export"]


class TraceError(ValueError):
    """No front end could trace the model: which failed, where, and what to do."""


@dataclass(frozen=True)
class Trace:
    """A graph bound to the model that ran on the example's shape.

    ``static``: it holds for that size only. ``shapes``: of each node's result, by node name.
    """

    graph_module: fx.GraphModule
    shapes: dict[str, ShapeTree]
    front_end: str
    static: bool
    failures: tuple[str, ...] = ()


def trace_model(
    model: nn.Module,
    example_input: Tensor,
    front_end: FrontEnd = "auto",
    leaf_modules: Sequence[type[nn.Module]] = (),
) -> Trace:
    """Trace ``model`` in train mode on ``example_input`` ``(N, C, *S)``; the model is left as it was.

    Raises ``TraceError`` (a ``ValueError``) where the model takes more than one input, or no front end gives a graph
    that runs.
    """
    if front_end not in get_args(FrontEnd):
        raise ValueError(f"front_end is {front_end!r}; allowed: {', '.join(map(repr, get_args(FrontEnd)))}")
    _check_inputs(model)
    failures: list[str] = []
    with train_mode(model):
        for name, trace in _attempts(model, example_input, leaf_modules):
            if front_end not in ("auto", name):
                continue
            try:
                graph_module = bind_graph(model, trace(), f"{type(model).__name__}Full")
                shapes = propagate_shapes(graph_module, example_input)
            except Exception as error:
                failures.append(f"{name}: {_where(error)}")
                continue
            by_name = {node.name: shape for node, shape in shapes.items()}
            return Trace(graph_module, by_name, name, static=name == "export", failures=tuple(dict.fromkeys(failures)))
    raise TraceError(
        f"{type(model).__name__} can't be traced on {tuple(example_input.shape)} of {example_input.dtype}; "
        f"{'; '.join(_once(failures))}. Check that the model takes this input; "
        "then mark the module at fault with leaf_modules=, or give submodule="
    )


def _once(failures: Sequence[str]) -> list[str]:
    """Each failure once; what both front ends complain of in the same words, in one line."""
    found = list(dict.fromkeys(failures))
    (one, first), (other, last) = (found[at].split(": ", 1) for at in (0, -1))
    if one != other and _without_place(first).endswith(_without_place(last)):
        return [*found[1:-1], f"{one} and {other}: {last}"]
    return found


def _without_place(complaint: str) -> str:
    return complaint.partition(" (line ")[0]


def _check_inputs(model: nn.Module) -> None:
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return  # compiled code, which the front ends judge
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = [each.name for each in parameters if each.kind in kinds and each.default is inspect.Parameter.empty]
    if len(required) > 1:
        raise TraceError(
            f"{type(model).__name__}.forward takes {len(required)} inputs ({', '.join(required)}), and low-mode makes "
            "one smaller, a batch of images; wrap the model in a module whose forward takes the images alone, or give "
            "the part that does as submodule="
        )


def _attempts(
    model: nn.Module, example_input: Tensor, leaf_modules: Sequence[type[nn.Module]]
) -> Iterator[tuple[str, Callable[[], fx.Graph]]]:
    if holds_untraceable_convs(model):
        yield "fx", lambda: trace_symbolically(model, leaf_modules, enter_untraceable=True)
    yield "fx", lambda: trace_symbolically(model, leaf_modules)
    yield "export", lambda: trace_by_export(model, example_input)


@contextlib.contextmanager
def train_mode(model: nn.Module) -> Iterator[None]:
    """Train mode inside; a model that is already in it keeps the modules that its owner froze."""
    modes = {module: module.training for module in model.modules()}
    if not model.training:
        model.train()
    try:
        yield
    finally:
        for module, training in modes.items():
            if module.training is not training:
                module.training = training


def _where(error: Exception) -> str:
    """The error's first line, and the last line of the model's own code that led to it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    ours = ("/torch/", "/lowmode_fx/", "/passes/")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(part in frame.filename.replace("\\", "/") for part in ours) and not frame.filename.startswith("<")
    ]
    place = f" (line {frames[-1].lineno} of {frames[-1].filename.rsplit('/', 1)[-1]})" if frames else ""
    return f"{lines[0]}{place}"


__all__ = ["ConvTracer", "FrontEnd", "Trace", "TraceError", "trace_model", "train_mode"]
