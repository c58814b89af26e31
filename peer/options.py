"""What the command line hands to the peer, and what the peer hands back to the screen.

Owns the options of `join` and of the short-lived client, and the Observer through which a running
peer speaks to whoever started it. Knows nothing of click, terminals or the network.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from identity.address import Address
from peer.views import Snapshot


@dataclasses.dataclass(frozen=True, slots=True)
class OperatorOptions:
    """What the operator's role has besides; both ports are on loopback."""

    metrics_port: int | None = None
    health_port: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class JoinOptions:
    """How a peer is to run; None means: not asked for, take the default."""

    home: Path
    invite: str | None = None
    network_file: Path | None = None
    """From --network."""
    fallback_network_file: Path | None = None
    """The bootstrap.json of a checkout; used when nothing else names a network."""
    bootstrap: tuple[Address, ...] = ()
    listen: Address | None = None
    """Port 0 takes any; None is 0.0.0.0:4100 or the next free port."""
    advertise: Address | None = None
    """Port 0 stands for the port that we listen on."""
    nickname: str | None = None
    shares: tuple[Path, ...] = ()
    """Absolute paths."""
    queue_url: str | None = None
    """AMQP URL with credentials; never to be logged."""
    limit_up_bytes_per_s: int | None = None
    limit_down_bytes_per_s: int | None = None
    """Instead of what config.toml says; 0 is no limit."""
    mailbox: bool | None = None
    """False with --no-mailbox; None leaves it to config.toml and the kind of network."""
    operator: OperatorOptions | None = None
    """Set for `shoal bootstrap`: no shares, larger caps, the broker offered as a mailbox."""


@dataclasses.dataclass(frozen=True, slots=True)
class AloneOptions:
    """How the short-lived client of `search` and `get` finds its network."""

    home: Path
    network_file: Path | None = None
    fallback_network_file: Path | None = None


def join_options(home: Path, given: Mapping[str, Any], *, fallback: Path | None) -> JoinOptions:
    """Build the options from what the command line gave, by the names of its parameters."""
    operator = None
    if given["command"] == "bootstrap":
        operator = OperatorOptions(given["metrics_port"], given["health_port"])
    return JoinOptions(
        home=home,
        invite=given["invite"],
        network_file=given["network_file"],
        fallback_network_file=fallback,
        bootstrap=tuple(given["bootstrap"]),
        listen=given["listen"],
        advertise=given["advertise"],
        nickname=given["nickname"],
        shares=tuple(given["shares"]),
        queue_url=given["queue"],
        limit_up_bytes_per_s=given.get("limit_up"),
        limit_down_bytes_per_s=given.get("limit_down"),
        mailbox=False if given["no_mailbox"] else None,
        operator=operator,
    )


class Observer(Protocol):
    """Whoever started a peer and hears from it."""

    leaving: asyncio.Event
    """Set when the person asks the peer to leave; the peer waits for it."""

    @property
    def is_watched(self) -> bool:
        """Whether somebody looks at the live table, so that presence is to be kept current."""
        ...

    def watch(self, snapshot: Callable[[], Snapshot]) -> None:
        """Take the source of the live table; called once, before `ready`."""

    def ready(self, peer_id: str, address: str, invite: str | None) -> None:
        """Hear that the peer listens and its own record is stored."""

    def note(self, text: str, hint: str = "") -> None:
        """Hear a warning or a piece of advice; never a secret."""
