"""Which network a peer belongs to: invite, file, what the home remembers, checkout, or a new one.

Owns that order and the rule "one home, one network". Must not know sockets.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from identity.address import Address
from identity.errors import BadNetworkFile
from identity.invite import make_invite, parse_invite
from identity.network import (
    BootstrapNode,
    Network,
    NetworkFile,
    dump_network_file,
    parse_network_file,
)
from peer.errors import BadInput, NotFound, OtherNetwork
from peer.home import Home

NETWORK_FILE_BYTES_MAX = 1024 * 1024
BOOTSTRAP_IN_INVITE_MAX = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """The network to join, and whether the home has to remember it."""

    file: NetworkFile
    remember: bool


def choose_network(
    home: Home,
    *,
    invite: str | None,
    network_file: Path | None,
    fallback_file: Path | None,
    make_new: bool,
) -> Choice:
    """Apply the order of precedence; raises OtherNetwork, BadInput, BadInvite, BadNetworkFile."""
    remembered = home.read_network()
    known = parse_network_file(remembered) if remembered is not None else None
    named = _named_network(invite, network_file)
    if named is not None:
        if known is not None and known.network != named.network:
            raise OtherNetwork(
                f"this home belongs to the network {known.network.name!r},"
                f" not to {named.network.name!r}"
                if known.network.name != named.network.name
                else f"this home belongs to another network named {known.network.name!r}"
            )
        return Choice(named, remember=True)
    if known is not None:
        return Choice(known, remember=False)
    if fallback_file is not None and fallback_file.is_file():
        return Choice(_parse(fallback_file), remember=False)
    if not make_new:
        raise NotFound(
            "this home belongs to no network yet",
            hint="`shoal join INVITE` joins one, `shoal join` begins one",
        )
    network = Network(f"shoal-{os.urandom(4).hex()}", os.urandom(32))
    return Choice(NetworkFile(network, ()), remember=True)


def invite_for(file: NetworkFile, me: BootstrapNode) -> str:
    """Make the invite that a member hands out: this peer first, then the known bootstrap nodes."""
    nodes: dict[Address, BootstrapNode] = {me.address: me}
    for node in file.bootstrap:
        nodes.setdefault(node.address, node)
    chosen = tuple(nodes.values())[:BOOTSTRAP_IN_INVITE_MAX]
    return make_invite(NetworkFile(file.network, chosen, file.queue_amqp))


def remember(home: Home, file: NetworkFile) -> None:
    """Keep the network in the home, for the next start."""
    home.write_network(dump_network_file(file))


def _named_network(invite: str | None, network_file: Path | None) -> NetworkFile | None:
    if invite is not None and network_file is not None:
        raise BadInput("both an invite and --network are given", hint="give one of them")
    if invite is not None:
        return parse_invite(invite.strip())
    return None if network_file is None else _parse(network_file)


def _parse(path: Path) -> NetworkFile:
    try:
        return parse_network_file(_read(path))
    except BadNetworkFile as error:
        raise BadNetworkFile(f"{path}: {error}", hint=error.hint) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(NETWORK_FILE_BYTES_MAX)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(
            f"the network file {path} cannot be read: {reason}",
            hint="`shoal network new` writes one",
        ) from error
