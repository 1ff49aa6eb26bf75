"""Accelerate: ``prepare`` that also attaches the optimizer, and whole steps as one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lowmode_fx.integrations.extras import need
from lowmode_fx.integrations.nets import attach_to, nets_in
from lowmode_fx.runtime.captured.arithmetic import Criterion
from lowmode_fx.runtime.captured.graphs import Graphs
from lowmode_fx.runtime.optimizers import has_any_of
from lowmode_fx.runtime.train_step import TrainStep

wrappers: Any = need("accelerate.optimizer", "accelerate")

#: One process, or ``DistributedDataParallel``: the others clip and scale gradients in ways of their own.
_KINDS = ("NO", "MULTI_CPU", "MULTI_GPU")


def prepare(accelerator: Any, *objects: Any) -> Any:
    """Call ``accelerator.prepare(*objects)``, and attach each optimizer among the objects to each net.

    ``accelerator.save_state`` saves the schedule with the optimizer's state, and ``load_state`` resumes from it.
    Calling ``accelerator.prepare`` and ``net.attach(optimizer)`` has the same effect.

    Args:
        accelerator: The ``accelerate.Accelerator``.
        *objects: Nets, optimizers, loaders and schedulers in any order.

    Returns:
        What ``accelerator.prepare`` returns, one object for one, otherwise a tuple.

    Raises:
        ValueError: There is no net or no optimizer among the objects, or no optimizer has parameters of a net.
    """
    nets = [net for each in objects if isinstance(each, nn.Module) for net in nets_in(each)]
    optimizers = [each for each in objects if isinstance(each, Optimizer)]
    for found, kind in ((nets, "net"), (optimizers, "optimizer")):
        if not found:
            given = ", ".join(type(each).__name__ for each in objects) or "nothing"
            raise ValueError(f"prepare got no {kind}: {given}; give net and optimizer in one call")
    if not any(has_any_of(each, net.parameters()) for each in optimizers for net in nets):
        raise ValueError("no optimizer has the net's parameters; make it with net.parameters(), then prepare both")
    prepared = accelerator.prepare(*objects)
    together = (prepared,) if len(objects) == 1 else prepared
    for before, after in zip(objects, together, strict=True):
        if isinstance(before, Optimizer):
            attach_to(nets, after)
    return prepared


def captured_step(
    accelerator: Any,
    net: nn.Module,
    criterion: Criterion | None,
    optimizer: Any,
    *,
    clip_grad_norm: float | None = None,
    after_step: Callable[[], object] | None = None,
    capture: bool = True,
    graphs: Graphs | None = None,
) -> TrainStep:
    """A ``TrainStep`` with Accelerate's precision, accumulation and gradient scaler.

    ``loss = step(images, labels)`` does, bit for bit, what ``accelerator.backward(loss)``,
    ``accelerator.clip_grad_norm_``, ``optimizer.step()`` and ``optimizer.zero_grad()`` do together. To accumulate,
    call it under ``accelerator.accumulate(net)``. Schedulers are stepped after it. They wait after a step that the
    scaler has skipped, also of a fused optimizer.

    Args:
        accelerator: The ``accelerate.Accelerator``.
        net: What ``accelerator.prepare`` returned for the net. In ``DistributedDataParallel`` its steps run uncaptured.
        criterion: As in ``TrainStep``; it gets the outputs in float32, as in a loop by hand.
        optimizer: What ``accelerator.prepare`` returned for the optimizer.
        clip_grad_norm: As in ``TrainStep``.
        after_step: As in ``TrainStep``.
        capture: As in ``TrainStep``.
        graphs: As in ``TrainStep``.

    Raises:
        ValueError: Net or optimizer are not prepared, or the accelerator trains in fp8, by FSDP, DeepSpeed or another
            way in which a step is not forward, backward and optimizer. Called: the number of batches to accumulate has
            changed.
    """
    kind = accelerator.distributed_type.value
    if kind not in _KINDS or accelerator.mixed_precision == "fp8":
        found = f"fp8 ({kind})" if accelerator.mixed_precision == "fp8" else kind
        raise ValueError(
            f"captured_step does not take Accelerate's steps in {found}; call accelerator.backward and optimizer.step"
        )
    is_prepared = getattr(net, "_is_accelerate_prepared", False), isinstance(optimizer, wrappers.AcceleratedOptimizer)
    for given, prepared in zip((net, optimizer), is_prepared, strict=True):
        if not prepared:
            raise ValueError(f"{type(given).__name__} is not prepared; give what accelerator.prepare returned")
    options = {"clip_grad_norm": clip_grad_norm, "after_step": after_step, "capture": capture, "graphs": graphs}
    return _AcceleratedStep(accelerator, net, criterion, optimizer, **options)


class _AcceleratedStep(TrainStep):
    """Its optimizer steps where Accelerate synchronises gradients."""

    def __init__(
        self, accelerator: Any, net: nn.Module, criterion: Criterion | None, prepared: Any, **options: Any
    ) -> None:
        self._accelerator = accelerator
        self._prepared = prepared
        options |= {"scaler": accelerator.scaler, "accumulate": accelerator.gradient_accumulation_steps}
        super().__init__(net, criterion, prepared.optimizer, **options)

    def _is_last(self) -> bool:
        steps = self._accelerator.gradient_accumulation_steps
        if steps != self.accumulate:
            raise ValueError(
                f"gradient_accumulation_steps was {self.accumulate} when the step was made, and is {steps} now; make "
                "another step"
            )
        return bool(self._accelerator.sync_gradients)

    def _has_stepped(self) -> None:
        self._prepared._is_overflow = self.step_was_skipped  # which schedulers ask for
        super()._has_stepped()
