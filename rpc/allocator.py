"""How the C library's allocator treats the buffers of messages.

Owns one call. glibc gives freed memory at the top of its heap back to the kernel as soon as there
is somewhat more than the last large buffer. A frame of file data is half a MiB in each of several
buffers, so that a sender's heap could shrink and grow with each frame: 590,000 page faults a GB,
half of all processor time. Must not know what is sent.
"""

import ctypes
import functools
import sys

KEPT_BYTES_MAX = 64 * 1024 * 1024
"""Freed memory that the process may keep for its next buffers."""
MAPPED_BYTES_MIN = 32 * 1024 * 1024
"""From this size on a buffer is a mapping of its own; the largest that glibc allows."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed buffers; once a process. False where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_TRIM_THRESHOLD, KEPT_BYTES_MAX), (_M_MMAP_THRESHOLD, MAPPED_BYTES_MIN))
    done = [mallopt(name, value) for name, value in settings]
    return done == [1, 1]
