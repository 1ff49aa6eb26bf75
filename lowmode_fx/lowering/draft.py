"""The graph of a low mode before its passes, which is proven against the model, again whenever that changes."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from lowmode_fx.capture.capture import Captured
from lowmode_fx.capture.inputs import ModelInputs
from lowmode_fx.lowering.model_state import model_state
from passes import bind_graph
from passes.preserve import train_mode


@dataclass(frozen=True)
class Draft:
    """The captured model's graph for a call with the shapes of ``inputs``.

    ``state`` is the model's state when the graph was proven; it is empty as long as that has not happened.
    """

    captured: Captured
    graph: fx.Graph
    inputs: ModelInputs
    state: list[Any] | None = None

    def proven(self, *, again: bool = False) -> Draft:
        """Return the draft, proven for the model as it is now.

        ``again``: the model's graph was proven before, for images of another size, and this is a copy of it. Raises
        ``TraceError`` if the graph does not train as the model does.
        """
        model = self.captured.model
        state = model_state(model)
        if state == self.state:
            return self
        with train_mode(model):
            graph_module = bind_graph(model, self.graph, "Draft")
        if not again and self.captured.front_end.any_size:
            self.captured.require_proof(self.captured.graph_module, self.captured.inputs)
            again = True
        self.captured.require_proof(graph_module, self.inputs, again=again)
        return replace(self, state=state)

    def over(self, model: nn.Module, full: fx.GraphModule, memo: dict[int, Any]) -> Draft:
        """The same draft over a copy of the model; it is proven for the copy if it was proven for this model."""
        holds = model_state(self.captured.model) == self.state
        captured = replace(self.captured, model=model, graph_module=full)
        return Draft(captured, copy.deepcopy(self.graph, memo), self.inputs, model_state(model) if holds else None)
