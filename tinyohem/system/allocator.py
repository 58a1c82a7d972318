"""Freed memory stays with the process, ready for the next step."""

import ctypes
import os

# Of malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_INT = 2**31 - 1
_ITS_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, up to 2 GiB where it can, and return whether it does.

    By default it maps every large tensor anew, and the kernel clears each page of it: in a training
    step on a CPU that can take as long as a third of the arithmetic. Settings of the user's own
    (MALLOC_… or GLIBC_TUNABLES in the environment) stay; other C libraries are left alone.
    """
    if any(name.startswith(_ITS_VARIABLES) for name in os.environ):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # glibc before 2.35 refuses to take more than 32 MiB from the heap. The trim threshold alone
    # would do harm: it fixes the other one, which else adapts.
    largest = (_LARGEST_INT, 1 << 25)
    return any(library.mallopt(_M_MMAP_THRESHOLD, size) for size in largest) and bool(
        library.mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
    )
