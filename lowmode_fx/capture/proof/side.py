"""One of the two that are compared, a model or its graph, over its own fakes, and the results of its last step."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowmode_fx.capture.proof.compare import tensors_within
from lowmode_fx.capture.proof.complaints import NotProvable, place_of
from lowmode_fx.capture.proof.fakes import Fakes, fake_inputs
from lowmode_fx.capture.proof.surroundings import Surroundings
from passes.torch_internals import errors_of_unknown_values, quiet_misfits
from passes.trees import tree_leaves
from passes.wording import first_line

_SIXTEEN_BITS = (torch.float16, torch.bfloat16)


class Side:
    """``module``: a copy of the model over ``fakes``. ``run``: what takes a step, ``module`` or the graph over it."""

    def __init__(self, module: nn.Module, run: Callable[..., Any], fakes: Fakes, surroundings: Surroundings) -> None:
        self.module = module
        self.recorder = fakes.recorder
        self.inputs: Any = ()
        self.outputs: Any = None
        self.failure = ""
        self.left_behind = surroundings.take()
        self._surroundings = surroundings
        self._run = run
        self._fakes = fakes

    def step(self, call: tuple[Sequence[Any], Mapping[str, Any]], number: int, autocast: bool) -> None:
        """Forward, and backward from every output that requires gradients, each with its own gradient.

        Raises ``NotProvable`` if values are read; ``failure`` holds anything else that is raised.
        """
        args, kwargs = call
        self.inputs = fake_inputs((tuple(args), dict(kwargs)), self._fakes, number)
        self.outputs, self.failure, self.recorder.refused = None, "", ""
        self._surroundings.put(self.left_behind)
        try:
            with self._fakes.mode, self.recorder:
                self._forward(autocast)
                self._backward(number)
            if self.recorder.refused:
                raise NotProvable(f"{self.recorder.refused}, and the model goes on")
        except NotProvable:
            raise
        except Exception as error:
            if isinstance(error, errors_of_unknown_values()):
                raise NotProvable(f"{error} reads a value{place_of(error)}") from error
            self.failure = f"{first_line(error)}{place_of(error)}"
        finally:
            self.left_behind = self._surroundings.take()

    def update_parameters(self, number: int) -> None:
        """What an optimizer would do: each parameter with a gradient gets a new value."""
        for name, parameter in self.module.named_parameters():
            if parameter.grad is not None:
                parameter.grad = None
                self.recorder.assign(parameter, "held", name, number)
                torch.autograd.graph.increment_version(parameter)

    def _forward(self, autocast: bool) -> None:
        args, kwargs = self.inputs
        tensors = [leaf for leaf in tree_leaves(self.inputs) if isinstance(leaf, Tensor)]
        with _autocast(tensors, autocast):
            self.outputs = self._run(*args, **kwargs)

    def _backward(self, number: int) -> None:
        ends = [each for each in tensors_within(self.outputs) if each.requires_grad]
        gradients = [self._fakes.new(each, "cotangent", place, number) for place, each in enumerate(ends)]
        if ends:
            torch.autograd.backward(ends, gradients)


@contextlib.contextmanager
def _autocast(tensors: list[Tensor], enabled: bool) -> Iterator[None]:
    """Autocast to the dtype that the tensors have: it is on for code that checks it, and nothing is cast."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    device = floating[0].device.type if floating else "cpu"
    if not torch.amp.is_autocast_available(device):
        yield
        return
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    own = floating[0].dtype if floating else torch.float32
    try:
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, own if own in _SIXTEEN_BITS else torch.float32)
        yield
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Inside, the caller's contexts and compilers have no effect, and nothing is printed."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(quiet_misfits())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
