"""``LowModeModel``: the modes of a ladder behind one ``nn.Module``, switched by a schedule (§3)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from lowmode_fx.lowering import pickling as pickling  # registers how ladders are pickled
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime import safe_globals as safe_globals  # registers the classes that checkpoints may hold
from lowmode_fx.runtime.arguments import Compile, blocks_to_compile, check_arguments, read_low_weights
from lowmode_fx.runtime.batch_growth import BatchMultiplier, LrRule, read_batch_growth
from lowmode_fx.runtime.call_hints import MISFITS, tell_misfit
from lowmode_fx.runtime.forward_kind import ForwardKind, forward_kind
from lowmode_fx.runtime.gradient_scale import scale_gradient
from lowmode_fx.runtime.mode_runner import ModeRunner, Place
from lowmode_fx.runtime.model_view import ModelView
from lowmode_fx.runtime.run_position import RunPosition
from lowmode_fx.runtime.scaled_rates import ScaledRates
from lowmode_fx.runtime.schedules import Schedule
from lowmode_fx.runtime.shape_guard import ShapeGuard
from lowmode_fx.runtime.sized_batches import SizedBatches
from lowmode_fx.runtime.step_modes import StepModes
from lowmode_fx.utils.validation import as_count
from passes.preserve import computed_copies
from passes.torch_internals import compiler_around, is_symbolic_tracing


class LowModeModel(ModelView):
    """A drop-in module that trains in the mode of each step and evaluates as the original model (§3).

    It holds the model's own parameters, buffers and submodules under their own names, so ``state_dict()`` has exactly
    the original's keys, and every attribute that it does not define itself is the model's. Call it as the model, with
    full-size images ``(N, C, *S)``. In train mode ``schedule.mode(step, epoch)`` gives the mode: a full step runs the
    model itself; a low step runs the model on downsampled images and lowers its calls as they are made, or runs the
    mode's graph if a front end was given by name. In eval mode the model runs uncompiled. A deep copy (for weight
    averages or a momentum encoder) runs in full-mode and counts no steps until an optimizer trains it.

    Args:
        ladder: The modes, from ``build_pair`` or ``build_ladder``.
        schedule: Chooses the mode of each optimizer step.
        low_weight: Factor of the gradients of low steps, as ``tune`` recommends; 1 leaves them unchanged. A mapping by
            name of mode gives each low mode its own.
        batch_multiplier: Images of a low step over those of a full one, at least 1: one number, a mapping by name of
            mode, or ``"pixels"``, a full image's pixels over a low one's, which keeps the memory of a step. Loaders
            that know the net make such batches.
        lr_rule: What the learning rate of a step whose batch has m times as many images is multiplied by, while the
            optimizer steps: m (``"linear"``), its square root (``"sqrt"``, for Adam and its kin) or 1 (``"none"``).
        downsample_on: ``"device"``: low steps downsample their images. ``"host"``: the workers of ``host_loader`` do,
            and the image size shows the mode of a batch (``last_mode``).
        compile: Compile every mode with ``torch.compile(dynamic=False)`` for the first input shape that it sees. Other
            shapes (a ragged last batch) run uncompiled, which avoids recompilation. ``torch.compile(net)`` does the
            same with its own options. A mode whose compilation fails runs uncompiled, with a warning; without a working
            compiler all modes do. ``"blocks"``: compile the repeated blocks of the model one by one instead, equal ones
            once, and run the code between them as it is; globs over module names say which modules are the blocks.
        compile_options: More keywords for ``torch.compile``.

    Attributes:
        last_mode: The mode of the last training forward.

    Raises:
        TypeError: ``ladder`` is not a ladder, or ``schedule`` has no method ``mode``.
        ValueError: The schedule is for another number of modes, ``downsample_on="host"`` does not work with this ladder
            or schedule, ``low_weight`` is not a positive number, globs of ``compile`` match nothing, or
            ``batch_multiplier`` is below 1 or needs modes that the schedule decides later.
    """

    OWN = frozenset({"ladder", "schedule", "low_weight", "batch_multiplier", "lr_rule", "downsample_on", "last_mode"})
    ladder: Ladder

    def __init__(
        self,
        ladder: Ladder,
        schedule: Schedule,
        *,
        low_weight: float | Mapping[str, float] = 1.0,
        batch_multiplier: BatchMultiplier = 1.0,
        lr_rule: LrRule = "linear",
        downsample_on: Place = "device",
        compile: Compile = True,
        compile_options: Mapping[str, Any] | None = None,
    ) -> None:
        check_arguments(ladder, schedule, downsample_on)
        super().__init__(ladder.model)
        self._low_weights = read_low_weights(ladder, low_weight)
        self._batches = SizedBatches(read_batch_growth(ladder, schedule, batch_multiplier, lr_rule), batch_multiplier)
        self._position = RunPosition(ladder, schedule)
        self.ladder = ladder
        self.low_weight = low_weight
        self.batch_multiplier = batch_multiplier
        self.lr_rule = lr_rule
        self.downsample_on = downsample_on
        self.last_mode: Mode | None = None
        self._rates: ScaledRates | None = None
        if self.batches_grow:
            self._rates = ScaledRates(ladder.model, self._due_rate_factor, self._position.counter.trains)
        self._compile_options = {"dynamic": False, **(compile_options or {})} if compile else None
        self._compile = compile
        guard = ShapeGuard(ladder)
        self._step_modes = StepModes(ladder, self._position, guard, downsample_on)
        self._forced: Mode | None = None
        blocks = blocks_to_compile(ladder.model, compile)
        self._runner = ModeRunner(ladder, downsample_on, self._compile_options, guard, blocks)

    @property
    def pair(self) -> Any:
        """The ladder; of a net with two modes, the pair."""
        return self.ladder

    @property
    def schedule(self) -> Schedule:
        """The schedule, which may be replaced."""
        return self._position.schedule

    @schedule.setter
    def schedule(self, schedule: Schedule) -> None:
        self._position.schedule = schedule

    @property
    def modes(self) -> tuple[Mode, ...]:
        """All modes, cheapest first, full-mode last."""
        return self.ladder.modes

    @property
    def step(self) -> int:
        """Number of optimizer steps so far; of training forwards as long as no optimizer is attached."""
        return self._position.step

    @property
    def is_copy(self) -> bool:
        """Whether this is a deep copy that no optimizer has trained yet; it runs in full-mode and counts no steps."""
        return self._position.counter.waits

    @property
    def epoch(self) -> int:
        """The epoch from the last ``set_epoch``, from 0."""
        return self._position.epoch

    @property
    def mode(self) -> Mode:
        """The mode of the next training forward."""
        return self.mode_at(self.step, self.epoch)

    def mode_at(self, step: int, epoch: int) -> Mode:
        """Return the mode of an optimizer step, as the ladder names it.

        Args:
            step: Optimizer step, from 0 over the whole run.
            epoch: Epoch of the step, from 0.

        Raises:
            ValueError: The schedule returns a mode that the ladder does not have.
        """
        return self._position.mode_at(step, epoch)

    @property
    def batches_grow(self) -> bool:
        """Whether batches of some mode have more images than full-mode's."""
        return self._batches.growth.grows

    def batch_size_in(self, mode: Mode, batch_size: int) -> int:
        """Return the images of a batch in ``mode``, where one in full-mode has ``batch_size``.

        A loader that asks gives batches of these sizes; from then on learning rates follow them, by ``lr_rule``.

        Args:
            mode: A mode of the ladder.
            batch_size: Images of a batch in full-mode.
        """
        return self._batches.size_for_loader(self.ladder.resolve(mode), batch_size)

    def planned_batch_size(self, mode: Mode, batch_size: int) -> int:
        """As ``batch_size_in``, for plans and reports: asking changes nothing."""
        return self._batches.growth.size(self.ladder.resolve(mode), batch_size)

    def _due_rate_factor(self) -> float:
        return self._batches.due_rate_factor(self.last_mode)

    def rate_factor(self, mode: Mode) -> float:
        """Return what ``lr_rule`` multiplies the learning rate of a step in ``mode`` by.

        Args:
            mode: A mode of the ladder.
        """
        return self._batches.growth.rate_factor(self.ladder.resolve(mode))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch before it begins, as for torch's ``DistributedSampler``.

        A warning tells where this is forgotten and the schedule goes by epochs (``varies_by_epoch``).

        Args:
            epoch: The epoch, from 0.

        Raises:
            TypeError: ``epoch`` is no int.
            ValueError: ``epoch`` is negative.
        """
        self._position.set_epoch(as_count("epoch", epoch))

    def epoch_has(self, steps: int) -> None:
        """Say how many optimizer steps an epoch has; a forgotten ``set_epoch`` is told after as many."""
        self._position.reminder.epoch_has(steps)

    def attach(self, optimizer: Any) -> None:
        """Count optimizer steps, so that the mode changes once per optimizer step.

        From now on every optimizer that steps on the model's parameters counts: ``optimizer``, the one that it wraps,
        and any that replaces it. If several step after one forward, the first counts. Forwards that accumulate
        gradients share a mode, and steps that a gradient scaler skips don't count.

        Args:
            optimizer: The optimizer that trains the model, or a wrapper of it.

        Raises:
            TypeError: ``optimizer`` is not an optimizer.
            ValueError: ``optimizer`` has none of the model's parameters.
        """
        self._position.counter.attach(optimizer)

    def full_mode(self) -> contextlib.AbstractContextManager[None]:
        """A context in which forwards run in full-mode and count no steps, for running statistics or comparisons."""
        return self.in_mode(Mode.FULL)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; in train mode, in the mode of this step.

        A forward without gradients is not a step: it runs in full-mode and counts none. Recomputation of an activation
        checkpoint runs in the mode of the first computation.

        Args:
            *args: The model's positional arguments.
            **kwargs: The model's keyword arguments.

        Returns:
            What the model returns.

        Raises:
            ValueError: Images have a size that no mode takes.
        """
        if torch.compiler.is_compiling():
            return self._forward_compiled(args, kwargs) if self.training else self.ladder.model(*args, **kwargs)
        if is_symbolic_tracing():
            return self.ladder.model.forward(*args, **kwargs)
        return self._forward(args, kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _forward_compiled(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Inside a user's ``torch.compile``: each mode is compiled separately, with the user's options."""
        self._runner.compile_like(compiler_around())
        return self._forward(args, kwargs)

    def _forward(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if getattr(self, "_is_replica", False):
            raise ValueError(
                "nn.DataParallel over several GPUs is not supported: low steps of a replica would train the first "
                "device's weights; use DistributedDataParallel"
            )
        self._runner.settle()
        if self._forced is not None:
            return self._run(self._forced, args, kwargs)
        if not self.training:
            self._position.reminder.evaluation()
        kind = forward_kind() if self.training else ForwardKind.NO_STEP
        if kind is ForwardKind.NO_STEP:
            return self.ladder.model(*args, **kwargs)
        if kind is ForwardKind.RECOMPUTED and (first := self._step_modes.recomputed(args, kwargs)) is not None:
            return self._run(first, args, kwargs)
        return self._run(self.begin_step(args, kwargs), args, kwargs)

    def begin_step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mode:
        """Return the mode of a training forward with these arguments, and count the forward.

        For training loops that run the forward themselves, under ``in_mode``.

        Args:
            args: The positional arguments of the forward.
            kwargs: The keyword arguments of the forward.

        Raises:
            ValueError: The images of a loader have a size that no mode takes.
        """
        mode = self.last_mode = self._step_modes.choose(args, kwargs)
        if self._rates is not None:
            self._rates.forward_began()
        self._step_modes.begin(mode, args, kwargs)
        return mode

    @contextlib.contextmanager
    def in_mode(self, mode: Mode | str) -> Iterator[None]:
        """A context in which forwards run in ``mode``, whatever the schedule chooses, and count no steps."""
        before, self._forced = self._forced, self.ladder.resolve(mode)
        try:
            yield
        finally:
            self._forced = before

    def _run(self, mode: Mode, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        try:
            outputs = self._runner.run(mode, args, kwargs)
        except MISFITS as error:
            tell_misfit(self.ladder, args, kwargs, error)
            raise
        return scale_gradient(outputs, self._low_weights.get(mode, 1.0))

    def run(self, mode: Mode | str, *args: Any, **kwargs: Any) -> Any:
        """Run one forward in ``mode``, whatever the schedule chooses; it counts no step.

        Args:
            mode: A mode of the ladder, or its name.
            *args: The model's positional arguments. Images have full size, or the mode's size with
                ``downsample_on="host"``.
            **kwargs: The model's keyword arguments.

        Returns:
            What the model returns.
        """
        try:
            return self._runner.run(self.ladder.resolve(mode), args, kwargs)
        except MISFITS as error:
            tell_misfit(self.ladder, args, kwargs, error)
            raise

    def __deepcopy__(self, memo: dict[int, Any]) -> LowModeModel:
        # Compiled functions hold the weights that they were compiled with, so a copy compiles its own.
        memo.update(computed_copies(self.ladder.model))
        rebuild, (ladder, *arguments) = self.__reduce__()
        copied: LowModeModel = rebuild(copy.deepcopy(ladder, memo), *copy.deepcopy(arguments, memo))
        copied.last_mode = self.last_mode
        copied._position.become_copy_of(self._position)
        memo[id(self)] = copied
        self._copy_additions(copied, memo)
        return copied

    def __reduce__(self) -> Any:
        arguments = (
            self.ladder,
            self.schedule,
            self.low_weight,
            self.downsample_on,
            self._compile,
            self._compile_options,
        )
        batches = (self.batch_multiplier, self.lr_rule)
        return _rebuild, (*arguments, self.schedule_state(), self.training, *batches)

    def schedule_state(self) -> dict[str, Any]:
        """Return the state of the schedule, which is separate from ``state_dict()``, the model's own.

        Returns:
            ``{"step": …, "epoch": …}``, and under ``"schedule"`` the decisions of a schedule that has state.
        """
        return self._position.state()

    def load_schedule_state(self, state: Mapping[str, Any]) -> None:
        """Resume from a state of ``schedule_state()``.

        Args:
            state: The state.

        Raises:
            KeyError: An entry is missing.
            TypeError: It is no such state.
        """
        self._position.load_state(state)


def _rebuild(
    ladder: Ladder,
    schedule: Schedule,
    low_weight: float | Mapping[str, float],
    downsample_on: Place,
    compile: Compile,
    compile_options: Mapping[str, Any] | None,
    state: Mapping[str, Any],
    training: bool,
    batch_multiplier: BatchMultiplier = 1.0,
    lr_rule: LrRule = "linear",
) -> LowModeModel:
    net = LowModeModel(
        ladder,
        schedule,
        low_weight=low_weight,
        batch_multiplier=batch_multiplier,
        lr_rule=lr_rule,
        downsample_on=downsample_on,
        compile=compile,
        compile_options=compile_options,
    )
    net.load_schedule_state(state)
    net.training = training
    return net
