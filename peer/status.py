"""How a running peer does: what `status` and the table show, put together from its parts.

Owns that view. Asks nobody, changes nothing. Must not know commands nor how it is shown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dht.node import DhtNode
from identity.keys import show_peer_id
from peer.core import Core
from peer.lag import LoopLag
from peer.mail import Mail
from peer.version import VERSION
from peer.views import PeerState, PeerView, StatusView
from peer.watched import Watched

TRAFFIC = frozenset(
    {
        "ack-hot",  # the record is in its shard instead
        "ack-ok",
        "store-hot",
        "store-ok",
        "store-calls",
        "publish-lookups",
        "datagrams-sent",
        "datagrams-received",
        "bytes-sent",
        "bytes-received",
        "stock-contacts",
    }
)
"""Counters that tell of what went well; the others are drops."""


def status_view(
    core: Core,
    peers: list[PeerView],
    mail: Mail | None,
    lag: LoopLag,
    *,
    nickname: str,
    address: str,
    uptime_s: float,
    watched_waiting: int = 0,
) -> StatusView:
    """Put together how this peer does."""
    counters = core.dht.counters() | ({} if mail is None else mail.counters())
    return StatusView(
        id=show_peer_id(core.identity.peer_id),
        nickname=nickname,
        address=address,
        network=core.file.network.name,
        pid=os.getpid(),
        peers_active=sum(peer.state == PeerState.ACTIVE for peer in peers),
        peers_known=len(peers),
        shares=core.catalog.share_count(),
        uptime_s=round(uptime_s, 1),
        private=core.file.network.is_private,
        mailbox=mail is not None and mail.keeps_mail,
        queue=mail.queue_host if mail is not None else None,
        version=VERSION,
        home=str(core.home.path),
        records=len(core.dht.store),
        drops={name: count for name, count in counters.items() if name not in TRAFFIC},
        traffic={name: count for name, count in counters.items() if name in TRAFFIC},
        moved=core.paces.moved(),
        limit_up_bytes_per_s=core.paces.gets.up.rate_bytes_per_s,
        limit_down_bytes_per_s=core.paces.gets.down.rate_bytes_per_s,
        loop_lag_ms_max=_ms(lag.max_s) or 0.0,
        loop_stalls=lag.stalls,
        watched_files=Watched(core.database).count(),
        watched_waiting=watched_waiting,
        **dht_figures(core.dht),
    )


def dht_figures(dht: DhtNode) -> Mapping[str, Any]:
    """Tell how this node of the DHT does, by the names of the view's fields."""
    lookups, next_due_ms = dht.lookups(), dht.schedule.next_due_ms()
    due_in_ms = None if next_due_ms is None else max(0, next_due_ms - dht.now_ms())
    observed = dht.observed_address()
    return {
        "contacts": dht.contact_count(),
        "lookups": lookups.count,
        "lookup_ms_p50": _ms(lookups.percentile_s(50)),
        "lookup_ms_p95": _ms(lookups.percentile_s(95)),
        "records_published": len(dht.schedule),
        "republish_in_s": None if due_in_ms is None else due_in_ms // 1000,
        "clock_offset_ms": dht.clock_offset_ms or dht.clock_doubt_ms,
        "reachability": dht.reach.value,
        "observed_address": None if observed is None else str(observed),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
