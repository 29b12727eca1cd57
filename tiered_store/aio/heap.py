"""The process's memory as its allocator keeps it.

Buffers of a few hundred KiB to some MiB come and go with every large object. glibc gives each of them back to the
kernel when it is freed, and the kernel hands out the next one page by page, zeroed: on a virtual machine that takes
longer than filling it (``docs/performance.md``). So freed memory is kept, up to a bound.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["KEPT_BYTES", "keep_freed_memory"]

_MIB: Final = 1024 * 1024
#: The most that stays with the process at the end of its heap although nobody uses it.
KEPT_BYTES: Final = 48 * _MIB
#: Larger ones are mapped, and unmapped when they are freed; the most that glibc accepts.
_MAPPED_FROM_BYTES: Final = 32 * _MIB
# Of mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def keep_freed_memory() -> None:
    """To be called before threads are started: they share one heap then, and what one has freed another can use.

    Other C libraries keep freed memory in ways of their own; there this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
