"""In which pieces a tree is fetched, the same for everybody who has its listing.

Owns the numbering of units: what the swarm scheduler takes for the chunks of a tree. Pure. A unit
is either one chunk of a file of several, or a pack: whole small files that are asked for together.
The contents come in the order of the listing, each once, however many files have it; empty files
need none. On the wire a tree's bitmap has the chunks of its listing first, and then its units.
"""

import dataclasses
from collections.abc import Sequence

from transfer.bitmap import full_bitmap
from transfer.errors import BadManifest
from transfer.manifest import chunk_size_for
from transfer.tree import (
    PACK_BYTES_MAX,
    PACK_FILES_MAX,
    SMALL_BYTES_MAX,
    Tree,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """One content of the tree and the entries that have it."""

    content_id: bytes
    size_bytes: int
    entries: list[int]
    """Places in the listing, in order."""

    @property
    def is_small(self) -> bool:
        return self.size_bytes <= SMALL_BYTES_MAX


@dataclasses.dataclass(frozen=True, slots=True)
class Pack:
    """Small contents that are asked for together."""

    contents: tuple[int, ...]
    """Places in the plan's contents."""
    size_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """One chunk of a large content."""

    content: int
    chunk: int
    size_bytes: int


Unit = Pack | Piece


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The contents of a tree and the units in which they come."""

    contents: Sequence[Content]
    units: Sequence[Unit]
    size_bytes: int
    """Sum over the contents."""
    first_units: Sequence[int]
    """The unit with which each content begins."""
    breaks: int
    """As bits: the units that do not continue the file of the one before."""

    @property
    def unit_bytes_max(self) -> int:
        """The largest unit; the scheduler counts bytes in flight by it."""
        return max((unit.size_bytes for unit in self.units), default=1)


def plan_of(tree: Tree) -> Plan:
    """Cut a tree into units; BadManifest where one content id has two sizes."""
    known: dict[bytes, Content] = {}
    for place, entry in enumerate(tree.entries):
        if not entry.is_file or not entry.size_bytes:
            continue
        content = known.get(entry.content_id)
        if content is None:
            known[entry.content_id] = Content(entry.content_id, entry.size_bytes, [place])
        elif content.size_bytes != entry.size_bytes:
            raise BadManifest("a folder gives one content two sizes")
        else:
            content.entries.append(place)
    contents = list(known.values())
    units: list[Unit] = []
    first_units = [0] * len(contents)
    pack: list[int] = []
    packed_bytes = 0
    for place, content in enumerate(contents):
        if not content.is_small:
            continue
        if len(pack) == PACK_FILES_MAX or packed_bytes + content.size_bytes > PACK_BYTES_MAX:
            units.append(Pack(tuple(pack), packed_bytes))
            pack, packed_bytes = [], 0
        first_units[place] = len(units)
        pack.append(place)
        packed_bytes += content.size_bytes
    if pack:
        units.append(Pack(tuple(pack), packed_bytes))
    breaks = full_bitmap(len(units))
    for place, content in enumerate(contents):
        if content.is_small:
            continue
        first_units[place] = len(units)
        breaks |= 1 << len(units)
        step = chunk_size_for(content.size_bytes)
        for chunk, offset in enumerate(range(0, content.size_bytes, step)):
            units.append(Piece(place, chunk, min(step, content.size_bytes - offset)))
    return Plan(contents, units, sum(each.size_bytes for each in contents), first_units, breaks)
