"""How a broker does for this peer: what `doctor` asks of a RabbitStore.

Owns that one record. Must not know how it is found out, nor what is thought of it.
"""

from dataclasses import dataclass

from queueing.errors import QueueError


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """What is known of the broker, the queue and what came out of it."""

    failure: QueueError | None
    """Why the broker cannot be asked now."""
    poison: tuple[tuple[str, int, int], ...]
    """What was rejected in the last days: (kind of message, how many, when last)."""
    dead_letter: str
    """The name of the queue that rejected messages go to."""
    dead: int | None
    """How many messages lie there; None: there is no such queue, and they are dropped."""
    wanted_bytes: int
    """Room that is lacking here; until it is there the queue is not read."""
