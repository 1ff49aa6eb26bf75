"""``LowModeModel``: the two compiled graphs of a pair behind one ``nn.Module``, switched by a schedule (§3)."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor, fx, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import CppCompileError, GPUTooOldForTriton, InvalidCxxCompiler, TritonMissing
from torch.utils.hooks import RemovableHandle

from lowmode_fx.lowering.downsampling import downsample
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.pair import ModePair
from lowmode_fx.runtime.gradient_scale import scale_gradient
from lowmode_fx.runtime.schedules import Schedule, StatefulSchedule
from lowmode_fx.runtime.shape_guard import Cautions
from passes import bind_graph
from passes.binding import share_registries

#: What torch.compile raises where there is no compiler, or none that works.
COMPILER_ERRORS = (BackendCompilerFailed, InvalidCxxCompiler, CppCompileError, TritonMissing, GPUTooOldForTriton)


class LowModeModel(nn.Module):
    """A drop-in module that trains in the mode of the step and evaluates as the original model.

    It holds the model's own parameters, buffers and submodules under their own names, so ``state_dict()`` has exactly
    the original's keys. In train mode ``net(images)`` takes full-size images ``(N, C, *S)``, asks
    ``schedule.mode(step, epoch)``, downsamples them for a low step, and runs that mode's graph. In eval mode the
    original module runs, uncompiled.

    low_weight: what the gradients of low steps are multiplied with (the tuner tells; 1 leaves them alone).
    downsample_on: ``"device"``, inside a low step's graph, or ``"host"``: ``host_loader`` has done it in its workers,
        and a batch's size tells its mode (``last_mode``).
    compile: run both graphs through ``torch.compile(dynamic=False)``, each for the first input shape it sees; another
        shape (a ragged last batch) runs the same graph uncompiled, so that nothing is ever compiled twice.
    compile_options: more keywords for ``torch.compile``. Without a working compiler the graphs run uncompiled, with a
        warning.

    Raises ``TypeError`` where ``pair`` is no ``ModePair`` or ``schedule`` has no modes, ``ValueError`` where images are
    to come from a loader at one size only or for a schedule that decides as it goes, or where ``low_weight`` is no
    positive number.
    """

    pair: ModePair
    schedule: Schedule

    def __init__(
        self,
        pair: ModePair,
        schedule: Schedule,
        *,
        low_weight: float = 1.0,
        downsample_on: Literal["device", "host"] = "device",
        compile: bool = True,
        compile_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not (math.isfinite(low_weight) and low_weight > 0):
            raise ValueError(f"low_weight is {low_weight!r}; it must be a number above 0")
        if not isinstance(pair, ModePair):
            kind = type(pair).__name__
            raise TypeError(f"pair is a {kind}; it must be a ModePair, as build_pair(model, example_input) makes it")
        if not callable(getattr(schedule, "mode", None)):
            kind = type(schedule).__name__
            raise TypeError(f"schedule is a {kind}; it must have a method mode(step, epoch), as BernoulliSchedule(0.5)")
        if downsample_on not in ("device", "host"):
            raise ValueError(f"downsample_on is {downsample_on!r}; allowed: 'device', 'host'")
        if downsample_on == "host" and not pair.config.downsample_input:
            raise ValueError(
                "downsample_on='host' has nothing to do: the pair's images stay whole (downsample_input=False)"
            )
        if downsample_on == "host" and isinstance(schedule, StatefulSchedule):
            raise ValueError(
                "a loader draws the modes of batches ahead of what the schedule decides, and hands on no full-size "
                f"batches to measure; with {type(schedule).__name__} use downsample_on='device'"
            )
        share_registries(self, pair.model)
        self.pair = pair
        self.schedule = schedule
        self.training = pair.model.training
        self.low_weight = low_weight
        self.downsample_on = downsample_on
        self.last_mode: Mode | None = None
        self._step = 0
        self._epoch = 0
        self._attached = False
        self._counting: RemovableHandle | None = None
        self._compile_options = {"dynamic": False, **(compile_options or {})} if compile else None
        self._graphs = {
            Mode.FULL: pair.full,
            Mode.LOW: downsampling_graph(pair) if downsample_on == "device" else pair.low,
        }
        self._compiled: dict[Mode, Callable[[Tensor], Any]] = {}
        self._compiled_shapes: dict[Mode, torch.Size] = {}
        self._cautions = Cautions(pair.report)
        if self._compile_options is not None:
            options = self._compile_options
            self._compiled = {mode: torch.compile(graph.forward, **options) for mode, graph in self._graphs.items()}

    @property
    def step(self) -> int:
        """Optimizer steps so far (training forwards, while no optimizer is attached)."""
        return self._step

    @property
    def epoch(self) -> int:
        """The epoch that ``set_epoch`` told."""
        return self._epoch

    @property
    def mode(self) -> Mode:
        """The mode of the coming training forward."""
        return self.schedule.mode(self._step, self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch (from 0) before it begins, as with torch's ``DistributedSampler``."""
        self._epoch = epoch

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Count the steps that ``optimizer`` takes, so that the mode changes once per optimizer step.

        Forwards that accumulate gradients share a mode, and steps that a gradient scaler skips don't count. Only the
        last optimizer that is attached counts: of several that step together, attach any.
        """
        if self._counting is not None:
            self._counting.remove()
        self._counting = optimizer.register_step_post_hook(self._count_step)
        self._attached = True

    def forward(self, images: Tensor) -> Any:
        """What the model returns for ``images`` ``(N, C, *S)``; in train mode by the graph of this step's mode."""
        if not self.training:
            return self.pair.model(images)
        mode = due = self.mode
        if self.downsample_on == "host":
            mode = self._mode_of(images)
            self._cautions.note_mode(mode, due, self._step)
        self.last_mode = mode
        if not self._attached:
            self._step += 1
        outputs = self.run(mode, images)
        return scale_gradient(outputs, self.low_weight) if mode is Mode.LOW else outputs

    def run(self, mode: Mode, images: Tensor) -> Any:
        """One forward in ``mode``, whatever the schedule says; counts no step.

        ``images`` are of full size, or of the mode's where they are downsampled on the host.
        """
        self._cautions.check_size(images, low=mode is Mode.LOW and self.downsample_on == "host")
        compiled = self._compiled.get(mode)
        if compiled is None:
            return self._graphs[mode](images)
        shape = self._compiled_shapes.setdefault(mode, images.shape)
        self._cautions.note_shape(mode, images.shape, shape)
        if images.shape != shape:
            return self._graphs[mode](images)
        try:
            return compiled(images)
        except COMPILER_ERRORS as error:
            self._compiled = {}
            cause = str(error).strip().splitlines()[0]
            warnings.warn(
                f"torch.compile does not work here, so both graphs run uncompiled, slower and no less right: {cause}; "
                "compile=False says so without a warning",
                stacklevel=2,
            )
            return self._graphs[mode](images)

    def _mode_of(self, images: Tensor) -> Mode:
        """The mode of a batch that a loader has downsampled or left alone."""
        sizes = {Mode.FULL: self.pair.report.input_shape[2:], Mode.LOW: self.pair.report.low_input_shape[2:]}
        for mode, sides in sizes.items():
            if tuple(images.shape[2:]) == sides:
                return mode
        full, low = ("×".join(map(str, sides)) for sides in sizes.values())
        found = "×".join(map(str, images.shape[2:]))
        raise ValueError(
            f"images are {found}; with downsample_on='host' they are {full} for a full step or {low} for a low one, as "
            "the pair was built for: build it with an example of your size"
        )

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in (self.pair.model, *self._graphs.values(), self.pair.low):
            module.training = mode
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own state: its keys, its extra state, its hooks."""
        return self.pair.model.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state of the model, as the model itself does."""
        return self.pair.model.load_state_dict(state_dict, strict=strict, assign=assign)

    def __deepcopy__(self, memo: dict[int, Any]) -> LowModeModel:
        # Compiled functions hold the weights that they were compiled with: a copy compiles its own.
        rebuild, (pair, *arguments) = self.__reduce__()
        copied: LowModeModel = rebuild(copy.deepcopy(pair, memo), *copy.deepcopy(arguments, memo))
        copied.last_mode = self.last_mode
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> Any:
        arguments = (self.pair, self.schedule, self.low_weight, self.downsample_on, self._compile_options)
        return _rebuild, (*arguments, self.schedule_state(), self.training)

    def schedule_state(self) -> dict[str, Any]:
        """Where the schedule stands, apart from ``state_dict()``, which is the model's.

        ``{"step": …, "epoch": …}``, and under ``"schedule"`` the decisions of one that decides.
        """
        state: dict[str, Any] = {"step": self._step, "epoch": self._epoch}
        if isinstance(self.schedule, StatefulSchedule):
            state["schedule"] = self.schedule.state_dict()
        return state

    def load_schedule_state(self, state: Mapping[str, Any]) -> None:
        """Continue where ``schedule_state()`` was taken. Raises ``KeyError`` where something is missing."""
        self._step, self._epoch = int(state["step"]), int(state["epoch"])
        if isinstance(self.schedule, StatefulSchedule):
            self.schedule.load_state_dict(state["schedule"])

    def _count_step(self, *_: Any) -> None:
        self._step += 1


def _rebuild(
    pair: ModePair,
    schedule: Schedule,
    low_weight: float,
    downsample_on: Literal["device", "host"],
    compile_options: Mapping[str, Any] | None,
    state: Mapping[str, Any],
    training: bool,
) -> LowModeModel:
    net = LowModeModel(
        pair,
        schedule,
        low_weight=low_weight,
        downsample_on=downsample_on,
        compile=compile_options is not None,
        compile_options=compile_options,
    )
    net.load_schedule_state(state)
    net.training = training
    return net


def downsampling_graph(pair: ModePair) -> fx.GraphModule:
    """The low graph for full-size images ``(N, C, *S)``: downsampling is its first node, compiled with the rest."""
    graph = copy.deepcopy(pair.low.graph)
    if not pair.config.downsample_input:
        return bind_graph(pair.model, graph, type(pair.low).__name__)
    images = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(images):
        low_images = graph.call_function(downsample, (images, pair.config.ratio, pair.config.input_method))
    images.replace_all_uses_with(low_images, delete_user_cb=lambda user: user is not low_images)
    return bind_graph(pair.model, graph, type(pair.low).__name__)
