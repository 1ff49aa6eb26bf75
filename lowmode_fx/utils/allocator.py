"""The C library's allocator: memory that one training step frees is kept for the next one."""

from __future__ import annotations

import ctypes

#: Of ``malloc.h``: how much free memory may stay at the heap's end, and how many blocks get pages of their own.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_UNLIMITED = -1


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep what is freed, for the rest of the process. False where there is no such malloc.

    Left alone it gives the memory of large tensors back after each step, and the next one waits for the kernel to hand
    out and clear every page again, which a low step, with little else to do, feels most. GPU memory has an allocator of
    its own. The process stays as large as it has ever been.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no library to ask, or another one
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _UNLIMITED))
