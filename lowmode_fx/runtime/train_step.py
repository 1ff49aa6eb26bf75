"""``TrainStep``: forward, loss, backward and optimizer as one call; on a GPU, one replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from lowmode_fx.runtime.captured.arithmetic import Batch, Criterion, StepArithmetic
from lowmode_fx.runtime.captured.capture import CapturedSteps
from lowmode_fx.runtime.captured.graphs import Graphs, graphs_for
from lowmode_fx.runtime.captured.nets import find_net
from lowmode_fx.runtime.captured.recorded import Place
from lowmode_fx.runtime.captured.signature import move
from lowmode_fx.utils.validation import as_count, as_number, wrong_type


class TrainStep:
    """One training step of a network as one call: ``loss = step(images, labels)``.

    On a CPU it runs the lines of a loop of one's own, to the same bits. On a CUDA device each kind of step (its mode,
    the shapes of its batch) runs twice as a loop would, and from then on as one replay of a CUDA graph: downsampling,
    forward, loss, backward, clipping and, where its state is on the device, the optimizer, without a gap between their
    kernels. Learning rates are read at each replay, whatever writes them; a layer that is frozen, a hook that is added,
    an attribute that is set, a checkpoint that is loaded is noticed, and the step captured again. What can't be
    captured runs uncaptured, which an ``UncapturedWarning`` tells once, with the cause and the line.

    A step is over when it returns: no parameter has a ``.grad`` between two of them, unless batches are accumulated.

    Args:
        net: a ``LowModeModel``, also in ``DistributedDataParallel``, or any module, all of whose steps are full ones.
            The optimizer is attached to it.
        criterion: ``criterion(outputs, targets)`` returns the loss, a scalar; ``None`` where the net returns it.
        optimizer: any. On CUDA, ``fused=True`` (SGD, Adam, AdamW) or ``capturable=True`` (Adam, AdamW) lets its step be
            a part of the replay; another one steps right after it, in Python.
        autocast: the type of ``torch.autocast`` around forward and loss, as ``torch.bfloat16``. With ``torch.float16``
            losses are scaled (see ``scaler``). ``None`` leaves a ``torch.autocast`` around the call as it is.
        scaler: a gradient scaler, whose state a checkpoint must hold; one is made for ``torch.float16``.
        clip_grad_norm: the largest norm of all gradients together, as in ``torch.nn.utils.clip_grad_norm_``.
        accumulate: so many batches make one step of the optimizer; each loss counts for its share of them.
        after_step: called without arguments after each step of the optimizer, in Python: for averages of the weights.
        capture: ``False`` runs every step as a loop would, also on CUDA.
        graphs: what captures; CUDA graphs on CUDA, nothing elsewhere.

    Raises:
        TypeError: for what is no module, no optimizer or no number.
        ValueError: for numbers out of range, and for an optimizer that steps on none of the net's parameters.
    """

    def __init__(
        self,
        net: nn.Module,
        criterion: Criterion | None,
        optimizer: Any,
        *,
        autocast: torch.dtype | None = None,
        scaler: GradScaler | None = None,
        clip_grad_norm: float | None = None,
        accumulate: int = 1,
        after_step: Callable[[], object] | None = None,
        capture: bool = True,
        graphs: Graphs | None = None,
    ) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net is of type {type(net).__name__}; give a LowModeModel or another module")
        self.accumulate = as_count("accumulate", accumulate, 1)
        if autocast is not None and not isinstance(autocast, torch.dtype):
            raise wrong_type("autocast", autocast, "a dtype such as torch.bfloat16, or None")
        for name, called in (("criterion", criterion), ("after_step", after_step)):
            if called is not None and not callable(called):
                raise wrong_type(name, called, "a function, or None")
        clip = None if clip_grad_norm is None else as_number("clip_grad_norm", clip_grad_norm, above=0)
        device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
        self.net = net
        self._device = device
        self.scaler = scaler or GradScaler(device.type, enabled=autocast is torch.float16)
        self._known, refusal = find_net(net)
        self._known.attach(optimizer)
        own = set(map(id, net.parameters()))
        if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
            raise ValueError("optimizer steps on none of the net's parameters; make it with net.parameters()")
        self._arithmetic = StepArithmetic(
            net, criterion, optimizer, device, autocast, self.scaler, clip, self.accumulate
        )
        graphs = graphs or graphs_for(device) if capture else None
        self._captured: CapturedSteps | None = None
        if graphs is not None:
            self._captured = CapturedSteps(self._known, self._arithmetic, graphs, device)
            if refusal is not None:
                self._captured.refuse(refusal)
        self._after_step = after_step
        self._batches = 0
        self._norm: Tensor | None = None

    @property
    def uncaptured(self) -> str | None:
        """Why no step is captured; ``None`` where they are, or will be once each kind has run twice."""
        return "capture=False, or not on CUDA" if self._captured is None else self._captured.refusal

    @property
    def optimizer_outside(self) -> str | None:
        """Why the optimizer steps in Python, after each replay; ``None`` where it is a part of it."""
        return self.uncaptured or (self._captured.outside if self._captured is not None else None)

    @property
    def captures(self) -> int:
        """How many kinds of steps are replayed now."""
        return 0 if self._captured is None else self._captured.captures

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm of the last step's gradients before they were clipped, a scalar; the next step overwrites it."""
        return self._norm if self._captured is None else self._captured.norm

    def __call__(self, inputs: Any, targets: Any = None) -> Tensor:
        """One batch: its loss, a scalar on the net's device without a graph; the weights have moved.

        Args:
            inputs: what the net is called with: a tensor ``(N, C, *S)``; a tuple of arguments; or a mapping of
                keywords. Tensors may lie on the host: on CUDA they are copied to the device, where ``targets`` follow.
            targets: what the criterion gets beside the outputs.
        """
        batch = _batch(inputs, targets)
        place = Place(self._batches == 0, self._batches + 1 == self.accumulate)
        self._batches = 0 if place.last else self._batches + 1
        loss = self._run(batch, place) if self._captured is None else self._captured.run(batch, place)
        if place.last and self._after_step is not None:
            self._after_step()
        return loss

    def _run(self, batch: Batch, place: Place) -> Tensor:
        """The lines of a loop of one's own."""
        loss = self._arithmetic.gradients(move(batch, self._device), place.last)
        if place.last:
            self._norm = self._arithmetic.update()
        return loss


def _batch(inputs: Any, targets: Any) -> Batch:
    if isinstance(inputs, Mapping):
        return Batch((), inputs, targets)
    return Batch(inputs if isinstance(inputs, tuple) else (inputs,), {}, targets)
