"""Datagram endpoints without a socket: the stock protocol and ours over a transport that keeps."""

import random
from collections import Counter

from kademlia.node import Node
from kademlia.protocol import KademliaProtocol
from kademlia.storage import ForgetfulStorage

from dht.protocol import ShoalProtocol
from dht.routing import Table
from dht.seal import SESSION_BYTES, sealer_of
from tests.dht.nodes import OPEN

OWN_ID = bytes(20)


class Sent:
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        self.datagrams: list[bytes] = []

    def sendto(self, data: bytes, _address: tuple[str, int]) -> None:
        self.datagrams.append(data)

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, _name: str) -> tuple[str, int]:
        return ("127.0.0.1", 1)


class NoAnswers:
    """Answers no request."""

    def answer(self, *_: object) -> None:
        return None


def stock_protocol(k: int = 20, storage: ForgetfulStorage | None = None) -> KademliaProtocol:
    """The stock protocol of a node with the id OWN_ID."""
    protocol = KademliaProtocol(Node(OWN_ID), storage or ForgetfulStorage(), k)
    protocol.connection_made(Sent())
    return protocol


def our_protocol() -> ShoalProtocol:
    """Our protocol of a node with the id OWN_ID on an open network."""
    protocol = ShoalProtocol(
        Table(OWN_ID, now=0.0),
        sealer_of(OPEN, bytes(SESSION_BYTES)),
        NoAnswers(),
        entropy=random.Random(5).randbytes,
        drops=Counter(),
    )
    protocol.connection_made(Sent())
    return protocol
