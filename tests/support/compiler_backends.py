"""A backend for ``torch.compile`` that records the graphs that it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx


class RecordingBackend:
    """Runs graphs as they are. ``graphs``: all that it was given, one a compilation."""

    def __init__(self) -> None:
        self.graphs: list[fx.GraphModule] = []

    def __call__(self, graph_module: fx.GraphModule, example_inputs: Any) -> Callable[..., Any]:
        self.graphs.append(graph_module)
        return graph_module.forward

    def __deepcopy__(self, memo: dict[int, Any]) -> RecordingBackend:
        return self  # as a function: a copy of a net compiles with the same one
