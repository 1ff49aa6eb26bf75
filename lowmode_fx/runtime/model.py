"""``LowModeModel``: the modes of a ladder behind one ``nn.Module``, switched by a schedule (§3)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lowmode_fx.lowering import pickling as pickling  # which tells pickle how ladders are kept
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime import safe_globals as safe_globals  # which tells torch.load what may be in checkpoints
from lowmode_fx.runtime.arguments import check_arguments, read_low_weights
from lowmode_fx.runtime.forward_kind import ForwardKind, forward_kind
from lowmode_fx.runtime.gradient_scale import scale_gradient
from lowmode_fx.runtime.mode_runner import ModeRunner, Place
from lowmode_fx.runtime.model_view import ModelView
from lowmode_fx.runtime.recent_modes import RecentModes
from lowmode_fx.runtime.saved_schedule import SavedSchedule
from lowmode_fx.runtime.schedules import Schedule, StatefulSchedule
from lowmode_fx.runtime.shape_guard import ShapeGuard
from lowmode_fx.runtime.step_counter import StepCounter
from passes.preserve import computed_copies
from passes.torch_internals import compiler_around, is_symbolic_tracing
from passes.wording import sides


class LowModeModel(ModelView):
    """A drop-in module that trains in the mode of the step and evaluates as the original model.

    It holds the model's own parameters, buffers and submodules under their own names, so ``state_dict()`` has exactly
    the original's keys, and whatever attribute it has not itself is the model's (``ModelView``). In train mode it takes
    what the model takes, images ``(N, C, *S)`` of full size among it, asks ``schedule.mode(step, epoch)``, and runs the
    model itself in a full step; in a low one, the model on downsampled images with its calls lowered as they are made,
    or its mode's graph where that was asked for by name. In eval mode the model runs, uncompiled. A deep copy (for
    averages, as a momentum encoder) runs in full-mode and counts nothing until an optimizer trains it.

    ladder: a pair or a ladder of more modes. low_weight: what the gradients of low steps are multiplied with (the tuner
        tells; 1 leaves them alone); a mapping by mode's name gives each low mode its own.
    downsample_on: ``"device"``, inside a low step's graph, or ``"host"``: ``host_loader`` has done it in its workers,
        and a batch's size tells its mode (``last_mode``).
    compile: run every mode through ``torch.compile(dynamic=False)``, each for the first input shape it sees; another
        shape (a ragged last batch) runs uncompiled, so that nothing is ever compiled twice. ``torch.compile(net)``
        does the same with its own options.
    compile_options: more keywords for ``torch.compile``. Without a working compiler the graphs run uncompiled, with a
        warning.

    Raises ``TypeError`` where ``ladder`` is none or ``schedule`` has no modes, ``ValueError`` where the schedule is for
    another number of modes, where images are to come from a loader at one size only or for a schedule that decides as
    it goes, or where ``low_weight`` is no positive number.
    """

    OWN = frozenset({"ladder", "schedule", "low_weight", "downsample_on", "last_mode"})
    ladder: Ladder
    schedule: Schedule

    def __init__(
        self,
        ladder: Ladder,
        schedule: Schedule,
        *,
        low_weight: float | Mapping[str, float] = 1.0,
        downsample_on: Place = "device",
        compile: bool = True,
        compile_options: Mapping[str, Any] | None = None,
    ) -> None:
        check_arguments(ladder, schedule, downsample_on)
        super().__init__(ladder.model)
        self._low_weights = read_low_weights(ladder, low_weight)
        self.ladder = ladder
        self.schedule = schedule
        self.low_weight = low_weight
        self.downsample_on = downsample_on
        self.last_mode: Mode | None = None
        self._steps = StepCounter(ladder.model.parameters, SavedSchedule(self.schedule_state, self._go_on_from))
        self._epoch = 0
        self._forced: Mode | None = None
        self._recent = RecentModes()
        self._compile_options = {"dynamic": False, **(compile_options or {})} if compile else None
        self._guard = ShapeGuard(ladder)
        self._runner = ModeRunner(ladder, downsample_on, self._compile_options, self._guard)

    @property
    def pair(self) -> Any:
        """The ladder, under the name that it has where it is a pair."""
        return self.ladder

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Every mode, the cheapest first, full-mode last."""
        return self.ladder.modes

    @property
    def step(self) -> int:
        """Optimizer steps so far (training forwards, while no optimizer is attached)."""
        return self._steps.step

    @property
    def is_copy(self) -> bool:
        """Whether this is a deep copy that no optimizer has trained yet: it runs in full-mode and counts nothing."""
        return self._steps.waits

    @property
    def epoch(self) -> int:
        """The epoch that ``set_epoch`` told."""
        return self._epoch

    @property
    def mode(self) -> Mode:
        """The mode of the coming training forward."""
        return self.mode_at(self.step, self._epoch)

    def mode_at(self, step: int, epoch: int) -> Mode:
        """The mode of optimizer step ``step`` in ``epoch``, by the ladder's own name for it.

        Raises ``ValueError`` where the schedule names a mode that the ladder doesn't have.
        """
        return self.ladder.resolve(self.schedule.mode(step, epoch))

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch (from 0) before it begins, as with torch's ``DistributedSampler``."""
        self._epoch = epoch

    def attach(self, optimizer: Any) -> None:
        """Count the steps that the weights take, so that the mode changes once per optimizer step.

        From now on every optimizer counts that steps on the model's parameters, ``optimizer`` (or the one that it
        wraps) and any that takes its place; of several that step after one forward, the first. Forwards that accumulate
        gradients share a mode, and steps that a gradient scaler skips don't count.

        Raises ``TypeError`` for what is no optimizer.
        """
        self._steps.attach(optimizer)

    def full_mode(self) -> contextlib.AbstractContextManager[None]:
        """Inside, forwards run in full-mode and are no steps: to gather running statistics, or to compare."""
        return self.in_mode(Mode.FULL)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns for this call; in train mode in this step's mode.

        A forward without gradients is no step: it runs in full-mode and counts none. One that a backward pass runs
        again, for a checkpoint, has the mode of its first run.
        """
        if torch.compiler.is_compiling():
            return self._forward_compiled(args, kwargs) if self.training else self.ladder.model(*args, **kwargs)
        if is_symbolic_tracing():
            return self.ladder.model.forward(*args, **kwargs)
        return self._forward(args, kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _forward_compiled(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Inside what a user compiles: each mode is compiled for itself, as the user compiles."""
        self._runner.compile_like(compiler_around())
        return self._forward(args, kwargs)

    def _forward(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if getattr(self, "_is_replica", False):
            raise ValueError(
                "this is a replica that nn.DataParallel made, whose low steps would train the first device's weights; "
                "use DistributedDataParallel"
            )
        self._runner.settle()
        if self._forced is not None:
            return self._run(self._forced, args, kwargs)
        kind = forward_kind() if self.training else ForwardKind.NO_STEP
        if kind is ForwardKind.NO_STEP:
            return self.ladder.model(*args, **kwargs)
        if kind is ForwardKind.RECOMPUTED and (first := self._recent.mode_of(args, kwargs)) is not None:
            return self._run(first, args, kwargs)
        return self._run(self.begin_step(args, kwargs), args, kwargs)

    def begin_step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mode:
        """The mode of a training forward that is about to run with these arguments, counted as one.

        For loops that run it themselves, under ``in_mode``. Raises ``ValueError`` where a loader's images have no
        mode's size.
        """
        mode = due = Mode.FULL if self._steps.waits else self.mode
        if self.downsample_on == "host":
            mode = self._mode_of(self.ladder.inputs.first_image(args, kwargs), due)
            self._guard.note_mode(mode, due, self.step)
        elif mode is not Mode.FULL:
            mode = mode if self._guard.fits_batch(mode, self.ladder.inputs.first_image(args, kwargs)) else Mode.FULL
        self.last_mode = mode
        if self._steps.has_stepped:
            self._recent.clear()
        self._recent.note(mode, args, kwargs)
        self._steps.count_forward()
        return mode

    @contextlib.contextmanager
    def in_mode(self, mode: Mode) -> Iterator[None]:
        """Inside, forwards of this module run in ``mode``, whatever the schedule says, and count no step."""
        before, self._forced = self._forced, self.ladder.resolve(mode)
        try:
            yield
        finally:
            self._forced = before

    def _run(self, mode: Mode, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        outputs = self._runner.run(mode, args, kwargs)
        return scale_gradient(outputs, self._low_weights.get(mode, 1.0))

    def run(self, mode: Mode, *args: Any, **kwargs: Any) -> Any:
        """One forward in ``mode``, whatever the schedule says; counts no step.

        Images are of full size, or of the mode's where they are downsampled on the host.
        """
        return self._runner.run(self.ladder.resolve(mode), args, kwargs)

    def _mode_of(self, images: Tensor, due: Mode) -> Mode:
        """The mode of a batch that a loader has downsampled or left alone; of several of its size, the one due."""
        sizes = {mode: self.ladder.mode_inputs(mode).image.shape[2:] for mode in (due, Mode.FULL, *self.modes[:-1])}
        for mode, size in sizes.items():
            if tuple(images.shape[2:]) == size:
                return mode
        del sizes[Mode.FULL]
        low = " or ".join(dict.fromkeys(sides(size) for size in sizes.values()))
        full = sides(self.ladder.inputs.image.shape[2:])
        found = sides(images.shape[2:])
        raise ValueError(
            f"images are {found}; with downsample_on='host' they are {full} for a full step or {low} for a low one, as "
            "the pair was built for: build it with an example of your size"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> LowModeModel:
        # Compiled functions hold the weights that they were compiled with: a copy compiles its own.
        memo.update(computed_copies(self.ladder.model))
        rebuild, (ladder, *arguments) = self.__reduce__()
        copied: LowModeModel = rebuild(copy.deepcopy(ladder, memo), *copy.deepcopy(arguments, memo))
        copied.last_mode = self.last_mode
        copied._steps.waits = True
        memo[id(self)] = copied
        self._copy_additions(copied, memo)
        return copied

    def __reduce__(self) -> Any:
        arguments = (self.ladder, self.schedule, self.low_weight, self.downsample_on, self._compile_options)
        return _rebuild, (*arguments, self.schedule_state(), self.training)

    def schedule_state(self) -> dict[str, Any]:
        """Where the schedule stands, apart from ``state_dict()``, which is the model's.

        ``{"step": …, "epoch": …}``, and under ``"schedule"`` the decisions of one that decides.
        """
        state: dict[str, Any] = {"step": self.step, "epoch": self._epoch}
        if isinstance(self.schedule, StatefulSchedule):
            state["schedule"] = self.schedule.state_dict()
        return state

    def load_schedule_state(self, state: Mapping[str, Any]) -> None:
        """Continue where ``schedule_state()`` was taken. Raises ``KeyError`` where something is missing."""
        step, epoch = int(state["step"]), int(state["epoch"])
        if isinstance(self.schedule, StatefulSchedule):
            self.schedule.load_state_dict(state["schedule"])
        self._steps.go_on_from(step)
        self._epoch = epoch

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        """The same from an optimizer's state, which may be of a run with another schedule."""
        self._steps.go_on_from(int(state["step"]))
        self._epoch = int(state.get("epoch", 0))
        if isinstance(self.schedule, StatefulSchedule) and "schedule" in state:
            self.schedule.load_state_dict(state["schedule"])


def _rebuild(
    ladder: Ladder,
    schedule: Schedule,
    low_weight: float | Mapping[str, float],
    downsample_on: Place,
    compile_options: Mapping[str, Any] | None,
    state: Mapping[str, Any],
    training: bool,
) -> LowModeModel:
    net = LowModeModel(
        ladder,
        schedule,
        low_weight=low_weight,
        downsample_on=downsample_on,
        compile=compile_options is not None,
        compile_options=compile_options,
    )
    net.load_schedule_state(state)
    net.training = training
    return net
