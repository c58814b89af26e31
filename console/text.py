"""Text for people: escaped names, sizes, spans and the command line to pass on. Pure.

Names come from other peers. Nothing here trusts them: control and bidirectional characters are
shown as escapes, so that no name can move the cursor, forge a line or read backwards.
"""

from __future__ import annotations

import shlex
import unicodedata

# Joiners belong to emoji and to several scripts, and neither moves nor hides anything.
_HARMLESS_FORMATS = frozenset("\u200c\u200d")
_SHOWN_AS_ESCAPE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_SHORT_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_SIZE_UNITS = ("kB", "MB", "GB", "TB", "PB")


def escape(text: str) -> str:
    """Show control, bidirectional and other invisible characters as escapes, on one line."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def is_plain(text: str) -> bool:
    """Whether a text can be shown and typed as it is."""
    return escape(text) == text


def human_size(size_bytes: int) -> str:
    """Show bytes with three significant digits, in the units of the trade (powers of 1000)."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in _SIZE_UNITS:
        value /= 1000
        if value < 999.5 or unit == _SIZE_UNITS[-1]:
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def human_span(seconds: float) -> str:
    """Show a span of time by its two largest units."""
    seconds = max(0, int(seconds))
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    parts: list[str] = []
    for size, unit in units:
        count, seconds = divmod(seconds, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        if len(parts) == 2:
            break
    return " ".join(parts)


def _utc_seconds(utc: str) -> float:
    from peer.views import utc_seconds  # not before a time is shown: views take a while to load

    return utc_seconds(utc)


def human_ago(utc: str, wall_s: float) -> str:
    """Say how long ago a moment was; "-" where the text is none."""
    try:
        return f"{human_span(max(0.0, wall_s - _utc_seconds(utc)))} ago"
    except ValueError:
        return "-"


def human_left(utc: str, wall_s: float) -> str:
    """Say how long there is until a moment; "-" where the text is none."""
    try:
        return human_span(max(0.0, _utc_seconds(utc) - wall_s))
    except ValueError:
        return "-"


def plural(count: int, noun: str) -> str:
    """Say "1 peer" or "3 peers"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def get_line(name: str, content_id: str) -> str:
    """The command that fetches a file: by name if that can be typed, else by content id."""
    if not is_plain(name) or name.startswith("b3:"):
        return f"shoal get {content_id}"
    dashes = "-- " if name.startswith("-") else ""
    return f"shoal get {dashes}{shlex.quote(name)}"


def _escaped(character: str) -> str:
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    category = unicodedata.category(character)
    if category not in _SHOWN_AS_ESCAPE or character in _HARMLESS_FORMATS:
        return character
    point = ord(character)
    if point <= 0xFF:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"
