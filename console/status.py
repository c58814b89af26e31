"""This peer's status on a terminal: names in one column, values in the other. Pure.

Owns that layout. Long values go on below themselves, so that 80 columns are enough.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from console.text import escape, human_span

_SPANS = frozenset({"uptime_s", "republish_in_s"})
_GAP = 2
_VALUE_CHARS_MIN = 20


def status_lines(fields: Mapping[str, Any], *, width: int) -> list[str]:
    """Show each field; counters of zero are left out."""
    column = max((len(name) for name in fields), default=0) + _GAP
    room = max(_VALUE_CHARS_MIN, width - column)
    lines = []
    for name, value in fields.items():
        parts = _parts(name, value)
        wrapped = textwrap.wrap(
            ", ".join(parts), room, break_long_words=False, break_on_hyphens=False
        )
        first, *others = wrapped or ["-"]
        lines.append(f"{escape(name):<{column}}{first}")
        lines += [f"{'':<{column}}{other}" for other in others]
    return lines


def _parts(name: str, value: object) -> list[str]:
    match value:
        case None | "":
            return []
        case bool():
            return ["yes" if value else "no"]
        case Mapping() if any(isinstance(each, str) for each in value.values()):
            return [f"{escape(str(key))}: {escape(str(each))}" for key, each in value.items()]
        case Mapping():
            ordered = sorted(value.items(), key=lambda each: (-each[1], each[0]))
            return [f"{escape(str(key))}={count}" for key, count in ordered if count]
        case int() | float() if name in _SPANS:
            return [human_span(value)]
        case _:
            return [escape(str(value))]
