"""The second front end: ``torch.export`` traces the model on real shapes, so its graphs hold for one image size."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind

from lowmode_fx.capture.custom_functions import CustomCalls
from lowmode_fx.capture.fx_frontend import replace_by_constant
from lowmode_fx.capture.hooks import forward_hooks_aside
from lowmode_fx.capture.inputs import ModelInputs
from passes.preserve import preserve_state
from passes.torch_internals import fake_norms_by_layout, graphs_alone, logs_wanted, quiet_misfits
from passes.trees import Structure, tree_flatten, tree_unflatten


class ExportFrontEnd:
    """``torch.export``: traces the model on real shapes, so its graphs hold for one image size."""

    name = "export"
    any_size = False

    def attempts(
        self, model: nn.Module, inputs: ModelInputs, example: Sequence[Tensor], leaf_modules: Sequence[type[nn.Module]]
    ) -> Iterator[Callable[[], fx.Graph]]:
        """A single attempt without leaf modules."""
        yield partial(trace_by_export, model, inputs, example)


def trace_by_export(model: nn.Module, inputs: ModelInputs, example: Sequence[Tensor]) -> fx.Graph:
    """The model's graph for inputs of exactly ``example``'s shapes, with the model's own names.

    Raises whatever ``torch.export`` raises, and ``ValueError`` if it gave the model tensors that aren't its own.
    """
    structures: list[Structure] = []
    calls = CustomCalls()
    aside = forward_hooks_aside(model)
    with warnings.catch_warnings(), quiet_misfits(), preserve_state(model, buffers=False), aside:
        warnings.simplefilter("ignore")
        args, kwargs = inputs.call(example)
        model.__dict__["forward"] = _flat(model.forward, structures, calls)
        with graphs_alone(), fake_norms_by_layout():
            try:
                program = torch.export.export(model, args, kwargs, strict=False)
            except _ForwardError as failed:
                raise failed.error from None
        graph = _without_lifted_inputs(program)
    calls.mark(graph)
    theirs = {**program.constants, **program.state_dict}
    names = {id(value): name for name, value in (*model.named_buffers(), *model.named_parameters())}
    for node in graph.find_nodes(op="get_attr"):
        _bind_attribute(graph, node, theirs.get(str(node.target)), model, names)
    _plain_interface(graph, structures[-1])
    _tensors_only(graph, inputs)
    return graph


def _without_lifted_inputs(program: torch.export.ExportedProgram) -> fx.Graph:
    """The program's graph, in which parameters, buffers and constants are attributes instead of inputs.

    ``program.module()`` does the same for a copy of the graph, and generates its code twice.
    """
    graph: fx.Graph = program.graph
    signature = program.graph_signature
    for output in signature.output_specs:
        if output.kind is not OutputKind.USER_OUTPUT:
            raise ValueError(f"torch.export returns what the model writes to {output.target}")
    for node, lifted in zip(graph.find_nodes(op="placeholder"), signature.input_specs, strict=True):
        if lifted.kind is not InputKind.USER_INPUT:
            with graph.inserting_after(node):
                attribute = graph.get_attr(str(lifted.target))
            node.replace_all_uses_with(attribute)
            graph.erase_node(node)
    return graph


def _bind_attribute(graph: fx.Graph, node: fx.Node, theirs: Any, model: nn.Module, names: Mapping[int, str]) -> None:
    """Let the node read the model's own tensor, by the first of its names: torch.export may take another."""
    if not isinstance(theirs, Tensor):
        raise ValueError(f"torch.export made {node.target}, which the model does not hold")
    if _fetch(model, str(node.target)) is theirs and (id(theirs) in names or not theirs.requires_grad):
        node.target = names.get(id(theirs), node.target)
        return
    if isinstance(theirs, nn.Parameter):
        raise ValueError(f"torch.export made a parameter that the model does not hold: {node.target}")
    replace_by_constant(graph, node, theirs.detach() if theirs.requires_grad else theirs)


class _ForwardError(Exception):
    """Carries an error of ``forward`` past torch, which would print the graph so far for one that depends on values."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _flat(forward: Callable[..., Any], structures: list[Structure], calls: CustomCalls) -> Callable[..., list[Any]]:
    """``forward`` with its leaves as result: torch.export refuses containers that are not registered with pytree.

    Its errors leave as ``_ForwardError``, unless the user asks for all that torch has to say of them.
    """

    @wraps(forward)
    def flat(*args: Any, **kwargs: Any) -> list[Any]:
        try:
            with calls:
                result = forward(*args, **kwargs)
        except Exception as error:
            if logs_wanted():
                raise
            raise _ForwardError(error) from error
        leaves, structure = tree_flatten(result)
        structures.append(structure)
        return leaves

    return flat


def _plain_interface(graph: fx.Graph, structure: Structure) -> None:
    # torch.export flattens inputs and outputs in its generated code; here the graph itself returns the structure.
    graph.set_codegen(fx.graph.CodeGen())
    output = next(node for node in graph.nodes if node.op == "output")
    (values,) = output.args
    if structure == tree_flatten(None)[1]:  # one leaf
        output.args = (values[0],)
        return

    def unflatten(leaves: list[Any]) -> Any:
        return tree_unflatten(leaves, structure)

    with graph.inserting_before(output):
        output.args = (graph.call_function(unflatten, (list(values),)),)


def _tensors_only(graph: fx.Graph, inputs: ModelInputs) -> None:
    """Drop the placeholders of values that are not tensors: torch.export has specialised the graph to them."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node, is_tensor in zip(placeholders, inputs.are_tensors, strict=True):
        if not is_tensor:
            graph.erase_node(node)


def _fetch(root: nn.Module, target: str) -> Any:
    value: Any = root
    for atom in target.split("."):
        value = getattr(value, atom, None)
    return value
