"""What can go wrong in the running peer itself; each docstring is the line that a person reads."""

from __future__ import annotations

from collections.abc import Sequence

from peer.failures import ExitCode, Failure
from peer.finding import Offer


class DamagedDatabase(Failure):
    """The home's database cannot be used."""

    hint = "move it away and join again: key, inbox and outbox stay, files are put again"
    exit_code = ExitCode.USAGE


class DatabaseBusy(Failure):
    """Another process keeps the home's database busy."""

    hint = "try again; if it lasts, see which other program has the file open"
    exit_code = ExitCode.TIMED_OUT


class HomeFull(Failure):
    """The disk that the home is on is full."""

    hint = "make room on it; nothing that was saved is lost"
    exit_code = ExitCode.FULL


class BadInput(Failure):
    """That input cannot be used."""

    exit_code = ExitCode.USAGE


class NotFound(Failure):
    """Nothing was found."""

    exit_code = ExitCode.NOT_FOUND


class NoHolderReachable(Failure):
    """It exists, but nobody who has it can be reached."""

    hint = "try again when a holder is online: `shoal peers` shows who is"
    exit_code = ExitCode.UNREACHABLE


class RecipientAway(Failure):
    """The recipient cannot be reached, and only --via direct is allowed."""

    hint = "leave --via out: the file then waits, sealed, until the recipient is back"
    exit_code = ExitCode.UNREACHABLE


class Ambiguous(Failure):
    """That name means more than one thing."""

    exit_code = ExitCode.AMBIGUOUS


class AmbiguousName(Ambiguous):
    """Several contents are offered under that name."""

    hint = "choose one by its id, or whose you want: `shoal get NAME --from PEER`"

    def __init__(self, message: str, offers: Sequence[Offer]) -> None:
        super().__init__(message)
        self.offers = tuple(offers)


class NotPermitted(Failure):
    """That is not permitted."""

    exit_code = ExitCode.NOT_PERMITTED


class WrongNetworkKey(NotPermitted):
    """The bootstrap nodes answer, but not with this network's key."""

    hint = "ask a member for a fresh invite (`shoal invite`), or check the network file"


class OtherNetwork(Failure):
    """This home belongs to another network."""

    hint = "one home, one network: use --home DIR for the other one"
    exit_code = ExitCode.USAGE


class InboxFull(Failure):
    """The inbox has no room left for that."""

    hint = "the receiver can move files out of the inbox, or raise inbox.quota_bytes"
    exit_code = ExitCode.FULL


class TimedOut(Failure):
    """That took longer than was allowed."""

    exit_code = ExitCode.TIMED_OUT


class QueueUnavailable(Failure):
    """The queue cannot be reached, and no other means is allowed."""

    hint = "check --queue, SHOAL_QUEUE or [queue] in config.toml, and that the broker runs"
    exit_code = ExitCode.QUEUE_UNAVAILABLE
