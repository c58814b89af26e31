"""The states of a delivery as its sender sees them: one table, no I/O.

Inputs:     `Event`s, reported by the courier after they were made durable.
Outputs:    the next `State`.
States:     SPOOLED (only the sender has it) -> STORED (others keep it) -> one of the ends
            DELIVERED, EXPIRED, CANCELLED, REFUSED.
Invariants: an end is never left; DELIVERED and REFUSED come from a checked receipt only; what is
            not in the table leaves the state as it is when it is late news (an end is reported
            twice), and is our own bug otherwise.

Must not know stores, clocks or files.
"""

import enum


class State(enum.StrEnum):
    """Where a delivery stands; the value is what `shoal outbox` prints."""

    SPOOLED = "spooled"
    STORED = "stored"
    DELIVERED = "delivered"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REFUSED = "refused"


class Event(enum.Enum):
    """What happened to a delivery."""

    DEPOSITED = enum.auto()
    LOST = enum.auto()  # no host has it any more: only the sender's copy is left
    RECEIPT_DELIVERED = enum.auto()
    RECEIPT_REFUSED = enum.auto()
    EXPIRY = enum.auto()
    CANCEL = enum.auto()


ENDS = frozenset({State.DELIVERED, State.EXPIRED, State.CANCELLED, State.REFUSED})

_TABLE: dict[State, dict[Event, State]] = {
    State.SPOOLED: {
        Event.DEPOSITED: State.STORED,
        Event.LOST: State.SPOOLED,
        Event.RECEIPT_DELIVERED: State.DELIVERED,
        Event.RECEIPT_REFUSED: State.REFUSED,
        Event.EXPIRY: State.EXPIRED,
        Event.CANCEL: State.CANCELLED,
    },
    State.STORED: {
        Event.DEPOSITED: State.STORED,
        Event.LOST: State.SPOOLED,
        Event.RECEIPT_DELIVERED: State.DELIVERED,
        Event.RECEIPT_REFUSED: State.REFUSED,
        Event.EXPIRY: State.EXPIRED,
        Event.CANCEL: State.CANCELLED,
    },
}


def advance(state: State, event: Event) -> State:
    """Return the state after the event; an end stays what it is, whatever comes late."""
    if state in ENDS:
        return state
    return _TABLE[state][event]


def is_end(state: State) -> bool:
    """Tell whether nothing can happen to the delivery any more."""
    return state in ENDS
