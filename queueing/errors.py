"""What can go wrong with pending deliveries, one class a cause.

Owns the classes and their hints; knows nothing of exit codes, stores or wires.
"""

# ruff: noqa: N818 - errors are named by what a person would say went wrong

from identity.errors import ShoalError


class QueueError(ShoalError):
    """The delivery could not be queued."""


class Unavailable(QueueError):
    """The store for pending deliveries cannot be reached."""

    hint = "check that the broker or the mailbox peers run; the delivery stays with the sender"


class Blocked(QueueError):
    """The store takes nothing at present: it ran out of memory or disk."""

    hint = "the operator of the broker must free memory or disk"


class MailboxFull(QueueError):
    """The store has no room for this delivery."""

    hint = "wait until deliveries were collected, or send a smaller file"


class NoMailbox(QueueError):
    """No peer offers to keep mail for this recipient."""

    hint = "the delivery stays with the sender until a mailbox or the recipient appears"


class TooLarge(QueueError):
    """The file is larger than a delivery may be."""

    hint = "share the file with `shoal put` and let the recipient get it"


class Refused(QueueError):
    """The other side refuses this delivery."""

    hint = "ask the recipient or the host to add you to the contacts"


class NotPermitted(QueueError):
    """Only the sender or the recipient of a delivery may do this."""


class Expired(QueueError):
    """The delivery has expired."""

    hint = "send it again, with a longer --expires"


class BadEnvelope(QueueError):
    """The delivery is damaged or forged."""


class BadReceipt(QueueError):
    """The receipt is damaged, forged or another delivery's."""


class SourceChanged(QueueError):
    """The file changed while it was being sealed."""

    hint = "send it again when nothing writes to it"


class StorageFailed(QueueError):
    """The disk that keeps deliveries cannot be read or written."""

    hint = "look at the disk of this peer's home; nothing that was stored is lost"


class UnknownDelivery(QueueError):
    """There is no such delivery."""

    hint = "`shoal outbox` lists the deliveries"


class NotCancellable(QueueError):
    """The delivery has already ended."""
