"""Where ``keep_freed_memory`` was first published; it lives in ``lowmode_fx.utils.allocator``."""

from lowmode_fx.utils.allocator import keep_freed_memory

__all__ = ["keep_freed_memory"]
