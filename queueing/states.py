"""The states of a delivery as its sender sees them: one table, no I/O.

Inputs:     `Event`s, reported by the courier after they were made durable.
Outputs:    the next `State`.
States:     SPOOLED (only the sender has it) -> STORED (others keep it) -> one of the ends
            DELIVERED, EXPIRED, CANCELLED, REFUSED.
            STORED falls back to SPOOLED when no keeper's promise is believed any more.
Invariants: an end is never left, whatever comes late; DELIVERED and REFUSED come from a checked
            receipt only, never from what a keeper says.

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
    LOST = enum.auto()
    """No keeper is left that answers and proves what it has; a late receipt still counts."""
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
