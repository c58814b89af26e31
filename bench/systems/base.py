"""What the benchmark asks of every system, and what is stored. Owns both; knows no system."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

NAME_RECORD_BYTES = 280
"""What a signed `name` record with one address takes; the other systems store as many bytes."""


@dataclass(frozen=True, slots=True)
class Item:
    """One shared file: where Shoal stores a signed `name` record, the others store `value`."""

    number: int
    salt: str
    """Makes the names of one run its own."""

    @property
    def name(self) -> str:
        """The filename, which is what is looked up."""
        return f"holiday pictures {self.salt} {self.number:05}.tar"

    @property
    def content_id(self) -> bytes:
        """32 bytes that stand for the file's content."""
        return hashlib.sha256(self.name.encode()).digest()

    @property
    def size_bytes(self) -> int:
        """The size that the record claims."""
        return 1_000_000 + self.number

    @property
    def value(self) -> bytes:
        """Bytes that only this item has, as many as a signed record of it."""
        return self.content_id + hashlib.shake_256(self.content_id).digest(NAME_RECORD_BYTES - 32)


@dataclass(frozen=True, slots=True)
class Got:
    """How a get went: seconds to the first right value (None: a miss) and to its end."""

    first_s: float | None
    complete_s: float


class Node(Protocol):
    """One node of a system, listening on loopback."""

    @property
    def port(self) -> int:
        """Its UDP port."""

    def distance(self, item: Item) -> int:
        """XOR distance from the node's id to the item's key."""

    async def join(self, port: int) -> None:
        """Join through the node at a port of loopback; returns when the system says it is in."""

    async def store(self, item: Item) -> bool:
        """Store an item on the network; True when at least one other node took it."""

    async def get(self, item: Item) -> Got:
        """Get an item, compare it with what was stored, and run to the system's own end."""

    async def close(self) -> None:
        """End the node."""


class System(Protocol):
    """A way to make nodes."""

    name: str
    uses_uvloop: bool

    def version(self) -> str:
        """Name and version of what is measured."""

    async def make_node(self) -> Node:
        """Make a node that listens on a free port of 127.0.0.1."""
