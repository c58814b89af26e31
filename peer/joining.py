"""Joining a network through its bootstrap nodes, and telling why nobody answers.

Owns the order: UDP first; where it is silent, TLS is asked beside it. A node of another network
drops our datagrams without a word, but shows its certificate to everybody. Must not know what the
peer offers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from identity.network import BootstrapNode
from peer.checkup import Tls
from peer.core import Core
from peer.errors import WrongNetworkKey
from peer.probing import probe_tls

BOOTSTRAP_TIMEOUT_S = 5.0
PROBE_AFTER_S = 0.5
"""UDP may be silent for so long before TLS is asked."""
PROBE_TIMEOUT_S = 2.0


async def join_network(core: Core, nodes: Sequence[BootstrapNode]) -> int:
    """Join through bootstrap nodes and remembered contacts; return the contacts gained.

    Raises WrongNetworkKey when every node that answers belongs to another network. Returns before
    UDP has timed out where TLS tells that nobody is there; a late answer still counts.
    """
    joining = asyncio.create_task(_bootstrap(core, nodes))
    probing: asyncio.Task[list[Tls]] | None = None
    try:
        await asyncio.wait([joining], timeout=PROBE_AFTER_S)
        if not joining.done() and not _has_contacts(core):
            probing = asyncio.create_task(_probe_all(core, nodes))
            await asyncio.wait([joining, probing], return_when=asyncio.FIRST_COMPLETED)
            if not joining.done() and _is_settled(core, probing.result()):
                _raise_if_foreign(probing.result())
                return 0
        gained = await joining
        if not gained and not _has_contacts(core):
            _raise_if_foreign(await (probing or _probe_all(core, nodes)))
        return gained
    finally:
        tasks = [joining] if probing is None else [joining, probing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _bootstrap(core: Core, nodes: Sequence[BootstrapNode]) -> int:
    try:
        async with asyncio.timeout(BOOTSTRAP_TIMEOUT_S):
            return await core.dht.bootstrap(nodes)
    except TimeoutError:
        return sum(contact.alive for contact in core.dht.contacts())


def _has_contacts(core: Core) -> bool:
    return any(contact.alive for contact in core.dht.contacts())


def _is_settled(core: Core, findings: Sequence[Tls]) -> bool:
    """Tell whether no answer over UDP is to be expected any more, from former contacts neither."""
    ends = (Tls.FOREIGN, Tls.ABSENT)
    nobody_else = not _has_contacts(core) and not core.contacts.known()
    return nobody_else and all(finding in ends for finding in findings)


def _raise_if_foreign(findings: Sequence[Tls]) -> None:
    if Tls.FOREIGN in findings and Tls.OURS not in findings:
        raise WrongNetworkKey


async def _probe_all(core: Core, nodes: Sequence[BootstrapNode]) -> list[Tls]:
    found = await asyncio.gather(
        *(probe_tls(core.channels, node.address, timeout_s=PROBE_TIMEOUT_S) for node in nodes)
    )
    return [tls for tls, _ in found]
