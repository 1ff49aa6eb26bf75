"""The C library's allocator: keep memory that one training step frees for the next one."""

from __future__ import annotations

import ctypes

#: Options of ``malloc.h``: free memory kept at the end of the heap, and the number of blocks with separate pages.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_UNLIMITED = -1


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep freed memory for the rest of the process. Returns ``False`` if there is no such malloc.

    By default it returns the memory of large tensors after each step, and the next step waits for the kernel to
    allocate and clear every page again, which matters most in a low step with little other work. GPU memory has a
    separate allocator. The process stays as large as it has ever been.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no C library, or another one
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _UNLIMITED))
