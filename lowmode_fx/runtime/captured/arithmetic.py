"""The computation of one training step, shared by captured and uncaptured steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from lowmode_fx.utils.losses import as_loss
from passes.torch_internals import found_infinite
from passes.wording import first_line

Criterion = Callable[[Any, Any], Tensor]
_PARAMETERS = itemgetter("params")


class Batch(NamedTuple):
    """One call of the model, and the targets for the criterion."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    targets: Any = None


class StepArithmetic:
    """Forward, loss and backward of a batch; clipping and the optimizer's step."""

    def __init__(
        self,
        net: nn.Module,
        criterion: Criterion | None,
        optimizer: Any,
        device: torch.device,
        autocast: torch.dtype | None,
        scaler: GradScaler,
        clip_grad_norm: float | None,
        accumulate: int,
    ) -> None:
        self.net = net
        self.criterion = criterion
        self.optimizer = optimizer
        self.scaler = scaler
        #: Whether the criterion has begun and not returned, as after an error in it.
        self.in_criterion = False
        #: Whether the gradient scaler had the last optimizer step skipped: a tensor above 0, on the device.
        self.skipped: Tensor | None = None
        self._device = device
        self._autocast = autocast
        self._clip_grad_norm = clip_grad_norm
        self._accumulate = accumulate
        self._others: list[Tensor] = []

    def gradients(self, batch: Batch, last: bool = True) -> Tensor:
        """Add a batch's gradients to the parameters' ``.grad``. Returns its loss, a scalar without a graph.

        ``last``: the last batch of an optimizer step; before it a data-parallel net does not synchronise gradients.
        """
        with self._unsynchronized(last):
            return self._gradients(batch)

    def _gradients(self, batch: Batch) -> Tensor:
        with self._autocasting():
            loss = self.loss(self.outputs(batch), batch.targets)
        return self.backward(loss)

    def _autocasting(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._autocast is None else torch.autocast(self._device.type, self._autocast)

    def outputs(self, batch: Batch) -> Any:
        """What the net returns."""
        with self._autocasting():
            return self.net(*batch.args, **batch.kwargs)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The criterion's loss, with its graph."""
        self.in_criterion = True
        with self._autocasting():
            loss: Tensor = outputs if self.criterion is None else self._of_criterion(self.criterion, outputs, targets)
        self.in_criterion = False
        return loss

    @staticmethod
    def _of_criterion(criterion: Criterion, outputs: Any, targets: Any) -> Tensor:
        """The criterion's loss. Its error without targets says so: ``None`` is no target of most."""
        try:
            return criterion(outputs, targets)
        except (TypeError, AttributeError) as error:
            if targets is not None:
                raise
            cause = f"{type(error).__name__}: {first_line(error)}"
            raise TypeError(f"criterion got no targets ({cause}); give step(inputs, targets)") from error

    def backward(self, loss: Tensor, retain_graph: bool = False) -> Tensor:
        """Add a loss's gradients to ``.grad``. Returns the loss without a graph."""
        loss = as_loss(loss, "net" if self.criterion is None else "criterion")
        share = loss if self._accumulate == 1 else loss / self._accumulate
        self.scaler.scale(share).backward(retain_graph=retain_graph)
        return loss.detach()

    def update(self) -> Tensor | None:
        """Take an optimizer step and clear all gradients. Returns the norm before clipping."""
        norm = None
        if self._clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = clip_grad_norm_(self.trained(), self._clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.skipped = found_infinite(self.scaler, self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def forget_half_step(self) -> None:
        """Let the scaler begin an optimizer's step anew, where one has broken off in its middle."""
        if self.scaler.is_enabled():
            self.scaler.update(self.scaler.get_scale())

    def scaling(self) -> tuple[Any, ...]:
        """The options of the gradient scaler, by which its scale grows and shrinks."""
        scaler = self.scaler
        if not scaler.is_enabled():
            return ()
        return scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()

    def _unsynchronized(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last or not isinstance(self.net, DistributedDataParallel) else self.net.no_sync()

    def parameters(self) -> list[Tensor]:
        """The net's parameters, and any others that the optimizer steps on, each once."""
        return list(dict.fromkeys([*self.net.parameters(), *self.trained()]))

    def graded(self) -> list[Tensor]:
        """The parameters that the optimizer steps on, then the net's others, as of ``find_others``."""
        return self.trained() + self._others

    def find_others(self) -> None:
        """Look for parameters that get gradients though the optimizer doesn't step on them, as in a GAN."""
        known = set(map(id, self.trained()))
        self._others = [each for each in self.net.parameters() if each.requires_grad and id(each) not in known]

    def trained(self) -> list[Tensor]:
        """The parameters that the optimizer steps on."""
        return list(chain.from_iterable(map(_PARAMETERS, self.optimizer.param_groups)))
