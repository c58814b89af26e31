"""What the peer shows: plain records whose field names are the fields of ``--json``.

Owns the shapes that cross the control socket and reach a person. Must not know how they are
obtained or drawn; needs the standard library only, so that local commands start fast. Times are
text in UTC (``2026-11-22T15:26:28Z``), so that they need no unit in their names.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

View = TypeVar("View")


class PeerState(StrEnum):
    """Whether a known peer answers."""

    ACTIVE = "active"
    INACTIVE = "inactive"


class CheckState(StrEnum):
    """What a check of `doctor` came to."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


class Direction(StrEnum):
    """Which way a transfer goes, seen from this peer."""

    DOWNLOAD = "download"
    UPLOAD = "upload"


@dataclasses.dataclass(frozen=True, slots=True)
class ShareView:
    """A file offered by this peer; ``holders`` counts this peer too."""

    name: str
    size: int
    content_id: str
    holders: int


@dataclasses.dataclass(frozen=True, slots=True)
class FoundView:
    """A file found in the network, with the number of distinct peers that hold it."""

    name: str
    size: int
    content_id: str
    holders: int


@dataclasses.dataclass(frozen=True, slots=True)
class GetView:
    """A finished download; ``source_bytes`` is peer id → bytes that it supplied."""

    path: str
    size: int
    content_id: str
    sources: int
    fetched_bytes: int
    seconds: float
    name: str = ""
    source_bytes: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class PutView:
    """A file put; ``stored_on`` counts other peers that acknowledged its records.

    Read back over another way, they are on ``found_on`` of the ``closest`` peers to their keys that
    were asked: the figures of the record that is on the fewest. None where none was read back.
    """

    name: str
    size: int
    content_id: str
    stored_on: int
    found_on: int | None = None
    closest: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class SentView:
    """A file or folder sent to one peer; ``held_by`` names who keeps it until ``expires``.

    ``files`` counts those of a folder, and is None for a file.
    """

    delivery_id: str
    name: str
    state: str
    held_by: tuple[str, ...] = ()
    expires: str | None = None
    to: str = ""
    size: int = 0
    files: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class PeerView:
    """A known peer."""

    id: str
    nickname: str
    address: str
    state: str
    last_seen: str | None = None
    rtt_ms: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class InboxView:
    """A file or folder that somebody sent to this peer (``from_`` is ``from`` in JSON)."""

    delivery_id: str
    name: str
    from_: str
    size: int
    path: str
    state: str
    files: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class OutboxView:
    """A file or folder that this peer sent to another."""

    delivery_id: str
    name: str
    to: str
    state: str
    held_by: tuple[str, ...] = ()
    expires: str | None = None
    size: int = 0
    files: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class StatusView:
    """This peer; ``queue`` is the broker's host without credentials, or None."""

    id: str
    nickname: str
    address: str
    network: str
    pid: int
    peers_active: int
    peers_known: int
    shares: int
    uptime_s: float
    private: bool
    mailbox: bool
    queue: str | None
    version: str
    home: str = ""
    inbox: int = 0
    outbox_open: int = 0
    records: int = 0
    drops: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What was refused, lost or left out since the start, by reason."""
    traffic: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What went as it should: datagrams, acknowledgements."""
    moved: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Bytes of files and mail since the start: of gets and of mail, up and down."""
    limit_up_bytes_per_s: int | None = None
    """Over gets and mail together; None: no limit."""
    limit_down_bytes_per_s: int | None = None
    contacts: int = 0
    """Peers in the routing table."""
    lookups: int = 0
    """Since the start; the times are of the last 256."""
    lookup_ms_p50: float | None = None
    lookup_ms_p95: float | None = None
    records_published: int = 0
    """Own records that are kept published."""
    republish_in_s: int | None = None
    """When the next of them is due."""
    reachability: str = "unknown"
    """Whether others can reach this peer: `yes`, `no` or `unknown`."""
    observed_address: str | None = None
    """Where at least two others see this peer."""
    clock_offset_ms: int = 0
    """By how much others say that this machine's clock is behind; 0: it is right, or who knows."""
    loop_lag_ms_max: float = 0.0
    """The longest that the event loop was late in the last minute."""
    loop_stalls: int = 0
    """How often it was late by more than 50 ms since the start."""
    mail: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """The mailbox kept for others: what lies in it, its limits, the free disk; and of others'
    mailboxes the audits passed, failed and unanswered."""
    hosts_noted: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Hosts that broke a promise and get no mail at present, by id, and which."""
    watched_files: int = 0
    """Shared files of watched folders."""
    watched_waiting: int = 0
    """Files there that are new, changed or gone, and not dealt with yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class InviteView:
    """The string with which somebody joins this network."""

    invite: str


