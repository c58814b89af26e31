"""How a whole file reaches many readers at once through each other: what a holder gives to whom.

Inputs: `asked` (a reader wants to know what is here, and says whether it spreads: serves on what it
gets and can wait for others) and `give` (it wants a chunk). Outputs: the chunks that it may have
now, and whether it is given one. Pure; the time is given.

With few readers, small files or readers that do not spread, everything is given. Otherwise each
chunk is given to `copies_max` of those who spread, and the others get it from these: the holder
sends about that many times the file however many readers there are, and what readers have differs.
A reader that finds a chunk nowhere else says that it no longer spreads, and is given everything:
nobody depends on the good will of others. Holding back is no defence, and needs none: who lies
about spreading gets what every reader got before there was this rule.

States of a reader: spreading, plain, forgotten (silent for `reader_s`). With the last reader
forgotten the counts are, too.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from transfer.bitmap import full_bitmap


@dataclass(frozen=True, slots=True)
class SpreadConfig:
    """When a holder begins to hold back; checked when built."""

    readers_min: int = 4
    """Fewer readers that spread are given everything."""
    chunks_min: int = 16
    """Smaller files are given at once: they are gone before readers know each other."""
    copies_max: int = 2
    """Readers that are given one chunk."""
    reader_s: float = 10.0
    """A reader that asked nothing for so long is forgotten."""
    readers_max: int = 256
    """Readers of one content that are told apart; further ones are given everything."""
    contents_max: int = 64
    """Contents that are watched; the longest unasked one is forgotten."""

    def __post_init__(self) -> None:
        assert self.readers_min >= 2
        assert 1 <= self.copies_max < 256
        assert self.readers_max >= self.readers_min


@dataclass(slots=True)
class _Reader:
    spreads: bool
    seen_at: float


@dataclass(slots=True)
class _Content:
    readers: dict[bytes, _Reader] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    """Chunk → readers that spread and were given it."""
    given_out: int = 0
    """The chunks that enough readers were given, as bits."""


class Spreading:
    """What a holder has given to whom, for the contents that are asked for now."""

    def __init__(self, config: SpreadConfig | None = None) -> None:
        self._config = config or SpreadConfig()
        self._contents: OrderedDict[bytes, _Content] = OrderedDict()

    def asked(
        self, content_id: bytes, chunk_count: int, reader: bytes, *, spreads: bool, now: float
    ) -> int | None:
        """Note a reader and return the chunks that it may have, None for all of them."""
        if chunk_count < self._config.chunks_min:
            return None
        content = self._contents.setdefault(content_id, _Content())
        self._contents.move_to_end(content_id)
        if len(self._contents) > self._config.contents_max:
            self._contents.popitem(last=False)
        self._forget_silent(content, now)
        if reader in content.readers or len(content.readers) < self._config.readers_max:
            content.readers[reader] = _Reader(spreads, now)
        if not self._holds_back(content, reader):
            return None
        return full_bitmap(chunk_count) & ~content.given_out

    def give(self, content_id: bytes, reader: bytes, chunk: int, *, now: float) -> bool:
        """Say whether a reader is given a chunk, and count it when it spreads."""
        content = self._contents.get(content_id)
        found = None if content is None else content.readers.get(reader)
        if content is None or found is None:
            return True
        found.seen_at = now
        if not found.spreads:
            return True
        if content.given_out >> chunk & 1 and self._holds_back(content, reader):
            return False
        copies = content.copies.get(chunk, 0) + 1
        content.copies[chunk] = copies
        if copies >= self._config.copies_max:
            content.given_out |= 1 << chunk
        return True

    def _holds_back(self, content: _Content, reader: bytes) -> bool:
        found = content.readers.get(reader)
        if found is None or not found.spreads:
            return False
        spreading = sum(each.spreads for each in content.readers.values())
        return spreading >= self._config.readers_min

    def _forget_silent(self, content: _Content, now: float) -> None:
        silent = [
            reader
            for reader, each in content.readers.items()
            if now - each.seen_at > self._config.reader_s
        ]
        for reader in silent:
            del content.readers[reader]
        if not content.readers:
            content.copies.clear()
            content.given_out = 0
