"""Which peers keep mail, found over the DHT, as queueing's HostFinder asks.

Owns the order of candidates. Must not know what is deposited there, nor the Mailbox service.
"""

from __future__ import annotations

from collections.abc import Sequence

from peer.core import Core
from queueing.mailbox_client import Host

HOSTS_MAX = 12


class MailHosts:
    """Finds mail hosts over the DHT, as queueing's HostFinder."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._nudgers: dict[bytes, None] = {}

    def nudged(self, host_id: bytes) -> None:
        """Note a host that says it has mail for us; it is asked once, whatever the DHT says."""
        if len(self._nudgers) < HOSTS_MAX:
            self._nudgers[host_id] = None

    async def hosts_near(self, recipient: bytes) -> Sequence[Host]:
        """Return the live peers closest to the recipient's id, then bootstrap nodes."""
        views = await self._core.dht.closest_peers(recipient)
        hosts = {
            view.peer_id: Host(view.peer_id, (view.address,))
            for view in views
            if view.peer_id != recipient and not view.client
        }
        bootstrap = {node.address for node in self._core.file.bootstrap}
        for view in self._core.dht.contacts():
            if view.alive and view.address in bootstrap and view.peer_id != recipient:
                hosts.setdefault(view.peer_id, Host(view.peer_id, (view.address,)))
        return list(hosts.values())[:HOSTS_MAX]

    async def hosts_with_mail(self, recipient: bytes) -> Sequence[Host]:
        """Return the hosts that nudged us, then the publishers of `mail` records."""
        nudgers, self._nudgers = self._nudgers, {}
        hosts = {host_id: Host(host_id, ()) for host_id in nudgers}
        for item in await self._core.dht.find_mail(recipient):
            hosts[item.publisher] = Host(item.publisher, item.payload.addresses)
        return list(hosts.values())[: HOSTS_MAX * 2]

    async def locate(self, peer_id: bytes) -> Host | None:
        """Return where a host is now."""
        addresses = await self._core.locate(peer_id)
        return Host(peer_id, addresses) if addresses else None
