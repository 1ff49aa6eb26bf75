"""``TrainStep``: forward, loss, backward and optimizer step as one call; on CUDA, one graph replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from lowmode_fx.capture.signature import bind_call
from lowmode_fx.runtime.captured.arithmetic import Batch, Criterion, StepArithmetic
from lowmode_fx.runtime.captured.capture import CapturedSteps
from lowmode_fx.runtime.captured.graphs import Graphs, graphs_for
from lowmode_fx.runtime.captured.nets import OWN_GRAPHS, find_net, has_own_graphs
from lowmode_fx.runtime.captured.recorded import Place
from lowmode_fx.runtime.captured.signature import move
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.optimizers import check_steps_alone, check_trains
from lowmode_fx.utils.losses import as_criterion
from lowmode_fx.utils.validation import as_count, as_number, wrong_type
from passes.errors import OptionError
from passes.spelling import in_command, setting


class TrainStep:
    """One training step of a network as one call: ``loss = step(images, labels)``.

    On a CPU it runs the lines of an ordinary training loop, with bit-identical results. On a CUDA device each kind of
    step (its mode and the shapes of its batch) runs twice like that as a warm-up, and from then on as one replay of a
    CUDA graph: downsampling, forward, loss, backward, clipping and, if its state is on the device, the optimizer step.
    Up to 32 kinds are kept. Learning rates are read at each replay. A layer that is frozen, a hook that is added, an
    attribute that is set or a checkpoint that is loaded is detected, and the step is captured again. A criterion that
    can't be captured runs in Python between two replays, of forward and of backward; a step that can't be captured
    either way runs uncaptured. One ``UncapturedWarning`` names the cause and the line.

    No parameter has a ``.grad`` after a step, unless batches are accumulated.

    Args:
        net: A ``LowModeModel``, also inside ``DistributedDataParallel``, or any module, whose steps are then all full
            steps. The optimizer is attached to it.
        criterion: ``criterion(outputs, targets)`` returns the loss, a scalar; ``None`` if the net returns the loss.
        optimizer: Any optimizer. On CUDA, ``fused=True`` (SGD, Adam, AdamW, Adagrad) or ``capturable=True`` (torch's
            others that have it) makes its step a part of the replay; another one steps in Python after it.
        autocast: Dtype of ``torch.autocast`` around forward and loss, such as ``torch.bfloat16``. With
            ``torch.float16`` the loss is scaled (see ``scaler``). ``None`` leaves a ``torch.autocast`` around the call
            as it is.
        scaler: A gradient scaler, whose state dict belongs into a checkpoint; by default one is made for
            ``torch.float16``.
        clip_grad_norm: Largest total norm of the gradients, as in ``torch.nn.utils.clip_grad_norm_``.
        accumulate: Batches per optimizer step; each loss is divided by this number.
        after_step: Callback without arguments after each optimizer step, in Python, for example for weight averages.
        capture: ``False`` runs every step uncaptured, also on CUDA.
        graphs: What captures steps; by default CUDA graphs on CUDA, and nothing elsewhere.

    Raises:
        TypeError: An argument is not a module, an optimizer or a number, or ``criterion`` is a class.
        ValueError: A number is out of range, or the optimizer steps on none of the net's parameters or by a closure.
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
        criterion = None if criterion is None else as_criterion(criterion)
        if after_step is not None and not callable(after_step):
            raise wrong_type("after_step", after_step, "a function, or None")
        clip = None if clip_grad_norm is None else as_number("clip_grad_norm", clip_grad_norm, above=0)
        device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
        self.net = net
        self._device = device
        self.scaler = scaler or GradScaler(device.type, enabled=autocast is torch.float16)
        self._known, refusal = find_net(net)
        grown = next((each for each in net.modules() if isinstance(each, LowModeModel) and each.batches_grow), None)
        if self.scaler.is_enabled() and grown is not None:
            problem = "needs each batch to be a step, and a gradient scaler skips some"
            half = f"give {setting('autocast', 'bf16')}" if in_command() else "use bfloat16 instead of float16"
            raise OptionError("batch_multiplier", grown.batch_multiplier, problem, half)
        self._known.attach(optimizer)
        check_trains(optimizer, net.parameters())
        check_steps_alone(optimizer, "call optimizer.step(closure) in a loop of your own, or give another, such as SGD")
        self._arithmetic = StepArithmetic(
            net, criterion, optimizer, device, autocast, self.scaler, clip, self.accumulate
        )
        graphs = graphs or graphs_for(device) if capture else None
        self._captured: CapturedSteps | None = None
        if graphs is not None:
            self._captured = CapturedSteps(self._known, self._arithmetic, graphs, device)
            if refusal is None and has_own_graphs(criterion):
                refusal = f"torch.compile makes CUDA graphs of the criterion itself; {OWN_GRAPHS}"
            if refusal is not None:
                self._captured.refuse(refusal)
        self._after_step = after_step
        self._batches = 0
        self._seen_untargeted = False
        self._norm: Tensor | None = None

    @property
    def uncaptured(self) -> str | None:
        """The reason why no step is captured; ``None`` if steps are, or will be after their warm-up."""
        return "capture=False, or not on CUDA" if self._captured is None else self._captured.refusal

    @property
    def optimizer_outside(self) -> str | None:
        """The reason why the optimizer steps in Python after each replay; ``None`` if it is part of the replay."""
        return self.loss_outside or (self._captured.outside if self._captured is not None else None)

    @property
    def loss_outside(self) -> str | None:
        """The reason why the loss is computed in Python between two replays; ``None`` if it is part of the replay."""
        return self.uncaptured or (self._captured.between if self._captured is not None else None)

    @property
    def captures(self) -> int:
        """Number of kinds of steps that are captured now."""
        return 0 if self._captured is None else self._captured.captures

    @property
    def grad_norm(self) -> Tensor | None:
        """Norm of the last step's gradients before clipping, a scalar tensor, which the next step overwrites."""
        return self._norm if self._captured is None else self._captured.norm

    @property
    def step_was_skipped(self) -> bool:
        """Whether the gradient scaler had the last optimizer step skipped. With a scaler it waits for the device."""
        skipped = self._arithmetic.skipped
        return skipped is not None and bool(skipped)

    def __call__(self, inputs: Any, targets: Any = None) -> Tensor:
        """Train on one batch.

        Args:
            inputs: The net's input: a tensor ``(N, C, *S)``, a tuple of arguments, or a mapping of keywords. Tensors
                may be on the host: on CUDA they are copied to the device, as are ``targets``.
            targets: The second argument of the criterion.

        Returns:
            The loss, a scalar on the net's device without a graph.

        Raises:
            TypeError: The targets are missing, or seem to be among the net's arguments, or the inputs are a list; or
                the loss is no tensor.
            ValueError: The loss is not a scalar with a gradient.
        """
        batch = _batch(inputs, targets)
        if targets is None and not self._seen_untargeted:
            self._check_untargeted(batch)
        place = Place(self._batches == 0, self._is_last())
        self._batches = 0 if place.last else self._batches + 1
        loss = self._run(batch, place) if self._captured is None else self._captured.run(batch, place)
        if place.last:
            self._has_stepped()
        return loss

    def _check_untargeted(self, batch: Batch) -> None:
        """Raise ``TypeError`` if the targets seem to be among the net's arguments."""
        self._seen_untargeted = True
        model = self.net.ladder.model if isinstance(self.net, LowModeModel) else self.net
        if self._arithmetic.criterion is None or len(batch.args) != 2:
            return
        try:
            bind_call(model, batch.args, {})
        except ValueError:
            raise TypeError(
                f"step((inputs, targets)): {type(model).__name__} doesn't take two arguments; give step(inputs, "
                "targets), since a tuple holds the net's arguments"
            ) from None

    def _is_last(self) -> bool:
        """Whether the optimizer steps after the batch that is due."""
        return self._batches + 1 == self.accumulate

    def _has_stepped(self) -> None:
        """The optimizer's turn is over: it has stepped, or the gradient scaler had it skip."""
        if self._after_step is not None:
            self._after_step()

    def _run(self, batch: Batch, place: Place) -> Tensor:
        """The step as an ordinary training loop runs it."""
        loss = self._arithmetic.gradients(move(batch, self._device), place.last)
        if place.last:
            self._norm = self._arithmetic.update()
        return loss


def _batch(inputs: Any, targets: Any) -> Batch:
    if isinstance(inputs, list):
        raise TypeError(
            f"inputs are a list of {len(inputs)}, as a loader's batch is; give step(*batch), or step(inputs, targets)"
        )
    if isinstance(inputs, Mapping):
        return Batch((), inputs, targets)
    return Batch(inputs if isinstance(inputs, tuple) else (inputs,), {}, targets)
