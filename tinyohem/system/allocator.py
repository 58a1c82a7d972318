"""Freed memory stays with the process, ready for the next step."""

import ctypes
import os

# Of malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_INT = 2**31 - 1
_DOCUMENTED_LIMIT = 1 << 25  # of the mmap threshold, mallopt(3); glibc 2.36 takes any
_ITS_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES")


def keep_freed_memory() -> int:
    """Let glibc keep what is freed; return the bytes of the largest block that it keeps, or 0.

    By default it maps every large tensor anew, and the kernel clears each page of it. Settings of
    the user's own (MALLOC_… or GLIBC_TUNABLES in the environment) stay; other C libraries are left
    alone.
    """
    if any(name.startswith(_ITS_VARIABLES) for name in os.environ):
        return 0
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return 0
    for size in (_LARGEST_INT, _DOCUMENTED_LIMIT):
        # The trim threshold alone would do harm: it fixes the other one, which else adapts.
        if library.mallopt(_M_MMAP_THRESHOLD, size):
            return size if library.mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT) else 0
    return 0
