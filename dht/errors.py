"""Errors of the DHT: what a person reads when it fails, and why a record was refused."""

# ruff: noqa: N818 - errors are named by what a person would say went wrong

import enum

from identity.errors import ShoalError


class RecordFault(enum.StrEnum):
    """Why a record is refused; also the suffix of the counter that counts the refusal."""

    TOO_LARGE = "too-large"
    MALFORMED = "malformed"
    NOT_CANONICAL = "not-canonical"
    VERSION = "version"
    FIELD = "field"
    FILENAME = "filename"
    KEY = "key"
    LIFETIME = "lifetime"
    AHEAD = "ahead"
    EXPIRED = "expired"
    SIGNATURE = "signature"


class DhtError(ShoalError):
    """The network lookup failed."""


class BadRecord(DhtError):
    """A record breaks the rules of the network."""

    def __init__(self, fault: RecordFault, text: str) -> None:
        super().__init__(f"refused record ({fault}): {text}")
        self.reason = fault


class BadQuery(DhtError):
    """That cannot be searched for."""

    hint = "shoal search WORD... or, for how a further word begins, shoal search WORD 'PREFIX*'"


class ScheduleFull(DhtError):
    """This peer publishes as many records as it may."""

    hint = "stop offering some files with `shoal unshare NAME`"


class PortInUse(DhtError):
    """The UDP port is in use."""

    hint = "choose another one with --listen HOST:PORT"


class BadMessage(DhtError):
    """A datagram is malformed."""


class NoAnswer(DhtError):
    """A peer did not answer in time."""


class BadAnswer(DhtError):
    """A peer answered with something that proves nothing or makes no sense."""


class BusyStorer(NoAnswer):
    """A peer has too much to verify at present."""


class NotListening(DhtError):
    """The DHT node is not listening."""


class Dropped(DhtError):
    """A datagram is not answered."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"dropped ({reason})")
        self.reason = reason
