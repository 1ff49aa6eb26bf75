"""Torch's logs of failures that are an ordinary result here: of fake tensors, and of code that depends on values."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

import torch

#: Fake tensors log errors with tracebacks, symbolic shapes a warning where a value decides.
_LOGGERS = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")
_changing = threading.Lock()


def logs_wanted() -> bool:
    """Whether the user asks for what torch logs, by ``TORCH_LOGS`` or ``torch._logging.set_logs``."""
    state = getattr(getattr(torch._logging, "_internal", None), "log_state", None)
    asked = getattr(state, "log_qname_to_level", None) or getattr(state, "artifact_names", None)
    return bool(os.environ.get("TORCH_LOGS") or asked)


@contextlib.contextmanager
def quiet_misfits() -> Iterator[None]:
    """Inside, this thread's fake tensors and symbolic shapes log nothing, unless ``logs_wanted``.

    All other loggers, and other threads, are as they were.
    """
    if logs_wanted():
        yield
        return
    thread = threading.get_ident()

    def elsewhere(_: logging.LogRecord) -> bool:
        return threading.get_ident() != thread

    # New lists, as another thread may be reading them.
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    with _changing:
        for logger in loggers:
            logger.filters = [*logger.filters, elsewhere]
    try:
        yield
    finally:
        with _changing:
            for logger in loggers:
                logger.filters = [each for each in logger.filters if each is not elsewhere]