@dataclasses.dataclass(frozen=True, slots=True)
class ContactView:
    """Whom a nickname means; ``added`` by the person, else only remembered as first seen."""

    nickname: str
    id: str
    added: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class HopView:
    """One request of a lookup: who was asked, and what came back."""

    hop: int
    id: str
    address: str
    shared_bits: int
    """Leading bits that the peer's id shares with the key: how near it is."""
    place: int | None
    """Its place among the closest to the key that answered, from 1; None: it is not one."""
    named_by: str | None
    """Who named it first; None for contacts of our own."""
    took_ms: float | None
    outcome: str
    """`answered`, `late` (after the lookup was over), `silent`, `bad`, `waiting`, `passed-over`."""
    records: int
    contacts: int
    rejected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What of its answer is not believed or not wanted, by reason."""
    asked_ms: float = 0.0
    """When it was asked, since the first request."""
    nickname: str = ""
    text: str = ""
    """What went wrong, if something did; why it was passed over: `crowded`, `doubted`,
    `silent-before` or `limit`."""


@dataclasses.dataclass(frozen=True, slots=True)
class RecordView:
    """One record that a lookup found, who published it, and on whom it is."""

    name: str
    content_id: str | None
    size: int | None
    publisher: str
    expires: str
    on_closest: int
    """On how many of the closest it is; `closest` of the lookup says of how many."""
    reachable: bool | None
    """Whether the publisher answers now; None where it was not asked."""
    address: str | None
    """Where the publisher answers, else the first address that the record tells."""
    nickname: str = ""
    issued: str = ""
    withdrawn: bool = False
    """The publisher took it back: this is its tombstone."""
    outdated_on: int = 0
    """Peers that still have an older version."""
    held_by: tuple[str, ...] = ()
    trouble: str = ""
    """Why the publisher cannot be reached."""


@dataclasses.dataclass(frozen=True, slots=True)
class ExplainView:
    """What a lookup came to; the last object of `explain`."""

    what: str
    kind: str
    """What was looked up: `name`, `content`, `word`, `peer` or `nickname`."""
    key: str
    """The 20 bytes of the key, as hexadecimal digits."""
    found: int
    """Live records."""
    asked: int
    answered: int
    closest: int
    """The closest to the key that answered, this peer among them where it is one; k at most."""
    took_ms: float
    """Until the lookup was over; a late answer may have come afterwards."""
    own_place: int | None = None
    """This peer's own place among the closest; None: it is not one."""
    records: tuple[RecordView, ...] = ()
    """The first of them, tombstones too."""
    rejected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Sum over all hops."""
    silent: int = 0
    late: int = 0
    bad: int = 0
    passed_over: int = 0
    """Near enough, but never asked."""
    hot: bool = False
    """A word of so many names that storers have no room for all: a search reads more keys."""
    forgotten: int = 0
    """Events beyond the limits of what is remembered."""


@dataclasses.dataclass(frozen=True, slots=True)
class CheckView:
    """One check of `doctor`: what was seen, and what to do about it."""

    check: str
    state: str
    """`ok`, `warning`, `problem` or `skipped`."""
    seen: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class TransferView:
    """A running transfer, for the live table."""

    name: str
    direction: str
    done_bytes: int
    size_bytes: int
    rate_bytes_per_s: float
    peers: int


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a command is; ``phase`` is a verb: hashing, fetching, sealing, sending."""

    name: str
    phase: str
    done_bytes: int
    size_bytes: int
    peers: int = 0
    files_done: int = 0
    """Of a folder's files; 0 of 0 for a file."""
    files: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the live table shows; ``invite`` only for private networks."""

    status: StatusView
    peers: tuple[PeerView, ...] = ()
    transfers: tuple[TransferView, ...] = ()
    invite: str | None = None


def to_json(view: object) -> dict[str, Any]:
    """Turn a view into a JSON object: field names, ``from_`` as ``from``."""
    assert dataclasses.is_dataclass(view)
    fields = dataclasses.fields(view)
    return {field.name.rstrip("_"): _plain(getattr(view, field.name)) for field in fields}


def from_json(kind: type[View], fields: Mapping[str, Any]) -> View:
    """Read a view back; fields of a newer peer are ignored, missing ones are a ValueError."""
    values = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        key = field.name.rstrip("_")
        if key in fields:
            value = fields[key]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error


def snapshot_from_json(fields: Mapping[str, Any]) -> Snapshot:
    """Read a whole snapshot back; ValueError when it is none."""
    try:
        return Snapshot(
            status=from_json(StatusView, fields["status"]),
            peers=tuple(from_json(PeerView, peer) for peer in fields["peers"]),
            transfers=tuple(from_json(TransferView, item) for item in fields["transfers"]),
            invite=fields.get("invite"),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no snapshot: {error}") from error


def utc_text(wall_ms: int) -> str:
    """Show wall milliseconds as UTC to the second."""
    moment = datetime.datetime.fromtimestamp(wall_ms / 1000, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_seconds(text: str) -> float:
    """Read what ``utc_text`` wrote, as Unix seconds; ValueError otherwise."""
    return datetime.datetime.fromisoformat(text).timestamp()


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    return value
