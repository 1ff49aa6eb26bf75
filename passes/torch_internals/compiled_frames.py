"""What dynamo does with the frames that Python runs: which it compiles, how often, and why again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def frames_are_compiled() -> bool:
    """Whether dynamo compiles the frames that Python runs now."""
    from torch._C._dynamo.eval_frame import get_eval_frame_callback

    return get_eval_frame_callback() not in (None, False)


def leave_frames_of(function: Callable[..., Any]) -> None:
    """Keep dynamo from compiling frames of ``function``; it still traces calls of it from compiled code."""
    eval_frame = sys.modules.get("torch._dynamo.eval_frame")
    if eval_frame is not None:  # otherwise nothing has been compiled yet
        eval_frame.skip_code(function.__code__)


def compiler_around() -> Callable[[Callable[..., Any]], Callable[..., Any]] | None:
    """The active ``torch.compile``, with its options, if code that it compiles runs the caller."""
    frame = sys._getframe(1).f_back
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch._dynamo.eval_frame":
            context: Any = frame.f_locals.get("self")
            if type(context).__name__ == "OptimizeContext":
                return context  # type: ignore[no-any-return]
        frame = frame.f_back
    return None


def compiled_graphs() -> int:
    """How many graphs dynamo has compiled in this process."""
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", None)
    return int(counters["stats"]["unique_graphs"]) if counters is not None else 0


def failed_guard() -> str:
    """What dynamo found changed when it last compiled something again, as an expression; empty if it keeps none."""
    metrics: list[Any] = getattr(sys.modules.get("torch._dynamo.utils"), "get_compilation_metrics", list)()
    reasons = (getattr(each, "recompile_reason", None) for each in reversed(metrics))
    return str(next(filter(None, reasons), "")).partition("#")[0]


def makes_cuda_graphs(compiled: Any) -> bool:
    """Whether what ``torch.compile`` returned, or a module that ``compile()`` was called on, makes CUDA graphs.

    What a module holds is not looked at; anything else makes none.
    """
    config: Any = None
    callback: Any = None
    context = vars(compiled).get("dynamo_ctx") if type(compiled).__name__ == "OptimizedModule" else None
    if context is not None:
        config, callback = getattr(context, "compiler_config", None), getattr(context, "callback", None)
    else:
        function = getattr(compiled, "_compiled_call_impl", None) or compiled
        made = getattr(function, "__dict__", {})  # not by getattr: what isn't torch's may have any attribute
        read = made.get("get_compiler_config") if "_torchdynamo_orig_callable" in made else None
        config = None if read is None else read()
    if config is not None:
        return bool(config.get("triton.cudagraphs"))
    while hasattr(callback, "_torchdynamo_orig_backend"):
        callback = callback._torchdynamo_orig_backend
    return getattr(callback, "compiler_name", None) == "cudagraphs"
