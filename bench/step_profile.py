"""Where the time of a training step goes: groups of operators and kernels, by their names, from ``torch.profiler``."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch._C._autograd import _profiler_enabled
from torch.profiler import DeviceType, ProfilerActivity, profile, record_function

from passes import pooling_rule
from passes.wording import sides

CONVOLUTION, NORM, ELEMENTWISE = "convolution+matmul", "norm", "elementwise"
POOLING, OPTIMIZER, OTHER = "weight pooling", "optimizer", "other"
GROUPS = (CONVOLUTION, NORM, ELEMENTWISE, POOLING, OPTIMIZER, OTHER)

#: Between the names of the operators that an operator ran in, outermost first.
WITHIN = " | "

_GENERATED = re.compile(r"cpp_fused_|triton_(poi|red|per|for|tem|mix|unk)_fused_")
_NORM = re.compile(r"(batch|layer|group|instance)_?norm|bn_(fw|bw)|bnorm", re.IGNORECASE)
_CONVOLUTION = re.compile(
    r"conv|cudnn|gemm|cutlass|wgrad|dgrad|fprop|nchwtonhwc|nhwctonchw|mkldnn|splitk"
    r"|(^|::)(add|b|badd)?mm($|_)|matmul|(^|::)linear|(Addmm|Mm|Bmm|Linear)Backward",
    re.IGNORECASE,
)
_OPTIMIZER = re.compile(r"Optimizer\.|multi_tensor_apply|_foreach_|_fused_sgd")
#: Autograd's, the compiler's and Python's own time, copies between memories, and operators that make no values.
_OTHER = re.compile(
    r"^training step$|^TorchDynamo|^Torch-Compiled|^Pregraph|^AOTDispatcher|^CompiledFunction|^## Call"
    r"|^autograd::engine|AccumulateGrad|^detach|^cuda[A-Z]|^cu[A-Z]|Memcpy|Memset|^Activity Buffer|^Lazy Function"
    r"|^aten::(empty|as_strided|view|t|transpose|detach|reshape|expand|resize_|slice|select|narrow|unsqueeze|squeeze)"
)


def group_of(name: str) -> str:
    """The group of an operator or a kernel, by the outermost operator in ``name`` that belongs to one (``WITHIN``)."""
    parts = name.split(WITHIN)
    if any(_OPTIMIZER.search(part) for part in parts):
        return OPTIMIZER
    if POOLING in parts:
        return POOLING
    return next((group for group in map(_group, parts) if group != OTHER), OTHER)


def _group(part: str) -> str:
    if _GENERATED.search(part):
        # Named after everything that was fused: "convolution" in it means work on its output. The pooling of kernels is
        # fused with norms and other work, and its name does not show it.
        return CONVOLUTION if "triton_tem" in part else NORM if _NORM.search(part) else ELEMENTWISE
    if _NORM.search(part):
        return NORM
    if _CONVOLUTION.search(part):
        return CONVOLUTION
    return OTHER if _OTHER.search(part) else ELEMENTWISE


def shares(times: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The share of each of ``GROUPS`` in the sum of (name, self time) pairs; all 0 if the sum is 0."""
    sums = dict.fromkeys(GROUPS, 0.0)
    for name, time in times:
        sums[group_of(name)] += time
    total = sum(sums.values())
    return {group: time / total if total else 0.0 for group, time in sums.items()}


def largest(times: Iterable[tuple[str, float]], count: int = 6) -> dict[str, float]:
    """The ``count`` names with the largest shares in the sum of (name, self time) pairs."""
    sums: dict[str, float] = {}
    for name, time in times:
        sums[name] = sums.get(name, 0.0) + time
    total = sum(sums.values())
    return {name: sums[name] / total for name in sorted(sums, key=sums.__getitem__, reverse=True)[:count] if total}


