"""Keep freed memory inside the process, where the C library allows it.

Every training step allocates and frees the same large blocks. By default glibc takes blocks of this size fresh from the
kernel and gives them back at once, so every step pays again for the first touch of every page.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Numbers of the options in glibc's <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_TOP_PAD_BYTES = 256 * 2**20


def use_big_pages_allocator() -> bool:
    """Make glibc's `malloc` keep large blocks instead of returning them; true where it was applied.

    Blocks come from the heap rather than from `mmap`, the heap grows by 256 MiB at a time (which lets the kernel back
    it with huge pages) and never shrinks. The process then holds its peak memory until it ends, which is what a
    training run does anyway. Nothing happens, and false is returned, on anything but Linux with glibc, or where
    `LD_PRELOAD` says that another allocator is already in charge. Only blocks allocated afterwards are affected: call
    it before the first step.
    """
    if not sys.platform.startswith("linux") or "malloc" in os.environ.get("LD_PRELOAD", ""):
        return False
    libc = ctypes.CDLL(None)
    # musl and others have no version function of this name; they may have a `mallopt` that does nothing.
    if not hasattr(libc, "gnu_get_libc_version") or not hasattr(libc, "mallopt"):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return all(libc.mallopt(option, value) == 1 for option, value in settings)
