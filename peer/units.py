"""Sizes and spans of time as people write them; pure, standard library only."""

from __future__ import annotations

import re

_SIZES = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY_SIZES = {"k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_SPANS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE = re.compile(r"(\d{1,15})(?:\.(\d{1,6}))?\s*([kmgt]?)(i?)b?", re.ASCII)
_SPAN = re.compile(r"(\d{1,9})\s*([smhdw]?)", re.ASCII)


def parse_size(text: str) -> int:
    """Read "10GB", "1.5 MiB" or "4096" as bytes; ValueError says what is wrong."""
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None or (match[4] and not match[3]):
        raise ValueError(f"{text!r} is no size; write for example 500MB or 10GiB")
    unit = _BINARY_SIZES[match[3]] if match[4] else _SIZES[match[3]]
    fraction = match[2] or ""
    return int(match[1] + fraction) * unit // int(10 ** len(fraction))


def parse_span(text: str) -> int:
    """Read "7d", "12h", "30m" or "90" as seconds, at least one; ValueError says what is wrong."""
    match = _SPAN.fullmatch(text.strip().lower())
    seconds = 0 if match is None else int(match[1]) * _SPANS_S[match[2]]
    if seconds <= 0:
        raise ValueError(f"{text!r} is no span of time; write for example 90s, 30m, 12h or 7d")
    return seconds


def show_size(size_bytes: int) -> str:
    """Show bytes in the largest unit of 1000 that leaves a whole part."""
    value, shown = float(size_bytes), "B"
    for unit in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, shown = value / 1000, unit
    return f"{value:.0f} B" if shown == "B" else f"{value:.1f} {shown}"
