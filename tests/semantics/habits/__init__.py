"""All habits, kind by kind. A file here is a kind; a class or function in it is a habit."""

from semantics.habit import Habit
from semantics.habits import (
    backwards,
    buffers,
    checkpointing,
    constants,
    contexts,
    control_flow,
    counters,
    draws,
    fixed_kernels,
    foreign,
    hooks,
    inputs,
    modes,
    norms,
    outputs,
    outside,
    plain,
    replaced,
    weights,
)

KINDS = tuple(
    module.KIND
    for module in (
        plain,
        contexts,
        backwards,
        draws,
        buffers,
        norms,
        counters,
        outside,
        constants,
        modes,
        hooks,
        weights,
        replaced,
        checkpointing,
        fixed_kernels,
        outputs,
        inputs,
        control_flow,
        foreign,
    )
)
CORPUS: tuple[Habit, ...] = tuple(habit for kind in KINDS for habit in kind.habits)

__all__ = ["CORPUS", "KINDS"]
