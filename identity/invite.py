"""Invites: a whole network file as one word that survives a chat window and a shell.

Owns: the invite's bytes, version and checksum. Must not know: terminals, logs, homes.
An invite to a private network holds its key: it is as secret as the key.
"""

import base64
import binascii
import hashlib
import re
from typing import Annotated

import msgspec

from identity.address import Address
from identity.encoding import length_prefixed
from identity.errors import BadInvite, IdentityError
from identity.network import BOOTSTRAP_NODES_MAX, BootstrapNode, Network, NetworkFile

PREFIX = "shoal1-"
CHECKSUM_BYTES = 4
INVITE_CHARS_MAX = 16 * 1024


class _Node(msgspec.Struct, frozen=True, array_like=True):
    address: Address
    peer_id: bytes | None


class _Body(msgspec.Struct, frozen=True, array_like=True):
    name: str
    key: bytes | None
    bootstrap: Annotated[tuple[_Node, ...], msgspec.Meta(max_length=BOOTSTRAP_NODES_MAX)]
    queue_amqp: str | None


def make_invite(file: NetworkFile) -> str:
    """Return the invite to a network: one word of letters, digits, ``-`` and ``_``."""
    nodes = tuple(_Node(node.address, node.peer_id) for node in file.bootstrap)
    body = msgspec.msgpack.encode(
        _Body(file.network.name, file.network.key, nodes, file.queue_amqp)
    )
    return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).rstrip(b"=").decode()


def parse_invite(text: str) -> NetworkFile:
    """Read an invite; raises BadInvite."""
    text = text.strip()
    if len(text) > INVITE_CHARS_MAX:
        raise BadInvite("this is too long for an invite")
    if not text.startswith(PREFIX):
        if re.match(r"shoal[0-9]+-", text):
            raise BadInvite(
                "this invite is of another version", hint="use the release of Shoal that made it"
            )
        raise BadInvite(f"an invite starts with {PREFIX}")
    body = _checked_body(text.removeprefix(PREFIX))
    try:
        decoded = msgspec.msgpack.decode(body, type=_Body)
        network = Network(decoded.name, decoded.key)
        nodes = tuple(BootstrapNode(node.address, node.peer_id) for node in decoded.bootstrap)
        return NetworkFile(network, nodes, decoded.queue_amqp)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInvite("this invite does not hold a network") from error
    except IdentityError as error:
        raise BadInvite(f"this invite does not hold a network: {error}") from error


def _checked_body(text: str) -> bytes:
    if re.fullmatch(r"[A-Za-z0-9_-]+", text) is None:
        raise BadInvite
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise BadInvite from error
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if checksum != _checksum(body):
        raise BadInvite
    return body


def _checksum(body: bytes) -> bytes:
    """Catch slips of copying; this is no protection against forgery."""
    return hashlib.sha256(length_prefixed(b"shoal/invite/1", body)).digest()[:CHECKSUM_BYTES]
