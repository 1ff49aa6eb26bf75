"""One of the two that are compared, a model or its graph, over fakes of its own; what its last step came to."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._pytree import tree_leaves

from lowmode_fx.capture.proof.compare import tensors_within
from lowmode_fx.capture.proof.fakes import Fakes, fake_inputs
from lowmode_fx.capture.proof.recorder import NotProvable, is_source
from lowmode_fx.capture.proof.surroundings import Surroundings
from passes.shapes import quiet_misfits

_ASKS_FOR_VALUES = (DataDependentOutputException, DynamicOutputShapeException)
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

    def step(self, args: tuple[Any, ...], kwargs: dict[str, Any], number: int, autocast: bool) -> None:
        """Forward, and backward from every output that has one, each with a gradient of its own.

        Raises ``NotProvable`` where values are asked for; ``failure`` tells of anything else that is raised.
        """
        self.inputs, self.outputs, self.failure = fake_inputs((args, kwargs), self._fakes, number), None, ""
        self._surroundings.put(self.left_behind)
        try:
            with self._fakes.mode, self.recorder:
                self._forward(autocast)
                self._backward(number)
        except NotProvable:
            raise
        except _ASKS_FOR_VALUES as error:
            raise NotProvable(f"{error.func} asks for a value{_where(error)}") from error
        except Exception as error:
            self.failure = f"{(str(error).strip() or type(error).__name__).splitlines()[0]}{_where(error)}"
        finally:
            self.recorder.autocast = None
            self.left_behind = self._surroundings.take()

    def update_parameters(self, number: int) -> None:
        """What an optimizer would do: each parameter with a gradient holds something else from here on."""
        for name, parameter in self.module.named_parameters():
            if parameter.grad is not None:
                parameter.grad = None
                self.recorder.assign(parameter, "held", name, number)
                torch.autograd.graph.increment_version(parameter)

    def _forward(self, autocast: bool) -> None:
        args, kwargs = self.inputs
        tensors = [leaf for leaf in tree_leaves(self.inputs) if isinstance(leaf, Tensor)]
        with _autocast(tensors, autocast) as device:
            self.recorder.autocast = device
            self.outputs = self._run(*args, **kwargs)
        self.recorder.autocast = None

    def _backward(self, number: int) -> None:
        ends = [each for each in tensors_within(self.outputs) if each.requires_grad]
        gradients = [self._fakes.new(each, "cotangent", place, number) for place, each in enumerate(ends)]
        if ends:
            torch.autograd.backward(ends, gradients)


@contextlib.contextmanager
def _autocast(tensors: list[Tensor], enabled: bool) -> Iterator[str | None]:
    """Autocast to the dtype that the tensors have, so that nothing is cast. Yields its device where it is on."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    device = floating[0].device.type if floating else "cpu"
    if not torch.amp.is_autocast_available(device):
        yield None
        return
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    own = floating[0].dtype if floating else torch.float32
    try:
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, own if own in _SIXTEEN_BITS else torch.float32)
        yield device if enabled else None
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Neither the caller's contexts nor compilers meddle, and nothing is printed."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(quiet_misfits())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _where(error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_source(frame.filename)]
    return f" (line {frames[-1].lineno} of {os.path.basename(frames[-1].filename)})" if frames else ""