@contextlib.contextmanager
def marked_pooling() -> Iterator[None]:
    """Pairs that are built and run inside let a profiler see which operators pool a kernel, uncompiled."""
    transforms = ("average_kernel", "bicubic_kernel", "center_kernel", "linear_kernel", "pi_resize_kernel")
    functions = {name: getattr(pooling_rule, name) for name in transforms}
    try:
        for name, function in functions.items():
            setattr(pooling_rule, name, _marked(function))
        yield
    finally:
        for name, function in functions.items():
            setattr(pooling_rule, name, function)


@functools.cache
def _marked(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def marked(*args: Any) -> Any:
        if not _profiler_enabled():
            return function(*args)
        with record_function(POOLING):
            return function(*args)

    return marked


def profile_step(step: Callable[[], object], device: torch.device, wall: float, steps: int = 3) -> dict[str, Any]:
    """``{"busy seconds": …, "shares": {group: share}, "largest": {operator: share}}`` of a step, of ``steps`` in a row.

    Busy: the sum of all operators on a CPU, of all kernels on a GPU; there ``"gaps"`` is the share of a step's ``wall``
    seconds, measured without a profiler, in which no kernel ran. Operators on a CPU are distinguished by their inputs'
    shapes.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, record_shapes=not cuda) as profiler:
        for _ in range(steps):
            with record_function("training step"):
                step()
        if cuda:
            torch.cuda.synchronize(device)
    events = profiler.events()
    pairs = list(_kernel_times(events) if cuda else _operator_times(events))
    if not pairs:
        raise RuntimeError("the profiler saw no kernel")
    busy = sum(time for _, time in pairs) / steps * 1e-6
    named = ((name.split(WITHIN)[-1], time) for name, time in pairs) if cuda else _by_shape(events)
    found: dict[str, Any] = {"busy seconds": busy, "shares": shares(pairs), "largest": largest(named)}
    return found | {"gaps": max(0.0, 1 - busy / wall)} if cuda else found


def _operator_times(events: Any) -> Iterator[tuple[str, float]]:
    """(name, microseconds) of each operator on the CPU, without the operators that it called."""
    within = _Paths(events)
    for event in events:
        if event.device_type == DeviceType.CPU:
            yield within(event), event.self_cpu_time_total


def _by_shape(events: Any) -> Iterator[tuple[str, float]]:
    """(name and shapes of the inputs, microseconds) of each operator on the CPU that computes values."""
    for event in events:
        if event.device_type == DeviceType.CPU and not _OTHER.search(event.name):
            shapes = (sides(shape) for shape in event.input_shapes or () if shape)
            yield " ".join((event.name, *shapes)), event.self_cpu_time_total


def _kernel_times(events: Any) -> Iterator[tuple[str, float]]:
    """(name, microseconds) of each kernel on the GPU, named with the operators that launched it, if known."""
    within, annotations, left = _Paths(events), set(), dict[str, float]()
    for event in events:
        if event.device_type == DeviceType.CUDA:
            if event.is_user_annotation:  # a range over kernels, which are counted one by one
                annotations.add(event.name)
            else:
                left[event.name] = left.get(event.name, 0.0) + event.time_range.elapsed_us()
    for event in events:
        for kernel in event.kernels:
            if kernel.name in left and kernel.name not in annotations:
                left[kernel.name] -= kernel.duration
                yield within(event) + WITHIN + kernel.name, kernel.duration
    yield from ((name, time) for name, time in left.items() if name not in annotations and time > 0)


class _Paths:
    """An event's name with those of the operators around it; weight pooling's backward is found by its number."""

    def __init__(self, events: Any) -> None:
        forward = (event for event in events if event.sequence_nr >= 0 and POOLING in self._names(event))
        self.pooling = {event.sequence_nr for event in forward}

    def __call__(self, event: Any) -> str:
        names = self._names(event)
        while event is not None:
            if event.name.startswith("autograd::engine") and event.sequence_nr in self.pooling:
                return POOLING + WITHIN + names[-1]
            event = event.cpu_parent
        return WITHIN.join(names)

    def _names(self, event: Any) -> list[str]:
        names: list[str] = []
        while event is not None:
            names.append(event.name)
            event = event.cpu_parent
        return names[::-1]
