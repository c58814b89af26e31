"""Waiting in tests: for a state, with a deadline; never for a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_PAUSE_S = 0.02
_never = threading.Event()


def until(holds: Callable[[], object], timeout_s: float = 20.0, what: str = "") -> None:
    """Return once `holds()` is true; fail at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"the awaited state did not come: {what or holds}"
        _never.wait(_PAUSE_S)
