"""What a storer says about a record that it was sent.

Owns the verdicts, their numbers on the wire, and which fault gets which. Pure; it must not know
caps, signatures or who sent what. Others import it from dht.storage.
"""

import enum
from dataclasses import dataclass
from typing import assert_never

from dht.errors import RecordFault


class Verdict(enum.IntEnum):
    """A storer's answer about one record; the number is what the wire carries."""

    OK = 0
    STALE = 1
    FULL = 2
    CLOCK = 3
    BAD = 4
    BUSY = 5
    HOT = 6
    """No room under a word's own key: the record belongs in the word's shard."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A verdict; with STALE our sequence, with CLOCK our time."""

    verdict: Verdict
    sequence: int | None = None
    our_ms: int | None = None


def refusal(fault: RecordFault, now_ms: int) -> Stored:
    """Turn a fault into a verdict: a clock that is off is worth telling, the rest is BAD."""
    match fault:
        case RecordFault.AHEAD | RecordFault.EXPIRED:
            return Stored(Verdict.CLOCK, our_ms=now_ms)
        case (
            RecordFault.TOO_LARGE
            | RecordFault.MALFORMED
            | RecordFault.NOT_CANONICAL
            | RecordFault.VERSION
            | RecordFault.FIELD
            | RecordFault.FILENAME
            | RecordFault.KEY
            | RecordFault.LIFETIME
            | RecordFault.SIGNATURE
        ):
            return Stored(Verdict.BAD)
        case _:
            assert_never(fault)
