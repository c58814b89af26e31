"""What can go wrong in the running peer itself; each docstring is the line that a person reads."""

from __future__ import annotations

from identity.errors import ShoalError


class PeerError(ShoalError):
    """The peer could not do that."""


class DamagedDatabase(PeerError):
    """The home's database cannot be used."""

    hint = "move the file away: shares and pending deliveries are then put again, the key stays"


class BadInput(PeerError):
    """That input cannot be used."""


class NotFound(PeerError):
    """Nothing was found."""


class NoHolderReachable(PeerError):
    """It exists, but nobody who has it can be reached."""


class Ambiguous(PeerError):
    """That name means more than one thing."""


class NotPermitted(PeerError):
    """That is not permitted."""


class WrongNetworkKey(NotPermitted):
    """The bootstrap nodes answer, but not with this network's key."""

    hint = "ask for a fresh invite (`shoal invite` on a member), and check the network file"


class OtherNetwork(PeerError):
    """This home belongs to another network."""

    hint = "one home, one network: use --home DIR for the other one"


class TimedOut(PeerError):
    """That took longer than was allowed."""


class QueueUnavailable(PeerError):
    """The queue cannot be reached, and no other means is allowed."""
